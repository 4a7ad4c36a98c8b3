//! The VM-instruction error numbers that VMfailValid leaves in VM_INSTRUCTION_ERROR.
//!
//! Source: SDM 3C 30.4 "VM Instruction Error Numbers".

use core::fmt;

/// A VM-instruction error number. Open: numbers that this crate doesn't know are carried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct InstructionError(pub u32);

macro_rules! errors {
    ($($number:literal $name:ident $what:literal;)*) => {
        impl InstructionError {
            $(#[doc = concat!($what, ".")] pub const $name: InstructionError = InstructionError($number);)*

            /// Every number with a name, in ascending order.
            pub const ALL: &'static [InstructionError] = &[$(InstructionError($number),)*];

            /// The name of the constant, if the number is known.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                Some(match self.0 {
                    $($number => stringify!($name),)*
                    _ => return None,
                })
            }

            /// The SDM's description, if the number is known.
            #[must_use]
            pub const fn description(self) -> Option<&'static str> {
                Some(match self.0 {
                    $($number => $what,)*
                    _ => return None,
                })
            }
        }
    };
}

errors! {
    1 VMCALL_IN_VMX_ROOT_OPERATION "VMCALL executed in VMX root operation";
    2 VMCLEAR_WITH_INVALID_PHYSICAL_ADDRESS "VMCLEAR with invalid physical address";
    3 VMCLEAR_WITH_VMXON_POINTER "VMCLEAR with VMXON pointer";
    4 VMLAUNCH_WITH_NON_CLEAR_VMCS "VMLAUNCH with non-clear VMCS";
    5 VMRESUME_WITH_NON_LAUNCHED_VMCS "VMRESUME with non-launched VMCS";
    6 VMRESUME_AFTER_VMXOFF "VMRESUME after VMXOFF (VMXOFF and VMXON between VMLAUNCH and VMRESUME)";
    7 VM_ENTRY_WITH_INVALID_CONTROL_FIELDS "VM entry with invalid control field(s)";
    8 VM_ENTRY_WITH_INVALID_HOST_STATE_FIELDS "VM entry with invalid host-state field(s)";
    9 VMPTRLD_WITH_INVALID_PHYSICAL_ADDRESS "VMPTRLD with invalid physical address";
    10 VMPTRLD_WITH_VMXON_POINTER "VMPTRLD with VMXON pointer";
    11 VMPTRLD_WITH_INCORRECT_VMCS_REVISION_IDENTIFIER "VMPTRLD with incorrect VMCS revision identifier";
    12 VMREAD_VMWRITE_UNSUPPORTED_VMCS_COMPONENT "VMREAD/VMWRITE from/to unsupported VMCS component";
    13 VMWRITE_TO_READ_ONLY_VMCS_COMPONENT "VMWRITE to read-only VMCS component";
    15 VMXON_IN_VMX_ROOT_OPERATION "VMXON executed in VMX root operation";
    16 VM_ENTRY_WITH_INVALID_EXECUTIVE_VMCS_POINTER "VM entry with invalid executive-VMCS pointer";
    17 VM_ENTRY_WITH_NON_LAUNCHED_EXECUTIVE_VMCS "VM entry with non-launched executive VMCS";
    18 VM_ENTRY_WITH_EXECUTIVE_VMCS_POINTER_NOT_VMXON_POINTER "VM entry with executive-VMCS pointer not VMXON pointer (when attempting to deactivate the dual-monitor treatment of SMIs and SMM)";
    19 VMCALL_WITH_NON_CLEAR_VMCS "VMCALL with non-clear VMCS (when attempting to activate the dual-monitor treatment of SMIs and SMM)";
    20 VMCALL_WITH_INVALID_VM_EXIT_CONTROL_FIELDS "VMCALL with invalid VM-exit control fields";
    22 VMCALL_WITH_INCORRECT_MSEG_REVISION_IDENTIFIER "VMCALL with incorrect MSEG revision identifier (when attempting to activate the dual-monitor treatment of SMIs and SMM)";
    23 VMXOFF_UNDER_DUAL_MONITOR_TREATMENT "VMXOFF under dual-monitor treatment of SMIs and SMM";
    24 VMCALL_WITH_INVALID_SMM_MONITOR_FEATURES "VMCALL with invalid SMM-monitor features (when attempting to activate the dual-monitor treatment of SMIs and SMM)";
    25 VM_ENTRY_WITH_INVALID_CONTROL_FIELDS_IN_EXECUTIVE_VMCS "VM entry with invalid VM-execution control fields in executive VMCS (when attempting to return from SMM)";
    26 VM_ENTRY_WITH_EVENTS_BLOCKED_BY_MOV_SS "VM entry with events blocked by MOV SS";
    28 INVALID_OPERAND_TO_INVEPT_INVVPID "Invalid operand to INVEPT/INVVPID";
}

impl fmt::Display for InstructionError {
    /// The SDM's description, or the number.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.description() {
            Some(description) => formatter.pad(description),
            None => write!(formatter, "VM-instruction error {}", self.0),
        }
    }
}

impl fmt::Debug for InstructionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(formatter, "{name} ({})", self.0),
            None => write!(formatter, "InstructionError({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn known_numbers_have_words_and_others_show_as_numbers() {
        assert!(InstructionError::ALL.is_sorted_by(|a, b| a < b));
        assert_eq!(InstructionError(7).to_string(), "VM entry with invalid control field(s)");
        assert_eq!(std::format!("{:?}", InstructionError(7)), "VM_ENTRY_WITH_INVALID_CONTROL_FIELDS (7)");
        assert_eq!(InstructionError(14).to_string(), "VM-instruction error 14");
        for number in 0..100 {
            let error = InstructionError(number);
            assert_eq!(error.name().is_some(), InstructionError::ALL.contains(&error));
        }
    }
}
