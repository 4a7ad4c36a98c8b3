//! The registers and who may do what with them: SDM 3A table 11-1 "Local APIC Register Address Map" for xAPIC mode and
//! table 11-6 "Local APIC Register Address Map Supported by x2APIC".

use super::local_vector_table::Entry;

/// A register. A number in one of several is its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the register it is named after")]
pub(super) enum Register {
    Identifier,
    Version,
    TaskPriority,
    ProcessorPriority,
    EndOfInterrupt,
    LogicalDestination,
    DestinationFormat,
    SpuriousInterruptVector,
    InService(usize),
    TriggerMode(usize),
    InterruptRequest(usize),
    ErrorStatus,
    InterruptCommandLow,
    InterruptCommandHigh,
    LocalVector(Entry),
    InitialCount,
    CurrentCount,
    DivideConfiguration,
    SelfInterrupt,
}

/// In which mode a register exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existence {
    Both,
    Xapic,
    X2apic,
}

/// What may be done with a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) register: Register,
    pub(super) existence: Existence,
    pub(super) readable: bool,
    /// Bits that a write changes or that are read-only in a register that can be written; `None`: it cannot be.
    pub(super) writable: Option<u32>,
}

/// Delivery status, bit 12, is read-only in every entry of the local vector table.
pub(super) const DELIVERY_STATUS: u32 = 1 << 12;
/// Remote IRR, bit 14, is read-only in the entries of LINT0 and LINT1.
pub(super) const REMOTE_REQUEST: u32 = 1 << 14;

const VECTOR: u32 = 0xff;
const DELIVERY_MODE: u32 = 0x700;
const MASK: u32 = 1 << 16;
const PIN: u32 = VECTOR | DELIVERY_MODE | MASK | DELIVERY_STATUS | REMOTE_REQUEST | 1 << 13 | 1 << 15;
const SENSOR: u32 = VECTOR | DELIVERY_MODE | MASK | DELIVERY_STATUS;
/// Vector, delivery mode, destination mode, delivery status, level, trigger mode, shorthand.
const COMMAND: u32 = VECTOR | DELIVERY_MODE | 1 << 11 | DELIVERY_STATUS | 1 << 14 | 1 << 15 | 3 << 18;

const fn row(register: Register, existence: Existence, readable: bool, writable: Option<u32>) -> Option<Row> {
    Some(Row { register, existence, readable, writable })
}

/// The register with this number: its offset in the page divided by 16, or its MSR less 0x800. `None`: reserved.
pub(super) const fn find(number: u32) -> Option<Row> {
    use Existence::{Both, X2apic, Xapic};
    match number {
        0x02 => row(Register::Identifier, Both, true, None),
        0x03 => row(Register::Version, Both, true, None),
        0x08 => row(Register::TaskPriority, Both, true, Some(0xff)),
        0x0a => row(Register::ProcessorPriority, Both, true, None),
        0x0b => row(Register::EndOfInterrupt, Both, false, Some(0)),
        0x0d => row(Register::LogicalDestination, Both, true, None),
        0x0e => row(Register::DestinationFormat, Xapic, true, Some(0xf000_0000)),
        0x0f => row(Register::SpuriousInterruptVector, Both, true, Some(0x1ff)),
        0x10..=0x17 => row(Register::InService(number as usize & 7), Both, true, None),
        0x18..=0x1f => row(Register::TriggerMode(number as usize & 7), Both, true, None),
        0x20..=0x27 => row(Register::InterruptRequest(number as usize & 7), Both, true, None),
        0x28 => row(Register::ErrorStatus, Both, true, Some(0)),
        0x30 => row(Register::InterruptCommandLow, Both, true, Some(COMMAND)),
        0x31 => row(Register::InterruptCommandHigh, Xapic, true, Some(0xff00_0000)),
        0x32 => row(Register::LocalVector(Entry::Timer), Both, true, Some(VECTOR | MASK | DELIVERY_STATUS | 3 << 17)),
        0x33 => row(Register::LocalVector(Entry::Thermal), Both, true, Some(SENSOR)),
        0x34 => row(Register::LocalVector(Entry::PerformanceMonitoring), Both, true, Some(SENSOR)),
        0x35 => row(Register::LocalVector(Entry::Lint0), Both, true, Some(PIN)),
        0x36 => row(Register::LocalVector(Entry::Lint1), Both, true, Some(PIN)),
        0x37 => row(Register::LocalVector(Entry::Error), Both, true, Some(VECTOR | MASK | DELIVERY_STATUS)),
        0x38 => row(Register::InitialCount, Both, true, Some(u32::MAX)),
        0x39 => row(Register::CurrentCount, Both, true, None),
        0x3e => row(Register::DivideConfiguration, Both, true, Some(0b1011)),
        0x3f => row(Register::SelfInterrupt, X2apic, false, Some(0xff)),
        _ => None,
    }
}
