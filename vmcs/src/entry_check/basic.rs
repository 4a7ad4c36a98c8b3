//! The checks before anything in the VMCS is looked at.
//!
//! Faults (#UD outside VMX operation, #GP at a CPL above 0) are not among them: those aren't VM-entry failures.

use super::environment::{EntryInstruction, LaunchState};
use super::rule::{Group, Outcome, group, unless};
use crate::instruction_error::InstructionError;

/// Number and title of the SDM's section.
const SECTION: (&str, &str) = ("26.1", "Basic VM-Entry Checks");

const MOV_SS: Outcome = Outcome::VmfailValid(InstructionError::VM_ENTRY_WITH_EVENTS_BLOCKED_BY_MOV_SS);
const NOT_CLEAR: Outcome = Outcome::VmfailValid(InstructionError::VMLAUNCH_WITH_NON_CLEAR_VMCS);
const NOT_LAUNCHED: Outcome = Outcome::VmfailValid(InstructionError::VMRESUME_WITH_NON_LAUNCHED_VMCS);

pub(super) const GROUPS: &[Group] = &[
    group!(SECTION, Outcome::VmfailInvalid, "", |_| true, [], {
        "basic.current-vmcs.exists", [], "there must be a current VMCS",
            |s, _| unless(s.environment.current_vmcs != u64::MAX, s.environment.current_vmcs);
        "basic.current-vmcs.ordinary", [], "the current VMCS must not be a shadow VMCS",
            |s, _| unless(!s.environment.current_vmcs_is_shadow, s.environment.current_vmcs);
    }),
    group!(SECTION, MOV_SS, "", |_| true, [], {
        "basic.mov-ss", [], "the instruction before must not be MOV SS or POP SS",
            |s, _| unless(!s.environment.blocking_by_mov_ss, 1);
    }),
    group!(SECTION, NOT_CLEAR, "for VMLAUNCH", |s| s.environment.instruction == EntryInstruction::Vmlaunch, [], {
        "basic.launch-state.clear", [], "the launch state of the VMCS must be clear",
            |s, _| unless(s.environment.launch_state == LaunchState::Clear, 1);
    }),
    group!(SECTION, NOT_LAUNCHED, "for VMRESUME", |s| s.environment.instruction == EntryInstruction::Vmresume, [], {
        "basic.launch-state.launched", [], "the launch state of the VMCS must be launched",
            |s, _| unless(s.environment.launch_state == LaunchState::Launched, 0);
    }),
];
