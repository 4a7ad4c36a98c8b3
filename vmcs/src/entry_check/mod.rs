//! The checks that VM entry makes, each a row of a table, so that a refused entry names the rule it broke.
//!
//! VMLAUNCH and VMRESUME report "error 7" or "exit 33" for more than three hundred different mistakes. [`check`] gives the first broken
//! [`Rule`] in the order in which a processor gets to them, with what the processor would report ([`Outcome`]); [`check_all`] gives
//! every one, and [`check_known`] those that an incomplete dump proves. A verdict reads the VMCS through [`VmcsAccess`], and only fields that exist; what is outside the VMCS (address widths,
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
mod straight;
mod values;

pub use environment::{EntryInstruction, Environment, LaunchState, NoPlatform, Platform};
pub use examine::{examine, groups};
pub use rule::{Group, Outcome, Rule, Violation};

use crate::access::VmcsAccess;
use crate::capability::Capabilities;
use crate::field::Field;
use state::State;

/// The groups of every file, in the order of the checks.
const FILES: &[&[Group]] = &[
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

const GROUP_COUNT: usize = {
    let (mut count, mut file) = (0, 0);
    while file < FILES.len() {
        count += FILES[file].len();
        file += 1;
    }
    count
};

const IN_ORDER: [&Group; GROUP_COUNT] = {
    let mut groups = [&FILES[0][0]; GROUP_COUNT];
    let (mut count, mut file) = (0, 0);
    while file < FILES.len() {
        let mut group = 0;
        while group < FILES[file].len() {
            groups[count] = &FILES[file][group];
            count += 1;
            group += 1;
        }
        file += 1;
    }
    groups
};

/// Every rule, in the order of the checks.
pub static GROUPS: &[&Group] = &IN_ORDER;

/// Checks the VMCS as VMLAUNCH or VMRESUME would.
///
/// # Errors
///
/// The first broken rule.
pub fn check(access: &mut impl VmcsAccess, capabilities: &Capabilities, environment: &Environment<'_>) -> Result<(), Violation> {
    let mut first = None;
    let mut state = State::read(access, capabilities, environment);
    straight::visit(access, &mut state, &mut |violation| {
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
    let mut state = State::read(access, capabilities, environment);
    straight::visit(access, &mut state, &mut |violation| {
        report(violation);
        true
    });
}

/// Gives to `report` every broken rule that is broken whatever the fields hold of which `is_known` says `false`: for a dump that is
/// incomplete. `is_known` is asked for each field that a rule looks at, so it can also note what is missing.
///
/// A rule is reported if all fields it names are known, and if it is broken both with all unknown fields 0 and with all of them all
/// ones: whether a rule applies depends on single bits of the fields, so one of the two fillings switches it off if that isn't known.
pub fn check_known(
    access: &mut impl VmcsAccess,
    is_known: impl Fn(Field) -> bool,
    capabilities: &Capabilities,
    environment: &Environment<'_>,
    mut report: impl FnMut(Violation),
) {
    let mut broken = [0_u32; straight::MAXIMUM_GROUPS];
    check_all(&mut Filled { access, is_known: &is_known, filling: u64::MAX }, capabilities, environment, |violation| {
        let (group, rule) = violation.number;
        if let Some(rules) = broken.get_mut(group) {
            *rules |= 1 << rule;
        }
    });
    check_all(&mut Filled { access, is_known: &is_known, filling: 0 }, capabilities, environment, |violation| {
        let (group, rule) = violation.number;
        let with_ones = broken.get(group).is_some_and(|rules| rules >> rule & 1 != 0);
        if with_ones && violation.rule.fields.iter().all(|field| is_known(*field)) {
            report(violation);
        }
    });
}

/// A VMCS whose unknown fields all hold the same bit.
struct Filled<'a, Access, Known> {
    access: &'a mut Access,
    is_known: &'a Known,
    filling: u64,
}

impl<Access: VmcsAccess, Known: Fn(Field) -> bool> VmcsAccess for Filled<'_, Access, Known> {
    fn read(&mut self, field: Field) -> u64 {
        if (self.is_known)(field) { self.access.read(field) } else { self.filling & field.width().mask() }
    }

    /// The checks never write.
    fn write(&mut self, _field: Field, _value: u64) {}
}

#[cfg(test)]
mod tests;
