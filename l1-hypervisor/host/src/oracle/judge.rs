//! One verdict of the processor against the library's.

use l1_oracle::{Generator, Machine};
use l1_protocol::oracle::{ENTERED, FAIL_INVALID, FAIL_VALID, Verdict};
use vmcs::capability::Capabilities;
use vmcs::entry_check::{Environment, Outcome, Violation, check_all};
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::{FIELDS, Field};
use vmcs::instruction_error::InstructionError;
use vmcs::software::SoftwareVmcs;

use super::exceptions::{EXCEPTIONS, Effect, Exception};
use super::scene::{Memory, Scene, environment};

/// How a verdict compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// Both say the same.
    Agreed,
    /// The processor reports another of the broken rules, which it may look at first: SDM 3C 26.2 and 26.3 leave the order open.
    AgreedInOtherOrder,
    /// The exceptions with these names make the library's verdict the processor's.
    Explained(Vec<&'static str>),
    /// Nothing does.
    Unexplained,
}

/// What the library says of a case, beside what the processor said.
#[derive(Debug)]
pub struct Judgement {
    /// How the two compare.
    pub comparison: Comparison,
    /// The broken rules in the order of the checks.
    pub violations: Vec<Violation>,
    /// What the processor reported; `None` if the guest was entered.
    pub processor: Option<Outcome>,
}

/// A case in full, for a person.
#[derive(Debug, Clone)]
pub struct Detail {
    /// The base that the state was made from.
    pub base: String,
    /// The fields that differ from the base: name, value there, value of the case.
    pub fields: Vec<(Field, u64, u64)>,
}

/// Judges verdicts.
#[derive(Debug)]
pub struct Judge {
    generator: Generator,
    machine: Machine,
    capabilities: Capabilities,
    memory: Memory,
    state: SoftwareVmcs,
}

/// Where in a VM entry an outcome comes from. Checks of one stage are made in any order, those of an earlier one first.
fn stage(outcome: Outcome) -> u32 {
    const CHECKS: [InstructionError; 2] =
        [InstructionError::VM_ENTRY_WITH_INVALID_CONTROL_FIELDS, InstructionError::VM_ENTRY_WITH_INVALID_HOST_STATE_FIELDS];
    match outcome {
        Outcome::VmfailInvalid => 0,
        Outcome::VmfailValid(error) if CHECKS.contains(&error) => 2,
        Outcome::VmfailValid(_) => 1,
        Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_MSR_LOADING, .. } => 4,
        Outcome::EntryFailure { .. } => 3,
    }
}

/// Whether a processor for which exactly these checks fail may report `seen`.
fn may_report(outcomes: &[Outcome], seen: Option<Outcome>) -> bool {
    let first = outcomes.iter().map(|outcome| stage(*outcome)).min();
    match (first, seen) {
        (None, None) => true,
        (Some(first), Some(seen)) => stage(seen) == first && outcomes.contains(&seen),
        _ => false,
    }
}

/// The outcomes that are left and added when exceptions hold, and whether they change anything.
fn with_exceptions(exceptions: &[&Exception], scene: &Scene<'_>, violations: &[Violation]) -> (Vec<Outcome>, bool) {
    let effects = || exceptions.iter().flat_map(|exception| exception.effects);
    let mut changed = false;
    let mut outcomes = Vec::new();
    for violation in violations {
        let id = violation.rule.id;
        if effects().any(|effect| matches!(effect, Effect::Unchecked(is_unchecked) if is_unchecked(scene, id))) {
            changed = true;
            continue;
        }
        let reported = effects().find_map(|effect| match effect {
            Effect::Reports(report) => report(scene, id),
            _ => None,
        });
        changed |= reported.is_some();
        outcomes.push(reported.unwrap_or(violation.outcome));
    }
    for effect in effects() {
        if let Effect::Refuses(refuse) = effect
            && let Some(outcome) = refuse(scene)
        {
            changed = true;
            outcomes.push(outcome);
        }
    }
    (outcomes, changed)
}

