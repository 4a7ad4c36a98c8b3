//! What L2 sees, from real processors and from capability MSRs that make no sense.

mod document;

use std::format;
use std::vec::Vec;

use proptest::prelude::*;
use vmcs::capability::AllowedSettings;
use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::field::Field;
use vmcs::testing::haswell;

use super::*;

/// The bits of CR4 that L1 gives its guest on Bochs's Haswell.
const CR4: u64 = 0x0017_07ff;

fn on(read: impl FnMut(u32) -> Option<u64>, profile: Profile) -> Capabilities {
    let real = Capabilities::read(read).expect("every MSR that exists is given");
    offered(&real, profile, CR4).expect("the profile has VMX")
}

const PROFILES: [Profile; 5] = [Profile::Full, Profile::NoEpt, Profile::NoUnrestrictedGuest, Profile::NoVpid, Profile::Minimal];

#[test]
fn without_vmx_there_is_nothing() {
    let real = Capabilities::read(haswell).expect("every MSR that exists is given");
    assert_eq!(offered(&real, Profile::Off, CR4), None);
}

#[test]
fn the_msrs_on_haswell() {
    let expected = [
        (msr::IA32_VMX_BASIC, 0x00d8_1000_4c31_0001),
        (msr::IA32_VMX_PINBASED_CTLS, 0x0000_007f_0000_0016),
        (msr::IA32_VMX_PROCBASED_CTLS, 0xf7f9_fffe_0401_e172),
        (msr::IA32_VMX_EXIT_CTLS, 0x007f_efff_0003_6dff),
        (msr::IA32_VMX_ENTRY_CTLS, 0x0000_d3ff_0000_11ff),
        // Timer rate 0, LMA stored, HLT, wait-for-SIPI, four CR3-target values, VMWRITE of any field.
        (msr::IA32_VMX_MISC, 0x2004_0160),
        (msr::IA32_VMX_CR0_FIXED0, 0x8000_0021),
        (msr::IA32_VMX_CR0_FIXED1, 0xffff_ffff),
        (msr::IA32_VMX_CR4_FIXED0, 0x2000),
        (msr::IA32_VMX_CR4_FIXED1, 0x0017_27ff),
        // VMX_PREEMPTION_TIMER_VALUE, 0x482e.
        (msr::IA32_VMX_VMCS_ENUM, 0x2e),
        (msr::IA32_VMX_PROCBASED_CTLS2, 0x0002_78ee_0000_0000),
        (msr::IA32_VMX_EPT_VPID_CAP, 0x0f01_0633_4141),
        (msr::IA32_VMX_TRUE_PINBASED_CTLS, 0x0000_007f_0000_0016),
        (msr::IA32_VMX_TRUE_PROCBASED_CTLS, 0xf7f9_fffe_0400_6172),
        (msr::IA32_VMX_TRUE_EXIT_CTLS, 0x007f_efff_0003_6dfb),
        (msr::IA32_VMX_TRUE_ENTRY_CTLS, 0x0000_d3ff_0000_11fb),
        (msr::IA32_VMX_VMFUNC, 1),
    ];
    let text =
        |msrs: &[(u32, u64)]| -> Vec<_> { msrs.iter().map(|(number, value)| format!("{number:#x}: {value:#x}")).collect() };
    assert_eq!(text(&on(haswell, Profile::Full).iter().collect::<Vec<_>>()), text(&expected));
}

#[test]
fn each_profile_takes_away_what_it_names_and_what_depends_on_that() {
    let full = on(haswell, Profile::Full);
    let lost = |profile: Profile| {
        let less = on(haswell, profile);
        let words = [Word::PinBased, Word::Primary, Word::Secondary, Word::Exit, Word::Entry];
        words.map(|word| settings(&full, word).allowed & !settings(&less, word).allowed)
    };
    let on_ept = Secondary::UNRESTRICTED_GUEST | Secondary::ENABLE_VM_FUNCTIONS | Secondary::ENABLE_PML;
    let ept = u64::from((Secondary::ENABLE_EPT | on_ept).bits());
    assert_eq!(lost(Profile::Full), [0; 5]);
    assert_eq!(lost(Profile::NoEpt), [0, 0, ept, 0, 0]);
    assert_eq!(lost(Profile::NoUnrestrictedGuest), [0, 0, Secondary::UNRESTRICTED_GUEST.bits().into(), 0, 0]);
    assert_eq!(lost(Profile::NoVpid), [0, 0, Secondary::ENABLE_VPID.bits().into(), 0, 0]);
    // The model has no monitor trap flag that could be lost.
    let primary = Primary::NMI_WINDOW_EXITING | Primary::USE_MSR_BITMAPS | Primary::ACTIVATE_SECONDARY_CONTROLS;
    let exit = PrimaryExit::SAVE_IA32_PAT
        | PrimaryExit::LOAD_IA32_PAT
        | PrimaryExit::SAVE_IA32_EFER
        | PrimaryExit::LOAD_IA32_EFER
        | PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE;
    let minimal = [
        (PinBased::VIRTUAL_NMIS | PinBased::ACTIVATE_VMX_PREEMPTION_TIMER).bits(),
        primary.bits(),
        settings(&full, Word::Secondary).allowed as u32,
        exit.bits(),
        (Entry::LOAD_IA32_PAT | Entry::LOAD_IA32_EFER).bits(),
    ];
    assert_eq!(lost(Profile::Minimal), minimal.map(u64::from));
}

