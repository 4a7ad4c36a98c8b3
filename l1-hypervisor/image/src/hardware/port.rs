//! I/O ports of the machine L1 boots on.
#![expect(unsafe_code, reason = "IN and OUT")]

use core::arch::asm;

/// A port that L1 itself uses. Made only for the ports of `l1_protocol::port`, none of which can corrupt memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(u16);

impl Port {
    /// The port with the number `number`.
    ///
    /// # Safety
    /// Accesses to it must not break anything: no DMA, no reset unless that is meant.
    #[must_use]
    pub const unsafe fn new(number: u16) -> Self {
        Self(number)
    }

    /// Reads a byte.
    #[must_use]
    pub fn read_u8(self) -> u8 {
        let value: u8;
        // SAFETY: the port is harmless by the contract of `new`.
        unsafe { asm!("in al, dx", in("dx") self.0, out("al") value, options(nomem, nostack, preserves_flags)) };
        value
    }

    /// Writes a byte.
    pub fn write_u8(self, value: u8) {
        // SAFETY: the port is harmless by the contract of `new`.
        unsafe { asm!("out dx, al", in("dx") self.0, in("al") value, options(nomem, nostack, preserves_flags)) };
    }

    /// Writes 32 bits. The host may read and write L1's memory meanwhile.
    pub fn write_u32(self, value: u32) {
        // SAFETY: the port is harmless by the contract of `new`; memory counts as changed (no `nomem`).
        unsafe { asm!("out dx, eax", in("dx") self.0, in("eax") value, options(nostack, preserves_flags)) };
    }

    /// Writes bytes one after the other, with one instruction.
    pub fn write_bytes(self, bytes: &[u8]) {
        // SAFETY: the port is harmless by the contract of `new`; the slice is readable; the direction flag is clear.
        unsafe {
            asm!("rep outsb", in("dx") self.0, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
                 options(readonly, nostack, preserves_flags));
        }
    }
}
