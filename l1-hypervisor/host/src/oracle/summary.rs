//! What came of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use l1_protocol::oracle::Verdict;
use serde::Serialize;
use vmcs::entry_check::{GROUPS, Outcome};

use super::exceptions::EXCEPTIONS;
use super::judge::{Comparison, Detail, Judge, Judgement};

/// Unexplained differences that are shown in full.
const SHOWN: usize = 20;

/// A difference that nothing explains.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// Number of the case.
    pub case: u64,
    /// The base of the state.
    pub base: String,
    /// The changed fields: name, value in the base, value tried.
    pub fields: Vec<(String, String, String)>,
    /// What the processor said.
    pub processor: String,
    /// What the library says, one line a broken rule.
    pub library: Vec<String>,
}

/// Counts, and what needs a person.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Processor model.
    pub cpu: String,
    /// The seed.
    pub seed: u64,
    /// Cases judged.
    pub cases: u64,
    /// Cases in which both say the same, by what they say.
    pub agreed: BTreeMap<String, u64>,
    /// Of these, cases in which the processor reported another of several broken rules.
    pub in_other_order: u64,
    /// Explained differences by the names of the exceptions.
    pub explained: BTreeMap<String, u64>,
    /// The first case of each of these.
    pub first_explained: BTreeMap<String, u64>,
    /// How many differences nothing explains.
    pub unexplained: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// Rules that decided at least one agreed case.
    pub rules_hit: usize,
    /// Rules of the library.
    pub rules: usize,
    /// Rules that decided none.
    pub rules_not_hit: Vec<&'static str>,
    #[serde(skip)]
    deciding: BTreeSet<&'static str>,
}

/// A verdict in a few words.
fn words(outcome: Option<Outcome>) -> String {
    match outcome {
        None => "entered".to_owned(),
        Some(Outcome::EntryFailure { reason, qualification }) if reason.0 != 34 => {
            format!("exit {} qualification {qualification}", reason.0)
        }
        Some(Outcome::EntryFailure { reason, .. }) => format!("exit {}", reason.0),
        Some(outcome) => outcome.to_string(),
    }
}

impl Summary {
    /// Nothing judged yet.
    #[must_use]
    pub fn new(cpu: &str, seed: u64) -> Self {
        Self { cpu: cpu.to_owned(), seed, ..Self::default() }
    }

    /// Counts one case.
    pub fn add(&mut self, judge: &Judge, verdict: &Verdict, judgement: &Judgement) {
        self.cases += 1;
        match &judgement.comparison {
            Comparison::Agreed | Comparison::AgreedInOtherOrder => {
                *self.agreed.entry(words(judgement.processor)).or_default() += 1;
                self.in_other_order += u64::from(judgement.comparison == Comparison::AgreedInOtherOrder);
                // With one broken rule, and with several the first that has the outcome.
                let decided = judgement.violations.iter().find(|violation| Some(violation.outcome) == judgement.processor);
                self.deciding.extend(decided.map(|violation| violation.rule.id));
            }
            Comparison::Explained(names) => {
                let names = names.join(" + ");
                self.first_explained.entry(names.clone()).or_insert(verdict.case);
                *self.explained.entry(names).or_default() += 1;
            }
            Comparison::Unexplained => {
                self.unexplained += 1;
                if self.differences.len() < SHOWN {
                    self.differences.push(difference(&judge.detail(verdict.case), verdict, judgement));
                }
            }
        }
    }

    /// Works out which rules decided nothing; to be called at the end.
    pub fn finish(&mut self) {
        let all = GROUPS.iter().flat_map(|group| group.rules).map(|rule| rule.id);
        self.rules = all.clone().count();
        self.rules_hit = self.deciding.len();
        self.rules_not_hit = all.filter(|id| !self.deciding.contains(id)).collect();
    }
}

fn difference(detail: &Detail, verdict: &Verdict, judgement: &Judgement) -> Difference {
    let processor = match judgement.processor {
        None => format!("entered (exit {})", verdict.number),
        seen => words(seen),
    };
    Difference {
        case: verdict.case,
        base: detail.base.clone(),
        fields: detail
            .fields
            .iter()
            .map(|(field, before, after)| (field.to_string(), format!("{before:#x}"), format!("{after:#x}")))
            .collect(),
        processor,
        library: judgement.violations.iter().map(ToString::to_string).collect(),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agreed: u64 = self.agreed.values().sum();
        writeln!(f, "{} cases on {} with seed {}: {agreed} agreed", self.cases, self.cpu, self.seed)?;
        for (what, count) in &self.agreed {
            writeln!(f, "  {count:>8} {what}")?;
        }
        if self.in_other_order > 0 {
            writeln!(
                f,
                "  of these {} with several broken rules of which the processor reported a later one",
                self.in_other_order
            )?;
        }
        writeln!(f, "{} explained differences", self.explained.values().sum::<u64>())?;
        for (names, count) in &self.explained {
            let reason = EXCEPTIONS.iter().find(|exception| exception.name == names).map_or("", |exception| exception.reason);
            let first = self.first_explained.get(names).copied().unwrap_or_default();
            writeln!(f, "  {count:>8} {names}{}{reason}; first in case {first}", if reason.is_empty() { "" } else { ": " })?;
        }
        writeln!(f, "{} of {} rules decided at least one case", self.rules_hit, self.rules)?;
        writeln!(f, "{} unexplained differences", self.unexplained)?;
        for difference in &self.differences {
            writeln!(f, "case {} from base {}", difference.case, difference.base)?;
            for (field, before, after) in &difference.fields {
                writeln!(f, "    {field} {before} -> {after}")?;
            }
            writeln!(f, "  processor: {}", difference.processor)?;
            if difference.library.is_empty() {
                writeln!(f, "  library: valid")?;
            }
            difference.library.iter().try_for_each(|line| writeln!(f, "  library: {line}"))?;
        }
        Ok(())
    }
}
