//! `explain error`: VM-instruction error numbers.

use std::fmt::Write as _;

use serde::Serialize;
use vmcs::instruction_error::InstructionError;

use super::nearest::{nearest, normalize};
use super::number::{narrow, parse_number};
use super::words::wrap;
use super::{ExplainError, Explanation};

/// Columns of text.
const COLUMNS: usize = 120;

/// What usually causes an error, by number.
const CAUSES: &[(u32, &str)] = &[
    (1, "the hypervisor itself executed VMCALL; the instruction is meant for guests, or for an SMM monitor that is not active"),
    (
        2,
        "the address of the VMCS region is not 4-KByte aligned or beyond the physical-address width; often a virtual address was given",
    ),
    (3, "the region given to VMXON was used as a VMCS too; each needs a page of its own"),
    (4, "VMLAUNCH was executed a second time on the same VMCS without VMCLEAR; after the first entry it takes VMRESUME"),
    (5, "VMRESUME was executed before a successful VMLAUNCH, or after VMCLEAR, which makes the launch state clear again"),
    (6, "VMX operation was left and entered again between VMLAUNCH and VMRESUME"),
    (
        7,
        "a VM-execution, VM-exit or VM-entry control field, or the event to inject, breaks a rule of SDM 3C 26.2.1: most often a \
         reserved control that the capability MSRs require is 0, or one that they forbid is 1; or an address is not aligned. \
         `explain vmcs` names the rule",
    ),
    (
        8,
        "a host-state field breaks a rule of SDM 3C 26.2.2 to 26.2.4: most often a selector with RPL or TI, TR = 0, an address that is \
         not canonical, or \"host address-space size\" that doesn't fit the mode of the host. `explain vmcs` names the rule",
    ),
    (9, "the address given to VMPTRLD is not 4-KByte aligned or beyond the physical-address width"),
    (10, "the region given to VMXON was given to VMPTRLD"),
    (
        11,
        "the first word of the VMCS region is not the revision identifier of IA32_VMX_BASIC[30:0], or bit 31 (shadow VMCS) is 1 where \
          the processor has no VMCS shadowing",
    ),
    (
        12,
        "the encoding is unknown or this processor doesn't have the field; `explain field` says what it needs. In a guest with VMCS \
          shadowing: there is no VMCS behind the link pointer",
    ),
    (13, "VMWRITE of a VM-exit information field, which needs IA32_VMX_MISC[29]"),
    (15, "VMXON was executed twice without VMXOFF"),
    (16, "the executive-VMCS pointer is wrong on a return from SMM"),
    (17, "the executive VMCS was not launched on a return from SMM"),
    (18, "the executive-VMCS pointer is not the VMXON pointer"),
    (19, "the SMM-transfer monitor's VMCS was not cleared"),
    (20, "the VM-exit controls of the SMM-transfer monitor's VMCS are wrong"),
    (22, "the MSEG header is of another processor generation"),
    (23, "VMXOFF while an SMM-transfer monitor is active"),
    (24, "the MSEG header asks for features that the processor doesn't have"),
    (25, "the control fields of the executive VMCS are wrong on a return from SMM"),
    (26, "the instruction before VMLAUNCH or VMRESUME was MOV SS or POP SS"),
    (
        28,
        "the type of INVEPT or INVVPID is not supported (IA32_VMX_EPT_VPID_CAP), the EPT pointer is invalid, reserved bits of the \
          descriptor are not 0, the VPID is 0, or the address is not canonical",
    ),
];

/// The explanation of an error number.
#[derive(Debug, Serialize)]
pub struct ErrorExplanation {
    /// The number.
    pub number: u32,
    /// Its name, if it has one.
    pub name: Option<&'static str>,
    /// The SDM's words for it.
    pub title: Option<&'static str>,
    /// What usually causes it.
    pub cause: Option<&'static str>,
    /// Where the SDM lists it.
    pub section: &'static str,
}

/// Explains a number or a name.
///
/// # Errors
/// [`ExplainError`] if it is neither.
pub fn explain(text: &str) -> Result<ErrorExplanation, ExplainError> {
    let error = match parse_number(text) {
        Ok(number) => InstructionError(narrow(number)?),
        Err(_) => by_name(text)?,
    };
    let cause = CAUSES.iter().find(|(number, _)| *number == error.0).map(|(_, cause)| *cause);
    let section = "SDM 3C 30.4 \"VM Instruction Error Numbers\"";
    Ok(ErrorExplanation { number: error.0, name: error.name(), title: error.description(), cause, section })
}

fn by_name(text: &str) -> Result<InstructionError, ExplainError> {
    let wanted = normalize(text);
    let found = InstructionError::ALL.iter().find(|error| error.name() == Some(wanted.as_str()));
    let names = InstructionError::ALL.iter().filter_map(|error| error.name());
    found.copied().ok_or_else(|| ExplainError::unknown_name("VM-instruction error", text, nearest(text, names)))
}

impl Explanation for ErrorExplanation {
    fn text(&self) -> String {
        let mut out = String::new();
        match (self.name, self.title) {
            (Some(name), Some(title)) => {
                let _ = writeln!(out, "VM-instruction error {}: {name}\n{title}.", self.number);
            }
            _ => {
                let _ = writeln!(out, "VM-instruction error {}: not defined", self.number);
            }
        }
        if let Some(cause) = self.cause {
            out.push_str(&wrap(&format!("Usual cause: {cause}."), 0, COLUMNS));
        }
        let _ = writeln!(out, "{}", self.section);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_defined_error_has_its_cause() {
        let defined: Vec<u32> = InstructionError::ALL.iter().map(|error| error.0).collect();
        let causes: Vec<u32> = CAUSES.iter().map(|(number, _)| *number).collect();
        assert_eq!(causes, defined);
    }

    #[test]
    fn numbers_and_names() {
        assert_eq!(explain("0x7").expect("a number").name, Some("VM_ENTRY_WITH_INVALID_CONTROL_FIELDS"));
        assert_eq!(explain("vmlaunch with non-clear vmcs").expect("a name").number, 4);
        assert_eq!(explain("14").expect("a number").name, None);
        assert!(explain("0x100000007").is_err());
        let refusal = explain("VMLAUNCH_WITH_CLEAR_VMCS").expect_err("no such name").to_string();
        assert!(refusal.contains("VMLAUNCH_WITH_NON_CLEAR_VMCS"), "{refusal}");
    }
}