#[test]
fn msrs_and_fields_follow_from_the_controls() {
    let no_ept = on(haswell, Profile::NoEpt);
    assert_eq!(no_ept.ept_vpid(), VPID_ALWAYS);
    let no_vpid = on(haswell, Profile::NoVpid);
    assert!(!no_vpid.ept_vpid().intersects(VPID_ALWAYS) && no_vpid.ept_vpid().contains(EPT_ALWAYS));
    let minimal = on(haswell, Profile::Minimal);
    assert_eq!((minimal.raw(msr::IA32_VMX_PROCBASED_CTLS2), minimal.raw(msr::IA32_VMX_EPT_VPID_CAP)), (None, None));
    assert!(minimal.vmcs_enum() < on(haswell, Profile::Full).vmcs_enum());
    let exists = |capabilities: &Capabilities, field: Field| {
        field.information().is_some_and(|information| information.existence.holds(capabilities))
    };
    let rows = [
        (Field::EPT_POINTER, [true, false, false]),
        (Field::GUEST_PDPTE0, [true, false, false]),
        (Field::VIRTUAL_PROCESSOR_IDENTIFIER, [true, true, false]),
        (Field::MSR_BITMAP, [true, true, false]),
        (Field::VMX_PREEMPTION_TIMER_VALUE, [true, true, false]),
        (Field::GUEST_IA32_EFER, [true, true, false]),
        (Field::CR3_TARGET_VALUE3, [true, true, true]),
        (Field::PML_ADDRESS, [true, false, false]),
        (Field::VMREAD_BITMAP, [true, true, false]),
        (Field::VIRTUAL_APIC_ADDRESS, [true, true, true]),
        (Field::VM_FUNCTION_CONTROLS, [true, false, false]),
        (Field::GUEST_RIP, [true, true, true]),
    ];
    let full = on(haswell, Profile::Full);
    for (field, expected) in rows {
        assert_eq!([&full, &no_ept, &minimal].map(|capabilities| exists(capabilities, field)), expected, "{field}");
    }
}

/// KVM's nested VMX has the timer at rate 5, no CR3-target values and no uncacheable EPT structures.
#[test]
fn what_the_processor_says_of_itself_is_passed_on() {
    let kvm = on(
        |number| match number {
            msr::IA32_VMX_BASIC => Some(0x0098_1000_11e5_7ed0),
            msr::IA32_VMX_MISC => Some(0x2000_0165),
            msr::IA32_VMX_EPT_VPID_CAP => Some(0x0f01_0633_4041),
            _ => haswell(number),
        },
        Profile::Full,
    );
    assert_eq!(kvm.raw(msr::IA32_VMX_MISC), Some(0x2000_0165));
    assert_eq!(kvm.raw(msr::IA32_VMX_EPT_VPID_CAP), Some(0x0f01_0633_4041));
    assert!(!kvm.basic().reports_ins_outs_information() && kvm.basic().has_true_controls());
    assert_eq!(kvm.basic().vmcs_revision_identifier(), VMCS_REVISION_IDENTIFIER);
}

#[test]
fn ept_is_not_offered_where_its_tables_cannot_be_built() {
    let three_levels =
        on(|number| if number == msr::IA32_VMX_EPT_VPID_CAP { Some(0x0f01_0633_4101) } else { haswell(number) }, Profile::Full);
    assert!(!three_levels.supports_secondary(Secondary::ENABLE_EPT));
    assert!(!three_levels.supports_secondary(Secondary::UNRESTRICTED_GUEST));
}

#[test]
fn profiles_have_names() {
    assert_eq!(Profile::NAMED.iter().map(|(_, profile)| *profile).collect::<Vec<_>>(), PROFILES);
    for (name, profile) in Profile::NAMED {
        assert_eq!((name.parse(), profile.name()), (Ok(*profile), *name));
    }
    assert_eq!(("off".parse::<Profile>(), Profile::Off.name()), (Err(UnknownProfile), "off"));
}

/// Every named control stands in exactly one of the two tables, and both are in the order of the SDM.
#[test]
fn every_control_is_offered_or_left_out_with_a_reason() {
    let words = [Word::PinBased, Word::Primary, Word::Secondary, Word::Exit, Word::Entry];
    for word in words {
        for name in word.names() {
            let bit = 1 << name.bit;
            let rows = CONTROLS.iter().filter(|row| row.control.word() == word && row.control.bits() == bit).count();
            let reasons = LEFT_OUT.iter().filter(|left_out| left_out.word == word && left_out.bits & bit != 0).count();
            assert_eq!(rows + reasons, 1, "{}", name.title);
        }
    }
    let place = |word: Word| words.iter().position(|candidate| *candidate == word);
    assert!(CONTROLS.is_sorted_by_key(|row| (place(row.control.word()), row.control.bits())));
    assert!(CONTROLS.iter().all(|row| row.control.bits().is_power_of_two() && row.control.title() != "?"));
}

