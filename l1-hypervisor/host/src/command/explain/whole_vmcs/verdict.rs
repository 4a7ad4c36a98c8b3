//! Which rules of VM entry a VMCS breaks, of which not every field may be known.
//!
//! A rule is only called broken if it is broken whatever the missing fields hold. To find out, the rules are evaluated with all missing
//! fields zero, with all of them all ones, and with each of them changed alone: a rule depends on a missing field by its own fields,
//! which it names, or by the controls that switch it on, where a bit being 0 or 1 is all that counts.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use vmcs::access::VmcsAccess;
use vmcs::entry_check::{Platform, Violation, examine, groups};
use vmcs::field::{Field, Kind};

use super::processor::Processor;
use crate::command::explain::dump::Dump;

/// What became of the rules.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The broken ones, in the order in which a processor checks.
    pub broken: Vec<Violation>,
    /// The ones that could not be judged, by what that would take.
    pub unchecked: BTreeMap<Vec<Missing>, Vec<&'static str>>,
    /// How many are kept.
    pub kept: usize,
}

/// What a judgement would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// The value of a field.
    Field(Field),
    /// What the field points to.
    Memory,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Missing::Field(field) => field.fmt(formatter),
            Missing::Memory => formatter.write_str("the memory it points to"),
        }
    }
}

/// One evaluation's say about a rule that applies.
struct Judgement {
    violation: Option<Violation>,
    looked_into_memory: bool,
}

type Evaluation = BTreeMap<&'static str, Judgement>;

/// A platform of which nothing is known, that notes whether somebody asked.
struct Unknown(Cell<bool>);

impl Platform for Unknown {
    fn read_memory(&self, _physical_address: u64) -> Option<u64> {
        self.0.set(true);
        None
    }

    fn accepts_msr(&self, _number: u32, _value: u64) -> bool {
        true
    }
}

/// The dump with something in the place of what is missing.
struct Filled<'a> {
    dump: &'a Dump,
    filling: u64,
    /// A field that holds the opposite of the filling.
    changed: Option<Field>,
    missing: BTreeSet<Field>,
}

impl VmcsAccess for Filled<'_> {
    fn read(&mut self, field: Field) -> u64 {
        self.dump.get(field).unwrap_or_else(|| {
            self.missing.insert(field);
            let filling = if self.changed == Some(field) { !self.filling } else { self.filling };
            filling & field.width().mask()
        })
    }

    // The checks never write.
    fn write(&mut self, _field: Field, _value: u64) {}
}

fn evaluate(dump: &Dump, processor: &Processor, filling: u64, changed: Option<Field>) -> (Evaluation, BTreeSet<Field>) {
    let platform = Unknown(Cell::new(false));
    let environment = processor.environment(&platform);
    let mut filled = Filled { dump, filling, changed, missing: BTreeSet::new() };
    let mut evaluation = Evaluation::new();
    examine(&mut filled, &processor.capabilities, &environment, |_, rule, violation| {
        evaluation.insert(rule.id, Judgement { violation, looked_into_memory: platform.0.replace(false) });
    });
    (evaluation, filled.missing)
}

/// Judges a dump for a processor.
#[must_use]
pub fn verdict(dump: &Dump, processor: &Processor) -> Verdict {
    let (zeros, mut missing) = evaluate(dump, processor, 0, None);
    let (ones, more) = evaluate(dump, processor, u64::MAX, None);
    missing.extend(more);
    let changed = |filling| {
        let evaluations = missing.iter().map(|field| (*field, evaluate(dump, processor, filling, Some(*field)).0));
        evaluations.collect::<Vec<_>>()
    };
    let series = [(zeros, changed(0)), (ones, changed(u64::MAX))];
    let mut verdict = Verdict::default();
    for rule in groups().flat_map(|group| group.rules) {
        let all =
            || series.iter().flat_map(|(base, changed)| std::iter::once(base).chain(changed.iter().map(|(_, other)| other)));
        let judgements: Vec<&Judgement> = all().filter_map(|evaluation| evaluation.get(rule.id)).collect();
        let Some(first) = judgements.first() else { continue };
        let own: Vec<Missing> =
            rule.fields.iter().filter(|field| missing.contains(field)).map(|field| Missing::Field(*field)).collect();
        let broken = judgements.iter().filter(|judgement| judgement.violation.is_some()).count();
        if !own.is_empty() {
            verdict.unchecked.entry(own).or_default().push(rule.id);
        } else if broken == 0 && judgements.iter().any(|judgement| judgement.looked_into_memory) {
            verdict.unchecked.entry(vec![Missing::Memory]).or_default().push(rule.id);
        } else if broken == 0 {
            verdict.kept += 1;
        } else if let Some(violation) = first.violation.filter(|_| broken == all().count()) {
            verdict.broken.push(violation);
        } else {
            verdict.unchecked.entry(deciding(rule.id, &series, &missing)).or_default().push(rule.id);
        }
    }
    verdict
}

