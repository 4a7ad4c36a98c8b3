//! Our own JSON: `{"fields": {"GUEST_RIP": "0xfff0", …}, "capabilities": {"0x480": "0x…", …}, "physical_address_width": 39}`.
//!
//! Numbers stand as text, decimal or hexadecimal, or as JSON numbers; fields by name or encoding, MSRs by number or name. An object
//! with `dumps`, a list of such objects, is read too: that is what `explain vmcs --json` prints.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use vmcs::field::Field;
use vmcs::msr;

use super::{DUMPS, Dump, DumpError, Format};
use crate::command::explain::field::by_name;
use crate::command::explain::nearest::normalize;
use crate::command::explain::number::parse_number;

/// What our own output says beside the dump, to be ignored when it is read again.
const OUTPUT_ONLY: [&str; 9] =
    ["format", "processor", "assumptions", "verdict", "exit", "state", "msr_lists", "unread", "unread_count"];

/// Reads one dump, or a list of them.
///
/// # Errors
/// [`DumpError`] if the text is no JSON, or not of the right shape, or names no field.
pub fn read(text: &str) -> Result<Vec<Dump>, DumpError> {
    let Value::Object(object) = serde_json::from_str(text)? else {
        return Err(DumpError::Shape("it is not a JSON object"));
    };
    let dumps = match object.get("dumps") {
        Some(Value::Array(dumps)) => dumps
            .iter()
            .take(DUMPS + 1)
            .map(|dump| dump.as_object().ok_or(DumpError::Shape("`dumps` holds something other than objects")).and_then(read_one))
            .collect::<Result<Vec<_>, _>>()?,
        Some(_) => return Err(DumpError::Shape("`dumps` is not a list")),
        None => vec![read_one(&object)?],
    };
    if dumps.iter().all(Dump::is_empty) {
        return Err(DumpError::Shape("it names no VMCS field"));
    }
    Ok(dumps)
}

fn read_one(object: &Map<String, Value>) -> Result<Dump, DumpError> {
    let fields = object.get("fields").ok_or(DumpError::Shape("it has no member `fields`"))?;
    let fields = fields.as_object().ok_or(DumpError::Shape("`fields` is not an object"))?;
    let mut dump = Dump::new(Format::Json);
    let mut halves = BTreeMap::new();
    for (name, value) in fields {
        match (field(name), number(value)) {
            (Err(problem), _) => dump.remark(None, problem),
            (_, None) => dump.remark(None, format!("{name}: {value} is not a number of at most 64 bits")),
            (Ok(field), Some(value)) if field.is_high() => {
                halves.insert(field, value);
            }
            (Ok(field), Some(value)) => dump.note(None, field, value),
        }
    }
    merge_halves(&mut dump, &halves);
    read_members(object, &mut dump);
    let known = ["fields", "capabilities", "physical_address_width", "linear_address_width"];
    for name in object.keys().filter(|name| !known.contains(&name.as_str()) && !OUTPUT_ONLY.contains(&name.as_str())) {
        dump.remark(None, format!("`{name}` is not a member of a dump"));
    }
    Ok(dump)
}

/// Reads what a dump says of its processor: capability MSRs and address widths.
pub fn read_members(object: &Map<String, Value>, dump: &mut Dump) {
    if let Some(capabilities) = object.get("capabilities") {
        match capabilities.as_object() {
            Some(capabilities) => read_capabilities(capabilities, dump),
            None => dump.remark(None, "`capabilities` is not an object".to_owned()),
        }
    }
    dump.physical_address_width = width(object, "physical_address_width", 32..=52, dump);
    dump.linear_address_width = width(object, "linear_address_width", 48..=57, dump);
}

/// The upper halves of fields whose lower halves are known; the others say too little.
fn merge_halves(dump: &mut Dump, halves: &BTreeMap<Field, u64>) {
    for (half, value) in halves {
        let low = dump.get(half.full());
        match (low, u32::try_from(*value)) {
            (_, Err(_)) => dump.remark(None, format!("{half} = {value:#x} has more than 32 bits")),
            (None, Ok(_)) => dump.remark(None, format!("{half} is given without {}", half.full())),
            (Some(low), Ok(_)) => {
                let merged = low & 0xffff_ffff | value << 32;
                // A value with an upper half of its own must agree with the half.
                if low >> 32 != 0 || *value == 0 {
                    dump.note(None, half.full(), merged);
                } else {
                    dump.values.insert(half.full(), merged);
                }
            }
        }
    }
}

/// Reads capability MSRs, by number or name.
pub fn read_capabilities(object: &Map<String, Value>, dump: &mut Dump) {
    for (name, value) in object {
        let by_name = || msr::MSRS.iter().find(|(_, other)| *other == normalize(name)).map(|(number, _)| *number);
        let msr = parse_number(name).ok().and_then(|number| u32::try_from(number).ok()).or_else(by_name);
        let known = msr.filter(|msr| (msr::IA32_VMX_BASIC..=msr::IA32_VMX_EXIT_CTLS2).contains(msr));
        match (known, number(value)) {
            (None, _) => dump.remark(None, format!("`{name}` is not a capability MSR (0x480 to 0x493)")),
            (_, None) => dump.remark(None, format!("{name}: {value} is not a number of at most 64 bits")),
            (Some(msr), Some(value)) => {
                dump.capabilities.insert(msr, value);
            }
        }
    }
}

