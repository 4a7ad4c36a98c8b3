//! The access-rights format of a guest segment register.

/// An access-rights field, SDM 3C table 24-2 "Format of Access Rights".
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct AccessRights(pub u64);

/// Bits 11:8 and 31:17.
pub(super) const RESERVED: u64 = 0xfffe_0f00;
/// Bits 3:0.
pub(super) const TYPE: u64 = 0xf;
/// Bit 4: 1 for code and data, 0 for system segments.
pub(super) const CODE_OR_DATA: u64 = 1 << 4;
/// Bits 6:5.
pub(super) const DPL: u64 = 3 << 5;
/// Bit 7.
pub(super) const PRESENT: u64 = 1 << 7;
/// Bit 13: a 64-bit code segment.
pub(super) const LONG: u64 = 1 << 13;
/// Bit 14.
pub(super) const DEFAULT_OPERATION_SIZE: u64 = 1 << 14;
/// Bit 15.
pub(super) const GRANULARITY: u64 = 1 << 15;
/// Bit 16.
pub(super) const UNUSABLE: u64 = 1 << 16;
/// Type of a data segment that can be read and written and was accessed.
pub(super) const READ_WRITE_ACCESSED: u64 = 3;

impl AccessRights {
    pub const fn segment_type(self) -> u64 {
        self.0 & TYPE
    }

    pub const fn privilege_level(self) -> u64 {
        (self.0 & DPL) >> 5
    }

    pub const fn is_usable(self) -> bool {
        self.0 & UNUSABLE == 0
    }

    /// The granularity bit if it contradicts the limit: it must be 0 if a bit of limit[11:0] is 0, and 1 if one of limit[31:20] is 1.
    pub const fn granularity_contradiction(self, limit: u64) -> u64 {
        let must_be_clear = limit & 0xfff != 0xfff;
        let must_be_set = limit & 0xfff0_0000 != 0;
        let is_set = self.0 & GRANULARITY != 0;
        if (must_be_clear && is_set) || (must_be_set && !is_set) { GRANULARITY } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granularity() {
        let rows = [
            (0xffff_ffff, true, 0),
            (0xffff_ffff, false, GRANULARITY),
            (0xf_ffff, true, 0),
            (0xf_ffff, false, 0),
            (0x1000, true, GRANULARITY),
            (0x1000, false, 0),
            // Neither value is right for such a limit.
            (0xffff_0000, true, GRANULARITY),
            (0xffff_0000, false, GRANULARITY),
        ];
        for (limit, granularity, expected) in rows {
            let rights = AccessRights(if granularity { GRANULARITY } else { 0 });
            assert_eq!(rights.granularity_contradiction(limit), expected, "{limit:#x} {granularity}");
        }
    }
}
