//! The local APIC alone, through its registers.

mod arbitrary;
mod commands;
mod interrupts;
mod modes;
mod timer;

use super::{LocalApic, Mode, Refused};
use crate::device::bus::Nanoseconds;

pub(super) const TASK_PRIORITY: u64 = 0x80;
pub(super) const PROCESSOR_PRIORITY: u64 = 0xa0;
pub(super) const END_OF_INTERRUPT: u64 = 0xb0;
pub(super) const LOGICAL_DESTINATION: u64 = 0xd0;
pub(super) const DESTINATION_FORMAT: u64 = 0xe0;
pub(super) const SPURIOUS: u64 = 0xf0;
pub(super) const IN_SERVICE: u64 = 0x100;
pub(super) const TRIGGER_MODE: u64 = 0x180;
pub(super) const REQUESTS: u64 = 0x200;
pub(super) const ERROR_STATUS: u64 = 0x280;
pub(super) const COMMAND_LOW: u64 = 0x300;
pub(super) const COMMAND_HIGH: u64 = 0x310;
pub(super) const TIMER: u64 = 0x320;
pub(super) const LINT0: u64 = 0x350;
pub(super) const LINT1: u64 = 0x360;
pub(super) const ERROR: u64 = 0x370;
pub(super) const INITIAL_COUNT: u64 = 0x380;
pub(super) const CURRENT_COUNT: u64 = 0x390;
pub(super) const DIVIDE_CONFIGURATION: u64 = 0x3e0;

pub(super) const MASKED: u32 = 1 << 16;
/// Divide configuration for a count a nanosecond.
pub(super) const DIVIDE_BY_1: u32 = 0b1011;
/// Width of a physical address of the tests' processor.
pub(super) const WIDTH: u32 = 39;
/// IA32_APIC_BASE at the start.
pub(super) const BASE: u64 = 0xfee0_0900;
pub(super) const EXTENDED: u64 = 1 << 10;
pub(super) const ENABLE: u64 = 1 << 11;

/// An APIC with the time at which it is accessed.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) apic: LocalApic,
    pub(super) now: Nanoseconds,
}

impl Machine {
    pub(super) fn xapic() -> Self {
        Self { apic: LocalApic::new(), now: 1_000 }
    }

    pub(super) fn x2apic() -> Self {
        let mut machine = Self::xapic();
        assert_eq!(machine.apic.set_base(BASE | EXTENDED, WIDTH), Ok(()));
        machine
    }

    /// Reads a register by its offset, in either mode.
    pub(super) fn read(&mut self, offset: u64) -> u32 {
        match self.apic.mode() {
            Mode::X2apic => self.rdmsr(offset).expect("the register can be read") as u32,
            _ => self.apic.read_page(offset, 4, self.now) as u32,
        }
    }

    /// Writes a register by its offset, in either mode.
    pub(super) fn write(&mut self, offset: u64, value: u32) {
        match self.apic.mode() {
            Mode::X2apic => self.wrmsr(offset, value.into()).expect("the register can be written"),
            _ => self.apic.write_page(offset, 4, value.into(), self.now),
        }
    }

    pub(super) fn rdmsr(&mut self, offset: u64) -> Result<u64, Refused> {
        self.apic.read_msr(0x800 + (offset >> 4) as u32, self.now)
    }

    pub(super) fn wrmsr(&mut self, offset: u64, value: u64) -> Result<(), Refused> {
        self.apic.write_msr(0x800 + (offset >> 4) as u32, value, self.now)
    }

    /// The interrupt that the processor gets now, if there is one.
    pub(super) fn interrupt(&mut self) -> Option<u8> {
        self.apic.interrupt_pending().then(|| self.apic.acknowledge())
    }

    /// An IPI to the processor itself.
    pub(super) fn send(&mut self, vector: u8) {
        self.write(COMMAND_LOW, 1 << 18 | u32::from(vector));
    }

    pub(super) fn pass(&mut self, nanoseconds: Nanoseconds) {
        self.now += nanoseconds;
        self.apic.advance(self.now);
    }

    /// The error status register, after the write that it needs.
    pub(super) fn errors(&mut self) -> u32 {
        self.write(ERROR_STATUS, 0);
        self.read(ERROR_STATUS)
    }
}
