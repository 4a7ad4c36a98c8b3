//! The areas of MSRs that VM entries and VM exits load and store.
//!
//! An area is an array of entries of 16 bytes: bits 31:0 are the number of the MSR, bits 63:32 are reserved, bits 127:64 are its
//! value. The processor goes through them in order and stops at the first one that it refuses.
//!
//! Sources: SDM 3C 24.7.2 "VM-Exit Controls for MSRs", 26.4 "Loading MSRs", 27.4 "Saving MSRs", 27.6 "Loading MSRs".

use crate::msr::{IA32_BIOS_UPDT_TRIG, IA32_FS_BASE, IA32_GS_BASE, IA32_SMBASE, IA32_SMM_MONITOR_CTL, IA32_X2APIC_BASE};

/// Size of an entry in bytes.
pub const ENTRY_SIZE: u64 = 16;

/// One of the three areas of a VMCS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MsrArea {
    /// VM-entry MSR-load area.
    EntryLoad,
    /// VM-exit MSR-store area.
    ExitStore,
    /// VM-exit MSR-load area.
    ExitLoad,
}

/// Why the processor refuses an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MsrAreaMistake {
    /// Bits 63:32 aren't 0.
    Reserved,
    /// A load of IA32_FS_BASE or IA32_GS_BASE, which are loaded with the segment registers.
    SegmentBase,
    /// In x2APIC mode, one of the MSRs 800H to 8FFH.
    X2apic,
    /// Outside SMM, an MSR that only exists in SMM: a load of IA32_SMM_MONITOR_CTL, or a store of IA32_SMBASE.
    SmmOnly,
    /// A load of IA32_BIOS_UPDT_TRIG.
    Microcode,
    /// RDMSR or WRMSR of the entry would fault.
    Refused,
    /// There are more entries than IA32_VMX_MISC recommends. What a processor does then is undefined.
    BeyondMaximum,
}

impl MsrArea {
    /// What is wrong with an entry whose first 8 bytes are `first`, as far as it can be told without RDMSR or WRMSR.
    #[must_use]
    pub const fn mistake(self, first: u64, x2apic_mode: bool, in_smm: bool) -> Option<MsrAreaMistake> {
        let number = first as u32;
        let loads = !matches!(self, Self::ExitStore);
        if first >> 32 != 0 {
            Some(MsrAreaMistake::Reserved)
        } else if loads && matches!(number, IA32_FS_BASE | IA32_GS_BASE) {
            Some(MsrAreaMistake::SegmentBase)
        } else if x2apic_mode && number >> 8 == IA32_X2APIC_BASE >> 8 {
            Some(MsrAreaMistake::X2apic)
        } else if !in_smm && number == (if loads { IA32_SMM_MONITOR_CTL } else { IA32_SMBASE }) {
            Some(MsrAreaMistake::SmmOnly)
        } else if loads && number == IA32_BIOS_UPDT_TRIG {
            Some(MsrAreaMistake::Microcode)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msr;
    use MsrAreaMistake::{Microcode, Reserved, SegmentBase, SmmOnly, X2apic};

    #[test]
    fn what_each_area_refuses() {
        let rows: &[(u64, [Option<MsrAreaMistake>; 3])] = &[
            (msr::IA32_PAT as u64, [None; 3]),
            (1 << 32 | msr::IA32_PAT as u64, [Some(Reserved); 3]),
            (1 << 63 | msr::IA32_FS_BASE as u64, [Some(Reserved); 3]),
            (u64::MAX, [Some(Reserved); 3]),
            (msr::IA32_FS_BASE as u64, [Some(SegmentBase), None, Some(SegmentBase)]),
            (msr::IA32_GS_BASE as u64, [Some(SegmentBase), None, Some(SegmentBase)]),
            (msr::IA32_KERNEL_GS_BASE as u64, [None; 3]),
            (0x7ff, [None; 3]),
            (0x800, [Some(X2apic); 3]),
            (0x8ff, [Some(X2apic); 3]),
            (0x900, [None; 3]),
            (msr::IA32_SMM_MONITOR_CTL as u64, [Some(SmmOnly), None, Some(SmmOnly)]),
            (msr::IA32_SMBASE as u64, [None, Some(SmmOnly), None]),
            (msr::IA32_BIOS_UPDT_TRIG as u64, [Some(Microcode), None, Some(Microcode)]),
        ];
        for (first, expected) in rows {
            let found = [MsrArea::EntryLoad, MsrArea::ExitStore, MsrArea::ExitLoad].map(|area| area.mistake(*first, true, false));
            assert_eq!(found, *expected, "{first:#x}");
        }
        assert_eq!(MsrArea::EntryLoad.mistake(0x800, false, false), None, "xAPIC mode");
        assert_eq!(MsrArea::ExitStore.mistake(msr::IA32_SMBASE.into(), true, true), None, "in SMM");
        assert_eq!(MsrArea::ExitLoad.mistake(msr::IA32_SMM_MONITOR_CTL.into(), true, true), None, "in SMM");
    }
}
