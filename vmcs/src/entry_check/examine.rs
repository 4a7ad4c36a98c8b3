//! The rules with their verdicts, kept ones included: for a report that has to say what was looked at and what could not be.

use super::GROUPS;
use super::environment::Environment;
use super::rule::{Group, Rule, Violation};
use super::state::State;
use crate::access::VmcsAccess;
use crate::capability::Capabilities;

/// Every group of rules, in the order of the checks.
pub fn groups() -> impl Iterator<Item = &'static Group> {
    GROUPS.iter().copied()
}

/// Gives `report` every rule of every group whose condition holds, in the order of the checks, with the violation if it is broken.
///
/// Says the same as [`check_all`](super::check_all), which leaves out the kept rules and is faster. A rule that looks into memory does so
/// between the report of the rule before it and its own, so that a [`Platform`](super::Platform) can tell which rules those are.
pub fn examine(
    access: &mut impl VmcsAccess,
    capabilities: &Capabilities,
    environment: &Environment<'_>,
    mut report: impl FnMut(&'static Group, &'static Rule, Option<Violation>),
) {
    let mut state = State::read(access, capabilities, environment);
    for (group_number, group) in groups().enumerate() {
        if !(group.condition)(&state) {
            continue;
        }
        for slot in group.fetch {
            state.fetch(access, *slot);
        }
        for (rule_number, rule) in group.rules.iter().enumerate() {
            let value = rule.fields.first().map_or(0, |field| state.get(*field));
            let broken = (rule.broken)(&state, value);
            report(
                group,
                rule,
                broken.map(|offending| Violation::new((group_number, rule_number), group, rule, offending, &state)),
            );
        }
    }
}