/// The missing fields that decide whether a rule is broken; if no single one does, every control that is missing.
fn deciding(id: &'static str, series: &[(Evaluation, Vec<(Field, Evaluation)>)], missing: &BTreeSet<Field>) -> Vec<Missing> {
    let is_broken = |evaluation: &Evaluation| evaluation.get(id).is_some_and(|judgement| judgement.violation.is_some());
    let mut fields: BTreeSet<Field> = series
        .iter()
        .flat_map(|(base, changed)| changed.iter().filter(|(_, other)| is_broken(other) != is_broken(base)))
        .map(|(field, _)| *field)
        .collect();
    if fields.is_empty() {
        fields.extend(missing.iter().filter(|field| field.kind() == Kind::Control));
    }
    fields.into_iter().map(Missing::Field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::explain::dump::Format;

    fn judge(values: &[(Field, u64)]) -> Verdict {
        let mut dump = Dump::new(Format::Json);
        for (field, value) in values {
            dump.note(None, *field, *value);
        }
        verdict(&dump, &Processor::of(&dump))
    }

    fn broken(verdict: &Verdict) -> Vec<&'static str> {
        verdict.broken.iter().map(|violation| violation.rule.id).collect()
    }

    #[test]
    fn what_is_wrong_whatever_else_holds_is_broken() {
        assert_eq!(broken(&judge(&[(Field::GUEST_RFLAGS, 0)])), ["guest.rflags.fixed"]);
        assert_eq!(broken(&judge(&[(Field::PIN_BASED_VM_EXECUTION_CONTROLS, 0x36)])), ["execution.virtual-nmis"]);
        assert!(broken(&judge(&[])).is_empty());
    }

    #[test]
    fn what_depends_on_a_missing_control_is_not_judged() {
        // Only without "IA-32e mode guest".
        let wide = judge(&[(Field::GUEST_CR4, 0x2_2020)]);
        assert!(broken(&wide).is_empty());
        let missing =
            wide.unchecked.iter().find(|(_, rules)| rules.contains(&"guest.cr4.pcide")).map(|(missing, _)| missing.clone());
        assert_eq!(missing, Some(vec![Missing::Field(Field::VM_ENTRY_CONTROLS)]));
        assert_eq!(broken(&judge(&[(Field::GUEST_CR4, 0x2_2020), (Field::VM_ENTRY_CONTROLS, 0x11ff)])), ["guest.cr4.pcide"]);
    }

    #[test]
    fn rules_name_the_fields_they_lack() {
        let verdict = judge(&[(Field::GUEST_CS_ACCESS_RIGHTS, 0xa09b)]);
        let rules = verdict.unchecked.get([Missing::Field(Field::GUEST_CS_LIMIT)].as_slice()).expect("the limit is missing");
        assert!(rules.contains(&"guest.cs.granularity"), "{rules:?}");
        assert!(verdict.kept > 5);
    }

    #[test]
    fn rules_about_memory_are_not_judged() {
        let verdict =
            judge(&[(Field::VMCS_LINK_POINTER, 0x1000), (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, 0x4000)]);
        let rules = verdict.unchecked.get([Missing::Memory].as_slice()).expect("memory is missing");
        assert!(rules.contains(&"guest.link-pointer.revision"), "{rules:?}");
    }
}
