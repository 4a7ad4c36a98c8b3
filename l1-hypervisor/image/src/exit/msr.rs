//! RDMSR and WRMSR that the MSR bitmap does not let through.
//!
//! What always holds: an MSR that is neither in this table nor passed through does not exist for the guest and raises
//! #GP, whatever the machine has.

use core::ops::RangeInclusive;

use vmcs::field::Field;
use vmcs::msr;

use super::Action;
use crate::context::register::{RAX, RCX, RDX};
use crate::fitness::feature_control;
use crate::nested::guarded;
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vmcs12::CR0_PG;

/// What L1 does for an MSR.
#[derive(Debug, Clone, Copy)]
enum Emulation {
    /// The value lives in a VMCS field; any value may be written that `accepts` allows.
    InField { field: Field, accepts: fn(u64) -> bool },
    /// Reads as a constant, and writes raise #GP.
    Constant(u64),
    /// Reads as a constant, and writes are ignored, as on real machines without the feature behind it.
    WritesIgnored(u64),
    /// IA32_EFER.
    ExtendedFeatures,
    /// IA32_TIME_STAMP_COUNTER.
    TimeStampCounter,
    /// IA32_FEATURE_CONTROL: as firmware leaves it, locked, with VMXON allowed where the guest has VMX. So writes raise #GP.
    FeatureControl,
    /// A capability MSR: what the guest is offered, if it has VMX and if that MSR follows from the others; read-only.
    Capability,
}

/// MSRs that the MSR bitmap passes through: they hold the guest's value while the guest runs, and L1 does not use them
/// or has its own value in the host-state area. Reads and writes go to the processor.
pub const PASSED_THROUGH: &[u32] = &[STAR, LSTAR, CSTAR, SYSCALL_MASK, FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX];

/// MSRs that the guest reads from the processor but writes through L1. The two of SYSENTER because KVM below would
/// make an address canonical instead of raising #GP (docs/deviations.md); kernels write them once for each processor.
pub const READ_THROUGH: &[u32] = &[
    msr::IA32_TIME_STAMP_COUNTER,
    msr::IA32_SYSENTER_CS,
    msr::IA32_SYSENTER_ESP,
    msr::IA32_SYSENTER_EIP,
    msr::IA32_PAT,
    msr::IA32_EFER,
];

const STAR: u32 = x86::msr::IA32_STAR;
const LSTAR: u32 = x86::msr::IA32_LSTAR;
const CSTAR: u32 = x86::msr::IA32_CSTAR;
const SYSCALL_MASK: u32 = x86::msr::IA32_FMASK;
const FS_BASE: u32 = x86::msr::IA32_FS_BASE;
const GS_BASE: u32 = x86::msr::IA32_GS_BASE;
const KERNEL_GS_BASE: u32 = x86::msr::IA32_KERNEL_GSBASE;
/// IA32_TSC_AUX.
pub const TSC_AUX: u32 = x86::msr::IA32_TSC_AUX;

const PLATFORM_ID: u32 = 0x17;
const BIOS_SIGNATURE: u32 = 0x8b;

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// The emulated MSRs, in ascending order.
const TABLE: &[(u32, Emulation)] = &[
    (msr::IA32_TIME_STAMP_COUNTER, Emulation::TimeStampCounter),
    (PLATFORM_ID, Emulation::Constant(0)),
    (msr::IA32_FEATURE_CONTROL, Emulation::FeatureControl),
    // Microcode revision: kernels write 0 before they ask for it.
    (BIOS_SIGNATURE, Emulation::WritesIgnored(0)),
    (msr::IA32_SYSENTER_CS, Emulation::InField { field: Field::GUEST_IA32_SYSENTER_CS, accepts: is_anything }),
    (msr::IA32_SYSENTER_ESP, Emulation::InField { field: Field::GUEST_IA32_SYSENTER_ESP, accepts: is_canonical }),
    (msr::IA32_SYSENTER_EIP, Emulation::InField { field: Field::GUEST_IA32_SYSENTER_EIP, accepts: is_canonical }),
    // Fast strings on, everything else off.
    (msr::IA32_MISC_ENABLE, Emulation::WritesIgnored(1)),
    (msr::IA32_DEBUGCTL, Emulation::InField { field: Field::GUEST_IA32_DEBUGCTL, accepts: is_debug_control }),
    (msr::IA32_PAT, Emulation::InField { field: Field::GUEST_IA32_PAT, accepts: is_pat }),
    (msr::IA32_EFER, Emulation::ExtendedFeatures),
];

