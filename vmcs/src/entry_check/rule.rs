//! A rule, the group it stands in, and what is said when it is broken.

use core::fmt;

use super::state::{Slot, State};
use crate::exit_reason::BasicExitReason;
use crate::field::Field;
use crate::instruction_error::InstructionError;
use crate::qualification::GuestStateFailure;

/// What VMLAUNCH or VMRESUME reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// CF is set; there is no VMCS to hold an error number.
    VmfailInvalid,
    /// ZF is set and VM_INSTRUCTION_ERROR holds the number.
    VmfailValid(InstructionError),
    /// The host's state is loaded as for a VM exit whose reason has bit 31 set.
    EntryFailure {
        /// The basic exit reason.
        reason: BasicExitReason,
        /// The exit qualification.
        qualification: u64,
    },
}

impl Outcome {
    /// Failure of the checks of the control fields.
    pub(super) const CONTROLS: Outcome = Outcome::VmfailValid(InstructionError::VM_ENTRY_WITH_INVALID_CONTROL_FIELDS);
    /// Failure of the checks of the host state.
    pub(super) const HOST: Outcome = Outcome::VmfailValid(InstructionError::VM_ENTRY_WITH_INVALID_HOST_STATE_FIELDS);

    /// Failure of the checks of the guest state.
    pub(super) const fn guest(failure: GuestStateFailure) -> Outcome {
        Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE, qualification: failure.0 }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::VmfailInvalid => formatter.write_str("VMfailInvalid"),
            Outcome::VmfailValid(error) => write!(formatter, "VMfailValid({})", error.0),
            Outcome::EntryFailure { reason, qualification } => {
                write!(formatter, "exit reason {:#x} qualification {qualification}", u32::from(reason.0) | 1 << 31)
            }
        }
    }
}

/// Rules of one section of the SDM that apply under one condition.
#[derive(Debug)]
pub struct Group {
    /// Number of the section of SDM volume 3C.
    pub section: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What the processor reports when a rule of the group is broken. For [`BasicExitReason::ENTRY_FAILURE_MSR_LOADING`] the
    /// qualification is the number of the offending entry and stands only in the [`Violation`].
    pub outcome: Outcome,
    /// When the rules apply, in words; empty for always.
    pub when: &'static str,
    /// When the rules apply.
    pub(super) condition: fn(&State<'_>) -> bool,
    /// Fields of the rules that [`State::read`] leaves out because few entries need them.
    pub(super) fetch: &'static [Slot],
    /// The rules.
    pub rules: &'static [Rule],
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// A name that never changes, for programs: `area.subject.aspect`.
    pub id: &'static str,
    /// The fields that decide, the offending one first. Control words that only switch a rule on are not repeated here.
    pub fields: &'static [Field],
    /// What must hold.
    pub requirement: &'static str,
    /// Given the value of the first field, the offending bits or value if the rule is broken.
    pub(super) broken: fn(&State<'_>, u64) -> Option<u64>,
}

/// The most fields a rule may name.
pub(super) const MAXIMUM_FIELDS: usize = 4;

/// A broken rule with the values that broke it.
#[derive(Debug, Clone, Copy)]
pub struct Violation {
    /// The rule.
    pub rule: &'static Rule,
    /// Where it stands.
    pub group: &'static Group,
    /// What the processor reports.
    pub outcome: Outcome,
    /// The bits, or the value, that break the rule.
    pub offending: u64,
    values: [u64; MAXIMUM_FIELDS],
    /// Number of the group, and of the rule in it.
    pub(super) number: (usize, usize),
}

impl Violation {
    pub(super) fn new(
        number: (usize, usize),
        group: &'static Group,
        rule: &'static Rule,
        offending: u64,
        state: &State<'_>,
    ) -> Self {
        let mut values = [0; MAXIMUM_FIELDS];
        for (slot, field) in values.iter_mut().zip(rule.fields) {
            *slot = state.get(*field);
        }
        let outcome = match group.outcome {
            Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_MSR_LOADING, .. } => {
                Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_MSR_LOADING, qualification: offending }
            }
            outcome => outcome,
        };
        Self { rule, group, outcome, offending, values, number }
    }

    /// Number of the group in [`GROUPS`](super::GROUPS), and of the rule in its `rules`: for what has no room for the id.
    #[must_use]
    pub const fn number(&self) -> (usize, usize) {
        self.number
    }

    /// The fields of the rule with the values they had.
    pub fn values(&self) -> impl Iterator<Item = (Field, u64)> + '_ {
        self.rule.fields.iter().copied().zip(self.values)
    }
}

impl fmt::Display for Violation {
    /// One line: the fields with their values, what must hold, the offending part, the section and the outcome.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (field, value) in self.values() {
            write!(formatter, "{separator}{field} = {value:#x}")?;
            separator = ", ";
        }
        if !separator.is_empty() {
            formatter.write_str(": ")?;
        }
        write!(formatter, "{}", self.rule.requirement)?;
        if !self.group.when.is_empty() {
            write!(formatter, " ({})", self.group.when)?;
        }
        write!(formatter, "; offending {:#x}", self.offending)?;
        write!(formatter, "; SDM 3C {} \"{}\" [{}] -> {}", self.group.section, self.group.title, self.rule.id, self.outcome)
    }
}

impl core::error::Error for Violation {}

/// The offending bits, if there are any.
pub(super) const fn bits(offending: u64) -> Option<u64> {
    if offending == 0 { None } else { Some(offending) }
}

/// The value that is wrong unless `holds`.
pub(super) const fn unless(holds: bool, value: u64) -> Option<u64> {
    if holds { None } else { Some(value) }
}

/// Writes the rules of a group, one row each: id, fields, requirement, and a function of the state and the first field's value.
macro_rules! rules {
    ($($id:expr, [$($field:ident)*], $requirement:expr, $broken:expr;)*) => {
        &[$(crate::entry_check::Rule {
            id: $id,
            fields: &[$(crate::field::Field::$field),*],
            requirement: $requirement,
            broken: $broken,
        },)*]
    };
}
pub(super) use rules;

/// Writes a group: section, outcome, when in words, when, the fields to fetch, and the rules.
macro_rules! group {
    ($section:expr, $outcome:expr, $when:expr, $condition:expr, [$($fetch:ident)*], { $($rules:tt)* }) => {
        crate::entry_check::Group {
            section: $section.0,
            title: $section.1,
            outcome: $outcome,
            when: $when,
            condition: $condition,
            fetch: &crate::entry_check::state::slots([$(crate::field::Field::$fetch),*]),
            rules: crate::entry_check::rule::rules! { $($rules)* },
        }
    };
}
pub(super) use group;
