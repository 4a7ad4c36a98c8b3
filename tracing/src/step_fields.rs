//! Fields of the event of a step that only some kinds of steps have.

use crate::nested::{Direction, EntryRule, Merge, NestedEntry, NestedEntryFailed, NestedExit, NestedIntercepts, ShadowSync};
use crate::record::{Record, RecordKind};
use crate::words::rule;

/// What the kind of step says; the names are those of the event's fields.
#[derive(Debug, Default)]
pub(crate) struct StepFields {
    pub(crate) reason: Option<String>,
    pub(crate) info1: Option<String>,
    pub(crate) info2: Option<String>,
    pub(crate) intr_info: Option<String>,
    pub(crate) error_code: Option<String>,
    pub(crate) instruction_length: Option<u8>,
    pub(crate) guest_physical_address: Option<String>,
    pub(crate) ept_pointer: Option<String>,
    pub(crate) outcome: Option<String>,
    pub(crate) rule: Option<String>,
    pub(crate) offending: Option<String>,
    pub(crate) pin_based: Option<String>,
    pub(crate) primary: Option<String>,
    pub(crate) secondary: Option<String>,
    pub(crate) exception_bitmap: Option<String>,
    pub(crate) direction: Option<&'static str>,
    pub(crate) groups: Option<String>,
}

impl StepFields {
    /// The fields of `record`, none if it is no step.
    pub(crate) fn of(record: &Record) -> Self {
        let fields = match record.kind() {
            Some(RecordKind::NestedEntry) => NestedEntry::read(record).map(|entry| Self::entry(record, entry)),
            Some(RecordKind::NestedExit) => NestedExit::read(record).map(|exit| Self::exit(record, exit)),
            Some(RecordKind::NestedInject | RecordKind::NestedInterruptExit) => Some(Self::event(record)),
            Some(RecordKind::NestedEntryFailed) => NestedEntryFailed::read(record).map(Self::entry_failed),
            Some(RecordKind::NestedIntercepts) => NestedIntercepts::read(record).map(Self::intercepts),
            Some(RecordKind::Sync) => ShadowSync::read(record).map(Self::sync),
            Some(RecordKind::Merge) => Merge::read(record).map(Self::merge),
            Some(RecordKind::Exit | RecordKind::EntryFailure) | None => None,
        };
        fields.unwrap_or_default()
    }

    fn event(record: &Record) -> Self {
        Self {
            intr_info: Some(hexadecimal(record.intr_info.into())),
            error_code: Some(hexadecimal(record.error_code.into())),
            ..Self::default()
        }
    }

    fn entry(record: &Record, entry: NestedEntry) -> Self {
        let ept_pointer = Some(hexadecimal(entry.ept_pointer));
        Self { reason: Some(entry.instruction.to_string()), ept_pointer, ..Self::event(record) }
    }

    fn exit(record: &Record, exit: NestedExit) -> Self {
        Self {
            reason: Some(exit.reason.to_string()),
            info1: Some(hexadecimal(exit.qualification)),
            info2: Some(hexadecimal(exit.idt_vectoring.0.into())),
            instruction_length: Some(exit.instruction_length),
            guest_physical_address: Some(hexadecimal(exit.guest_physical_address)),
            rule: rule(record).map(|rule| rule.to_string()),
            ..Self::event(record)
        }
    }

    fn entry_failed(failed: NestedEntryFailed) -> Self {
        let broken = failed.rule != EntryRule::NONE;
        Self {
            outcome: Some(failed.outcome.to_string()),
            rule: broken.then(|| failed.rule.to_string()),
            offending: broken.then(|| hexadecimal(failed.offending)),
            ..Self::default()
        }
    }

    fn intercepts(intercepts: NestedIntercepts) -> Self {
        Self {
            pin_based: Some(hexadecimal(intercepts.pin_based.into())),
            primary: Some(hexadecimal(intercepts.primary.into())),
            secondary: Some(hexadecimal(intercepts.secondary.into())),
            exception_bitmap: Some(hexadecimal(intercepts.exception_bitmap.into())),
            ..Self::default()
        }
    }

    fn sync(sync: ShadowSync) -> Self {
        let direction = match sync.direction {
            Direction::ToShadow => "to_shadow",
            Direction::FromShadow => "from_shadow",
        };
        Self { direction: Some(direction), ..Self::default() }
    }

    fn merge(merge: Merge) -> Self {
        Self { groups: Some(merge.groups.to_string()), ..Self::default() }
    }
}

/// How bit patterns and addresses stand in events.
pub(crate) fn hexadecimal(value: u64) -> String {
    format!("{value:#x}")
}