/// A control that would be named in [`NEEDS`] twice in a circle would be asked for without end.
#[test]
fn no_control_needs_itself() {
    fn depth(control: Control, left: usize) -> bool {
        left > 0 && NEEDS.iter().filter(|(needing, _)| *needing == control).all(|&(_, needed)| depth(needed, left - 1))
    }
    assert!(NEEDS.iter().all(|&(needing, _)| depth(needing, 5)));
    let secondary = CONTROLS.iter().map(|row| row.control).filter(|control| control.word() == Word::Secondary);
    for control in secondary {
        assert!(NEEDS.iter().any(|(needing, _)| *needing == control), "{} is in the secondary controls", control.title());
    }
}

fn settings(capabilities: &Capabilities, word: Word) -> AllowedSettings {
    match word {
        Word::PinBased => capabilities.pin_based(),
        Word::Primary => capabilities.primary(),
        Word::Secondary => capabilities.secondary(),
        Word::Exit => capabilities.primary_exit(),
        Word::Entry => capabilities.entry(),
    }
}

proptest! {
    /// Whatever a processor claims of itself, what L2 sees makes sense.
    #[test]
    fn nothing_beyond_the_table_is_offered(msrs in prop::array::uniform20(any::<u64>()), cr4: u64, which in 0_usize..5) {
        let real = Capabilities::read(|number| msrs.get((number - msr::IA32_VMX_BASIC) as usize).copied())
            .expect("every MSR is given");
        let profile = PROFILES[which];
        let offered = offered(&real, profile, cr4).expect("the profile has VMX");

        for word in [Word::PinBased, Word::Primary, Word::Secondary, Word::Exit, Word::Entry] {
            let AllowedSettings { required, allowed } = settings(&offered, word);
            let default1 = u64::from(word.default1());
            prop_assert_eq!(required & !allowed, 0, "required, but not allowed");
            prop_assert_eq!(required & !default1, 0, "only bits of the default1 class can be required");
            let mut in_table = default1;
            for row in CONTROLS.iter().filter(|row| row.control.word() == word) {
                let bits = u64::from(row.control.bits());
                in_table |= bits;
                let can_be_one = row.source == Source::Software || row.control.is_supported_by(&real);
                let is_free = allowed & bits != 0 && required & bits == 0;
                prop_assert!(!is_free || can_be_one && profile.has(row.control), "{}", row.control.title());
            }
            prop_assert_eq!(allowed & !in_table, 0, "allowed, but not in the table");
        }
        for &(needing, needed) in NEEDS {
            let is_allowed = |control: Control| settings(&offered, control.word()).may_be_one(control.bits().into());
            prop_assert!(!is_allowed(needing) || is_allowed(needed), "{} without {}", needing.title(), needed.title());
        }

        // The plain MSRs are the TRUE ones with the default1 class fixed to 1.
        let pairs = [
            (Word::PinBased, msr::IA32_VMX_PINBASED_CTLS, msr::IA32_VMX_TRUE_PINBASED_CTLS),
            (Word::Primary, msr::IA32_VMX_PROCBASED_CTLS, msr::IA32_VMX_TRUE_PROCBASED_CTLS),
            (Word::Exit, msr::IA32_VMX_EXIT_CTLS, msr::IA32_VMX_TRUE_EXIT_CTLS),
            (Word::Entry, msr::IA32_VMX_ENTRY_CTLS, msr::IA32_VMX_TRUE_ENTRY_CTLS),
        ];
        for (word, plain, with_free) in pairs {
            let with_free = offered.raw(with_free).expect("bit 55 of IA32_VMX_BASIC is 1");
            prop_assert_eq!(offered.raw(plain), Some(with_free | u64::from(word.default1())));
        }

        let (cr0, cr4_fixed) = (offered.cr0_fixed(), offered.cr4_fixed());
        prop_assert!(cr0.required & !cr0.allowed == 0 && cr4_fixed.required & !cr4_fixed.allowed == 0);
        prop_assert_eq!(cr4_fixed.allowed & !(cr4 | CR4_VMXE), 0);
        prop_assert!(offered.misc().cr3_target_values() <= 4 && !offered.misc().zero_length_injection());
        let functions = u64::from(offered.supports_secondary(Secondary::ENABLE_VM_FUNCTIONS));
        prop_assert_eq!(offered.vmfunc().bits(), functions);

        let fields = FIELDS.iter().filter(|row| row.existence.holds(&offered)).map(|row| row.field.index());
        prop_assert_eq!(Some(offered.vmcs_enum()), fields.max());
    }
}
