//! The time-stamp counter.
#![expect(unsafe_code, reason = "the intrinsics are unsafe functions")]

use core::arch::x86_64::{_mm_lfence, _rdtsc};

/// Reads the time-stamp counter after everything before it has been done.
#[must_use]
pub fn read() -> u64 {
    // SAFETY: RDTSC and LFENCE work wherever long mode does, in ring 0 whatever CR4.TSD says.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}
