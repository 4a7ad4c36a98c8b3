//! The exit qualification: what it says about the VM exit beside its reason.
//!
//! Every format is a type of its own over the raw value, so that decoding costs nothing until a part is asked for and no value is
//! lost. [`Qualification::decode`] picks the format for an exit reason.
//!
//! Source: SDM 3C 27.2.1 "Basic VM-Exit Information".

mod address;
mod instruction;
mod other;

pub use address::{AccessType, ApicAccess, EptViolation, PageModificationLogFull, SubPagePermission};
pub use instruction::{ControlRegisterAccess, ControlRegisterAccessType, DebugRegisterAccess, IoInstruction};
pub use other::{DebugException, GuestStateFailure, TaskSwitch, TaskSwitchSource};

use core::fmt;

use crate::event::{InterruptionInformation, Vector};
use crate::exit_reason::{BasicExitReason, QualificationFormat};

/// A decoded exit qualification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qualification {
    /// The processor clears the field for this reason.
    Nothing,
    /// The reason isn't known to this crate.
    Unknown(u64),
    /// Debug exceptions.
    DebugException(DebugException),
    /// Page fault and INVLPG: a linear address.
    LinearAddress(u64),
    /// SIPI: its vector.
    StartUpIpiVector(u8),
    /// Task switch.
    TaskSwitch(TaskSwitch),
    /// Control-register access.
    ControlRegister(ControlRegisterAccess),
    /// MOV DR.
    DebugRegister(DebugRegisterAccess),
    /// IN, INS, OUT, OUTS.
    Io(IoInstruction),
    /// The displacement of a memory operand. Undefined if the instruction has a register operand instead:
    /// see [`InstructionInformation::displacement`](crate::instruction_information::InstructionInformation::displacement).
    Displacement(u64),
    /// MWAIT: whether the address-range monitoring hardware was armed.
    MonitorArmed(bool),
    /// VM entry failed on the guest state.
    GuestStateFailure(GuestStateFailure),
    /// VM entry failed on this entry of the VM-entry MSR-load area, counted from 1.
    MsrLoadFailure(u64),
    /// An access to the APIC-access page.
    ApicAccess(ApicAccess),
    /// Virtualized EOI: the vector.
    EoiVector(u8),
    /// APIC write: the offset in the page.
    ApicWriteOffset(u16),
    /// EPT violation.
    EptViolation(EptViolation),
    /// The page-modification log is full.
    PageModificationLogFull(PageModificationLogFull),
    /// Sub-page permission table.
    SubPagePermission(SubPagePermission),
    /// The MSR that the instruction names other than in RCX.
    Msr(u32),
    /// Instruction timeout: whether the guest's context is invalid, so that it cannot be resumed.
    ContextInvalid(bool),
}