fn width(object: &Map<String, Value>, name: &str, range: std::ops::RangeInclusive<u32>, dump: &mut Dump) -> Option<u32> {
    let value = object.get(name).filter(|value| !value.is_null())?;
    let width = number(value).and_then(|value| u32::try_from(value).ok()).filter(|width| range.contains(width));
    if width.is_none() {
        dump.remark(None, format!("{name}: {value} is not a width of {} to {} bits", range.start(), range.end()));
    }
    width
}

fn field(name: &str) -> Result<Field, String> {
    match parse_number(name) {
        Ok(number) => {
            let field = u32::try_from(number).ok().map(Field).filter(|field| field.information().is_some());
            field.ok_or_else(|| format!("{name} is not the encoding of a known VMCS field"))
        }
        Err(_) => by_name(name).map_err(|error| error.to_string()),
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => parse_number(text).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vmcs::field::FIELDS;

    fn one(text: &str) -> Dump {
        read(text).expect("a dump").remove(0)
    }

    fn problems(dump: &Dump) -> Vec<&str> {
        dump.remarks.iter().map(|remark| remark.problem.as_str()).collect()
    }

    #[test]
    fn names_encodings_and_numbers() {
        let dump = one(r#"{"fields": {"GUEST_RIP": "0xfff0", "0x681c": 8192, "guest-cr0": "17"}, "physical_address_width": 39,
                          "capabilities": {"0x480": "0xd810000000002b", "IA32_VMX_MISC": 5}, "linear_address_width": "57"}"#);
        assert!(dump.remarks.is_empty(), "{:?}", dump.remarks);
        let expected = [(Field::GUEST_CR0, 17), (Field::GUEST_RSP, 8192), (Field::GUEST_RIP, 0xfff0)];
        assert_eq!(dump.iter().collect::<Vec<_>>(), expected);
        assert_eq!(dump.capabilities, BTreeMap::from([(0x480, 0x00d8_1000_0000_002b), (0x485, 5)]));
        assert_eq!((dump.physical_address_width, dump.linear_address_width), (Some(39), Some(57)));
    }

    #[test]
    fn upper_halves_are_merged() {
        let dump = one(r#"{"fields": {"EPT_POINTER": "0x2345601e", "EPT_POINTER_HIGH": 1, "TSC_OFFSET_HIGH": 7}}"#);
        assert_eq!(dump.iter().collect::<Vec<_>>(), [(Field::EPT_POINTER, 0x1_2345_601e)]);
        assert_eq!(problems(&dump), ["TSC_OFFSET_HIGH is given without TSC_OFFSET"]);
        let dump = one(r#"{"fields": {"EPT_POINTER": "0x22345601e", "EPT_POINTER_HIGH": 1}}"#);
        assert_eq!(dump.get(Field::EPT_POINTER), Some(0x2_2345_601e));
        assert_eq!(dump.remark_count, 1);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dump = one(
            r#"{"fields": {"GUEST_RIP": 1, "GUEST_RPI": 1, "0x6abc": 1, "GUEST_CR0": -1, "GUEST_CR3": [], "GUEST_CS_LIMIT": "0x100000000"},
                          "capabilities": {"0x10": 1, "0x481": "x"}, "physical_address_width": 64, "capabilites": {}}"#,
        );
        let text = problems(&dump).join("\n");
        for word in
            ["perhaps GUEST_RIP", "0x6abc", "GUEST_CR0", "GUEST_CR3", "GUEST_CS_LIMIT", "`0x10`", "0x481", "64", "capabilites"]
        {
            assert!(text.contains(word), "{word} is not named:\n{text}");
        }
        assert_eq!(dump.iter().count(), 1);
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in ["{\"dumps\": 1}", "{\"dumps\": []}", "{\"dumps\": [1]}", "{\"fields\": 1}", "{\"fields\": {}}"] {
            assert!(matches!(read(text), Err(DumpError::Shape(_))), "{text}");
        }
        assert_eq!(read(r#"{"dumps": [{"fields": {"GUEST_RIP": 1}}, {"fields": {"GUEST_RIP": 2}}]}"#).expect("two").len(), 2);
    }

    proptest! {
        #[test]
        fn every_value_that_fits_is_read_back(values in proptest::collection::vec(any::<u64>(), FIELDS.len())) {
            let fields: Map<String, Value> = FIELDS.iter().zip(&values)
                .map(|(row, value)| (row.name.to_owned(), Value::String(format!("{:#x}", value & row.width.mask())))).collect();
            let text = Value::Object(Map::from_iter([("fields".to_owned(), Value::Object(fields))])).to_string();
            let dump = one(&text);
            prop_assert!(dump.remarks.is_empty());
            for (row, value) in FIELDS.iter().zip(&values) {
                prop_assert_eq!(dump.get(row.field), Some(value & row.width.mask()));
            }
        }
    }
}
