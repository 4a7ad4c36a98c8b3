//! Ports 0x60 and 0x64, where a PC has its 8042: of the controller only the line that resets the processor exists.
//!
//! What the status port reads is chosen so that software gives up at once:
//! - bit 0 (output buffer full) never goes away, so Linux's `i8042_flush` stops after 16 bytes and
//!   `i8042_controller_check` reports "No controller found". With all bits clear the flush would succeed and the
//!   self-test after it would poll the port 10000 times;
//! - bit 1 (input buffer full) is clear, so that those who wait for the controller before they send the reset
//!   command do not wait: Linux's `kb_wait`, for one, would read the port 65536 times;
//! - the other bits are set, as on an open bus.

use core::ops::RangeInclusive;

use super::bus::{EndRequest, Nanoseconds, Outputs, PortDevice, UNCLAIMED};
use super::interrupt_lines::InterruptLines;

/// Data port.
pub const DATA: u16 = 0x60;
/// Status (read) and command (write) port.
pub const COMMAND: u16 = 0x64;

/// Status bit 1: the controller has not yet taken the last byte.
const STATUS_INPUT_BUFFER_FULL: u8 = 1 << 1;
/// Commands 0xf0 to 0xff pull those of the output lines 0 to 3 low whose bit is clear.
const COMMAND_PULSE: u8 = 0xf0;
/// Line 0 is wired to the processor's RESET.
const LINE_RESET: u8 = 1 << 0;

/// What is left of the keyboard controller. It has no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyboardController;

impl PortDevice for KeyboardController {
    const PORTS: &'static [RangeInclusive<u16>] = &[DATA..=DATA, COMMAND..=COMMAND];

    fn read(&mut self, port: u16, _now: Nanoseconds, _lines: &mut InterruptLines) -> u8 {
        if port == COMMAND { !STATUS_INPUT_BUFFER_FULL } else { UNCLAIMED }
    }

    fn write(&mut self, port: u16, value: u8, _now: Nanoseconds, outputs: &mut Outputs<'_>) {
        if port == COMMAND && value & COMMAND_PULSE == COMMAND_PULSE && value & LINE_RESET == 0 {
            outputs.request_end(EndRequest::Reset);
        }
    }
}