/// The names of the exceptions that explain what was seen: one alone if one does, else all that have an effect.
fn explain(scene: &Scene<'_>, violations: &[Violation], seen: Option<Outcome>) -> Option<Vec<&'static str>> {
    let mut effective = Vec::new();
    for exception in EXCEPTIONS {
        let (outcomes, changed) = with_exceptions(&[exception], scene, violations);
        if changed {
            if may_report(&outcomes, seen) {
                return Some(vec![exception.name]);
            }
            effective.push(exception);
        }
    }
    let (outcomes, _) = with_exceptions(&effective, scene, violations);
    may_report(&outcomes, seen).then(|| effective.iter().map(|exception| exception.name).collect())
}

/// What a verdict says in the library's terms.
fn outcome(verdict: &Verdict) -> Option<Outcome> {
    match verdict.kind {
        ENTERED => None,
        FAIL_INVALID => Some(Outcome::VmfailInvalid),
        FAIL_VALID => Some(Outcome::VmfailValid(InstructionError(verdict.number))),
        _ => Some(Outcome::EntryFailure { reason: BasicExitReason(verdict.number as u16), qualification: verdict.qualification }),
    }
}

impl Judge {
    /// Judges the verdicts of a run with `seed`.
    #[must_use]
    pub fn new(machine: &Machine, capabilities: &Capabilities, seed: u64) -> Self {
        Self {
            generator: Generator::new(machine, capabilities, seed),
            machine: *machine,
            capabilities: *capabilities,
            memory: Memory::new(machine, capabilities),
            state: SoftwareVmcs::new(),
        }
    }

    /// Compares one verdict.
    pub fn judge(&mut self, verdict: &Verdict) -> Judgement {
        self.generator.generate(verdict.case, &mut self.state);
        let environment: Environment<'_> = environment(&self.machine, &self.memory);
        let mut violations = Vec::new();
        check_all(&mut self.state, &self.capabilities, &environment, |violation| violations.push(violation));
        let processor = outcome(verdict);
        let outcomes: Vec<Outcome> = violations.iter().map(|violation| violation.outcome).collect();
        let comparison = if outcomes.first().copied() == processor {
            Comparison::Agreed
        } else if may_report(&outcomes, processor) {
            Comparison::AgreedInOtherOrder
        } else {
            let scene =
                Scene { state: &self.state, machine: &self.machine, capabilities: &self.capabilities, environment: &environment };
            explain(&scene, &violations, processor).map_or(Comparison::Unexplained, Comparison::Explained)
        };
        Judgement { comparison, violations, processor }
    }

    /// How the state of a case was made.
    #[must_use]
    pub fn detail(&self, case: u64) -> Detail {
        let mut state = SoftwareVmcs::new();
        self.generator.generate(case, &mut state);
        let base = self.generator.base(case);
        let before = self.generator.base_state(base);
        let fields = FIELDS
            .iter()
            .map(|row| (row.field, before.get(row.field), state.get(row.field)))
            .filter(|(_, before, after)| before != after)
            .collect();
        Detail { base: format!("{base:?}"), fields }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use l1_oracle::machine::HostState;
    use l1_protocol::oracle::ENTRY_FAILED;

    const GUEST: Outcome = guest(0);

    const fn guest(qualification: u64) -> Outcome {
        Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE, qualification }
    }

    const fn failed(number: u32) -> Outcome {
        Outcome::VmfailValid(InstructionError(number))
    }

    #[test]
    fn checks_of_one_stage_have_no_order_and_those_of_an_earlier_one_come_first() {
        assert!(may_report(&[], None));
        assert!(!may_report(&[], Some(GUEST)));
        assert!(!may_report(&[GUEST], None));
        assert!(may_report(&[failed(7), failed(8)], Some(failed(8))));
        assert!(may_report(&[GUEST, guest(4)], Some(guest(4))));
        assert!(!may_report(&[GUEST, guest(4)], Some(guest(2))));
        assert!(!may_report(&[failed(8), GUEST], Some(GUEST)));
        assert!(!may_report(&[failed(26), failed(7)], Some(failed(7))));
    }

    /// Haswell's capabilities.
    fn judge() -> Judge {
        let capabilities = Capabilities::read(vmcs::testing::haswell).expect("all are there");
        let host =
            HostState { cr0: 0x8001_0031, cr4: 0x2020, efer: 0xd00, code_selector: 8, task_selector: 24, ..HostState::default() };
        let machine = Machine {
            scratch: 0x40_0000,
            ept_pointer: 0x50_001e,
            physical_address_width: 39,
            linear_address_width: 48,
            host,
            ..Machine::default()
        };
        Judge::new(&machine, &capabilities, 1)
    }

    /// A processor that says the same to every state is found out, whatever it says.
    #[test]
    fn a_processor_that_checks_nothing_is_found_out() {
        let answers = [(ENTERED, 52, 0), (FAIL_VALID, 7, 0), (ENTRY_FAILED, 33, 0)];
        for (kind, number, qualification) in answers {
            let mut judge = judge();
            let unexplained = (0..500)
                .map(|case| judge.judge(&Verdict { case, kind, number, qualification }))
                .filter(|judgement| judgement.comparison == Comparison::Unexplained)
                .count();
            assert!(unexplained > 200, "{unexplained} of 500");
        }
    }
}
