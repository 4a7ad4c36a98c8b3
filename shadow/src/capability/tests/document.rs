//! `docs/nested.md` says of every control what the tables say.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::super::{CONTROLS, Control, LEFT_OUT, NEEDS, Profile, Source, VMCS_REVISION_IDENTIFIER};

const DOCUMENT: &str = include_str!("../../../../docs/nested.md");

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let rule: String = head.iter().map(|_| "|---").collect();
    format!("{}{rule}|\n{}", line(&head), rows.map(|row| line(&row)).collect::<String>())
}

/// The table as it has to stand in the document.
fn must_have(table: &str) {
    assert!(DOCUMENT.contains(table), "docs/nested.md does not have this table:\n\n{table}");
}

fn titles(controls: impl Iterator<Item = Control>) -> String {
    controls.map(Control::title).collect::<Vec<_>>().join(", ")
}

#[test]
fn what_is_offered() {
    let rows = CONTROLS.iter().map(|row| {
        let source = match row.source {
            Source::Software => "L1",
            Source::Processor => "the processor",
        };
        let needs = NEEDS.iter().filter(|(needing, _)| *needing == row.control).map(|&(_, needed)| needed);
        Vec::from([row.control.word().title().to_string(), row.control.title().to_string(), source.to_string(), titles(needs)])
    });
    must_have(&table(&["word", "control", "done by", "offered only with"], rows));
}

#[test]
fn what_is_left_out() {
    let rows = LEFT_OUT.iter().map(|left_out| {
        let names = left_out.word.names().iter().filter(|name| left_out.bits >> name.bit & 1 == 1);
        let names = names.map(|name| name.title).collect::<Vec<_>>().join(", ");
        Vec::from([left_out.word.title().to_string(), names, left_out.why.to_string()])
    });
    must_have(&table(&["word", "controls", "why"], rows));
}

#[test]
fn profiles() {
    let rows = Profile::NAMED.iter().map(|(name, profile)| {
        let removed = profile.removed().iter().copied();
        Vec::from([format!("`{name}`"), if profile.removed().is_empty() { "nothing".to_string() } else { titles(removed) }])
    });
    must_have(&table(&["`--nested-caps`", "takes away"], rows));
}

#[test]
fn the_revision_identifier() {
    assert!(DOCUMENT.contains(&format!("`{VMCS_REVISION_IDENTIFIER:#x}`")));
}
