//! The explanation of a VMCS as text: the verdict first, then what it rests on, then the state.

use std::fmt::Write as _;

use vmcs::entry_check::{Outcome, Violation};
use vmcs::exit_reason::ExitReason;
use vmcs::instruction_error::InstructionError;

use super::{BrokenRule, DumpExplanation, OutcomeExplanation, VmcsExplanation};
use crate::command::explain::Explanation;
use crate::command::explain::dump::Format;
use crate::command::explain::words::wrap;

/// Columns of text.
const COLUMNS: usize = 120;
/// If more rules than this could not be judged only the fields are listed that are missing.
const RULES: usize = 60;

/// Every dump of an input.
#[must_use]
pub fn text(explanation: &VmcsExplanation) -> String {
    let mut out = String::new();
    let count = explanation.dumps.len();
    for (index, dump) in explanation.dumps.iter().enumerate() {
        if count > 1 {
            let _ = writeln!(out, "{}Dump {} of {count}", if index > 0 { "\n" } else { "" }, index + 1);
        }
        one(&mut out, dump);
    }
    out
}

fn one(out: &mut String, dump: &DumpExplanation) {
    let writer = match dump.format {
        Format::Kvm => "VMCS as KVM's dump_vmcs() printed it",
        Format::Json => "VMCS from JSON",
    };
    let processor = dump.processor.map_or(String::new(), |number| format!("; last VM entry attempted on CPU {number}"));
    let _ = writeln!(out, "{writer}, {} fields{processor}\n", dump.fields.len());
    broken(out, dump);
    assumptions(out, dump);
    not_checked(out, dump);
    unread(out, dump);
    if let Some(exit) = &dump.exit {
        let _ = writeln!(out, "\nThe recorded VM exit\n{}", indent(&exit.text()));
    }
    for (list, entries) in &dump.msr_lists {
        let _ = writeln!(out, "\nMSR list, {list}");
        for (index, entry) in entries.iter().enumerate() {
            let name = u32::try_from(entry.msr.0).ok().and_then(vmcs::msr::name).unwrap_or("");
            let _ = writeln!(out, "{}", format!("  entry {}: MSR {} = {}  {name}", index + 1, entry.msr, entry.value).trim_end());
        }
    }
    out.push_str(&dump.state.text());
}

fn broken(out: &mut String, dump: &DumpExplanation) {
    let rules = &dump.verdict.broken;
    let _ = match rules.len() {
        0 => writeln!(out, "No rule of VM entry is broken, as far as could be checked ({} rules were).", dump.verdict.kept),
        1 => writeln!(out, "VM entry breaks 1 rule:"),
        count => writeln!(out, "VM entry breaks {count} rules; the processor reports the first:"),
    };
    for (index, rule) in rules.iter().enumerate() {
        broken_rule(out, index + 1, rule);
    }
    if let Some(remark) = &dump.verdict.remark {
        let _ = write!(out, "\n{}", wrap(remark, 0, COLUMNS));
    }
}

fn broken_rule(out: &mut String, number: usize, rule: &BrokenRule) {
    let fields: Vec<String> = rule.fields.iter().map(|row| format!("{} = {}", row.field, row.value)).collect();
    let when = if rule.when.is_empty() { String::new() } else { format!(" ({})", rule.when) };
    let subject = rule.fields.first().map_or("", |row| row.field.as_str());
    let _ = writeln!(out, "\n  {number}. {}", rule.id);
    out.push_str(&wrap(&format!("{}; offending: {}", fields.join(", "), rule.offending), 5, COLUMNS));
    out.push_str(&wrap(format!("{subject}: {}{when}", rule.requirement).trim_start_matches(": "), 5, COLUMNS));
    let _ = writeln!(out, "     SDM 3C {} \"{}\"", rule.section, rule.title);
    let _ = writeln!(out, "     The processor reports {}", outcome(&rule.outcome));
}

