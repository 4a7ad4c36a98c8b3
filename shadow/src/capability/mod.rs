//! What L2 sees of VMX: the capability MSRs that L1 shows it, made from those of the processor.
//!
//! What always holds: a control is offered only if it has a row in [`CONTROLS`], and with it everything that it depends on;
//! what is offered is all that a VM entry of L2 accepts, and all that decides which VMCS fields L2 has. So one value,
//! [`Capabilities`], is what L2 reads, what its VM entries are checked against, and what [`vmcs::field::Existence`] is asked
//! with.
//!
//! Source: SDM 3D appendix A "VMX Capability Reporting Facility".

mod profile;
mod table;

pub use profile::{Profile, UnknownProfile};
pub use table::{CONTROLS, Control, LEFT_OUT, LeftOut, NEEDS, Row, Source, Word};

use vmcs::capability::{Capabilities, EptVpid};
use vmcs::controls::{SecondaryProcessorBased, VmFunctions};
use vmcs::field::FIELDS;
use vmcs::msr;

/// The VMCS revision identifier that L2 reads and that its VMXON and VMCS regions must begin with. It belongs to L1's own layout
/// of a VMCS region and changes with it; bit 31 is clear, as it marks a shadow VMCS.
pub const VMCS_REVISION_IDENTIFIER: u32 = 0x4c31_0001;
/// Bytes of a VMXON region and of a VMCS region.
pub const REGION_SIZE: u32 = 4096;
/// The most CR3-target values that L2 gets.
const CR3_TARGET_VALUES_MAXIMUM: u64 = 4;

/// PE, NE and PG: what VMX operation wants of CR0 where "unrestricted guest" does not count.
const CR0_FIXED_TO_1: u64 = 1 << 0 | 1 << 5 | 1 << 31;
/// CR4.VMXE.
const CR4_VMXE: u64 = 1 << 13;

/// The value of bits 53:50 of IA32_VMX_BASIC for write-back memory.
const BASIC_WRITE_BACK: u64 = 6 << 50;
const BASIC_INS_OUTS_INFORMATION: u64 = 1 << 54;
const BASIC_TRUE_CONTROLS: u64 = 1 << 55;

const MISC_TIMER_RATE: u64 = 0x1f;
const MISC_STORES_LONG_MODE_ACTIVE: u64 = 1 << 5;
const MISC_ACTIVITY_STATE_HLT: u64 = 1 << 6;
const MISC_ACTIVITY_STATE_WAIT_FOR_SIPI: u64 = 1 << 8;
const MISC_VMWRITE_ANY_FIELD: u64 = 1 << 29;

/// EPT capabilities that L1 gives where it gives EPT, whatever the processor has: it invalidates EPT13 itself.
const EPT_ALWAYS: EptVpid = EptVpid::PAGE_WALK_LENGTH_4
    .union(EptVpid::MEMORY_TYPE_WRITE_BACK)
    .union(EptVpid::INVEPT)
    .union(EptVpid::SINGLE_CONTEXT_INVEPT)
    .union(EptVpid::ALL_CONTEXT_INVEPT);
/// EPT capabilities that L1 gives where the processor has them, as EPT13 uses what EPT23 uses.
const EPT_OF_PROCESSOR: EptVpid = EptVpid::EXECUTE_ONLY_TRANSLATIONS
    .union(EptVpid::MEMORY_TYPE_UNCACHEABLE)
    .union(EptVpid::PAGES_2_MBYTE)
    .union(EptVpid::PAGES_1_GBYTE)
    .union(EptVpid::ACCESSED_AND_DIRTY_FLAGS);
/// What L1 gives where it gives VPIDs: it invalidates by the means of the processor that are at least as wide.
const VPID_ALWAYS: EptVpid = EptVpid::INVVPID
    .union(EptVpid::INDIVIDUAL_ADDRESS_INVVPID)
    .union(EptVpid::SINGLE_CONTEXT_INVVPID)
    .union(EptVpid::ALL_CONTEXT_INVVPID)
    .union(EptVpid::SINGLE_CONTEXT_RETAINING_GLOBALS_INVVPID);

/// The capability MSRs that L2 reads on a processor with `real`, or `None` if L2 has no VMX. `cr4` has the bits of CR4 that L2
/// may set, VMXE aside, which is added.
#[must_use]
pub fn offered(real: &Capabilities, profile: Profile, cr4: u64) -> Option<Capabilities> {
    if profile == Profile::Off {
        return None;
    }
    // The highest index of a field depends on which fields there are, and that on everything else.
    let fields_unknown = build(real, profile, cr4, 0)?;
    let indices = FIELDS.iter().filter(|row| row.existence.holds(&fields_unknown)).map(|row| row.field.index());
    build(real, profile, cr4, indices.max().unwrap_or(0))
}