/// The capability MSRs, which need no row each.
const CAPABILITIES: RangeInclusive<u32> = msr::IA32_VMX_BASIC..=msr::IA32_VMX_EXIT_CTLS2;

/// Bits 63:32 are not kept, and no value is refused.
const fn is_anything(_value: u64) -> bool {
    true
}

fn find(index: u32) -> Option<Emulation> {
    if CAPABILITIES.contains(&index) {
        return Some(Emulation::Capability);
    }
    TABLE.iter().find(|(number, _)| *number == index).map(|&(_, emulation)| emulation)
}

/// Each byte a memory type: 0, 1, 4, 5, 6 or 7 (SDM 3A 12.12.2 "IA32_PAT MSR").
fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|entry| matches!(entry, 0 | 1 | 4..=7))
}

/// Bits 63 to 47 are equal: the linear addresses that CPUID shows the guest have 48 bits (SDM 1 3.3.7.1 "Canonical
/// Addressing").
fn is_canonical(value: u64) -> bool {
    (value as i64) << 16 >> 16 == value as i64
}

/// LBR and BTF; the bits for the debug store and the performance counters need features that are hidden.
fn is_debug_control(value: u64) -> bool {
    value & !0b11 == 0
}

/// RDMSR.
pub fn handle_read<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    let index = vcpu.context.general[RCX] as u32;
    let value = match find(index) {
        Some(Emulation::InField { field, .. }) => vcpu.platform.read(field),
        Some(Emulation::Constant(value) | Emulation::WritesIgnored(value)) => value,
        Some(Emulation::ExtendedFeatures) => vcpu.platform.read(Field::GUEST_IA32_EFER),
        Some(Emulation::TimeStampCounter) => {
            let offset = vcpu.platform.read(Field::TSC_OFFSET);
            vcpu.platform.time_stamp_counter().wrapping_add(offset)
        }
        Some(Emulation::FeatureControl) => {
            let vmxon_allowed = if vcpu.features.offered.is_some() { feature_control::VMX_OUTSIDE_SMX } else { 0 };
            feature_control::LOCKED | vmxon_allowed
        }
        Some(Emulation::Capability) => match vcpu.features.offered.as_ref().and_then(|offered| offered.raw(index)) {
            Some(value) => value,
            None => return Action::GENERAL_PROTECTION,
        },
        None => return Action::GENERAL_PROTECTION,
    };
    vcpu.context.general[RAX] = value & 0xffff_ffff;
    vcpu.context.general[RDX] = value >> 32;
    Action::Complete
}

/// WRMSR.
pub fn handle_write<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    let general = &vcpu.context.general;
    let index = general[RCX] as u32;
    let value = general[RDX] << 32 | general[RAX] & 0xffff_ffff;
    match find(index) {
        Some(Emulation::InField { field, accepts }) if accepts(value) => {
            guarded::register_changes(vcpu);
            vcpu.platform.write(field, value);
            Action::Complete
        }
        Some(Emulation::WritesIgnored(_)) => Action::Complete,
        Some(Emulation::ExtendedFeatures) => {
            guarded::register_changes(vcpu);
            write_extended_features(vcpu, value)
        }
        Some(Emulation::TimeStampCounter) => {
            let offset = value.wrapping_sub(vcpu.platform.time_stamp_counter());
            // What L2 adds for L3 stays between the two.
            let change = offset.wrapping_sub(vcpu.platform.read(Field::TSC_OFFSET));
            vcpu.tsc_offset = vcpu.tsc_offset.wrapping_add(change);
            vcpu.platform.write(Field::TSC_OFFSET, offset);
            Action::Complete
        }
        Some(Emulation::InField { .. } | Emulation::Constant(_) | Emulation::FeatureControl | Emulation::Capability) | None => {
            Action::GENERAL_PROTECTION
        }
    }
}

