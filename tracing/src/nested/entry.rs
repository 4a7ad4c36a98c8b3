//! Entries of L3 that succeeded, and events that L1 injects on the way.

use super::{LEVEL_L3, event, is, step, with_event};
use crate::record::{Record, RecordKind};
use vmcs::event::Injection;
use vmcs::exit_reason::BasicExitReason;

/// VMLAUNCH or VMRESUME of L2 succeeded: L3 runs next. KVM: `kvm_nested_vmenter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NestedEntry {
    /// [`BasicExitReason::VMLAUNCH`] or [`BasicExitReason::VMRESUME`].
    pub instruction: BasicExitReason,
    /// L3's RIP.
    pub rip: u64,
    /// L2-physical address of vmcs23.
    pub vmcs23: u64,
    /// The EPT pointer of vmcs23; 0 without "enable EPT".
    pub ept_pointer: u64,
    /// The event that L2 injects.
    pub event: Option<Injection>,
    /// Fields of vmcs13 that were written for this entry.
    pub fields: u32,
}

impl NestedEntry {
    /// The record of the step, at `tsc`.
    #[must_use]
    pub fn record(self, tsc: u64) -> Record {
        let record = step(RecordKind::NestedEntry, LEVEL_L3, self.rip, tsc);
        let reason = self.instruction.0.into();
        with_event(Record { reason, info1: self.ept_pointer, detail: self.vmcs23, cost: self.fields, ..record }, self.event)
    }

    /// The step that `record` tells of, if it is of this kind.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        is(record, RecordKind::NestedEntry).then(|| Self {
            instruction: record.exit_reason().basic(),
            rip: record.rip,
            vmcs23: record.detail,
            ept_pointer: record.info1,
            event: event(record),
            fields: record.cost,
        })
    }
}

/// L1 injects an event into L3 on L2's behalf, without L2 having run: one that L2 had injected, or that L3 caused, and
/// whose delivery an exit that L1 handled itself cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NestedInject {
    /// L3's RIP.
    pub rip: u64,
    /// The event.
    pub event: Injection,
}

impl NestedInject {
    /// The record of the step, at `tsc`.
    #[must_use]
    pub fn record(self, tsc: u64) -> Record {
        with_event(step(RecordKind::NestedInject, LEVEL_L3, self.rip, tsc), Some(self.event))
    }

    /// The step that `record` tells of, if it is of this kind and holds an event.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        let event = event(record).filter(|_| is(record, RecordKind::NestedInject))?;
        Some(Self { rip: record.rip, event })
    }
}
