//! Port I/O.
//!
//! These are safe functions: none of L2's devices writes to memory on its own, so what a port is given or asked can
//! not break what the compiler relies on.
#![expect(unsafe_code, reason = "IN and OUT have no other form than assembly")]

use core::arch::asm;

/// Reads a byte.
#[must_use]
pub fn read_u8(port: u16) -> u8 {
    let value;
    // SAFETY: changes nothing but the register named.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads 16 bits.
#[must_use]
pub fn read_u16(port: u16) -> u16 {
    let value;
    // SAFETY: changes nothing but the register named.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads 32 bits.
#[must_use]
pub fn read_u32(port: u16) -> u32 {
    let value;
    // SAFETY: changes nothing but the register named.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte.
pub fn write_u8(port: u16, value: u8) {
    // SAFETY: no device of L2 writes to memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes 16 bits.
pub fn write_u16(port: u16, value: u16) {
    // SAFETY: no device of L2 writes to memory.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes 32 bits.
pub fn write_u32(port: u16, value: u32) {
    // SAFETY: no device of L2 writes to memory.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes all of `bytes`, in order, with one `rep outsb`.
pub fn write_string(port: u16, bytes: &[u8]) {
    // SAFETY: reads exactly `bytes`; the direction flag is clear as the ABI has it.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags),
        );
    }
}
