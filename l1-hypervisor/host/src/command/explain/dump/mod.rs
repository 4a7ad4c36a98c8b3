//! A VMCS as somebody wrote it down: which fields are known, and what could not be read.
//!
//! What always holds: a value in a [`Dump`] fits its field, and whatever of the input isn't in it is named by a [`Remark`].

pub mod json;
pub mod kvm;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Serialize;
use thiserror::Error;
use vmcs::field::{Field, Width};

use super::number::Hex;

/// More dumps than this are not read: judging one takes some milliseconds, and a hostile log could hold a million.
const DUMPS: usize = 64;
/// More remarks than this are counted, not kept: a log can be long.
const REMARKS: usize = 100;

/// Why an input holds no dump.
#[derive(Debug, Error)]
pub enum DumpError {
    /// There is nothing but white space.
    #[error("it is empty; {EXPECTED}")]
    Empty,
    /// It isn't the JSON it begins like.
    #[error("it begins like JSON but is none ({0}); {EXPECTED}")]
    NotJson(#[from] serde_json::Error),
    /// It is JSON of another shape.
    #[error("{0}; {EXPECTED}")]
    Shape(&'static str),
    /// It is text without a line of a dump.
    #[error("no line of it is of a VMCS dump; {EXPECTED}")]
    Unrecognized,
}

/// What an input should be.
const EXPECTED: &str = "expected what KVM's dump_vmcs() writes to the kernel log (`*** Guest State ***` and the lines that follow; \
                        it does so if kvm_intel.dump_invalid_vmcs is 1), or JSON like {\"fields\": {\"GUEST_RIP\": \"0xfff0\"}}";

/// Who wrote a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// KVM, to the kernel log.
    Kvm,
    /// Whoever, as our own JSON.
    Json,
}

/// Something in the input that is not in the dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// The number of the line, from 1; absent for JSON.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
}

/// An entry of an MSR-store or MSR-load list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MsrEntry {
    /// The MSR.
    pub msr: Hex,
    /// Its value.
    pub value: Hex,
}

/// One VMCS.
#[derive(Debug, Clone)]
pub struct Dump {
    /// Who wrote it.
    pub format: Format,
    /// The processor of the last attempted VM entry, if the dump says.
    pub processor: Option<u32>,
    /// The fields, upper halves merged into them.
    values: BTreeMap<Field, u64>,
    /// The lists of MSRs by what they are for.
    pub msr_lists: BTreeMap<&'static str, Vec<MsrEntry>>,
    /// Capability MSRs by number.
    pub capabilities: BTreeMap<u32, u64>,
    /// In bits.
    pub physical_address_width: Option<u32>,
    /// In bits.
    pub linear_address_width: Option<u32>,
    /// What could not be read.
    pub remarks: Vec<Remark>,
    /// How many remarks there were, kept or not.
    pub remark_count: usize,
}

impl Dump {
    /// A dump in which nothing is known.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            processor: None,
            values: BTreeMap::new(),
            msr_lists: BTreeMap::new(),
            capabilities: BTreeMap::new(),
            physical_address_width: None,
            linear_address_width: None,
            remarks: Vec::new(),
            remark_count: 0,
        }
    }

    /// The value of a field, if it is known.
    #[must_use]
    pub fn get(&self, field: Field) -> Option<u64> {
        self.values.get(&field).copied()
    }

    /// The fields that are known, by encoding.
    pub fn iter(&self) -> impl Iterator<Item = (Field, u64)> + '_ {
        self.values.iter().map(|(field, value)| (*field, *value))
    }

    /// Whether no field is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Notes the value of a field; what doesn't fit, or contradicts what was noted before, becomes a remark. An unknown field too.
    pub fn note(&mut self, line: Option<usize>, field: Field, value: u64) {
        let Some(row) = field.information().filter(|_| !field.is_high()) else {
            self.remark(line, format!("{field} is no field for full access"));
            return;
        };
        if value & !row.width.mask() != 0 {
            let bits = if row.width == Width::Bits16 { 16 } else { 32 };
            self.remark(line, format!("{} = {value:#x} has more than {bits} bits", row.name));
            return;
        }
        let before = match self.values.entry(field) {
            Entry::Vacant(slot) => {
                slot.insert(value);
                return;
            }
            Entry::Occupied(slot) => *slot.get(),
        };
        if before != value {
            self.remark(line, format!("{} = {value:#x}, but it was {before:#x} before; the first value counts", row.name));
        }
    }

    /// Notes that something could not be read.
    pub fn remark(&mut self, line: Option<usize>, problem: String) {
        self.remark_count += 1;
        if self.remarks.len() < REMARKS {
            self.remarks.push(Remark { line, problem });
        }
    }
}

