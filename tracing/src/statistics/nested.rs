//! What nesting costs: how many exits and copied fields it takes L1 to give L2 one exit of L3.

use crate::nested::{Direction, EntryRule, LEVEL_L2, LEVEL_L3, NestedEntryFailed, ShadowSync};
use crate::record::{Action, Record, RecordKind};
use core::fmt::Write;
use serde::Serialize;
use std::collections::BTreeMap;
use vmcs::exit_reason::BasicExitReason;

/// Accumulates records.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters {
    exits_l2: u64,
    exits_l3: u64,
    reflected: u64,
    entries: u64,
    nested_exits: u64,
    injections: u64,
    interrupt_exits: u64,
    ept13_fills: u64,
    to_shadow: Copies,
    from_shadow: Copies,
    merges: Copies,
    failures: BTreeMap<Failure, u64>,
}

/// What makes a row of failed entries: the rule that was broken, else what L2 was told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    Rule(EntryRule),
    Outcome(String),
}

/// Copies of one sort between VMCSs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Copies {
    count: u64,
    fields: u64,
}

impl Copies {
    fn add(&mut self, fields: u32) {
        self.count += 1;
        self.fields = self.fields.saturating_add(fields.into());
    }

    fn report(self) -> CopyReport {
        CopyReport { count: self.count, fields: self.fields, fields_each: ratio(self.fields, self.count) }
    }
}

impl Counters {
    pub(super) fn add(&mut self, record: &Record) {
        match record.kind() {
            Some(RecordKind::Exit) if record.level == LEVEL_L2 => self.exits_l2 += 1,
            Some(RecordKind::Exit) if record.level == LEVEL_L3 => self.exit_of_l3(record),
            Some(RecordKind::NestedEntry) => self.entries += 1,
            Some(RecordKind::NestedExit) => self.nested_exits += 1,
            Some(RecordKind::NestedInject) => self.injections += 1,
            Some(RecordKind::NestedInterruptExit) => self.interrupt_exits += 1,
            Some(RecordKind::NestedEntryFailed) => self.entry_failed(record),
            Some(RecordKind::Sync) => match ShadowSync::read(record) {
                Some(ShadowSync { direction: Direction::ToShadow, fields, .. }) => self.to_shadow.add(fields),
                Some(ShadowSync { direction: Direction::FromShadow, fields, .. }) => self.from_shadow.add(fields),
                None => {}
            },
            Some(RecordKind::Merge) => self.merges.add(record.cost),
            Some(RecordKind::Exit | RecordKind::EntryFailure | RecordKind::NestedIntercepts) | None => {}
        }
    }

    /// L1 lets L3 go on unchanged after an EPT violation if EPT13 only lacked the entry.
    fn exit_of_l3(&mut self, record: &Record) {
        self.exits_l3 += 1;
        match record.action() {
            Some(Action::Reflected) => self.reflected += 1,
            Some(Action::Resumed) if record.exit_reason().basic() == BasicExitReason::EPT_VIOLATION => self.ept13_fills += 1,
            _ => {}
        }
    }

    fn entry_failed(&mut self, record: &Record) {
        let Some(failed) = NestedEntryFailed::read(record) else { return };
        let failure =
            if failed.rule.is_some() { Failure::Rule(failed.rule) } else { Failure::Outcome(failed.outcome.to_string()) };
        *self.failures.entry(failure).or_default() += 1;
    }

