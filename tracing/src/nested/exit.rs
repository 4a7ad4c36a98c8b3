//! Exits of L3 as L2 sees them.

use super::{LEVEL_L3, is, step};
use crate::record::{Record, RecordKind};
use crate::rule::ReflectionRule;
use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::{BasicExitReason, ExitReason};

/// L2 sees an exit of L3: what was written into vmcs23. KVM: `kvm_nested_vmexit_inject`.
///
/// The exit that the processor made is a record of its own, [`RecordKind::Exit`] of level 3, KVM's `kvm_nested_vmexit`.
/// The two can differ: an interrupt of the machine becomes one of L2's devices, an EPT violation a misconfiguration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NestedExit {
    /// L3's RIP.
    pub rip: u64,
    /// The exit reason in vmcs23.
    pub reason: ExitReason,
    /// The exit qualification in vmcs23.
    pub qualification: u64,
    /// The guest-physical address in vmcs23; 0 where the exit defines none.
    pub guest_physical_address: u64,
    /// The VM-exit interruption information in vmcs23.
    pub interruption: InterruptionInformation,
    /// The VM-exit interruption error code in vmcs23.
    pub error_code: u32,
    /// The IDT-vectoring information in vmcs23.
    pub idt_vectoring: InterruptionInformation,
    /// The VM-exit instruction length in vmcs23, in bytes; 0 where the exit defines none.
    pub instruction_length: u8,
    /// The rule that decided that this is L2's.
    pub rule: ReflectionRule,
    /// Fields of vmcs23 that were written.
    pub fields: u32,
}

impl NestedExit {
    /// The record of the step, at `tsc`.
    #[must_use]
    pub const fn record(self, tsc: u64) -> Record {
        Record {
            reason: self.reason.0,
            info1: self.qualification,
            info2: self.idt_vectoring.0,
            intr_info: self.interruption.0,
            error_code: self.error_code,
            instruction_length: self.instruction_length,
            rule: self.rule.0,
            cost: self.fields,
            detail: self.guest_physical_address,
            ..step(RecordKind::NestedExit, LEVEL_L3, self.rip, tsc)
        }
    }

    /// The step that `record` tells of, if it is of this kind.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        is(record, RecordKind::NestedExit).then(|| Self {
            rip: record.rip,
            reason: record.exit_reason(),
            qualification: record.info1,
            guest_physical_address: record.detail,
            interruption: InterruptionInformation(record.intr_info),
            error_code: record.error_code,
            idt_vectoring: InterruptionInformation(record.info2),
            instruction_length: record.instruction_length,
            rule: ReflectionRule(record.rule),
            fields: record.cost,
        })
    }
}

/// An interrupt for L2 is pending, so L1 leaves L3: the reason for the [`NestedExit`] that follows, as in KVM, where
/// this is `kvm_nested_intr_vmexit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NestedInterruptExit {
    /// L3's RIP.
    pub rip: u64,
    /// The vector, if L2 asked for it with "acknowledge interrupt on exit".
    pub vector: Option<u8>,
}

impl NestedInterruptExit {
    /// The record of the step, at `tsc`.
    #[must_use]
    pub fn record(self, tsc: u64) -> Record {
        let information = self.vector.map_or(InterruptionInformation(0), InterruptionInformation::external_interrupt);
        let reason = BasicExitReason::EXTERNAL_INTERRUPT.0.into();
        Record { reason, intr_info: information.0, ..step(RecordKind::NestedInterruptExit, LEVEL_L3, self.rip, tsc) }
    }

    /// The step that `record` tells of, if it is of this kind.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        let information = InterruptionInformation(record.intr_info);
        is(record, RecordKind::NestedInterruptExit)
            .then(|| Self { rip: record.rip, vector: information.is_valid().then(|| information.vector()) })
    }
}