/// Reserved bits and a change of LME while paging is on raise #GP; LMA cannot be written (SDM 3A 2.2.1 "Extended
/// Feature Enable Register").
fn write_extended_features<P: Platform>(vcpu: &mut Vcpu<'_, P>, value: u64) -> Action {
    let old = vcpu.platform.read(Field::GUEST_IA32_EFER);
    let paging = vcpu.platform.read(Field::GUEST_CR0) & CR0_PG != 0;
    if value & !vcpu.features.efer != 0 || paging && (value ^ old) & EFER_LME != 0 {
        return Action::GENERAL_PROTECTION;
    }
    vcpu.platform.write(Field::GUEST_IA32_EFER, value & !EFER_LMA | old & EFER_LMA);
    Action::Complete
}

/// Fills an MSR bitmap: reads of low and high MSRs, then writes of low and high MSRs, a bit each, 1 = exit
/// (SDM 3C 25.6.9 "MSR-Bitmap Address").
pub fn fill_bitmap(bitmap: &mut [u64; 512]) {
    bitmap.fill(!0);
    let mut pass = |index: u32, write: bool| {
        let low = index & 0x1fff;
        let bit = low as usize + if index >= 0xc000_0000 { 0x2000 } else { 0 } + if write { 0x4000 } else { 0 };
        bitmap[bit / 64] &= !(1 << (bit % 64));
    };
    for &index in PASSED_THROUGH {
        pass(index, false);
        pass(index, true);
    }
    for &index in READ_THROUGH {
        pass(index, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exits(bitmap: &[u64; 512], byte: usize, index: u32) -> bool {
        let bit = byte * 8 + (index & 0x1fff) as usize;
        bitmap[bit / 64] >> (bit % 64) & 1 != 0
    }

    #[test]
    fn only_the_listed_registers_are_passed_through() {
        let mut bitmap = [0; 512];
        fill_bitmap(&mut bitmap);
        let open: u32 = bitmap.iter().map(|word| word.count_zeros()).sum();
        assert_eq!(open as usize, 2 * PASSED_THROUGH.len() + READ_THROUGH.len());
        // SDM 3C 25.6.9: read bitmap for low MSRs at 0, for high ones at 1024, write bitmaps at 2048 and 3072.
        assert!(!exits(&bitmap, 0, msr::IA32_SYSENTER_CS) && !exits(&bitmap, 2048, msr::IA32_SYSENTER_CS));
        assert!(!exits(&bitmap, 1024, LSTAR) && !exits(&bitmap, 3072, LSTAR));
        assert!(!exits(&bitmap, 1024, msr::IA32_EFER) && exits(&bitmap, 3072, msr::IA32_EFER));
        assert!(exits(&bitmap, 0, msr::IA32_FEATURE_CONTROL));
    }

    #[test]
    fn the_table_is_in_order_and_shares_nothing_with_what_is_passed_through() {
        assert!(TABLE.is_sorted_by_key(|(index, _)| *index));
        assert!(TABLE.iter().all(|(index, _)| !PASSED_THROUGH.contains(index) && !CAPABILITIES.contains(index)));
        assert!(PASSED_THROUGH.iter().chain(READ_THROUGH).all(|index| !CAPABILITIES.contains(index)));
        assert!(READ_THROUGH.iter().all(|index| find(*index).is_some()), "writes need an emulation");
    }

    #[test]
    fn canonical_addresses() {
        for value in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
            assert!(is_canonical(value), "{value:#x}");
        }
        for value in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63] {
            assert!(!is_canonical(value), "{value:#x}");
        }
    }

    #[test]
    fn memory_types() {
        assert!(is_pat(crate::vmcs12::PAT_AFTER_RESET));
        assert!(!is_pat(2) && !is_pat(3 << 56) && !is_pat(8));
    }
}
