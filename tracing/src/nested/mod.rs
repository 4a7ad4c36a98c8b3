//! What L1 does between an exit of L3 and the next entry, as records of 64 bytes like the exits themselves.
//!
//! Each kind of step is a type with `record`, which L1 calls, and `read`, which everything that shows records calls: the
//! layout of a kind is in one place. What always holds:
//!
//! * A step has the time-stamp counter of its own moment in `tsc` and no cost. Where other records have `cost`, it has
//!   the number of VMCS fields that it copied, 0 if it copies none.
//! * A step follows the record of the exit in whose handling it took place, see [`crate::ring::Ring::amend`].
//! * `rip` is L3's, except for [`NestedEntryFailed`], where L3 was not reached and it is that of L2's instruction.
//! * What is read from a damaged record may mean nothing; it never panics.

mod copy;
mod entry;
mod entry_failed;
mod exit;
mod instruction;
mod intercepts;

pub use copy::{Direction, Merge, MergeGroups, ShadowSync};
pub use entry::{NestedEntry, NestedInject};
pub use entry_failed::{EntryRule, NestedEntryFailed};
pub use exit::{NestedExit, NestedInterruptExit};
pub use instruction::{InstructionResult, VmxInstruction};
pub use intercepts::NestedIntercepts;

use crate::record::{Record, RecordKind};
use vmcs::event::{Injection, InterruptionInformation};

/// Level of the guest hypervisor.
pub const LEVEL_L2: u8 = 2;
/// Level of its guest.
pub const LEVEL_L3: u8 = 3;
/// Level of the hypervisor that writes the records.
const LEVEL_L1: u8 = 1;

/// A step of `kind`, with nothing filled in but what all have.
const fn step(kind: RecordKind, level: u8, rip: u64, tsc: u64) -> Record {
    Record { kind: kind as u8, level, owner: LEVEL_L1, rip, tsc, ..Record::ZERO }
}

fn is(record: &Record, kind: RecordKind) -> bool {
    record.kind == kind as u8
}

/// `record` with the event to inject in `intr_info`, `error_code` and `instruction_length`, all 0 for none.
fn with_event(record: Record, event: Option<Injection>) -> Record {
    let Some(event) = event else { return record };
    Record {
        intr_info: event.information.0,
        error_code: event.error_code.unwrap_or(0),
        instruction_length: event.instruction_length.and_then(|length| u8::try_from(length).ok()).unwrap_or(0),
        ..record
    }
}

/// What [`with_event`] wrote.
fn event(record: &Record) -> Option<Injection> {
    let information = InterruptionInformation(record.intr_info);
    information.is_valid().then(|| Injection {
        information,
        error_code: information.has_error_code().then_some(record.error_code),
        instruction_length: (record.instruction_length != 0).then_some(record.instruction_length.into()),
    })
}

#[cfg(test)]
mod tests;
