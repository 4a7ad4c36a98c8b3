//! The state that a VMCS holds, in words and in an order that people read it in.

use std::fmt::Write as _;

use serde::Serialize;
use vmcs::controls::{PrimaryExit, PrimaryProcessorBased};
use vmcs::field::{FIELDS, Field, Kind};

use crate::command::explain::dump::Dump;
use crate::command::explain::number::Hex;
use crate::command::explain::words::field::{controls, value};
use crate::command::explain::words::segments;
use crate::command::explain::words::wrap;

/// Columns of text.
const COLUMNS: usize = 120;

/// The areas of a VMCS.
#[derive(Debug, Serialize)]
pub struct State {
    /// Guest state.
    pub guest: Vec<Row>,
    /// Host state.
    pub host: Vec<Row>,
    /// VM-execution, VM-exit and VM-entry controls.
    pub controls: Vec<Row>,
    /// VM-exit information.
    pub exit_information: Vec<Row>,
}

/// A field.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    #[serde(serialize_with = "name")]
    pub field: Field,
    /// Its value.
    pub value: Hex,
    /// What that means; empty where the number is all there is to say.
    pub words: String,
}

fn name<S: serde::Serializer>(field: &Field, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(field)
}

/// The fields that come first in their area; the others follow in the order of the table.
#[rustfmt::skip]
const FIRST: &[Field] = &[
    Field::GUEST_RIP, Field::GUEST_RSP, Field::GUEST_RFLAGS, Field::GUEST_CR0, Field::GUEST_CR3, Field::GUEST_CR4, Field::GUEST_IA32_EFER,
    Field::GUEST_DR7, Field::GUEST_ACTIVITY_STATE, Field::GUEST_INTERRUPTIBILITY_STATE, Field::GUEST_PENDING_DEBUG_EXCEPTIONS,
    Field::HOST_RIP, Field::HOST_RSP, Field::HOST_CR0, Field::HOST_CR3, Field::HOST_CR4, Field::HOST_IA32_EFER,
    Field::PIN_BASED_VM_EXECUTION_CONTROLS, Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::PRIMARY_VM_EXIT_CONTROLS, Field::SECONDARY_VM_EXIT_CONTROLS, Field::VM_ENTRY_CONTROLS, Field::EXCEPTION_BITMAP,
    Field::VM_ENTRY_INTERRUPTION_INFORMATION, Field::VM_ENTRY_EXCEPTION_ERROR_CODE, Field::VM_ENTRY_INSTRUCTION_LENGTH,
    Field::EXIT_REASON, Field::EXIT_QUALIFICATION,
];

/// The segment registers of the guest: what they are called, and selector, base, limit and access rights.
#[rustfmt::skip]
const SEGMENTS: &[(&str, [Field; 4])] = &[
    ("CS", [Field::GUEST_CS_SELECTOR, Field::GUEST_CS_BASE, Field::GUEST_CS_LIMIT, Field::GUEST_CS_ACCESS_RIGHTS]),
    ("SS", [Field::GUEST_SS_SELECTOR, Field::GUEST_SS_BASE, Field::GUEST_SS_LIMIT, Field::GUEST_SS_ACCESS_RIGHTS]),
    ("DS", [Field::GUEST_DS_SELECTOR, Field::GUEST_DS_BASE, Field::GUEST_DS_LIMIT, Field::GUEST_DS_ACCESS_RIGHTS]),
    ("ES", [Field::GUEST_ES_SELECTOR, Field::GUEST_ES_BASE, Field::GUEST_ES_LIMIT, Field::GUEST_ES_ACCESS_RIGHTS]),
    ("FS", [Field::GUEST_FS_SELECTOR, Field::GUEST_FS_BASE, Field::GUEST_FS_LIMIT, Field::GUEST_FS_ACCESS_RIGHTS]),
    ("GS", [Field::GUEST_GS_SELECTOR, Field::GUEST_GS_BASE, Field::GUEST_GS_LIMIT, Field::GUEST_GS_ACCESS_RIGHTS]),
    ("LDTR", [Field::GUEST_LDTR_SELECTOR, Field::GUEST_LDTR_BASE, Field::GUEST_LDTR_LIMIT, Field::GUEST_LDTR_ACCESS_RIGHTS]),
    ("TR", [Field::GUEST_TR_SELECTOR, Field::GUEST_TR_BASE, Field::GUEST_TR_LIMIT, Field::GUEST_TR_ACCESS_RIGHTS]),
];

impl State {
    /// What a dump holds.
    #[must_use]
    pub fn of(dump: &Dump) -> Self {
        let area = |kind| {
            let rest = FIELDS.iter().map(|row| row.field).filter(|field| !FIRST.contains(field));
            let fields = FIRST.iter().copied().chain(rest).filter(|field| field.kind() == kind);
            fields.filter_map(|field| Some(row(dump, field, dump.get(field)?))).collect()
        };
        Self {
            guest: area(Kind::Guest),
            host: area(Kind::Host),
            controls: area(Kind::Control),
            exit_information: area(Kind::ReadOnly),
        }
    }

