//! Copies between VMCSs: what nesting costs besides exits. Neither L2 nor L3 can see them.

use super::{LEVEL_L2, LEVEL_L3, is, step};
use crate::record::{Record, RecordKind};
use core::fmt;

/// Which way a sync goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From vmcs23 to its shadow VMCS, before L2 runs.
    ToShadow = 0,
    /// From the shadow VMCS to vmcs23, before L1 uses vmcs23.
    FromShadow = 1,
}

/// vmcs23 and its shadow VMCS were brought into agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShadowSync {
    /// L2-physical address of vmcs23.
    pub vmcs23: u64,
    /// Which way.
    pub direction: Direction,
    /// Fields that were copied.
    pub fields: u32,
}

impl ShadowSync {
    /// The record of the step, at `tsc`.
    #[must_use]
    pub const fn record(self, tsc: u64) -> Record {
        let record = step(RecordKind::Sync, LEVEL_L2, 0, tsc);
        Record { reason: self.direction as u32, detail: self.vmcs23, cost: self.fields, ..record }
    }

    /// The step that `record` tells of, if it is of this kind and has a direction.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        let direction = match record.reason {
            0 => Direction::ToShadow,
            1 => Direction::FromShadow,
            _ => return None,
        };
        is(record, RecordKind::Sync).then_some(Self { vmcs23: record.detail, direction, fields: record.cost })
    }
}

/// vmcs13 was made from vmcs12 and vmcs23.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// L2-physical address of vmcs23.
    pub vmcs23: u64,
    /// What had changed and made the fields be written.
    pub groups: MergeGroups,
    /// Fields of vmcs13 that were written.
    pub fields: u32,
}

impl Merge {
    /// The record of the step, at `tsc`.
    #[must_use]
    pub fn record(self, tsc: u64) -> Record {
        let record = step(RecordKind::Merge, LEVEL_L3, 0, tsc);
        Record { info1: self.groups.0.into(), detail: self.vmcs23, cost: self.fields, ..record }
    }

    /// The step that `record` tells of, if it is of this kind.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        let groups = MergeGroups(record.info1 as u32);
        is(record, RecordKind::Merge).then_some(Self { vmcs23: record.detail, groups, fields: record.cost })
    }
}

/// Groups of fields that a merge takes together, a bit each. Open: bits without a name are carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct MergeGroups(pub u32);

macro_rules! merge_groups {
    ($($bit:literal $constant:ident $name:literal $what:literal;)*) => {
        impl MergeGroups {
            $(#[doc = $what] pub const $constant: Self = Self(1 << $bit);)*

            /// Every group with a name, and the name.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$constant, $name),)*];
        }
    };
}

merge_groups! {
    0 EVERYTHING "everything" "All fields, because vmcs13 did not hold this vmcs23.";
    1 COPIED "copied" "Fields that vmcs13 holds with the value of vmcs23.";
    2 INJECTION "injection" "The event to inject.";
    3 PROCESSOR_BASED "processor-based" "Processor-based controls and TSC offset.";
    4 EXCEPTIONS "exceptions" "Exception bitmap, page-fault error-code mask and match.";
    5 CR0 "CR0" "CR0, its mask and its read shadow.";
    6 CR4 "CR4" "CR4, its mask and its read shadow.";
    7 LOADED "loaded" "What a \"load\" control loads or leaves as L2 had it: EFER, PAT, debug controls.";
    8 TRANSLATION "translation" "EPT pointer and VPID.";
    9 BITMAPS "bitmaps" "MSR bitmap and I/O bitmaps.";
    10 TIMER "timer" "VMX-preemption timer.";
}

impl fmt::Display for MergeGroups {
    /// The names with commas between them, bits without a name as one number; `nothing` for no group.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return formatter.write_str("nothing");
        }
        let mut rest = self.0;
        let mut separator = "";
        for (group, name) in Self::ALL.iter().filter(|(group, _)| self.0 & group.0 != 0) {
            write!(formatter, "{separator}{name}")?;
            separator = ", ";
            rest &= !group.0;
        }
        if rest == 0 { Ok(()) } else { write!(formatter, "{separator}{rest:#x}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn groups_are_single_bits_and_have_names() {
        let all = MergeGroups::ALL.iter().fold(0_u32, |all, (group, _)| {
            assert!(group.0.is_power_of_two() && all & group.0 == 0);
            all | group.0
        });
        assert_eq!(all.count_ones() as usize, MergeGroups::ALL.len());
        assert_eq!(MergeGroups(0).to_string(), "nothing");
        assert_eq!(MergeGroups(0b0110_0010).to_string(), "copied, CR0, CR4");
        assert_eq!(MergeGroups(0x8000_0001).to_string(), "everything, 0x80000000");
        assert_eq!(MergeGroups(0x8000_0000).to_string(), "0x80000000");
    }

    #[test]
    fn a_sync_without_a_direction_is_none() {
        let record = ShadowSync { vmcs23: 0x1000, direction: Direction::FromShadow, fields: 3 }.record(1);
        assert_eq!(ShadowSync::read(&record).map(|sync| sync.direction), Some(Direction::FromShadow));
        assert_eq!(ShadowSync::read(&Record { reason: 2, ..record }), None);
    }
}
