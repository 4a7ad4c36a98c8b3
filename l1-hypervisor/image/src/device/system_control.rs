//! System control port A at 0x92, as the PS/2 had it: fast reset and the gate of address line 20.
//!
//! L2's address line 20 is always on. The gate reads on and cannot be switched off.

use core::ops::RangeInclusive;

use super::bus::{EndRequest, Nanoseconds, Outputs, PortDevice};
use super::interrupt_lines::InterruptLines;

/// The device's only port.
pub const PORT: u16 = 0x92;

/// Bit 0: resets the processor when it goes from 0 to 1.
const FAST_RESET: u8 = 1 << 0;
/// Bit 1: address line 20 is on.
const ADDRESS_LINE_20: u8 = 1 << 1;

/// System control port A.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemControl;

impl PortDevice for SystemControl {
    const PORTS: &'static [RangeInclusive<u16>] = &[PORT..=PORT];

    fn read(&mut self, _port: u16, _now: Nanoseconds, _lines: &mut InterruptLines) -> u8 {
        ADDRESS_LINE_20
    }

    fn write(&mut self, _port: u16, value: u8, _now: Nanoseconds, outputs: &mut Outputs<'_>) {
        if value & FAST_RESET != 0 {
            outputs.request_end(EndRequest::Reset);
        }
    }
}
