//! Qualifications of debug exceptions, task switches and failed VM entries.

use core::fmt;

use super::{bit, write_flags};

/// Debug exceptions, SDM 3C table 27-1 "Exit Qualification for Debug Exceptions".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugException(pub u64);

impl DebugException {
    /// B3 to B0: the breakpoints whose conditions were met.
    #[must_use]
    pub const fn breakpoints(self) -> u8 {
        self.0 as u8 & 15
    }

    /// BLD: a bus lock was detected. Bit 11 has this polarity here, the inverse of DR6.
    #[must_use]
    pub const fn is_bus_lock(self) -> bool {
        bit(self.0, 11)
    }

    /// BD: a debug register was accessed while DR7.GD was 1.
    #[must_use]
    pub const fn is_debug_register_access(self) -> bool {
        bit(self.0, 13)
    }

    /// BS: a single step or branch step.
    #[must_use]
    pub const fn is_single_step(self) -> bool {
        bit(self.0, 14)
    }

    /// RTM: the exception came inside an RTM region with advanced debugging. The inverse of DR6.RTM.
    #[must_use]
    pub const fn is_in_rtm_region(self) -> bool {
        bit(self.0, 16)
    }
}

impl fmt::Display for DebugException {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [
            (bit(self.0, 0), "B0"),
            (bit(self.0, 1), "B1"),
            (bit(self.0, 2), "B2"),
            (bit(self.0, 3), "B3"),
            (self.is_bus_lock(), "BLD"),
            (self.is_debug_register_access(), "BD"),
            (self.is_single_step(), "BS"),
            (self.is_in_rtm_region(), "RTM"),
        ];
        write_flags(formatter, &flags)
    }
}

/// Task switches, SDM 3C table 27-2 "Exit Qualification for Task Switches".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskSwitch(pub u64);

/// What wanted to switch tasks, bits 31:30.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskSwitchSource {
    /// CALL.
    Call,
    /// IRET.
    Iret,
    /// JMP.
    Jmp,
    /// A task gate in the IDT.
    TaskGate,
}

impl TaskSwitch {
    /// The selector of the task-state segment to which the guest wanted to switch.
    #[must_use]
    pub const fn selector(self) -> u16 {
        self.0 as u16
    }

    /// What wanted it.
    #[must_use]
    pub const fn source(self) -> TaskSwitchSource {
        match (self.0 >> 30) & 3 {
            0 => TaskSwitchSource::Call,
            1 => TaskSwitchSource::Iret,
            2 => TaskSwitchSource::Jmp,
            _ => TaskSwitchSource::TaskGate,
        }
    }
}

impl fmt::Display for TaskSwitch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source() {
            TaskSwitchSource::Call => "CALL",
            TaskSwitchSource::Iret => "IRET",
            TaskSwitchSource::Jmp => "JMP",
            TaskSwitchSource::TaskGate => "task gate",
        };
        write!(formatter, "{source} to selector {:#06x}", self.selector())
    }
}

/// What the checks of the guest state found, SDM 3C 26.8 "VM-Entry Failures During or After Loading Guest State".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestStateFailure(pub u64);

impl GuestStateFailure {
    /// No further information.
    pub const UNSPECIFIED: GuestStateFailure = GuestStateFailure(0);
    /// Loading the page-directory-pointer-table entries failed.
    pub const PDPTE: GuestStateFailure = GuestStateFailure(2);
    /// An NMI was to be injected while blocking by STI was in effect.
    pub const NMI_WITH_BLOCKING_BY_STI: GuestStateFailure = GuestStateFailure(3);
    /// The VMCS link pointer was invalid.
    pub const VMCS_LINK_POINTER: GuestStateFailure = GuestStateFailure(4);
}

impl fmt::Display for GuestStateFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UNSPECIFIED => formatter.write_str("no further information"),
            Self::PDPTE => formatter.write_str("loading the PDPTEs failed"),
            Self::NMI_WITH_BLOCKING_BY_STI => formatter.write_str("injection of an NMI with blocking by STI"),
            Self::VMCS_LINK_POINTER => formatter.write_str("invalid VMCS link pointer"),
            Self(other) => write!(formatter, "qualification {other:#x}"),
        }
    }
}
