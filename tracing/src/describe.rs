//! One line about a record for people: everything it holds that is not plain from the rest.

use crate::record::{Record, RecordKind};
use crate::step_words;
use crate::symbols::SymbolTable;
use crate::words::{outcome, summary};
use core::fmt::Write;
use vmcs::exit_reason::BasicExitReason;

/// `record` in a line, for lists of the last exits. With `symbols` it names the function and the offset in it.
///
/// Unlike canonical text this has addresses, costs (in ticks of the time-stamp counter) and raw fields.
#[must_use]
pub fn describe(record: &Record, symbols: &SymbolTable) -> String {
    format!("#{} vcpu {} {}", record.sequence, record.vcpu, body(record, symbols))
}

/// The same without number and virtual processor.
pub(crate) fn body(record: &Record, symbols: &SymbolTable) -> String {
    let level = record.level;
    if !step_words::has_rip(record) {
        return format!("L{level}: {}", rest(record));
    }
    let symbol = symbols.lookup_at(level, record.rip).map(|location| format!(" ({location})")).unwrap_or_default();
    format!("L{level} rip {:#x}{symbol}: {}", record.rip, rest(record))
}

/// What happened, the raw fields, and what became of it.
fn rest(record: &Record) -> String {
    // Writing to a String does not fail.
    let mut text = summary(record);
    if record.kind() == Some(RecordKind::Exit) {
        if let Some(value) = value(record) {
            let _ = write!(text, " {value}");
        }
        for (name, field) in [("info1", record.info1), ("info2", record.info2.into()), ("intr_info", record.intr_info.into())] {
            if field != 0 {
                let _ = write!(text, " {name} {field:#x}");
            }
        }
    }
    for detail in step_words::details(record) {
        let _ = write!(text, ", {detail}");
    }
    if let Some(outcome) = outcome(record) {
        let _ = write!(text, " -> {outcome}");
    }
    if record.cost != 0 && !record.kind().is_some_and(RecordKind::is_step) {
        let _ = write!(text, ", cost {}", record.cost);
    }
    text
}

/// What canonical text leaves out because it can vary.
fn value(record: &Record) -> Option<String> {
    match record.exit_reason().basic() {
        BasicExitReason::IO_INSTRUCTION => Some(format!("value={:#x}", record.detail)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn every_reason() {
        let symbols = sample::symbols();
        let lines: Vec<String> = sample::one_of_each().iter().map(|record| describe(record, &symbols)).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn every_step() {
        let symbols = sample::symbols();
        let lines: Vec<String> = sample::nested_steps().iter().map(|record| describe(record, &symbols)).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn without_symbols_the_address_stands_alone() {
        insta::assert_snapshot!(describe(&sample::hlt(), &SymbolTable::default()), @"#0 vcpu 0 L2 rip 0x100010: HLT -> L1 emulated, cost 250");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_records_give_one_line(raw in proptest::collection::vec(proptest::num::u8::ANY, 64)) {
            let record: Record = zerocopy::FromBytes::read_from_bytes(&raw).expect("64 bytes");
            proptest::prop_assert!(!describe(&record, &SymbolTable::default()).contains('\n'));
        }
    }
}
