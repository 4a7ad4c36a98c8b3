//! Exceptions that a guest provokes: [`attempt!`](crate::attempt) runs instructions that may fault and reports the
//! exception they raised.
//!
//! How: the address to go on at is put into [`RECOVERY`] by the same `asm!` block that holds the instructions. The
//! exception handler ([`crate::idt`]) takes it from there, so that it serves one exception only.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Vectors by the names of SDM 3A 6.2 "Exception and Interrupt Vectors", Table 6-1.
pub mod vector {
    #![expect(missing_docs, reason = "the names of the SDM's table say it all")]
    pub const DIVIDE_ERROR: u8 = 0;
    pub const DEBUG: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BREAKPOINT: u8 = 3;
    pub const OVERFLOW: u8 = 4;
    pub const BOUND_RANGE_EXCEEDED: u8 = 5;
    pub const INVALID_OPCODE: u8 = 6;
    pub const DEVICE_NOT_AVAILABLE: u8 = 7;
    pub const DOUBLE_FAULT: u8 = 8;
    pub const INVALID_TSS: u8 = 10;
    pub const SEGMENT_NOT_PRESENT: u8 = 11;
    pub const STACK_SEGMENT_FAULT: u8 = 12;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const X87_FLOATING_POINT_ERROR: u8 = 16;
    pub const ALIGNMENT_CHECK: u8 = 17;
    pub const MACHINE_CHECK: u8 = 18;
    pub const SIMD_FLOATING_POINT: u8 = 19;
    pub const VIRTUALIZATION: u8 = 20;
    pub const CONTROL_PROTECTION: u8 = 21;
}

/// The SDM's mnemonic, or `interrupt` for a vector that has none.
#[must_use]
pub const fn name(vector: u8) -> &'static str {
    match vector {
        vector::DIVIDE_ERROR => "#DE",
        vector::DEBUG => "#DB",
        vector::NMI => "NMI",
        vector::BREAKPOINT => "#BP",
        vector::OVERFLOW => "#OF",
        vector::BOUND_RANGE_EXCEEDED => "#BR",
        vector::INVALID_OPCODE => "#UD",
        vector::DEVICE_NOT_AVAILABLE => "#NM",
        vector::DOUBLE_FAULT => "#DF",
        vector::INVALID_TSS => "#TS",
        vector::SEGMENT_NOT_PRESENT => "#NP",
        vector::STACK_SEGMENT_FAULT => "#SS",
        vector::GENERAL_PROTECTION => "#GP",
        vector::PAGE_FAULT => "#PF",
        vector::X87_FLOATING_POINT_ERROR => "#MF",
        vector::ALIGNMENT_CHECK => "#AC",
        vector::MACHINE_CHECK => "#MC",
        vector::SIMD_FLOATING_POINT => "#XM",
        vector::VIRTUALIZATION => "#VE",
        vector::CONTROL_PROTECTION => "#CP",
        _ => "interrupt",
    }
}

/// An exception as its handler met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// The error code, 0 for a vector that has none.
    pub error_code: u64,
    /// The saved RIP: of the instruction itself for a fault, of the next one for a trap.
    pub rip: u64,
    /// CR2 for a page fault, else 0.
    pub fault_address: u64,
    /// DR6 for a debug exception, else 0.
    pub debug_status: u64,
}

impl fmt::Display for Exception {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}({:#x}) at {:#x}", name(self.vector), self.error_code, self.rip)?;
        match self.vector {
            vector::PAGE_FAULT => write!(formatter, " for address {:#x}", self.fault_address),
            vector::DEBUG => write!(formatter, " with DR6 {:#x}", self.debug_status),
            _ => Ok(()),
        }
    }
}

/// Where to go on after the next exception; 0 while none is waited for. Written by [`attempt!`](crate::attempt).
#[doc(hidden)]
pub static RECOVERY: AtomicU64 = AtomicU64::new(0);

static RAISED: AtomicBool = AtomicBool::new(false);
static VECTOR: AtomicU64 = AtomicU64::new(0);
static ERROR_CODE: AtomicU64 = AtomicU64::new(0);
static RIP: AtomicU64 = AtomicU64::new(0);
static FAULT_ADDRESS: AtomicU64 = AtomicU64::new(0);
static DEBUG_STATUS: AtomicU64 = AtomicU64::new(0);

/// The handler's side: stores the exception if one is waited for and says where to go on.
pub(crate) fn recover(exception: Exception) -> Option<u64> {
    let recovery = RECOVERY.swap(0, Relaxed);
    if recovery == 0 {
        return None;
    }
    RAISED.store(true, Relaxed);
    VECTOR.store(u64::from(exception.vector), Relaxed);
    ERROR_CODE.store(exception.error_code, Relaxed);
    RIP.store(exception.rip, Relaxed);
    FAULT_ADDRESS.store(exception.fault_address, Relaxed);
    DEBUG_STATUS.store(exception.debug_status, Relaxed);
    Some(recovery)
}

/// The end of [`attempt!`](crate::attempt): what came of it.
///
/// # Errors
/// The exception, if one was raised.
#[doc(hidden)]
pub fn attempted() -> Result<(), Exception> {
    RECOVERY.store(0, Relaxed);
    if !RAISED.swap(false, Relaxed) {
        return Ok(());
    }
    Err(Exception {
        vector: VECTOR.load(Relaxed) as u8,
        error_code: ERROR_CODE.load(Relaxed),
        rip: RIP.load(Relaxed),
        fault_address: FAULT_ADDRESS.load(Relaxed),
        debug_status: DEBUG_STATUS.load(Relaxed),
    })
}

/// Runs instructions and yields `Result<(), Exception>`: templates as for `asm!`, then a semicolon and operands.
///
/// After an exception the code goes on behind the last template, with all registers as they were at the exception,
/// so an output that the faulting instruction was to write holds what the register held before. The templates must
/// leave RSP alone wherever they may fault. TF is cleared. An exception while CR0.TS or CR0.EM is set leaves both
/// clear (see [`crate::idt`]).
///
/// To be used in an `unsafe` block: it is an `asm!`.
#[macro_export]
macro_rules! attempt {
    ($($template:expr),+ $(,)? $(; $($operands:tt)*)?) => {{
        ::core::arch::asm!(
            "lea {recovery_address}, [rip + 77f]",
            "mov qword ptr [rip + {recovery}], {recovery_address}",
            $($template,)+
            "77:",
            recovery_address = out(reg) _,
            recovery = sym $crate::exception::RECOVERY,
            $($($operands)*)?
        );
        $crate::exception::attempted()
    }};
}
