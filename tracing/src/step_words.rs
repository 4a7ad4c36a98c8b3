//! What a step of nesting says, in words: the counterpart of `words` for the records of [`crate::nested`].

use crate::interruption::event_words;
use crate::nested::{
    Direction, Merge, NestedEntry, NestedEntryFailed, NestedExit, NestedInject, NestedIntercepts, NestedInterruptExit, ShadowSync,
};
use crate::record::{Record, RecordKind};
use crate::words::{exit_summary, rule};
use vmcs::event::Injection;

/// The name of the kind, for programs.
pub(crate) const fn kind_name(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Exit => "exit",
        RecordKind::EntryFailure => "entry_failure",
        RecordKind::NestedEntry => "nested_entry",
        RecordKind::NestedExit => "nested_exit",
        RecordKind::NestedInject => "nested_inject",
        RecordKind::NestedEntryFailed => "nested_entry_failed",
        RecordKind::NestedInterruptExit => "nested_interrupt_exit",
        RecordKind::NestedIntercepts => "nested_intercepts",
        RecordKind::Sync => "sync",
        RecordKind::Merge => "merge",
    }
}

/// What the step did, as far as the guest programs fix it; `None` if `record` is no step.
pub(crate) fn summary(record: &Record) -> Option<String> {
    let kind = record.kind().filter(|kind| kind.is_step())?;
    let text = match kind {
        RecordKind::NestedEntry => NestedEntry::read(record).map(entry),
        RecordKind::NestedExit => NestedExit::read(record).map(|exit| nested_exit(record, exit)),
        RecordKind::NestedInject => NestedInject::read(record).map(|inject| format!("injection of {}", injected(inject.event))),
        RecordKind::NestedEntryFailed => NestedEntryFailed::read(record).map(entry_failed),
        RecordKind::NestedInterruptExit => NestedInterruptExit::read(record).map(interrupt_exit),
        RecordKind::NestedIntercepts => NestedIntercepts::read(record).map(intercepts),
        RecordKind::Sync => ShadowSync::read(record).map(sync),
        RecordKind::Merge => Merge::read(record).map(merge),
        RecordKind::Exit | RecordKind::EntryFailure => None,
    };
    Some(text.unwrap_or_else(|| format!("{} that no record can say", kind_name(kind))))
}

/// What else the step says: addresses and counts; empty if nothing.
pub(crate) fn details(record: &Record) -> Vec<String> {
    let mut details = Vec::new();
    let mut say = |name: &str, value: Option<u64>| details.extend(value.map(|value| format!("{name} {value:#x}")));
    say("vmcs23", vmcs23(record));
    if let Some(entry) = NestedEntry::read(record) {
        say("EPT pointer", Some(entry.ept_pointer).filter(|pointer| *pointer != 0));
    }
    if let Some(failed) = NestedEntryFailed::read(record) {
        say("offending", failed.rule.is_some().then_some(failed.offending));
    }
    if record.kind().is_some_and(RecordKind::is_step) {
        details.extend(rule(record).map(|rule| rule.to_string()));
    }
    if matches!(record.kind(), Some(RecordKind::NestedEntry | RecordKind::NestedExit)) {
        details.extend(record.field_count().map(fields));
    }
    details
}

/// L2-physical address of the VMCS that the step is about, if it is known.
pub(crate) fn vmcs23(record: &Record) -> Option<u64> {
    use RecordKind as K;
    match record.kind()? {
        K::NestedEntry | K::NestedEntryFailed | K::NestedIntercepts | K::Sync | K::Merge => Some(record.detail),
        _ => None,
    }
}

/// Whether `rip` of the step means something.
pub(crate) fn has_rip(record: &Record) -> bool {
    !matches!(record.kind(), Some(RecordKind::Sync | RecordKind::Merge))
}

fn fields(count: u32) -> String {
    format!("{count} {}", if count == 1 { "field" } else { "fields" })
}

fn injected(event: Injection) -> String {
    event_words(event.information, event.error_code).unwrap_or_else(|| "nothing".to_owned())
}

fn entry(entry: NestedEntry) -> String {
    let event = entry.event.map(|event| format!(" injecting {}", injected(event))).unwrap_or_default();
    format!("entry by {}{event}", entry.instruction)
}

/// All that L2 finds in the exit-information fields of vmcs23, in words where there are some and as it is.
fn nested_exit(record: &Record, exit: NestedExit) -> String {
    let mut text = format!("exit to L2: {}", exit_summary(record));
    for (name, value) in [
        ("qualification", exit.qualification),
        ("interruption", exit.interruption.0.into()),
        ("error-code", exit.error_code.into()),
        ("IDT-vectoring", exit.idt_vectoring.0.into()),
        ("length", exit.instruction_length.into()),
    ] {
        if value != 0 {
            text += &format!(" {name}={value:#x}");
        }
    }
    text
}

fn entry_failed(failed: NestedEntryFailed) -> String {
    let rule = if failed.rule.is_some() { format!(", {}", failed.rule) } else { String::new() };
    format!("entry of L3 failed: {}{rule}", failed.outcome)
}

fn interrupt_exit(exit: NestedInterruptExit) -> String {
    let vector = exit.vector.map(|vector| format!(" {vector:#x}")).unwrap_or_default();
    format!("interrupt{vector} for L2")
}

fn intercepts(intercepts: NestedIntercepts) -> String {
    let NestedIntercepts { pin_based, primary, secondary, exception_bitmap, .. } = intercepts;
    format!("intercepts pin-based={pin_based:#x} primary={primary:#x} secondary={secondary:#x} exceptions={exception_bitmap:#x}")
}

fn sync(sync: ShadowSync) -> String {
    let direction = match sync.direction {
        Direction::ToShadow => "to",
        Direction::FromShadow => "from",
    };
    format!("sync {direction} shadow VMCS, {}", fields(sync.fields))
}

fn merge(merge: Merge) -> String {
    format!("merge, {}: {}", fields(merge.fields), merge.groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crate::step_fields::StepFields;
    use proptest::prelude::*;

    #[test]
    fn a_step_that_is_damaged_says_so() {
        let sync = Record { kind: RecordKind::Sync as u8, reason: 7, ..Record::ZERO };
        assert_eq!(summary(&sync).as_deref(), Some("sync that no record can say"));
        let inject = Record { kind: RecordKind::NestedInject as u8, ..Record::ZERO };
        assert_eq!(summary(&inject).as_deref(), Some("nested_inject that no record can say"));
    }

    #[test]
    fn an_exit_is_no_step() {
        assert_eq!(summary(&sample::hlt()), None);
        assert_eq!(details(&sample::hlt()), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn arbitrary_steps_have_words_in_one_line(raw in prop::collection::vec(any::<u8>(), 64), kind in 2_u8..10) {
            let arbitrary: Record = zerocopy::FromBytes::read_from_bytes(&raw).expect("64 bytes");
            let record = Record { kind, ..arbitrary };
            let words = summary(&record).expect("a step has words");
            prop_assert!(!words.is_empty() && !words.contains('\n'));
            prop_assert!(details(&record).iter().all(|detail| !detail.contains('\n')));
            prop_assert_eq!(StepFields::of(&record).outcome.is_some(), kind == RecordKind::NestedEntryFailed as u8);
        }
    }
}
