//! `explain field`: a VMCS field by encoding or name.

use std::fmt::Write as _;

use serde::Serialize;
use vmcs::entry_check::groups;
use vmcs::field::{Address, AddressSpace, FIELDS, Field, FieldInformation, Kind, Width};

use super::nearest::{nearest, normalize};
use super::number::{Hex, narrow, parse_number};
use super::words::existence::existence;
use super::words::wrap;
use super::{ExplainError, Explanation};

/// Bits 31:15 and 12 of an encoding.
const RESERVED: u32 = 0xffff_9000;

/// Columns of text.
const COLUMNS: usize = 120;

/// The explanation of a field.
#[derive(Debug, Serialize)]
pub struct FieldExplanation {
    /// The encoding.
    pub encoding: Hex,
    /// The name, with `_HIGH` for the upper half of a field; absent for an unknown encoding.
    pub name: Option<&'static str>,
    /// The SDM's name for it.
    pub title: Option<&'static str>,
    /// Width, as the encoding says.
    pub width: &'static str,
    /// Type, as the encoding says.
    pub r#type: &'static str,
    /// Index among the fields of this width and type.
    pub index: u32,
    /// Whether this is the encoding for the upper half of a 64-bit field.
    pub high: bool,
    /// Which instructions may access it.
    pub access: Option<&'static str>,
    /// On which processors it exists.
    pub exists: Option<String>,
    /// The address it holds, if it holds one.
    pub address: Option<String>,
    /// The encoding of the upper half, if there is one.
    pub high_encoding: Option<Hex>,
    /// The rules of VM entry that look at it, by id.
    pub entry_rules: Vec<&'static str>,
    /// What keeps an unknown encoding from being that of a field.
    pub problems: Vec<String>,
}

/// Explains an encoding or a name.
///
/// # Errors
/// [`ExplainError`] if it is neither.
pub fn explain(text: &str) -> Result<FieldExplanation, ExplainError> {
    let field = match parse_number(text) {
        Ok(number) => Field(narrow(number)?),
        Err(_) => by_name(text)?,
    };
    Ok(explanation(field))
}

/// The field that is called so: by the name of its constant, with or without `_HIGH`, or as the SDM prints it.
///
/// # Errors
/// [`ExplainError::UnknownName`].
pub fn by_name(text: &str) -> Result<Field, ExplainError> {
    let wanted = normalize(text);
    let by_title = || FIELDS.iter().find(|row| normalize(row.title) == wanted).map(|row| row.field);
    Field::from_name(&wanted).or_else(by_title).ok_or_else(|| {
        let names = FIELDS.iter().map(|row| row.name);
        ExplainError::unknown_name("VMCS field", text, nearest(text, names))
    })
}

fn explanation(field: Field) -> FieldExplanation {
    let information = field.information();
    let high_encoding =
        information.filter(|row| row.width == Width::Bits64 && !field.is_high()).map(|_| Hex(field.high().0.into()));
    let rules = groups().flat_map(|group| group.rules).filter(|rule| rule.fields.contains(&field.full()));
    FieldExplanation {
        encoding: Hex(field.0.into()),
        name: field.name(),
        title: information.map(|row| row.title),
        width: match field.width() {
            Width::Bits16 => "16 bits",
            Width::Bits32 => "32 bits",
            Width::Bits64 => "64 bits",
            Width::Natural => "natural: 64 bits on processors with Intel 64, 32 bits on others",
        },
        r#type: match field.kind() {
            Kind::Control => "control",
            Kind::ReadOnly => "VM-exit information",
            Kind::Guest => "guest state",
            Kind::Host => "host state",
        },
        index: field.index(),
        high: field.is_high(),
        access: information.map(|row| match row.kind {
            Kind::ReadOnly => "VMREAD; VMWRITE only where IA32_VMX_MISC[29] is 1",
            _ => "VMREAD and VMWRITE",
        }),
        exists: information.map(|row| existence(row.existence)),
        address: information.and_then(|row| row.address).map(address),
        high_encoding,
        entry_rules: if information.is_some() { rules.map(|rule| rule.id).collect() } else { Vec::new() },
        problems: if information.is_some() { Vec::new() } else { problems(field) },
    }
}

