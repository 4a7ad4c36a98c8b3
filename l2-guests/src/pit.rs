//! Channel 0 of the 8254 timer: IRQ 0 at a steady rate.

use crate::port;

/// The timer's input clock in Hz.
pub const CLOCK: u32 = 1_193_182;

const CHANNEL_0: u16 = 0x40;
const COMMAND: u16 = 0x43;
/// Channel 0, both bytes, mode 2 (rate generator), binary.
const RATE_GENERATOR: u8 = 0x34;

/// Starts the timer at `frequency` ticks a second.
///
/// # Panics
/// If the 16-bit counter cannot make that rate.
pub fn start(frequency: u32) {
    let [low, high] = u16::try_from(CLOCK / frequency).expect("a rate of at least 19 Hz").to_le_bytes();
    port::write_u8(COMMAND, RATE_GENERATOR);
    port::write_u8(CHANNEL_0, low);
    port::write_u8(CHANNEL_0, high);
}
