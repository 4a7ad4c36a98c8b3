//! Control and debug registers.
//!
//! Reads are safe. Writes to CR0, CR3 and CR4 yield the exception if the processor refuses the value.
#![expect(unsafe_code, reason = "MOV to and from these registers has no other form than assembly")]

use core::arch::asm;

use crate::{Exception, attempt};

/// Bits of CR0 (SDM 3A 2.5 "Control Registers").
pub mod cr0 {
    #![expect(missing_docs, reason = "the names of the SDM")]
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4 (SDM 3A 2.5 "Control Registers").
pub mod cr4 {
    #![expect(missing_docs, reason = "the names of the SDM")]
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const VMXE: u64 = 1 << 13;
    pub const SMXE: u64 = 1 << 14;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const PKE: u64 = 1 << 22;
}

macro_rules! register {
    ($register:literal, $read:ident) => {
        #[doc = concat!("Reads ", $register, ".")]
        #[must_use]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: changes nothing but the register named.
            unsafe { asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }
    };
    ($register:literal, $read:ident, $write:ident, $safety:literal) => {
        register!($register, $read);

        #[doc = concat!("Writes ", $register, ".")]
        ///
        /// # Errors
        /// The exception, if the processor refuses the value.
        ///
        /// # Safety
        #[doc = $safety]
        pub unsafe fn $write(value: u64) -> Result<(), Exception> {
            // SAFETY: the caller's promise; a fault is recovered from.
            unsafe { attempt!(concat!("mov ", $register, ", {value}"); value = in(reg) value) }
        }
    };
}

register!("cr0", read_cr0, write_cr0, "Code, stack and data must stay reachable, and SSE usable by the Rust code that follows.");
register!("cr2", read_cr2, write_cr2, "None: nothing depends on the value. Unsafe for the sake of one form.");
register!("cr3", read_cr3, write_cr3, "The page tables there must map everything in use to itself.");
register!("cr4", read_cr4, write_cr4, "Code, stack and data must stay reachable, and SSE usable by the Rust code that follows.");
register!("cr8", read_cr8, write_cr8, "None: it holds back interrupts only. Unsafe for the sake of one form.");
register!("dr0", read_dr0, write_dr0, "What the debug exceptions lead to must be sound.");
register!("dr1", read_dr1, write_dr1, "What the debug exceptions lead to must be sound.");
register!("dr2", read_dr2, write_dr2, "What the debug exceptions lead to must be sound.");
register!("dr3", read_dr3, write_dr3, "What the debug exceptions lead to must be sound.");
register!("dr6", read_dr6, write_dr6, "None: it is a status. Unsafe for the sake of one form.");
register!("dr7", read_dr7, write_dr7, "What the debug exceptions lead to must be sound.");

/// Value of DR6 while no debug exception is reported (SDM 3B 18.2.3 "Debug Status Register (DR6)").
pub const DR6_NONE: u64 = 0xffff_0ff0;

/// Reads DR6 and clears it: the processor only ever sets its bits.
pub(crate) fn take_dr6() -> u64 {
    let status = read_dr6();
    // SAFETY: a status that nothing else reads.
    unsafe { asm!("mov dr6, {}", in(reg) DR6_NONE, options(nomem, nostack, preserves_flags)) };
    status
}
