//! Tests that are about more than one module, and what the tests of the modules share.

mod cve_classes;

use vmcs::capability::Capabilities;
use vmcs::controls::{Entry, PinBased, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::field::Field;

use crate::field_set::FieldSet;
use crate::merge::{Outer, Owned};
use crate::vmcs23::Vmcs23;

/// The capability MSRs of Bochs's Haswell.
pub(crate) fn real() -> Capabilities {
    Capabilities::read(vmcs::testing::haswell).expect("every MSR that exists is given")
}

/// A VMCS that L2 has written these fields of.
pub(crate) fn vmcs23(rows: &[(Field, u64)]) -> Vmcs23 {
    let mut vmcs23 = Vmcs23::new();
    for &(field, value) in rows {
        vmcs23.write(field, value);
    }
    vmcs23
}

/// The same, and all of it is in vmcs13 already.
pub(crate) fn merged_vmcs23(rows: &[(Field, u64)]) -> Vmcs23 {
    let mut vmcs23 = vmcs23(rows);
    vmcs23.changed = FieldSet::EMPTY;
    vmcs23.registers_touched = false;
    vmcs23
}

/// What the image wants on Haswell.
pub(crate) fn outer() -> Outer {
    Outer {
        pin_based: PinBased::EXTERNAL_INTERRUPT_EXITING | PinBased::from_bits_retain(0x16),
        primary: Primary::HLT_EXITING
            | Primary::USE_TSC_OFFSETTING
            | Primary::MWAIT_EXITING
            | Primary::MONITOR_EXITING
            | Primary::RDPMC_EXITING
            | Primary::CR8_LOAD_EXITING
            | Primary::CR8_STORE_EXITING
            | Primary::USE_IO_BITMAPS
            | Primary::USE_MSR_BITMAPS
            | Primary::ACTIVATE_SECONDARY_CONTROLS,
        secondary: Secondary::ENABLE_EPT
            | Secondary::UNRESTRICTED_GUEST
            | Secondary::ENABLE_VPID
            | Secondary::ENABLE_RDTSCP
            | Secondary::ENABLE_INVPCID
            | Secondary::WBINVD_EXITING,
        entry: Entry::LOAD_DEBUG_CONTROLS | Entry::LOAD_IA32_PAT | Entry::LOAD_IA32_EFER,
        exception_bitmap: 0,
        owned: Owned { cr0: !0x8005_001f, cr4: !0x0017_07ff },
        cr0_required: 0x20,
        cr0_allowed: 0x9fff_ffff,
        cr4_required: 0x2000,
        tsc_offset: 0x1000,
        tpr_shadow: false,
    }
}
