//! The debug exit device at port 0xf4, after QEMU's `isa-debug-exit`: a write of any width ends the run.

use core::ops::RangeInclusive;

use super::bus::{EndRequest, Nanoseconds, Outputs, PortDevice};
use super::interrupt_lines::InterruptLines;

/// The device's only port. Wider accesses that start here are one value and not split into bytes.
pub const PORT: u16 = l1_protocol::guest::DEBUG_EXIT_PORT;

/// The debug exit device. It has no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct DebugExit;

impl DebugExit {
    /// A write of any width.
    pub fn exit(value: u32, outputs: &mut Outputs<'_>) {
        outputs.request_end(EndRequest::DebugExit { value });
    }
}

impl PortDevice for DebugExit {
    const PORTS: &'static [RangeInclusive<u16>] = &[PORT..=PORT];

    fn read(&mut self, _port: u16, _now: Nanoseconds, _lines: &mut InterruptLines) -> u8 {
        0
    }

    fn write(&mut self, _port: u16, value: u8, _now: Nanoseconds, outputs: &mut Outputs<'_>) {
        Self::exit(u32::from(value), outputs);
    }
}
