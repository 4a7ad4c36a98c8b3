//! The VMCS fields that a processor has, by its capability MSRs and by what VMREAD says: the two have to agree.

use serde::Serialize;
use vmcs::capability::Capabilities;
use vmcs::field::{FIELDS, Field, Width};

/// What VMREAD says about the field encodings.
#[derive(Debug, Serialize)]
pub struct FieldReport {
    /// How many encodings VMREAD takes; the upper half of a 64-bit field has one of its own.
    count: usize,
    /// These encodings, as text: `0x681e`.
    answering: Vec<String>,
    /// Fields that the capability MSRs promise and VMREAD does not take.
    missing: Vec<NamedField>,
    /// Encodings that VMREAD takes although the capability MSRs do not promise such a field.
    unexpected: Vec<NamedField>,
    #[serde(skip)]
    encodings: Vec<u32>,
}

/// A field encoding.
#[derive(Debug, Serialize)]
struct NamedField {
    encoding: String,
    /// Null if the SDM knows no such field.
    name: Option<&'static str>,
}

/// The encodings that a processor with these capabilities has, in ascending order.
pub fn promised(capabilities: &Capabilities) -> Vec<u32> {
    let rows = FIELDS.iter().filter(|row| row.existence.holds(capabilities));
    let mut encodings: Vec<u32> = rows
        .flat_map(|row| [Some(row.field), (row.width == Width::Bits64).then_some(row.field.high())])
        .flatten()
        .map(|field| field.0)
        .collect();
    encodings.sort_unstable();
    encodings
}

fn text(encoding: u32) -> String {
    format!("{encoding:#06x}")
}

fn named(encodings: impl Iterator<Item = u32>) -> Vec<NamedField> {
    encodings.map(|encoding| NamedField { encoding: text(encoding), name: Field(encoding).name() }).collect()
}

impl FieldReport {
    /// Compares the encodings that VMREAD took with what the capabilities promise.
    pub fn new(capabilities: &Capabilities, answering: &[u32]) -> Self {
        let promised = promised(capabilities);
        Self {
            count: answering.len(),
            answering: answering.iter().copied().map(text).collect(),
            missing: named(promised.iter().copied().filter(|encoding| !answering.contains(encoding))),
            unexpected: named(answering.iter().copied().filter(|encoding| !promised.contains(encoding))),
            encodings: answering.to_vec(),
        }
    }

    /// A line each: what, and what is to be said about it.
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let list = |fields: &[NamedField]| match fields {
            [] => "none".to_owned(),
            fields => fields.iter().map(NamedField::to_text).collect::<Vec<_>>().join(", "),
        };
        vec![
            ("encodings that VMREAD takes", self.count.to_string()),
            ("promised by the capability MSRs, but not taken", list(&self.missing)),
            ("taken, but not promised", list(&self.unexpected)),
        ]
    }

    /// Every field of the SDM and every encoding that is taken, with whether VMREAD takes it. The upper half of a field
    /// is left out where it goes with the lower one.
    pub fn rows(&self) -> Vec<(String, bool)> {
        let is_taken = |field: Field| self.encodings.contains(&field.0);
        let known = FIELDS.iter().flat_map(|row| [Some(row.field), (row.width == Width::Bits64).then_some(row.field.high())]);
        let unknown = self.encodings.iter().map(|encoding| Field(*encoding)).filter(|field| field.name().is_none());
        known
            .flatten()
            .chain(unknown)
            .filter(|field| !(field.is_high() && field.name().is_some() && is_taken(field.full()) == is_taken(*field)))
            .map(|field| (field.to_string(), is_taken(field)))
            .collect()
    }
}

impl NamedField {
    fn to_text(&self) -> String {
        match self.name {
            Some(name) => format!("{name} ({})", self.encoding),
            None => self.encoding.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Default1 controls only: a processor with nothing but the fields that always exist.
    fn capabilities() -> Capabilities {
        Capabilities::read(|_| Some(0)).expect("every MSR is given")
    }

    #[test]
    fn promised_fields_have_both_halves() {
        let promised = promised(&capabilities());
        assert!(promised.is_sorted());
        for field in [Field::GUEST_RIP, Field::VMCS_LINK_POINTER, Field::VMCS_LINK_POINTER.high(), Field::EXIT_REASON] {
            assert!(promised.contains(&field.0), "{field}");
        }
        assert!(!promised.contains(&Field::GUEST_RIP.high().0));
        assert!(!promised.contains(&Field::EPT_POINTER.0));
    }

    #[test]
    fn a_processor_that_agrees_has_nothing_to_report() {
        let report = FieldReport::new(&capabilities(), &promised(&capabilities()));
        assert!(report.missing.is_empty() && report.unexpected.is_empty());
        assert_eq!(report.summary().get(1).map(|(_, text)| text.as_str()), Some("none"));
        assert!(report.rows().iter().all(|(name, _)| !name.ends_with("_HIGH")));
    }

    #[test]
    fn disagreement_is_named_both_ways() {
        let mut answering = promised(&capabilities());
        answering.retain(|encoding| *encoding != Field::GUEST_RIP.0 && *encoding != Field::VMCS_LINK_POINTER.high().0);
        answering.extend([Field::EPT_POINTER.0, 0x7ffe]);
        let report = FieldReport::new(&capabilities(), &answering);
        let json = serde_json::to_value(&report).expect("plain data");
        let missing = serde_json::json!([
            { "encoding": "0x2801", "name": "VMCS_LINK_POINTER_HIGH" },
            { "encoding": "0x681e", "name": "GUEST_RIP" },
        ]);
        let unexpected = serde_json::json!([
            { "encoding": "0x201a", "name": "EPT_POINTER" },
            { "encoding": "0x7ffe", "name": null },
        ]);
        assert_eq!((&json["missing"], &json["unexpected"]), (&missing, &unexpected));
        let rows = report.rows();
        assert!(rows.contains(&("VMCS_LINK_POINTER_HIGH".to_owned(), false)));
        assert!(rows.contains(&("0x7ffe".to_owned(), true)));
    }
}