fn outcome(outcome: &OutcomeExplanation) -> String {
    match outcome {
        OutcomeExplanation::VmfailInvalid => "VMfailInvalid".to_owned(),
        OutcomeExplanation::VmfailValid { error } => {
            format!("VMfailValid, VM-instruction error {error}: {}", InstructionError(*error))
        }
        OutcomeExplanation::EntryFailure { exit_reason, qualification } => {
            let name = ExitReason(exit_reason.0 as u32).basic();
            format!("exit reason {exit_reason} ({name}), qualification {qualification}")
        }
    }
}

fn assumptions(out: &mut String, dump: &DumpExplanation) {
    let _ = writeln!(out, "\nAssumed");
    for assumption in &dump.assumptions {
        out.push_str(&bullet(assumption));
    }
}

fn not_checked(out: &mut String, dump: &DumpExplanation) {
    let groups = &dump.verdict.not_checked;
    let count: usize = groups.iter().map(|group| group.rules.len()).sum();
    if count == 0 {
        return;
    }
    let _ = writeln!(out, "\n{count} rules could not be checked");
    if count > RULES {
        let mut missing: Vec<&str> = groups.iter().flat_map(|group| &group.missing).map(String::as_str).collect();
        missing.sort_unstable();
        missing.dedup();
        out.push_str(&bullet(&format!("missing: {}", missing.join(", "))));
        return;
    }
    for group in groups {
        out.push_str(&bullet(&format!("missing {}: {}", group.missing.join(", "), group.rules.join(", "))));
    }
}

fn unread(out: &mut String, dump: &DumpExplanation) {
    if dump.unread_count == 0 {
        return;
    }
    let _ = writeln!(out, "\nNot read");
    for remark in &dump.unread {
        let line = remark.line.map_or(String::new(), |line| format!("line {line}: "));
        out.push_str(&bullet(&format!("{line}{}", remark.problem)));
    }
    if dump.unread_count > dump.unread.len() {
        let _ = writeln!(out, "  and {} more", dump.unread_count - dump.unread.len());
    }
}

/// A paragraph with a hyphen before it.
fn bullet(text: &str) -> String {
    let wrapped = wrap(text, 4, COLUMNS);
    format!("  - {}", wrapped.trim_start())
}

fn indent(text: &str) -> String {
    let lines = text.lines().map(|line| if line.is_empty() { String::new() } else { format!("  {line}") });
    lines.collect::<Vec<_>>().join("\n")
}

/// How a verdict fits the recorded exit.
#[must_use]
pub fn remark(broken: &[Violation], recorded: Option<ExitReason>, qualification: Option<u64>) -> Option<String> {
    let reason = recorded?;
    if !reason.is_entry_failure() {
        let (number, name) = (reason.0, reason.basic());
        return Some(match broken.first().map(|violation| violation.outcome) {
            Some(Outcome::VmfailInvalid | Outcome::VmfailValid(_)) => format!(
                "VMfail leaves EXIT_REASON as it was: exit reason {number:#x} ({name}) in the dump tells of an earlier VM exit."
            ),
            _ => format!(
                "The dump records exit reason {number:#x} ({name}), which is not a failure of VM entry: the verdict is about an entry \
                 with this VMCS as it is now."
            ),
        });
    }
    let fits = |violation: &Violation| match violation.outcome {
        Outcome::EntryFailure { reason: other, qualification: number } => {
            other == reason.basic() && qualification.is_none_or(|qualification| qualification == number)
        }
        _ => false,
    };
    let failure = format!(
        "exit reason {:#x} with qualification {}",
        reason.0,
        qualification.map_or("unknown".to_owned(), |value| value.to_string())
    );
    match (broken.first(), broken.iter().find(|violation| fits(violation))) {
        (Some(first), Some(fitting)) if first.rule.id == fitting.rule.id => {
            Some(format!("That is what the dump records: {failure}."))
        }
        (_, Some(fitting)) => Some(format!(
            "The dump records {failure}, as {} would give it: the rules before it were kept when VM entry was attempted, or this \
             processor does not insist on them.",
            fitting.rule.id
        )),
        (_, None) => Some(format!(
            "The dump records {failure}, which none of these rules explains: the cause is among what could not be checked, or in what \
             is assumed of the processor."
        )),
    }
}