    /// The areas, one below the other.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let areas = [
            ("Guest state", &self.guest),
            ("Host state", &self.host),
            ("Controls", &self.controls),
            ("VM-exit information", &self.exit_information),
        ];
        for (title, rows) in areas {
            if rows.is_empty() {
                let _ = writeln!(out, "\n{title}: nothing is known");
                continue;
            }
            let _ = writeln!(out, "\n{title}");
            let is_segment = |row: &&Row| SEGMENTS.iter().any(|(_, fields)| fields.contains(&row.field));
            for row in rows.iter().filter(|row| !is_segment(row)) {
                out.push_str(&line(row));
            }
            for (name, fields) in SEGMENTS {
                out.push_str(&segment(
                    name,
                    fields.map(|field| rows.iter().find(|row| row.field == field).map(|row| row.value.0)),
                ));
            }
        }
        out
    }
}

fn row(dump: &Dump, field: Field, number: u64) -> Row {
    let mut words = value(field, number);
    if let Some(control) = switched_off(dump, field).filter(|_| number != 0) {
        words = format!("not in effect, since \"{control}\" is 0: {words}");
    }
    Row { field, value: Hex(number), words }
}

/// The control that makes the processor take this word of controls for 0.
fn switched_off(dump: &Dump, field: Field) -> Option<&'static str> {
    let is_off = |word, bits: u32| dump.get(word).is_some_and(|value| value & u64::from(bits) == 0);
    let primary = |bits: PrimaryProcessorBased| is_off(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, bits.bits());
    match field {
        Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS => {
            primary(PrimaryProcessorBased::ACTIVATE_SECONDARY_CONTROLS).then_some("activate secondary controls")
        }
        Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS => {
            primary(PrimaryProcessorBased::ACTIVATE_TERTIARY_CONTROLS).then_some("activate tertiary controls")
        }
        Field::SECONDARY_VM_EXIT_CONTROLS => {
            is_off(Field::PRIMARY_VM_EXIT_CONTROLS, PrimaryExit::ACTIVATE_SECONDARY_CONTROLS.bits())
                .then_some("activate secondary controls")
        }
        _ => None,
    }
}

fn line(row: &Row) -> String {
    let head = format!("  {} = {}", row.field, row.value);
    if row.words.is_empty() {
        return head + "\n";
    }
    if controls(row.field).is_some() || head.len() + row.words.len() + 2 > COLUMNS {
        return format!("{head}\n{}", wrap(&row.words, 6, COLUMNS));
    }
    format!("{head}  {}\n", row.words)
}

/// A segment register in a line, with `?` for what isn't known; nothing if nothing is.
fn segment(name: &str, values: [Option<u64>; 4]) -> String {
    if values.iter().all(Option::is_none) {
        return String::new();
    }
    let number = |value: Option<u64>| value.map_or("?".to_owned(), |value| Hex(value).to_string());
    let [selector, base, limit, rights] = values;
    let words = rights.map_or(String::new(), |rights| format!("  {}", segments::access_rights(rights)));
    format!(
        "  {name:4} selector {:6} base {:18} limit {:10} access rights {}{words}\n",
        number(selector),
        number(base),
        number(limit),
        number(rights)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::explain::dump::Format;

    #[test]
    fn every_field_stands_in_its_area_once() {
        let mut dump = Dump::new(Format::Json);
        for row in FIELDS {
            dump.note(None, row.field, 1);
        }
        let state = State::of(&dump);
        let areas = [&state.guest, &state.host, &state.controls, &state.exit_information];
        let mut fields: Vec<Field> = areas.into_iter().flatten().map(|row| row.field).collect();
        assert_eq!(fields.len(), FIELDS.len());
        fields.sort_unstable();
        fields.dedup();
        assert_eq!(fields.len(), FIELDS.len());
        let text = state.text();
        let segment = |row: &&vmcs::field::FieldInformation| SEGMENTS.iter().any(|(_, fields)| fields.contains(&row.field));
        for row in FIELDS.iter().filter(|row| !segment(row)) {
            assert!(text.contains(&format!("  {} = 0x1", row.name)), "{}", row.name);
        }
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS + 40), "{text}");
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let mut dump = Dump::new(Format::Json);
        dump.note(None, Field::GUEST_CS_LIMIT, 0xffff);
        let text = State::of(&dump).text();
        assert!(text.contains("CS   selector ?"), "{text}");
        assert!(!text.contains("DS") && text.contains("Host state: nothing is known"), "{text}");
    }

    #[test]
    fn controls_that_are_switched_off_say_so() {
        let mut dump = Dump::new(Format::Json);
        dump.note(None, Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, 2);
        assert_eq!(State::of(&dump).controls[0].words, "Enable EPT");
        dump.note(None, Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, 0);
        let words = &State::of(&dump).controls[1].words;
        assert_eq!(words, "not in effect, since \"activate secondary controls\" is 0: Enable EPT");
    }
}
