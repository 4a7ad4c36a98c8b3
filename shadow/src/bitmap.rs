//! The bitmaps of vmcs23: what they say about a port, an MSR or a VMCS field.
//!
//! What always holds: a bitmap is in the guest's memory and may change at any time, so every look reads what it needs once;
//! what lies outside L2's memory reads as all ones, that is, intercepts.

/// Whether an access to `size` bytes at `port` is intercepted (SDM 3C 24.6.4 "I/O-Bitmap Addresses"). An access that wraps
/// around the 16-bit port space always is (SDM 3C 25.1.3).
pub fn port_intercepted(bitmaps: [u64; 2], port: u16, size: u8, mut byte: impl FnMut(u64) -> u8) -> bool {
    (0..u16::from(size)).any(|offset| {
        let Some(port) = port.checked_add(offset) else { return true };
        let [low, high] = bitmaps;
        let bitmap = if port < 0x8000 { low } else { high };
        let bit = port & 0x7fff;
        byte(bitmap.wrapping_add(u64::from(bit / 8))) >> (bit % 8) & 1 != 0
    })
}

/// Where in the MSR bitmaps the bit of an MSR lies: byte and bit. `None` for MSRs that the bitmaps do not cover, which
/// always exit (SDM 3C 24.6.9 "MSR-Bitmap Address").
#[must_use]
#[inline]
pub const fn msr_bit(index: u32, write: bool) -> Option<(u64, u32)> {
    let half = match index {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 1024,
        _ => return None,
    };
    let bit = index & 0x1fff;
    Some((half + if write { 2048 } else { 0 } + (bit / 8) as u64, bit % 8))
}

/// Whether an access to an MSR is intercepted.
pub fn msr_intercepted(bitmap: u64, index: u32, write: bool, mut byte: impl FnMut(u64) -> u8) -> bool {
    msr_bit(index, write).is_none_or(|(offset, bit)| byte(bitmap.wrapping_add(offset)) >> bit & 1 != 0)
}

/// Whether VMREAD or VMWRITE of `encoding` is intercepted: bits above 14 always (SDM 3C 24.6.15 "VMCS Shadowing Bitmap
/// Addresses").
pub fn field_intercepted(bitmap: u64, encoding: u64, mut byte: impl FnMut(u64) -> u8) -> bool {
    encoding >> 15 != 0 || byte(bitmap.wrapping_add(encoding / 8)) >> (encoding % 8) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_an_access_counts() {
        let only = |wanted: u64, bit: u32| move |address: u64| if address == wanted { 1 << bit } else { 0 };
        let bitmaps = [0x1000, 0x2000];
        assert!(port_intercepted(bitmaps, 0x3f8, 1, only(0x107f, 0)));
        assert!(!port_intercepted(bitmaps, 0x3f8, 1, only(0x107f, 1)));
        assert!(port_intercepted(bitmaps, 0x3f6, 4, only(0x107f, 1)), "the last byte");
        assert!(port_intercepted(bitmaps, 0x7ffe, 4, only(0x2000, 1)), "bitmap B begins at port 0x8000");
        assert!(port_intercepted(bitmaps, 0xfffe, 4, |_| 0), "wraps");
        assert!(!port_intercepted(bitmaps, 0xfffe, 2, |_| 0));
    }

    #[test]
    fn msrs_outside_the_two_ranges_always_exit() {
        assert_eq!(msr_bit(0x174, false), Some((0x2e, 4)));
        assert_eq!(msr_bit(0xc000_0080, true), Some((1024 + 2048 + 16, 0)));
        for index in [0x2000, 0xbfff_ffff, 0xc000_2000, u32::MAX] {
            assert!(msr_intercepted(0, index, false, |_| 0), "{index:#x}");
        }
    }

    #[test]
    fn wide_encodings_always_exit() {
        assert!(field_intercepted(0, 0x8000, |_| 0));
        assert!(field_intercepted(0, 1 << 40, |_| 0));
        assert!(!field_intercepted(0, 0x7fff, |_| 0));
        assert!(field_intercepted(0x1000, 0x681e, |address| if address == 0x1000 + 0xd03 { 1 << 6 } else { 0 }));
    }
}
