//! The pair of 8259 interrupt controllers.
#![expect(unsafe_code, reason = "STI, CLI and HLT have no other form than assembly")]

use core::arch::asm;

use crate::port;

/// Vector of IRQ 0; the others follow.
pub const FIRST_VECTOR: u8 = 0x20;
/// Number of the two controllers' lines.
pub const LINES: u8 = 16;

const PRIMARY_COMMAND: u16 = 0x20;
const PRIMARY_DATA: u16 = 0x21;
const SECONDARY_COMMAND: u16 = 0xa0;
const SECONDARY_DATA: u16 = 0xa1;
/// OCW2: non-specific end of interrupt.
const END_OF_INTERRUPT: u8 = 0x20;
/// OCW3: the next read of the command port gives the interrupt request register.
const READ_REQUESTS: u8 = 0x0a;
/// OCW3: the next read of the command port gives the in-service register.
const READ_IN_SERVICE: u8 = 0x0b;

/// Sets both controllers up (ICW1 to ICW4: edge triggered, cascaded on line 2, 8086 mode) and masks every line.
pub fn initialize() {
    let words = [
        (PRIMARY_COMMAND, 0x11),
        (SECONDARY_COMMAND, 0x11),
        (PRIMARY_DATA, FIRST_VECTOR),
        (SECONDARY_DATA, FIRST_VECTOR + 8),
        (PRIMARY_DATA, 1 << 2),
        (SECONDARY_DATA, 2),
        (PRIMARY_DATA, 1),
        (SECONDARY_DATA, 1),
    ];
    for (port, word) in words {
        port::write_u8(port, word);
    }
    set_mask(u16::MAX);
}

/// Masks the lines whose bits are set, and no other.
pub fn set_mask(lines: u16) {
    let [primary, secondary] = lines.to_le_bytes();
    port::write_u8(PRIMARY_DATA, primary);
    port::write_u8(SECONDARY_DATA, secondary);
}

/// The mask that is set.
#[must_use]
pub fn mask() -> u16 {
    u16::from_le_bytes([port::read_u8(PRIMARY_DATA), port::read_u8(SECONDARY_DATA)])
}

/// The first controller's lines that wait for service.
#[must_use]
pub fn requests() -> u8 {
    port::write_u8(PRIMARY_COMMAND, READ_REQUESTS);
    port::read_u8(PRIMARY_COMMAND)
}

/// The first controller's lines that are being served.
#[must_use]
pub fn in_service() -> u8 {
    port::write_u8(PRIMARY_COMMAND, READ_IN_SERVICE);
    port::read_u8(PRIMARY_COMMAND)
}

/// Ends the service of the first controller's highest line.
pub fn end_of_interrupt() {
    port::write_u8(PRIMARY_COMMAND, END_OF_INTERRUPT);
}

/// Lets interrupts in and halts until one has been served, then keeps them out again.
///
/// STI takes effect after the next instruction, so no interrupt comes in between STI and HLT.
pub fn halt_for_interrupt() {
    // SAFETY: every vector leads to a handler that keeps the registers.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Lets what is pending in, for one instruction.
pub fn let_pending_in() {
    // SAFETY: every vector leads to a handler that keeps the registers.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// Keeps what is pending out: CLI follows STI, which takes effect only after it.
pub fn open_no_window() {
    // SAFETY: every vector leads to a handler that keeps the registers.
    unsafe { asm!("sti", "cli", options(nostack)) };
}

/// Lets interrupts in from now on.
pub fn enable_interrupts() {
    // SAFETY: every vector leads to a handler that keeps the registers.
    unsafe { asm!("sti", options(nostack)) };
}

/// Keeps interrupts out from now on.
pub fn disable_interrupts() {
    // SAFETY: takes no effect on memory.
    unsafe { asm!("cli", options(nostack)) };
}
