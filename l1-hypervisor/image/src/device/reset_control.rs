//! The reset control register at 0xcf9 of Intel's chipsets, which the ACPI tables name as the reset register.
//!
//! It shares its address with the second byte of PCI configuration mechanism #1: only byte accesses are for it, so
//! that a guest looking for PCI with a 32-bit write to 0xcf8 does not reset itself. [`super::Devices`] sees to that.

use core::ops::RangeInclusive;

use super::bus::{EndRequest, Nanoseconds, Outputs, PortDevice};
use super::interrupt_lines::InterruptLines;

/// The device's only port.
pub const PORT: u16 = 0xcf9;
/// Address register of PCI configuration mechanism #1, which is not there.
pub const PCI_CONFIGURATION_ADDRESS: u16 = 0xcf8;
/// Value that resets the machine: bits 1 (hard reset) and 2.
pub const HARD_RESET: u8 = SYSTEM_RESET | RESET_PROCESSOR;

/// Bit 1: what bit 2 triggers is a hard reset.
const SYSTEM_RESET: u8 = 1 << 1;
/// Bit 2: reset.
const RESET_PROCESSOR: u8 = 1 << 2;
/// Bits that read as they were written: hard reset, and full power cycle (bit 3).
const STORED: u8 = SYSTEM_RESET | 1 << 3;

/// The reset control register.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResetControl {
    value: u8,
}

impl PortDevice for ResetControl {
    const PORTS: &'static [RangeInclusive<u16>] = &[PORT..=PORT];

    fn read(&mut self, _port: u16, _now: Nanoseconds, _lines: &mut InterruptLines) -> u8 {
        self.value
    }

    fn write(&mut self, _port: u16, value: u8, _now: Nanoseconds, outputs: &mut Outputs<'_>) {
        self.value = value & STORED;
        if value & RESET_PROCESSOR != 0 {
            outputs.request_end(EndRequest::Reset);
        }
    }
}
