//! What a guest hypervisor wants to see of its guest.

use super::{LEVEL_L3, is, step};
use crate::record::{Record, RecordKind};

/// What vmcs23 asks exits for, at an entry where that differs from the entry before. KVM: `kvm_nested_intercepts`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NestedIntercepts {
    /// L3's RIP.
    pub rip: u64,
    /// L2-physical address of vmcs23.
    pub vmcs23: u64,
    /// Pin-based VM-execution controls.
    pub pin_based: u32,
    /// Primary processor-based VM-execution controls.
    pub primary: u32,
    /// Secondary processor-based VM-execution controls; 0 if the primary controls do not activate them.
    pub secondary: u32,
    /// Exception bitmap.
    pub exception_bitmap: u32,
}

impl NestedIntercepts {
    /// The record of the step, at `tsc`.
    #[must_use]
    pub fn record(self, tsc: u64) -> Record {
        Record {
            info1: u64::from(self.primary) | u64::from(self.secondary) << 32,
            info2: self.pin_based,
            intr_info: self.exception_bitmap,
            detail: self.vmcs23,
            ..step(RecordKind::NestedIntercepts, LEVEL_L3, self.rip, tsc)
        }
    }

    /// The step that `record` tells of, if it is of this kind.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        is(record, RecordKind::NestedIntercepts).then_some(Self {
            rip: record.rip,
            vmcs23: record.detail,
            pin_based: record.info2,
            primary: record.info1 as u32,
            secondary: (record.info1 >> 32) as u32,
            exception_bitmap: record.intr_info,
        })
    }
}
