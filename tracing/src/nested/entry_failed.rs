//! Entries of L3 that L2 asked for and did not get.

use super::{LEVEL_L2, is, step};
use crate::record::{Record, RecordKind};
use core::fmt;
use vmcs::entry_check::{GROUPS, Outcome, Violation};
use vmcs::exit_reason::ExitReason;
use vmcs::instruction_error::InstructionError;

/// VMLAUNCH or VMRESUME of L2 failed. KVM: `kvm_nested_vmenter_failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NestedEntryFailed {
    /// RIP of L2's instruction.
    pub rip: u64,
    /// L2-physical address of vmcs23; all ones if there is no current VMCS.
    pub vmcs23: u64,
    /// What L2 is told.
    pub outcome: Outcome,
    /// The rule of [`vmcs::entry_check`] that is broken. None if the processor refused the entry, with the merged VMCS.
    pub rule: EntryRule,
    /// The bits, or the value, that break the rule.
    pub offending: u64,
}

impl NestedEntryFailed {
    /// The failure that `violation` leads to.
    #[must_use]
    pub fn from_violation(violation: &Violation, rip: u64, vmcs23: u64) -> Self {
        Self { rip, vmcs23, outcome: violation.outcome, rule: EntryRule::of(violation), offending: violation.offending }
    }

    /// The record of the step, at `tsc`.
    ///
    /// `reason` and `info1` are the exit reason with bit 31 and the qualification, or 0 and the VM-instruction error
    /// with 0 for VMfailInvalid; `intr_info` and `error_code` are the low and the high half of what offends.
    #[must_use]
    pub fn record(self, tsc: u64) -> Record {
        let (reason, info1) = match self.outcome {
            Outcome::VmfailInvalid => (0, 0),
            Outcome::VmfailValid(error) => (0, error.0.into()),
            Outcome::EntryFailure { reason, qualification } => (ExitReason::entry_failure(reason).0, qualification),
        };
        let (intr_info, error_code) = (self.offending as u32, (self.offending >> 32) as u32);
        let record = step(RecordKind::NestedEntryFailed, LEVEL_L2, self.rip, tsc);
        Record { reason, info1, intr_info, error_code, rule: self.rule.0, detail: self.vmcs23, ..record }
    }

    /// The step that `record` tells of, if it is of this kind.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        let reason = record.exit_reason();
        let outcome = match record.info1 as u32 {
            _ if reason.is_entry_failure() => Outcome::EntryFailure { reason: reason.basic(), qualification: record.info1 },
            0 => Outcome::VmfailInvalid,
            error => Outcome::VmfailValid(InstructionError(error)),
        };
        is(record, RecordKind::NestedEntryFailed).then(|| Self {
            rip: record.rip,
            vmcs23: record.detail,
            outcome,
            rule: EntryRule(record.rule),
            offending: u64::from(record.intr_info) | u64::from(record.error_code) << 32,
        })
    }
}

/// A rule of [`vmcs::entry_check`] in 16 bits: number of its group from 1 in bits 15:8, number in the group in bits 7:0.
///
/// Not stable: it names a rule of the tables that image and host program were built with. Its id is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct EntryRule(pub u16);

impl EntryRule {
    /// No rule.
    pub const NONE: Self = Self(0);

    /// The rule that is broken.
    #[must_use]
    pub fn of(violation: &Violation) -> Self {
        let (group, rule) = violation.number();
        Self::numbered(group, rule)
    }

    /// The rule number `rule` of group number `group`, both from 0; [`EntryRule::NONE`] where that has no room.
    fn numbered(group: usize, rule: usize) -> Self {
        match (u8::try_from(group.saturating_add(1)), u8::try_from(rule)) {
            (Ok(group), Ok(rule)) => Self(u16::from(group) << 8 | u16::from(rule)),
            _ => Self::NONE,
        }
    }

    /// The id of the rule, as `execution.pin-based.required`, if there is such a rule.
    #[must_use]
    pub fn id(self) -> Option<&'static str> {
        let group = GROUPS.get(usize::from(self.0 >> 8).checked_sub(1)?)?;
        group.rules.get(usize::from(self.0 & 0xff)).map(|rule| rule.id)
    }

    /// Whether a rule is named, known or not.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for EntryRule {
    /// The id, or `rule 77`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id() {
            Some(id) => formatter.pad(id),
            None => write!(formatter, "rule {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn every_rule_has_a_number_that_comes_back() {
        for (group_number, group) in GROUPS.iter().enumerate() {
            for (rule_number, rule) in group.rules.iter().enumerate() {
                let entry_rule = EntryRule::numbered(group_number, rule_number);
                assert_eq!((entry_rule.id(), entry_rule.is_some()), (Some(rule.id), true));
            }
        }
    }

    #[test]
    fn what_names_no_rule_has_no_id() {
        assert_eq!(EntryRule::NONE.id(), None);
        assert_eq!(EntryRule(0x01ff).to_string(), "rule 511");
        assert_eq!(EntryRule(0xff00).id(), None);
        assert_eq!(EntryRule::numbered(255, 0), EntryRule::NONE);
        assert_eq!(EntryRule::numbered(usize::MAX, 0), EntryRule::NONE);
        assert_eq!(EntryRule::numbered(0, 256), EntryRule::NONE);
    }
}
