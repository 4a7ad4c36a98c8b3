//! Reads and writes of the registers, through the page in xAPIC mode and through MSRs in x2APIC mode.

use super::error::Problem;
use super::local_vector_table::Entry;
use super::register::{DELIVERY_STATUS, Existence, REMOTE_REQUEST, Register, Row, find};
use super::{FIRST_MSR, LocalApic, Mode, Refused, SOFTWARE_ENABLE};
use crate::device::bus::Nanoseconds;

/// Version register: an integrated APIC with six entries in the local vector table (SDM 3A 11.4.8 "Local APIC Version
/// Register").
const VERSION: u32 = 0x14 | 5 << 16;
/// Bytes from one register to the next.
const SPACING: u64 = 16;

impl LocalApic {
    /// Reads `size` (1, 2, 4 or 8) bytes at `offset` in the page. Only aligned accesses to the first four bytes of a
    /// register are defined (SDM 3A 11.4.1 "The Local APIC Block Diagram"); whatever else is read is part of those
    /// four bytes, then zeros.
    pub fn read_page(&mut self, offset: u64, size: usize, now: Nanoseconds) -> u64 {
        let value = match find((offset / SPACING) as u32) {
            Some(Row { register, existence: Existence::Both | Existence::Xapic, readable, .. }) => {
                if readable {
                    self.read(register, now)
                } else {
                    0
                }
            }
            _ => {
                self.report(Problem::IllegalRegisterAddress);
                self.settle();
                0
            }
        };
        let shift = offset % SPACING * 8;
        let value = if shift < 32 { u64::from(value) >> shift } else { 0 };
        if size < 8 { value & ((1 << (8 * size)) - 1) } else { value }
    }

    /// Writes `size` bytes at `offset` in the page. A write that is not of four aligned bytes is ignored.
    pub fn write_page(&mut self, offset: u64, size: usize, value: u64, now: Nanoseconds) {
        if size != 4 || !offset.is_multiple_of(SPACING) {
            return;
        }
        match find((offset / SPACING) as u32) {
            Some(Row { register: Register::LogicalDestination, .. }) => self.logical_destination = value as u32 & 0xff00_0000,
            Some(Row { register, existence: Existence::Both | Existence::Xapic, writable: Some(bits), .. }) => {
                self.write(register, value as u32 & bits, bits, now);
            }
            // What is read-only stays as it is.
            Some(Row { existence: Existence::Both | Existence::Xapic, .. }) => {}
            _ => {
                self.report(Problem::IllegalRegisterAddress);
                self.settle();
            }
        }
    }

    /// RDMSR of one of the x2APIC's registers.
    ///
    /// # Errors
    /// [`Refused`] in other modes, for reserved and for write-only registers (SDM 3A 11.12.1.3 "Reserved Bit Checking").
    pub fn read_msr(&mut self, index: u32, now: Nanoseconds) -> Result<u64, Refused> {
        match self.find_msr(index)? {
            Row { register: Register::InterruptCommandLow, .. } => {
                Ok(u64::from(self.command.high) << 32 | u64::from(self.command.low))
            }
            Row { register, readable: true, .. } => Ok(self.read(register, now).into()),
            _ => Err(Refused),
        }
    }

    /// WRMSR of one of the x2APIC's registers.
    ///
    /// # Errors
    /// [`Refused`] in other modes, for reserved and read-only registers and where a reserved bit is set.
    pub fn write_msr(&mut self, index: u32, value: u64, now: Nanoseconds) -> Result<(), Refused> {
        let Row { register, writable: Some(bits), .. } = self.find_msr(index)? else {
            return Err(Refused);
        };
        let is_command = register == Register::InterruptCommandLow;
        if value as u32 & !bits != 0 || value >> 32 != 0 && !is_command {
            return Err(Refused);
        }
        if is_command {
            self.command.high = (value >> 32) as u32;
        }
        self.write(register, value as u32, bits, now);
        Ok(())
    }

    fn find_msr(&self, index: u32) -> Result<Row, Refused> {
        let row = index.checked_sub(FIRST_MSR).and_then(find).filter(|row| row.existence != Existence::Xapic);
        if self.mode() == Mode::X2apic { row.ok_or(Refused) } else { Err(Refused) }
    }

    fn read(&self, register: Register, now: Nanoseconds) -> u32 {
        match register {
            Register::Identifier | Register::EndOfInterrupt | Register::SelfInterrupt => 0,
            Register::Version => VERSION,
            Register::TaskPriority => self.task_priority.into(),
            Register::ProcessorPriority => self.processor_priority().into(),
            Register::LogicalDestination => self.logical_identifier(),
            Register::DestinationFormat => self.destination_format,
            Register::SpuriousInterruptVector => self.spurious,
            Register::InService(number) => self.in_service.register(number),
            Register::TriggerMode(number) => self.trigger_mode.register(number),
            Register::InterruptRequest(number) => self.requests.register(number),
            Register::ErrorStatus => self.errors.read(),
            Register::InterruptCommandLow => self.command.low,
            Register::InterruptCommandHigh => self.command.high,
            Register::LocalVector(entry) => self.local_vectors.get(entry).value(),
            Register::InitialCount => self.timer.initial_count(),
            Register::CurrentCount => self.timer.current_count(self.timer_mode(), now),
            Register::DivideConfiguration => self.timer.divide_configuration(),
        }
    }

    /// Writes `value`, which has no bits but those of `writable`.
    fn write(&mut self, register: Register, value: u32, writable: u32, now: Nanoseconds) {
        match register {
            Register::TaskPriority => self.task_priority = value as u8,
            Register::EndOfInterrupt => self.end_of_interrupt(),
            // The low bits are all ones (SDM 3A figure 11-14 "Destination Format Register (DFR)").
            Register::DestinationFormat => self.destination_format = value | 0x0fff_ffff,
            Register::SpuriousInterruptVector => {
                self.spurious = value;
                if value & SOFTWARE_ENABLE == 0 {
                    self.local_vectors.mask_all();
                }
            }
            Register::ErrorStatus => self.errors.write(),
            Register::InterruptCommandLow => self.send(value),
            Register::InterruptCommandHigh => self.command.high = value,
            Register::LocalVector(entry) => self.write_local_vector(entry, value, writable & !(DELIVERY_STATUS | REMOTE_REQUEST)),
            Register::InitialCount => self.timer.set_initial_count(self.timer_mode(), value, now),
            Register::DivideConfiguration => self.timer.set_divide_configuration(self.timer_mode(), value, now),
            Register::SelfInterrupt => self.send_to_itself(value as u8),
            // No row makes these writable.
            Register::Identifier
            | Register::Version
            | Register::ProcessorPriority
            | Register::LogicalDestination
            | Register::InService(_)
            | Register::TriggerMode(_)
            | Register::InterruptRequest(_)
            | Register::CurrentCount => {}
        }
        self.settle();
    }

    fn write_local_vector(&mut self, entry: Entry, value: u32, writable: u32) {
        let old = self.timer_mode();
        self.local_vectors.set(entry, value, writable, self.is_software_enabled());
        self.timer.change_mode(old, self.timer_mode());
        // A level that stands makes a request as soon as the entry lets it through.
        if entry == Entry::Lint0 && self.external {
            self.serve_external(false);
        }
    }
}
