//! Tests of the capability MSRs, with those of a processor that Bochs emulates.

use super::*;
use crate::field::{Existence, FIELDS, Field};
use crate::testing::haswell;
use std::vec::Vec;

#[test]
fn only_msrs_that_exist_are_read() {
    let mut asked = Vec::new();
    let capabilities = Capabilities::read(|number| {
        asked.push(number);
        haswell(number)
    })
    .expect("every MSR that exists is given");
    assert_eq!(asked, (0x480..=0x491).collect::<Vec<_>>());
    assert_eq!(capabilities.raw(0x492), None);
    assert_eq!(capabilities.raw(0x47f), None);
    assert_eq!(capabilities.raw(u32::MAX), None);
    assert_eq!(capabilities.iter().count(), 18);
}

#[test]
fn a_processor_without_secondary_controls_has_eleven_msrs() {
    let mut asked = Vec::new();
    let capabilities = Capabilities::read(|number| {
        asked.push(number);
        match number {
            msr::IA32_VMX_BASIC => Some(0x000a_0400_0000_0001),
            msr::IA32_VMX_PROCBASED_CTLS => Some(0x77f9_fffe_0401_e172),
            _ => haswell(number),
        }
    })
    .expect("every MSR that exists is given");
    assert_eq!(asked, (0x480..=0x48a).collect::<Vec<_>>());
    assert!(!capabilities.supports_secondary(SecondaryProcessorBased::ENABLE_EPT));
    assert_eq!(capabilities.primary().required, 0x0401_e172);
    assert_eq!(capabilities.ept_vpid(), EptVpid::empty());
    assert!(!Field::EPT_POINTER.information().expect("in the table").existence.holds(&capabilities));
}

#[test]
fn a_missing_msr_is_named() {
    let error = Capabilities::read(|number| haswell(number).filter(|_| number != 0x485)).expect_err("0x485 is missing");
    assert_eq!(error, MissingMsr(0x485));
    assert!(std::format!("{error}").contains("IA32_VMX_MISC"));
}

#[test]
fn true_controls_win() {
    let capabilities = Capabilities::read(haswell).expect("complete");
    assert_eq!(capabilities.primary(), AllowedSettings { required: 0x0400_6172, allowed: 0xf7f9_fffe });
    assert_eq!(capabilities.entry().required & 4, 0);
}

#[test]
fn adjusting_reports_both_kinds_of_difference() {
    let allowed = AllowedSettings { required: 0b0011, allowed: 0b0111 };
    let adjusted = allowed.adjust(0b1101);
    assert_eq!(adjusted, Adjusted { value: 0b0111, missing: 0b1000, forced: 0b0010 });
    assert!(allowed.accepts(adjusted.value));
    assert_eq!(allowed.broken(0b1101), 0b1010);
}

#[test]
fn decoded_values() {
    let capabilities = Capabilities::read(haswell).expect("complete");
    let basic = capabilities.basic();
    assert_eq!((basic.vmcs_revision_identifier(), basic.region_size(), basic.memory_type()), (0x2b, 4096, 6));
    let misc = capabilities.misc();
    assert_eq!((misc.preemption_timer_rate(), misc.cr3_target_values(), misc.recommended_msr_list_maximum()), (0, 4, 512));
    assert!(misc.activity_state_hlt() && misc.vmwrite_any_field() && !misc.zero_length_injection());
    assert_eq!(capabilities.vmcs_enum(), 0x1a);
    assert!(capabilities.ept_vpid().contains(EptVpid::INVVPID | EptVpid::PAGES_2_MBYTE | EptVpid::PAGES_1_GBYTE));
    assert!(!capabilities.ept_vpid().contains(EptVpid::ADVANCED_EPT_VIOLATION_INFORMATION));
}

#[test]
fn fields_exist_by_their_predicate() {
    let capabilities = Capabilities::read(haswell).expect("complete");
    let exists = |field: Field| field.information().is_some_and(|row| row.existence.holds(&capabilities));
    for field in
        [Field::VMREAD_BITMAP, Field::CR3_TARGET_VALUE3, Field::GUEST_IA32_PAT, Field::EPTP_LIST_ADDRESS, Field::GUEST_RIP]
    {
        assert!(exists(field), "{field}");
    }
    for field in
        [Field::PML_INDEX, Field::GUEST_SSP, Field::SECONDARY_VM_EXIT_CONTROLS, Field::SHARED_EPT_POINTER, Field::HLAT_POINTER]
    {
        assert!(!exists(field), "{field}");
    }
    let nothing = Capabilities { raw: [None; COUNT] };
    for row in FIELDS {
        assert_eq!(row.existence.holds(&nothing), row.existence == Existence::Always, "{}", row.name);
    }
}