impl Qualification {
    /// Decodes `qualification` for a VM exit with `reason`. `interruption_information` is VM_EXIT_INTERRUPTION_INFORMATION, which tells
    /// for an exception what the qualification holds; any value will do for other reasons.
    #[must_use]
    pub fn decode(reason: BasicExitReason, interruption_information: InterruptionInformation, qualification: u64) -> Self {
        let Some(information) = reason.information() else { return Qualification::Unknown(qualification) };
        match information.qualification {
            QualificationFormat::Nothing => Qualification::Nothing,
            QualificationFormat::Exception if interruption_information.is_exception(Vector::DB) => {
                Qualification::DebugException(DebugException(qualification))
            }
            QualificationFormat::Exception if interruption_information.is_exception(Vector::PF) => {
                Qualification::LinearAddress(qualification)
            }
            QualificationFormat::Exception => Qualification::Nothing,
            QualificationFormat::StartUpIpi => Qualification::StartUpIpiVector(qualification as u8),
            QualificationFormat::TaskSwitch => Qualification::TaskSwitch(TaskSwitch(qualification)),
            QualificationFormat::LinearAddress => Qualification::LinearAddress(qualification),
            QualificationFormat::Displacement => Qualification::Displacement(qualification),
            QualificationFormat::ControlRegister => Qualification::ControlRegister(ControlRegisterAccess(qualification)),
            QualificationFormat::DebugRegister => Qualification::DebugRegister(DebugRegisterAccess(qualification)),
            QualificationFormat::Io => Qualification::Io(IoInstruction(qualification)),
            QualificationFormat::Mwait => Qualification::MonitorArmed(qualification & 1 != 0),
            QualificationFormat::GuestStateFailure => Qualification::GuestStateFailure(GuestStateFailure(qualification)),
            QualificationFormat::MsrLoadFailure => Qualification::MsrLoadFailure(qualification),
            QualificationFormat::ApicAccess => Qualification::ApicAccess(ApicAccess(qualification)),
            QualificationFormat::EoiVector => Qualification::EoiVector(qualification as u8),
            QualificationFormat::ApicWrite => Qualification::ApicWriteOffset(qualification as u16 & 0xfff),
            QualificationFormat::EptViolation => Qualification::EptViolation(EptViolation(qualification)),
            QualificationFormat::PageModificationLogFull => {
                Qualification::PageModificationLogFull(PageModificationLogFull(qualification))
            }
            QualificationFormat::SubPagePermission => Qualification::SubPagePermission(SubPagePermission(qualification)),
            QualificationFormat::Msr => Qualification::Msr(qualification as u32),
            QualificationFormat::InstructionTimeout => Qualification::ContextInvalid(qualification & 1 != 0),
        }
    }
}

impl fmt::Display for Qualification {
    /// A few words, empty for [`Qualification::Nothing`].
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Qualification::Nothing => Ok(()),
            Qualification::Unknown(value) => write!(formatter, "qualification {value:#x}"),
            Qualification::DebugException(value) => value.fmt(formatter),
            Qualification::LinearAddress(address) => write!(formatter, "linear address {address:#x}"),
            Qualification::StartUpIpiVector(vector) | Qualification::EoiVector(vector) => {
                write!(formatter, "vector {vector:#04x}")
            }
            Qualification::TaskSwitch(value) => value.fmt(formatter),
            Qualification::ControlRegister(value) => value.fmt(formatter),
            Qualification::DebugRegister(value) => value.fmt(formatter),
            Qualification::Io(value) => value.fmt(formatter),
            Qualification::Displacement(value) => write!(formatter, "displacement {value:#x}"),
            Qualification::MonitorArmed(armed) => formatter.write_str(if *armed { "monitor armed" } else { "monitor not armed" }),
            Qualification::GuestStateFailure(value) => value.fmt(formatter),
            Qualification::MsrLoadFailure(entry) => write!(formatter, "entry {entry} of the MSR-load area"),
            Qualification::ApicAccess(value) => value.fmt(formatter),
            Qualification::ApicWriteOffset(offset) => write!(formatter, "offset {offset:#05x}"),
            Qualification::EptViolation(value) => value.fmt(formatter),
            Qualification::PageModificationLogFull(value) => value.fmt(formatter),
            Qualification::SubPagePermission(value) => value.fmt(formatter),
            Qualification::Msr(number) => write!(formatter, "MSR {number:#x}"),
            Qualification::ContextInvalid(invalid) => {
                formatter.write_str(if *invalid { "context invalid" } else { "context valid" })
            }
        }
    }
}

/// Writes the names of the bits that are set, with a space between.
fn write_flags(formatter: &mut fmt::Formatter<'_>, flags: &[(bool, &str)]) -> fmt::Result {
    let mut separator = "";
    for (_, name) in flags.iter().filter(|(set, _)| *set) {
        write!(formatter, "{separator}{name}")?;
        separator = " ";
    }
    Ok(())
}

const fn bit(value: u64, position: u32) -> bool {
    value >> position & 1 != 0
}

#[cfg(test)]
mod tests;
