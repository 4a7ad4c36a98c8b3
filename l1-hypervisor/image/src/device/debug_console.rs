//! The debug console at port 0xe9, as Bochs and QEMU have it: each byte written is printed. A read gives the port's
//! own number, which is how a guest finds out that the console is there.

use core::ops::RangeInclusive;

use super::bus::{Nanoseconds, Outputs, PortDevice};
use super::interrupt_lines::InterruptLines;

/// The device's only port.
pub const PORT: u16 = 0xe9;

/// The debug console. It has no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct DebugConsole;

impl PortDevice for DebugConsole {
    const PORTS: &'static [RangeInclusive<u16>] = &[PORT..=PORT];

    fn read(&mut self, _port: u16, _now: Nanoseconds, _lines: &mut InterruptLines) -> u8 {
        PORT as u8
    }

    fn write(&mut self, _port: u16, value: u8, _now: Nanoseconds, outputs: &mut Outputs<'_>) {
        outputs.console.bytes(&[value]);
    }
}