    /// The figures; `None` if L2 never had to do with an L3.
    pub(super) fn report(&self) -> Option<NestedReport> {
        let steps = [
            self.exits_l3,
            self.entries,
            self.nested_exits,
            self.injections,
            self.interrupt_exits,
            self.to_shadow.count,
            self.from_shadow.count,
            self.merges.count,
        ];
        if steps == [0; 8] && self.failures.is_empty() {
            return None;
        }
        let exits = self.exits_l2 + self.exits_l3;
        let mut entry_failures: Vec<FailureRow> = self
            .failures
            .iter()
            .map(|(failure, count)| FailureRow {
                rule: match failure {
                    Failure::Rule(rule) => rule.to_string(),
                    Failure::Outcome(outcome) => outcome.clone(),
                },
                count: *count,
            })
            .collect();
        entry_failures.sort_by(|a, b| (b.count, &a.rule).cmp(&(a.count, &b.rule)));
        Some(NestedReport {
            exits,
            reflected: self.reflected,
            nested_entries: self.entries,
            nested_exits: self.nested_exits,
            exits_per_nested_exit: ratio(exits, self.nested_exits),
            injections: self.injections,
            interrupt_exits: self.interrupt_exits,
            ept13_fills: self.ept13_fills,
            syncs_to_shadow: self.to_shadow.report(),
            syncs_from_shadow: self.from_shadow.report(),
            merges: self.merges.report(),
            entry_failures,
        })
    }
}

/// The figures of nesting in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NestedReport {
    /// Exits of L2 and L3: L1 takes them all.
    pub exits: u64,
    /// Those of L3 that L1 handed to L2.
    pub reflected: u64,
    /// Entries of L3 by VMLAUNCH or VMRESUME of L2 that succeeded.
    pub nested_entries: u64,
    /// Exits of L3 that L2 saw; more than `reflected` where L1 left L3 without an exit of the processor.
    pub nested_exits: u64,
    /// `exits` for each of `nested_exits`; none without any.
    pub exits_per_nested_exit: Option<f64>,
    /// Events that L1 injected into L3 on L2's behalf.
    pub injections: u64,
    /// Nested exits because of an interrupt for L2.
    pub interrupt_exits: u64,
    /// EPT violations of L3 after which L1 filled EPT13 and let L3 go on.
    pub ept13_fills: u64,
    /// Copies from vmcs23 to its shadow VMCS.
    pub syncs_to_shadow: CopyReport,
    /// Copies from the shadow VMCS to vmcs23.
    pub syncs_from_shadow: CopyReport,
    /// Merges of vmcs12 and vmcs23 into vmcs13.
    pub merges: CopyReport,
    /// Entries that failed, the most frequent first, then by rule.
    pub entry_failures: Vec<FailureRow>,
}

/// Copies of one sort.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CopyReport {
    /// How many copies.
    pub count: u64,
    /// Fields copied by all of them.
    pub fields: u64,
    /// Fields copied by each on average; none without any copy.
    pub fields_each: Option<f64>,
}

/// Entries that failed for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureRow {
    /// Id of the entry check that was broken, or, where the processor refused, what L2 was told.
    pub rule: String,
    /// How many.
    pub count: u64,
}

impl NestedReport {
    /// The figures as text, to stand below the table. Ends with a line end.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { exits, reflected, nested_entries, nested_exits, injections, interrupt_exits, ept13_fills, .. } = self;
        let each = self.exits_per_nested_exit.map_or_else(|| "-".to_owned(), |each| format!("{each:.2}"));
        let mut text = format!(
            " Nested entries: {nested_entries}, nested exits: {nested_exits}, for interrupts: {interrupt_exits}, events injected again: {injections}\n \
             Exits per nested exit: {each} (exits of L2 and L3: {exits}, reflected: {reflected}, EPT13 fills: {ept13_fills})\n"
        );
        for (name, copies) in [
            ("Syncs to shadow VMCS", self.syncs_to_shadow),
            ("Syncs from shadow VMCS", self.syncs_from_shadow),
            ("Merges", self.merges),
        ] {
            let each = copies.fields_each.map(|each| format!(", fields each: {each:.1}")).unwrap_or_default();
            // Writing to a String does not fail.
            let _ = writeln!(text, " {name}: {}{each}", copies.count);
        }
        for FailureRow { rule, count } in &self.entry_failures {
            let _ = writeln!(text, " Failed entries: {count} by {rule}");
        }
        text
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole != 0).then(|| part as f64 / whole as f64)
}