/// Reads whatever dumps an input holds, at least one.
///
/// # Errors
/// [`DumpError`] if it holds none.
pub fn read(input: &[u8]) -> Result<Vec<Dump>, DumpError> {
    let text = String::from_utf8_lossy(input);
    let text = text.trim_start_matches('\u{feff}');
    let mut dumps = match text.trim_start().chars().next() {
        None => return Err(DumpError::Empty),
        Some('{') => json::read(text)?,
        Some(_) => kvm::read(text)?,
    };
    if dumps.len() > DUMPS {
        dumps.truncate(DUMPS);
        if let Some(last) = dumps.last_mut() {
            last.remark(None, format!("more dumps follow, of which only the first {DUMPS} are explained"));
        }
    }
    Ok(dumps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_fits_is_noted() {
        let mut dump = Dump::new(Format::Json);
        dump.note(None, Field::GUEST_CS_SELECTOR, 0x8);
        dump.note(None, Field::GUEST_CS_SELECTOR, 0x8);
        assert!(dump.remarks.is_empty());
        dump.note(Some(3), Field::GUEST_CS_SELECTOR, 0x10);
        dump.note(Some(4), Field::GUEST_DS_SELECTOR, 0x1_0000);
        dump.note(None, Field(0x6abc), 1);
        assert_eq!(dump.iter().collect::<Vec<_>>(), [(Field::GUEST_CS_SELECTOR, 8)]);
        let problems: Vec<_> = dump.remarks.iter().map(|remark| (remark.line, remark.problem.as_str())).collect();
        let expected = [
            (Some(3), "GUEST_CS_SELECTOR = 0x10, but it was 0x8 before; the first value counts"),
            (Some(4), "GUEST_DS_SELECTOR = 0x10000 has more than 16 bits"),
            (None, "0x6abc is no field for full access"),
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn remarks_have_a_limit() {
        let mut dump = Dump::new(Format::Kvm);
        (0..1000).for_each(|line| dump.remark(Some(line), String::new()));
        assert_eq!((dump.remarks.len(), dump.remark_count), (REMARKS, 1000));
    }

    #[test]
    fn nothing_and_something_else_are_errors() {
        for (input, words) in [
            ("", "it is empty"),
            (" \n\t", "it is empty"),
            ("{", "begins like JSON"),
            ("{}", "no member `fields`"),
            ("hello\nworld = 5\n", "no line of it"),
        ] {
            let error = read(input.as_bytes()).expect_err(input).to_string();
            assert!(error.contains(words) && error.contains("dump_vmcs"), "{input:?}: {error}");
        }
        assert!(read(&[0xff, 0xfe, 0]).is_err());
    }

    #[test]
    fn the_number_of_dumps_is_limited() {
        let log = "*** Guest State ***\nCR3 = 0x0000000000001000\n".repeat(3 * DUMPS);
        let json = format!("{{\"dumps\": [{}]}}", vec!["{\"fields\": {\"GUEST_RIP\": 1}}"; 3 * DUMPS].join(","));
        for input in [log, json] {
            let dumps = read(input.as_bytes()).expect("dumps");
            assert_eq!(dumps.len(), DUMPS);
            assert!(dumps.last().is_some_and(|dump| dump.remark_count == 1 && !dump.is_empty()));
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(input in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&input);
        }

        #[test]
        fn no_text_panics(text in "[{]?\\PC*") {
            let _ = read(text.as_bytes());
        }
    }
}
