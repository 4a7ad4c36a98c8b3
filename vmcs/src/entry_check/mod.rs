//! The checks that VM entry makes, each a row of a table, so that a refused entry names the rule it broke.
//!
//! VMLAUNCH and VMRESUME report "error 7" or "exit 33" for some two hundred different mistakes. [`check`] gives the first broken
//! [`Rule`] in the order in which a processor gets to them, with what the processor would report ([`Outcome`]); [`check_all`] gives
//! every one. A verdict reads the VMCS through [`VmcsAccess`], and only fields that exist; what is outside the VMCS (address widths,
//! memory, the state of the logical processor) comes from an [`Environment`].
//!
//! What always holds: the checks never write, never allocate, and look at each field once per call, so a VMCS that changes meanwhile
//! can confuse the verdict but not the code. A rule that depends on the value of a control applies to the control word as it is, even
//! if that control isn't supported, which an earlier rule reports.
//!
//! The SDM lets a processor make the checks of one kind in any order; the order here within a kind is the SDM's, which is observable
//! only where two rules of a kind report different exit qualifications.
//!
//! ```
//! use vmcs::capability::Capabilities;
//! use vmcs::entry_check::{Environment, Outcome, check};
//! use vmcs::instruction_error::InstructionError;
//! use vmcs::software::SoftwareVmcs;
//!
//! # fn msr(number: u32) -> Option<u64> { Some(match number {
//! #     0x481 => 0x7f_0000_0016, 0x482 => 0x77f9_fffe_0401_e172, 0x483 => 0x7f_ffff_0003_6dff, 0x484 => 0xffff_0000_11ff, _ => 0 }) }
//! let capabilities = Capabilities::read(msr)?;
//! let environment = Environment::new(39);
//! let violation = check(&mut SoftwareVmcs::new(), &capabilities, &environment).expect_err("an empty VMCS cannot be entered");
//! assert_eq!(violation.rule.id, "execution.pin-based.required");
//! assert_eq!(violation.outcome, Outcome::VmfailValid(InstructionError::VM_ENTRY_WITH_INVALID_CONTROL_FIELDS));
//! # Ok::<(), vmcs::capability::MissingMsr>(())
//! ```

mod access_rights;
mod basic;
mod entry_controls;
mod environment;
mod examine;
mod execution_controls;
mod exit_controls;
mod guest_registers;
mod guest_segments;
mod guest_state;
mod host;
mod msr_loading;
mod rule;
mod state;
mod values;

pub use environment::{EntryInstruction, Environment, LaunchState, NoPlatform, Platform};
pub use examine::{examine, groups};
pub use rule::{Group, Outcome, Rule, Violation};

use crate::access::VmcsAccess;
use crate::capability::Capabilities;
use state::State;

/// Every rule, in the order of the checks.
pub static GROUPS: &[&[Group]] = &[
    basic::GROUPS,
    execution_controls::GROUPS,
    exit_controls::GROUPS,
    entry_controls::GROUPS,
    host::GROUPS,
    guest_registers::GROUPS,
    guest_segments::GROUPS,
    guest_state::GROUPS,
    msr_loading::GROUPS,
];

/// Checks the VMCS as VMLAUNCH or VMRESUME would.
///
/// # Errors
///
/// The first broken rule.
pub fn check(access: &mut impl VmcsAccess, capabilities: &Capabilities, environment: &Environment<'_>) -> Result<(), Violation> {
    let mut first = None;
    visit(access, capabilities, environment, |violation| {
        first = Some(violation);
        false
    });
    first.map_or(Ok(()), Err)
}

/// Gives every broken rule to `report`, in the order of the checks. A processor reports the first of them only.
pub fn check_all(
    access: &mut impl VmcsAccess,
    capabilities: &Capabilities,
    environment: &Environment<'_>,
    mut report: impl FnMut(Violation),
) {
    visit(access, capabilities, environment, |violation| {
        report(violation);
        true
    });
}

/// Evaluates the rules until `report` says that it has enough.
fn visit(
    access: &mut impl VmcsAccess,
    capabilities: &Capabilities,
    environment: &Environment<'_>,
    mut report: impl FnMut(Violation) -> bool,
) {
    let mut state = State::read(access, capabilities, environment);
    for group in GROUPS.iter().copied().flatten() {
        if !(group.condition)(&state) {
            continue;
        }
        state.fetch(access, group.fetch);
        for rule in group.rules {
            let value = rule.fields.first().map_or(0, |field| state.get(*field));
            let Some(offending) = (rule.broken)(&state, value) else { continue };
            if !report(Violation::new(group, rule, offending, &state)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
