//! VMCALL: a request to L1.
#![expect(unsafe_code, reason = "VMCALL has no other form than assembly")]

use core::arch::asm;

/// Calls L1: number in RAX, arguments in RDI and RSI; the answer comes in RAX, every other register is kept.
#[must_use]
pub fn vmcall(number: u64, first: u64, second: u64) -> u64 {
    let answer;
    // SAFETY: L1 answers in RAX and writes no memory of its guest.
    unsafe {
        asm!("vmcall", inout("rax") number => answer, in("rdi") first, in("rsi") second, options(nostack, preserves_flags));
    }
    answer
}
