//! Tests of the table of fields.

use super::*;
use std::string::ToString;
use std::vec::Vec;

#[test]
fn every_row_is_found_by_its_encoding_and_by_its_name() {
    for row in FIELDS {
        assert_eq!(row.field.information().map(|found| found.name), Some(row.name));
        assert_eq!(Field::from_name(row.name), Some(row.field));
        assert_eq!(row.field.to_string(), row.name);
        assert_eq!(row.width, row.field.width());
        let high = row.field.high();
        let has_halves = row.width == Width::Bits64;
        assert_eq!(high.information().is_some(), has_halves, "{}", row.name);
        assert_eq!(high.name(), has_halves.then_some(row.high_name));
        assert_eq!(Field::from_name(row.high_name), has_halves.then_some(high));
        assert!(!row.field.is_high());
    }
}

#[test]
fn exactly_the_rows_are_known() {
    let known = (0..=0xffff).chain((0..64).map(|bit| 1 << (bit % 32))).filter(|encoding| Field(*encoding).name().is_some());
    let mut known: Vec<u32> = known.collect();
    known.sort_unstable();
    known.dedup();
    let halves = FIELDS.iter().filter(|row| row.width == Width::Bits64).count();
    assert_eq!(known.len(), FIELDS.len() + halves);
}

#[test]
fn reserved_bits_make_an_encoding_unknown() {
    for bit in (15..32).chain([12]) {
        assert!(Field(Field::GUEST_RIP.0 | 1 << bit).information().is_none(), "bit {bit}");
    }
    assert_eq!(Field(0x1_681e).to_string(), "0x1681e");
    assert_eq!(Field(0x7e).to_string(), "0x007e");
}

#[test]
fn the_parts_of_an_encoding() {
    let field = Field::GUEST_RIP;
    assert_eq!((field.width(), field.kind(), field.index()), (Width::Natural, Kind::Guest, 15));
    let field = Field::VM_INSTRUCTION_ERROR;
    assert_eq!((field.width(), field.kind(), field.index()), (Width::Bits32, Kind::ReadOnly, 0));
    let field = Field::HOST_IA32_EFER.high();
    assert_eq!((field.width(), field.kind(), field.index(), field.is_high()), (Width::Bits64, Kind::Host, 1, true));
    let field = Field::EPTP_INDEX;
    assert_eq!((field.width(), field.kind(), field.index()), (Width::Bits16, Kind::Control, 2));
}

#[test]
fn rows_ascend_within_a_width_and_titles_differ() {
    for (a, b) in FIELDS.iter().zip(FIELDS.iter().skip(1)) {
        assert!(a.width != b.width || a.field < b.field, "{} before {}", a.name, b.name);
    }
    let mut titles: Vec<&str> = FIELDS.iter().map(|row| row.title).collect();
    titles.sort_unstable();
    titles.dedup();
    assert_eq!(titles.len(), FIELDS.len());
}

#[test]
fn addresses_have_an_alignment_that_is_a_power_of_two() {
    for row in FIELDS {
        let Some(address) = row.address else { continue };
        assert!(address.alignment.is_power_of_two(), "{}", row.name);
        assert!(matches!(row.width, Width::Bits64 | Width::Natural), "{}", row.name);
    }
}