fn address(address: Address) -> String {
    let space = match address.space {
        AddressSpace::Physical => "physical address",
        AddressSpace::GuestPhysical => "guest-physical address",
    };
    let below = match (address.alignment, address.low_bits_are_flags) {
        (1, _) => return space.to_owned(),
        (_, true) => "the bits below are flags",
        (_, false) => "the bits below must be 0",
    };
    format!("{space}, {}-byte aligned; {below}", address.alignment)
}

fn problems(field: Field) -> Vec<String> {
    let mut problems = Vec::new();
    if field.0 & RESERVED != 0 {
        problems.push(format!("reserved bits {:#x} are 1 (bits 31:15 and 12 must be 0)", field.0 & RESERVED));
    }
    if field.is_high() && field.width() != Width::Bits64 {
        problems.push("bit 0 (access to the upper half) is 1, but the field is not 64 bits wide".to_owned());
    }
    let alike = |row: &&FieldInformation| row.width == field.width() && row.kind == field.kind();
    let known = FIELDS.iter().filter(alike);
    match known.clone().find(|row| row.field.index() == field.index()) {
        Some(row) => problems.push(format!("without that it would be {} ({:#06x})", row.name, row.field.0)),
        None => {
            let largest = known.map(|row| row.field.index()).max().unwrap_or(0);
            problems
                .push(format!("no field of this width and type has index {} (the largest known is {largest})", field.index()));
        }
    }
    problems
}

impl Explanation for FieldExplanation {
    fn text(&self) -> String {
        let mut out = String::new();
        let mut row = |label: &str, value: &str| {
            let _ = writeln!(out, "  {label:12} {value}");
        };
        row("width", self.width);
        row("type", self.r#type);
        row("index", &self.index.to_string());
        if self.high {
            row("access type", "high: this encoding is for the upper 32 bits");
        }
        if let Some(access) = self.access {
            row("access", access);
        }
        if let Some(exists) = &self.exists {
            row("exists", exists);
        }
        if let Some(address) = &self.address {
            row("holds", address);
        }
        if let Some(high) = self.high_encoding {
            row("upper half", &high.to_string());
        }
        if !self.entry_rules.is_empty() {
            row("entry rules", wrap(&self.entry_rules.join(", "), 15, COLUMNS).trim());
        }
        for problem in &self.problems {
            row("problem", problem);
        }
        let encoding = format!("{:#06x}", self.encoding.0);
        match (self.name, self.title) {
            (Some(name), Some(title)) => format!("{name}, encoding {encoding}: {title}\n{out}"),
            _ => format!("Encoding {encoding}: no VMCS field known here\n{out}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_names_and_titles() {
        for text in ["0x681e", "26654", "681e", "GUEST_RIP", "guest-rip", "Guest RIP"] {
            assert_eq!(explain(text).expect(text).name, Some("GUEST_RIP"), "{text}");
        }
        assert_eq!(explain("EPT pointer (EPTP)").expect("a title").encoding, Hex(0x201a));
        assert_eq!(explain("ept_pointer_high").expect("a name").encoding, Hex(0x201b));
        let refusal = explain("GUEST_RPI").expect_err("misspelt").to_string();
        assert!(refusal.contains("perhaps GUEST_RIP"), "{refusal}");
    }

    #[test]
    fn every_field_is_found_by_its_name_and_title() {
        for row in FIELDS {
            assert_eq!(by_name(row.name).expect(row.name), row.field);
            assert_eq!(by_name(row.title).expect(row.title), row.field, "{}", row.title);
        }
    }

    #[test]
    fn unknown_encodings_say_what_their_bits_say() {
        let problems = |encoding: u32| explanation(Field(encoding)).problems.join("; ");
        assert!(problems(0x681f).contains("bit 0") && problems(0x681f).contains("GUEST_RIP"));
        assert!(problems(0x2_681e).contains("reserved bits 0x20000"));
        assert_eq!(problems(0x08fe), "no field of this width and type has index 127 (the largest known is 10)");
    }
}