fn build(real: &Capabilities, profile: Profile, cr4: u64, highest_index: u32) -> Option<Capabilities> {
    let word = |word: Word, is_true: bool| Some(control_word(real, profile, word, is_true));
    Capabilities::read(|number| match number {
        msr::IA32_VMX_BASIC => Some(basic(real)),
        msr::IA32_VMX_PINBASED_CTLS => word(Word::PinBased, false),
        msr::IA32_VMX_PROCBASED_CTLS => word(Word::Primary, false),
        msr::IA32_VMX_EXIT_CTLS => word(Word::Exit, false),
        msr::IA32_VMX_ENTRY_CTLS => word(Word::Entry, false),
        msr::IA32_VMX_MISC => Some(misc(real)),
        msr::IA32_VMX_CR0_FIXED0 => Some(CR0_FIXED_TO_1),
        msr::IA32_VMX_CR0_FIXED1 => Some(0xffff_ffff),
        msr::IA32_VMX_CR4_FIXED0 => Some(CR4_VMXE),
        msr::IA32_VMX_CR4_FIXED1 => Some(cr4 & real.cr4_fixed().allowed | CR4_VMXE),
        msr::IA32_VMX_VMCS_ENUM => Some(u64::from(highest_index) << 1),
        msr::IA32_VMX_PROCBASED_CTLS2 => word(Word::Secondary, false),
        msr::IA32_VMX_EPT_VPID_CAP => Some(ept_vpid(real, profile).bits()),
        // Asked for only where "enable VM functions" is offered.
        msr::IA32_VMX_VMFUNC => Some(VmFunctions::EPTP_SWITCHING.bits()),
        msr::IA32_VMX_TRUE_PINBASED_CTLS => word(Word::PinBased, true),
        msr::IA32_VMX_TRUE_PROCBASED_CTLS => word(Word::Primary, true),
        msr::IA32_VMX_TRUE_EXIT_CTLS => word(Word::Exit, true),
        msr::IA32_VMX_TRUE_ENTRY_CTLS => word(Word::Entry, true),
        // Those of controls that are not offered: nobody asks for them.
        _ => None,
    })
    .ok()
}

/// Allowed-0 settings in the lower half, allowed-1 settings in the upper one. Bits of the default1 class must be 1, except that
/// the TRUE MSRs set those free that are offered (SDM 3D A.2 "Reserved Controls and Default Settings").
fn control_word(real: &Capabilities, profile: Profile, word: Word, is_true: bool) -> u64 {
    let rows = CONTROLS.iter().map(|row| row.control).filter(|control| control.word() == word);
    let offered = rows.filter(|control| is_offered(*control, real, profile)).fold(0, |bits, control| bits | control.bits());
    let default1 = word.default1();
    let required = if is_true { default1 & !offered } else { default1 };
    u64::from(offered | default1) << 32 | u64::from(required)
}

/// Whether L2 may set `control` to 1 under this profile: L1 does it or the processor can, the profile has it, and the same is
/// true for everything that it needs.
#[must_use]
pub fn is_offered(control: Control, real: &Capabilities, profile: Profile) -> bool {
    let possible = CONTROLS.iter().any(|row| {
        row.control == control
            && match row.source {
                Source::Software => control.is_possible_on(real),
                Source::Processor => control.is_supported_by(real),
            }
    });
    possible
        && profile.has(control)
        && NEEDS.iter().filter(|(needing, _)| *needing == control).all(|&(_, needed)| is_offered(needed, real, profile))
}

fn basic(real: &Capabilities) -> u64 {
    let information = if real.basic().reports_ins_outs_information() { BASIC_INS_OUTS_INFORMATION } else { 0 };
    u64::from(VMCS_REVISION_IDENTIFIER) | u64::from(REGION_SIZE) << 32 | BASIC_WRITE_BACK | BASIC_TRUE_CONTROLS | information
}

fn misc(real: &Capabilities) -> u64 {
    let misc = real.misc();
    // Where the processor has no wait-for-SIPI, nothing can be entered in it.
    let wait_for_sipi = if misc.activity_state_wait_for_sipi() { MISC_ACTIVITY_STATE_WAIT_FOR_SIPI } else { 0 };
    u64::from(misc.preemption_timer_rate()) & MISC_TIMER_RATE
        | MISC_STORES_LONG_MODE_ACTIVE
        | MISC_ACTIVITY_STATE_HLT
        | wait_for_sipi
        | u64::from(misc.cr3_target_values()).min(CR3_TARGET_VALUES_MAXIMUM) << 16
        | MISC_VMWRITE_ANY_FIELD
}

fn ept_vpid(real: &Capabilities, profile: Profile) -> EptVpid {
    let mut capabilities = EptVpid::empty();
    if is_offered(Control::Secondary(SecondaryProcessorBased::ENABLE_EPT), real, profile) {
        capabilities |= EPT_ALWAYS | real.ept_vpid() & EPT_OF_PROCESSOR;
    }
    if is_offered(Control::Secondary(SecondaryProcessorBased::ENABLE_VPID), real, profile) {
        capabilities |= VPID_ALWAYS;
    }
    capabilities
}

#[cfg(test)]
mod tests;