/// Crate `x86` transcribed the encodings independently of us.
#[test]
fn encodings_agree_with_crate_x86() {
    use x86::vmx::vmcs::{control, guest, host, ro};
    macro_rules! same {
        ($($area:ident { $($ours:ident $theirs:ident;)* })*) => {$($(
            assert_eq!(Field::$ours.0, $area::$theirs, stringify!($ours));
        )*)*};
    }
    same! {
        control {
            VIRTUAL_PROCESSOR_IDENTIFIER VPID;
            POSTED_INTERRUPT_NOTIFICATION_VECTOR POSTED_INTERRUPT_NOTIFICATION_VECTOR;
            EPTP_INDEX EPTP_INDEX;
            IO_BITMAP_A IO_BITMAP_A_ADDR_FULL;
            IO_BITMAP_B IO_BITMAP_B_ADDR_FULL;
            MSR_BITMAP MSR_BITMAPS_ADDR_FULL;
            VM_EXIT_MSR_STORE_ADDRESS VMEXIT_MSR_STORE_ADDR_FULL;
            VM_EXIT_MSR_LOAD_ADDRESS VMEXIT_MSR_LOAD_ADDR_FULL;
            VM_ENTRY_MSR_LOAD_ADDRESS VMENTRY_MSR_LOAD_ADDR_FULL;
            EXECUTIVE_VMCS_POINTER EXECUTIVE_VMCS_PTR_FULL;
            PML_ADDRESS PML_ADDR_FULL;
            TSC_OFFSET TSC_OFFSET_FULL;
            VIRTUAL_APIC_ADDRESS VIRT_APIC_ADDR_FULL;
            APIC_ACCESS_ADDRESS APIC_ACCESS_ADDR_FULL;
            POSTED_INTERRUPT_DESCRIPTOR_ADDRESS POSTED_INTERRUPT_DESC_ADDR_FULL;
            VM_FUNCTION_CONTROLS VM_FUNCTION_CONTROLS_FULL;
            EPT_POINTER EPTP_FULL;
            EOI_EXIT_BITMAP_0 EOI_EXIT0_FULL;
            EOI_EXIT_BITMAP_1 EOI_EXIT1_FULL;
            EOI_EXIT_BITMAP_2 EOI_EXIT2_FULL;
            EOI_EXIT_BITMAP_3 EOI_EXIT3_FULL;
            EPTP_LIST_ADDRESS EPTP_LIST_ADDR_FULL;
            VMREAD_BITMAP VMREAD_BITMAP_ADDR_FULL;
            VMWRITE_BITMAP VMWRITE_BITMAP_ADDR_FULL;
            VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS VIRT_EXCEPTION_INFO_ADDR_FULL;
            XSS_EXITING_BITMAP XSS_EXITING_BITMAP_FULL;
            ENCLS_EXITING_BITMAP ENCLS_EXITING_BITMAP_FULL;
            SUB_PAGE_PERMISSION_TABLE_POINTER SUBPAGE_PERM_TABLE_PTR_FULL;
            TSC_MULTIPLIER TSC_MULTIPLIER_FULL;
            PIN_BASED_VM_EXECUTION_CONTROLS PINBASED_EXEC_CONTROLS;
            PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS PRIMARY_PROCBASED_EXEC_CONTROLS;
            EXCEPTION_BITMAP EXCEPTION_BITMAP;
            PAGE_FAULT_ERROR_CODE_MASK PAGE_FAULT_ERR_CODE_MASK;
            PAGE_FAULT_ERROR_CODE_MATCH PAGE_FAULT_ERR_CODE_MATCH;
            CR3_TARGET_COUNT CR3_TARGET_COUNT;
            PRIMARY_VM_EXIT_CONTROLS VMEXIT_CONTROLS;
            VM_EXIT_MSR_STORE_COUNT VMEXIT_MSR_STORE_COUNT;
            VM_EXIT_MSR_LOAD_COUNT VMEXIT_MSR_LOAD_COUNT;
            VM_ENTRY_CONTROLS VMENTRY_CONTROLS;
            VM_ENTRY_MSR_LOAD_COUNT VMENTRY_MSR_LOAD_COUNT;
            VM_ENTRY_INTERRUPTION_INFORMATION VMENTRY_INTERRUPTION_INFO_FIELD;
            VM_ENTRY_EXCEPTION_ERROR_CODE VMENTRY_EXCEPTION_ERR_CODE;
            VM_ENTRY_INSTRUCTION_LENGTH VMENTRY_INSTRUCTION_LEN;
            TPR_THRESHOLD TPR_THRESHOLD;
            SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS SECONDARY_PROCBASED_EXEC_CONTROLS;
            PLE_GAP PLE_GAP;
            PLE_WINDOW PLE_WINDOW;
            CR0_GUEST_HOST_MASK CR0_GUEST_HOST_MASK;
            CR4_GUEST_HOST_MASK CR4_GUEST_HOST_MASK;
            CR0_READ_SHADOW CR0_READ_SHADOW;
            CR4_READ_SHADOW CR4_READ_SHADOW;
            CR3_TARGET_VALUE0 CR3_TARGET_VALUE0;
            CR3_TARGET_VALUE1 CR3_TARGET_VALUE1;
            CR3_TARGET_VALUE2 CR3_TARGET_VALUE2;
            CR3_TARGET_VALUE3 CR3_TARGET_VALUE3;
        }
        guest {
            GUEST_ES_SELECTOR ES_SELECTOR;
            GUEST_CS_SELECTOR CS_SELECTOR;
            GUEST_SS_SELECTOR SS_SELECTOR;
            GUEST_DS_SELECTOR DS_SELECTOR;
            GUEST_FS_SELECTOR FS_SELECTOR;
            GUEST_GS_SELECTOR GS_SELECTOR;
            GUEST_LDTR_SELECTOR LDTR_SELECTOR;
            GUEST_TR_SELECTOR TR_SELECTOR;
            GUEST_INTERRUPT_STATUS INTERRUPT_STATUS;
            PML_INDEX PML_INDEX;
            VMCS_LINK_POINTER LINK_PTR_FULL;
            GUEST_IA32_DEBUGCTL IA32_DEBUGCTL_FULL;
            GUEST_IA32_PAT IA32_PAT_FULL;
            GUEST_IA32_EFER IA32_EFER_FULL;
            GUEST_IA32_PERF_GLOBAL_CTRL IA32_PERF_GLOBAL_CTRL_FULL;
            GUEST_PDPTE0 PDPTE0_FULL;
            GUEST_PDPTE1 PDPTE1_FULL;
            GUEST_PDPTE2 PDPTE2_FULL;
            GUEST_PDPTE3 PDPTE3_FULL;
            GUEST_IA32_BNDCFGS IA32_BNDCFGS_FULL;
            GUEST_IA32_RTIT_CTL IA32_RTIT_CTL_FULL;
            GUEST_ES_LIMIT ES_LIMIT;
            GUEST_CS_LIMIT CS_LIMIT;
            GUEST_SS_LIMIT SS_LIMIT;
            GUEST_DS_LIMIT DS_LIMIT;
            GUEST_FS_LIMIT FS_LIMIT;
            GUEST_GS_LIMIT GS_LIMIT;
            GUEST_LDTR_LIMIT LDTR_LIMIT;
            GUEST_TR_LIMIT TR_LIMIT;
            GUEST_GDTR_LIMIT GDTR_LIMIT;
            GUEST_IDTR_LIMIT IDTR_LIMIT;
            GUEST_ES_ACCESS_RIGHTS ES_ACCESS_RIGHTS;
            GUEST_CS_ACCESS_RIGHTS CS_ACCESS_RIGHTS;
            GUEST_SS_ACCESS_RIGHTS SS_ACCESS_RIGHTS;
            GUEST_DS_ACCESS_RIGHTS DS_ACCESS_RIGHTS;
            GUEST_FS_ACCESS_RIGHTS FS_ACCESS_RIGHTS;
            GUEST_GS_ACCESS_RIGHTS GS_ACCESS_RIGHTS;
            GUEST_LDTR_ACCESS_RIGHTS LDTR_ACCESS_RIGHTS;
            GUEST_TR_ACCESS_RIGHTS TR_ACCESS_RIGHTS;
            GUEST_INTERRUPTIBILITY_STATE INTERRUPTIBILITY_STATE;
            GUEST_ACTIVITY_STATE ACTIVITY_STATE;
            GUEST_SMBASE SMBASE;
            GUEST_IA32_SYSENTER_CS IA32_SYSENTER_CS;
            VMX_PREEMPTION_TIMER_VALUE VMX_PREEMPTION_TIMER_VALUE;
            GUEST_CR0 CR0;
            GUEST_CR3 CR3;
            GUEST_CR4 CR4;
            GUEST_ES_BASE ES_BASE;
            GUEST_CS_BASE CS_BASE;
            GUEST_SS_BASE SS_BASE;
            GUEST_DS_BASE DS_BASE;
            GUEST_FS_BASE FS_BASE;
            GUEST_GS_BASE GS_BASE;
            GUEST_LDTR_BASE LDTR_BASE;
            GUEST_TR_BASE TR_BASE;
            GUEST_GDTR_BASE GDTR_BASE;
            GUEST_IDTR_BASE IDTR_BASE;
            GUEST_DR7 DR7;
            GUEST_RSP RSP;
            GUEST_RIP RIP;
            GUEST_RFLAGS RFLAGS;
            GUEST_PENDING_DEBUG_EXCEPTIONS PENDING_DBG_EXCEPTIONS;
            GUEST_IA32_SYSENTER_ESP IA32_SYSENTER_ESP;
            GUEST_IA32_SYSENTER_EIP IA32_SYSENTER_EIP;
        }
        host {
            HOST_ES_SELECTOR ES_SELECTOR;
            HOST_CS_SELECTOR CS_SELECTOR;
            HOST_SS_SELECTOR SS_SELECTOR;
            HOST_DS_SELECTOR DS_SELECTOR;
            HOST_FS_SELECTOR FS_SELECTOR;
            HOST_GS_SELECTOR GS_SELECTOR;
            HOST_TR_SELECTOR TR_SELECTOR;
            HOST_IA32_PAT IA32_PAT_FULL;
            HOST_IA32_EFER IA32_EFER_FULL;
            HOST_IA32_PERF_GLOBAL_CTRL IA32_PERF_GLOBAL_CTRL_FULL;
            HOST_IA32_SYSENTER_CS IA32_SYSENTER_CS;
            HOST_CR0 CR0;
            HOST_CR3 CR3;
            HOST_CR4 CR4;
            HOST_FS_BASE FS_BASE;
            HOST_GS_BASE GS_BASE;
            HOST_TR_BASE TR_BASE;
            HOST_GDTR_BASE GDTR_BASE;
            HOST_IDTR_BASE IDTR_BASE;
            HOST_IA32_SYSENTER_ESP IA32_SYSENTER_ESP;
            HOST_IA32_SYSENTER_EIP IA32_SYSENTER_EIP;
            HOST_RSP RSP;
            HOST_RIP RIP;
        }
        ro {
            GUEST_PHYSICAL_ADDRESS GUEST_PHYSICAL_ADDR_FULL;
            VM_INSTRUCTION_ERROR VM_INSTRUCTION_ERROR;
            EXIT_REASON EXIT_REASON;
            VM_EXIT_INTERRUPTION_INFORMATION VMEXIT_INTERRUPTION_INFO;
            VM_EXIT_INTERRUPTION_ERROR_CODE VMEXIT_INTERRUPTION_ERR_CODE;
            IDT_VECTORING_INFORMATION IDT_VECTORING_INFO;
            IDT_VECTORING_ERROR_CODE IDT_VECTORING_ERR_CODE;
            VM_EXIT_INSTRUCTION_LENGTH VMEXIT_INSTRUCTION_LEN;
            VM_EXIT_INSTRUCTION_INFORMATION VMEXIT_INSTRUCTION_INFO;
            EXIT_QUALIFICATION EXIT_QUALIFICATION;
            IO_RCX IO_RCX;
            IO_RSI IO_RSI;
            IO_RDI IO_RDI;
            IO_RIP IO_RIP;
            GUEST_LINEAR_ADDRESS GUEST_LINEAR_ADDR;
        }
    }
}
