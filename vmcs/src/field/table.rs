//! The table of every VMCS field, in the order of SDM 3D appendix B "Field Encoding in VMCS".
//!
//! One line a field: encoding, name, title in the SDM, the predicate that makes it exist, the address it holds. Width and kind
//! follow from the encoding. A new field is one more line; everything else is derived.

use super::{Address, AddressSpace, Existence, Field, FieldInformation};
use crate::controls::{
    Entry as EntryControls, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryExit, SecondaryProcessorBased,
    TertiaryProcessorBased, VmFunctions,
};
use Existence::*;

/// Not an address.
const NONE: Option<Address> = None;
/// Physical address of a 4-KByte page.
const PAGE: Option<Address> = address(AddressSpace::Physical, 4096, false);
/// Physical address of a list of 16-byte entries, SDM 3C 24.7.2 "VM-Exit Controls for MSRs".
const MSR_AREA: Option<Address> = address(AddressSpace::Physical, 16, false);
/// Physical address of 64 bytes, SDM 3C 29.6 "Posted-Interrupt Processing".
const POSTED_INTERRUPT_DESCRIPTOR: Option<Address> = address(AddressSpace::Physical, 64, false);
/// Physical address of a table of 8-byte entries, SDM 3C 24.6.8 "Controls for APIC Virtualization".
const PID_POINTER_TABLE: Option<Address> = address(AddressSpace::Physical, 8, false);
/// Physical address of a page table with flags below it.
const TABLE_POINTER: Option<Address> = address(AddressSpace::Physical, 4096, true);
/// Guest-physical address of a page table with flags below it.
const GUEST_TABLE_POINTER: Option<Address> = address(AddressSpace::GuestPhysical, 4096, true);
/// Guest-physical address of a byte.
const GUEST_BYTE: Option<Address> = address(AddressSpace::GuestPhysical, 1, false);

const fn address(space: AddressSpace, alignment: u64, low_bits_are_flags: bool) -> Option<Address> {
    Some(Address { space, alignment, low_bits_are_flags })
}

macro_rules! fields {
    ($($encoding:literal $name:ident $title:literal, $existence:expr, $address:ident;)*) => {
        #[allow(missing_docs, reason = "each constant is documented by its title in the SDM")]
        impl Field {
            $(#[doc = concat!($title, ".")] pub const $name: Field = Field($encoding);)*
        }

        /// Every field, sorted by SDM 3D appendix B: by width (16, 64, 32 bits, natural), within a width by encoding.
        pub static FIELDS: &[FieldInformation; [$($encoding),*].len()] = &[$(FieldInformation {
            field: Field($encoding),
            name: stringify!($name),
            high_name: concat!(stringify!($name), "_HIGH"),
            title: $title,
            width: Field($encoding).width(),
            kind: Field($encoding).kind(),
            existence: $existence,
            address: $address,
        },)*];
    };
}

#[rustfmt::skip]
fields! {
    // SDM 3D B.1.1 "16-Bit Control Fields".
    0x0000 VIRTUAL_PROCESSOR_IDENTIFIER "Virtual-processor identifier (VPID)", Secondary(SecondaryProcessorBased::ENABLE_VPID), NONE;
    0x0002 POSTED_INTERRUPT_NOTIFICATION_VECTOR "Posted-interrupt notification vector", PinBased(PinBased::PROCESS_POSTED_INTERRUPTS), NONE;
    0x0004 EPTP_INDEX "EPTP index", Secondary(SecondaryProcessorBased::EPT_VIOLATION_VE), NONE;
    0x0006 HLAT_PREFIX_SIZE "HLAT prefix size", Tertiary(TertiaryProcessorBased::ENABLE_HLAT), NONE;
    0x0008 LAST_PID_POINTER_INDEX "Last PID-pointer index", Tertiary(TertiaryProcessorBased::IPI_VIRTUALIZATION), NONE;
    0x000a VIRTUAL_TIMER_VECTOR "Virtual timer vector", Tertiary(TertiaryProcessorBased::APIC_TIMER_VIRTUALIZATION), NONE;

    // SDM 3D B.1.2 "16-Bit Guest-State Fields".
    0x0800 GUEST_ES_SELECTOR "Guest ES selector", Always, NONE;
    0x0802 GUEST_CS_SELECTOR "Guest CS selector", Always, NONE;
    0x0804 GUEST_SS_SELECTOR "Guest SS selector", Always, NONE;
    0x0806 GUEST_DS_SELECTOR "Guest DS selector", Always, NONE;
    0x0808 GUEST_FS_SELECTOR "Guest FS selector", Always, NONE;
    0x080a GUEST_GS_SELECTOR "Guest GS selector", Always, NONE;
    0x080c GUEST_LDTR_SELECTOR "Guest LDTR selector", Always, NONE;
    0x080e GUEST_TR_SELECTOR "Guest TR selector", Always, NONE;
    0x0810 GUEST_INTERRUPT_STATUS "Guest interrupt status", Secondary(SecondaryProcessorBased::VIRTUAL_INTERRUPT_DELIVERY), NONE;
    0x0812 PML_INDEX "PML index", Secondary(SecondaryProcessorBased::ENABLE_PML), NONE;
    0x0814 GUEST_UINV "Guest UINV", EntryOrExit(EntryControls::LOAD_UINV, PrimaryExit::CLEAR_UINV), NONE;

    // SDM 3D B.1.3 "16-Bit Host-State Fields".
    0x0c00 HOST_ES_SELECTOR "Host ES selector", Always, NONE;
    0x0c02 HOST_CS_SELECTOR "Host CS selector", Always, NONE;
    0x0c04 HOST_SS_SELECTOR "Host SS selector", Always, NONE;
    0x0c06 HOST_DS_SELECTOR "Host DS selector", Always, NONE;
    0x0c08 HOST_FS_SELECTOR "Host FS selector", Always, NONE;
    0x0c0a HOST_GS_SELECTOR "Host GS selector", Always, NONE;
    0x0c0c HOST_TR_SELECTOR "Host TR selector", Always, NONE;

    // SDM 3D B.2.1 "64-Bit Control Fields".
    0x2000 IO_BITMAP_A "Address of I/O bitmap A", Always, PAGE;
    0x2002 IO_BITMAP_B "Address of I/O bitmap B", Always, PAGE;
    0x2004 MSR_BITMAP "Address of MSR bitmaps", Primary(PrimaryProcessorBased::USE_MSR_BITMAPS), PAGE;
    0x2006 VM_EXIT_MSR_STORE_ADDRESS "VM-exit MSR-store address", Always, MSR_AREA;
    0x2008 VM_EXIT_MSR_LOAD_ADDRESS "VM-exit MSR-load address", Always, MSR_AREA;
    0x200a VM_ENTRY_MSR_LOAD_ADDRESS "VM-entry MSR-load address", Always, MSR_AREA;
    0x200c EXECUTIVE_VMCS_POINTER "Executive-VMCS pointer", Always, PAGE;
    0x200e PML_ADDRESS "PML address", Secondary(SecondaryProcessorBased::ENABLE_PML), PAGE;
    0x2010 TSC_OFFSET "TSC offset", Always, NONE;
    0x2012 VIRTUAL_APIC_ADDRESS "Virtual-APIC address", Primary(PrimaryProcessorBased::USE_TPR_SHADOW), PAGE;
    0x2014 APIC_ACCESS_ADDRESS "APIC-access address", Secondary(SecondaryProcessorBased::VIRTUALIZE_APIC_ACCESSES), PAGE;
    0x2016 POSTED_INTERRUPT_DESCRIPTOR_ADDRESS "Posted-interrupt descriptor address", PinBased(PinBased::PROCESS_POSTED_INTERRUPTS), POSTED_INTERRUPT_DESCRIPTOR;
    0x2018 VM_FUNCTION_CONTROLS "VM-function controls", Secondary(SecondaryProcessorBased::ENABLE_VM_FUNCTIONS), NONE;
    0x201a EPT_POINTER "EPT pointer (EPTP)", Secondary(SecondaryProcessorBased::ENABLE_EPT), TABLE_POINTER;
    0x201c EOI_EXIT_BITMAP_0 "EOI-exit bitmap 0 (EOI_EXIT0)", Secondary(SecondaryProcessorBased::VIRTUAL_INTERRUPT_DELIVERY), NONE;
    0x201e EOI_EXIT_BITMAP_1 "EOI-exit bitmap 1 (EOI_EXIT1)", Secondary(SecondaryProcessorBased::VIRTUAL_INTERRUPT_DELIVERY), NONE;
    0x2020 EOI_EXIT_BITMAP_2 "EOI-exit bitmap 2 (EOI_EXIT2)", Secondary(SecondaryProcessorBased::VIRTUAL_INTERRUPT_DELIVERY), NONE;
    0x2022 EOI_EXIT_BITMAP_3 "EOI-exit bitmap 3 (EOI_EXIT3)", Secondary(SecondaryProcessorBased::VIRTUAL_INTERRUPT_DELIVERY), NONE;
    0x2024 EPTP_LIST_ADDRESS "EPTP-list address", VmFunction(VmFunctions::EPTP_SWITCHING), PAGE;
    0x2026 VMREAD_BITMAP "VMREAD-bitmap address", Secondary(SecondaryProcessorBased::VMCS_SHADOWING), PAGE;
    0x2028 VMWRITE_BITMAP "VMWRITE-bitmap address", Secondary(SecondaryProcessorBased::VMCS_SHADOWING), PAGE;
    0x202a VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS "Virtualization-exception information address", Secondary(SecondaryProcessorBased::EPT_VIOLATION_VE), PAGE;
    0x202c XSS_EXITING_BITMAP "XSS-exiting bitmap", Secondary(SecondaryProcessorBased::ENABLE_XSAVES_XRSTORS), NONE;
    0x202e ENCLS_EXITING_BITMAP "ENCLS-exiting bitmap", Secondary(SecondaryProcessorBased::ENABLE_ENCLS_EXITING), NONE;
    0x2030 SUB_PAGE_PERMISSION_TABLE_POINTER "Sub-page-permission-table pointer", Secondary(SecondaryProcessorBased::SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT), PAGE;
    0x2032 TSC_MULTIPLIER "TSC multiplier", Secondary(SecondaryProcessorBased::USE_TSC_SCALING), NONE;
    0x2034 TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS "Tertiary processor-based VM-execution controls", Primary(PrimaryProcessorBased::ACTIVATE_TERTIARY_CONTROLS), NONE;
    0x2036 ENCLV_EXITING_BITMAP "ENCLV-exiting bitmap", Secondary(SecondaryProcessorBased::ENABLE_ENCLV_EXITING), NONE;
    0x2038 LOW_PASID_DIRECTORY_ADDRESS "Low PASID directory address", Secondary(SecondaryProcessorBased::PASID_TRANSLATION), PAGE;
    0x203a HIGH_PASID_DIRECTORY_ADDRESS "High PASID directory address", Secondary(SecondaryProcessorBased::PASID_TRANSLATION), PAGE;
    0x203c SHARED_EPT_POINTER "Shared EPT pointer", SeamOnly, TABLE_POINTER;
    0x203e PCONFIG_EXITING_BITMAP "PCONFIG-exiting bitmap", Secondary(SecondaryProcessorBased::ENABLE_PCONFIG), NONE;
    0x2040 HLAT_POINTER "Hypervisor-managed linear-address translation pointer (HLATP)", Tertiary(TertiaryProcessorBased::ENABLE_HLAT), GUEST_TABLE_POINTER;
    0x2042 PID_POINTER_TABLE_ADDRESS "PID-pointer table address", Tertiary(TertiaryProcessorBased::IPI_VIRTUALIZATION), PID_POINTER_TABLE;
    0x2044 SECONDARY_VM_EXIT_CONTROLS "Secondary VM-exit controls", PrimaryExit(PrimaryExit::ACTIVATE_SECONDARY_CONTROLS), NONE;
    0x204a IA32_SPEC_CTRL_MASK "IA32_SPEC_CTRL mask", Tertiary(TertiaryProcessorBased::VIRTUALIZE_IA32_SPEC_CTRL), NONE;
    0x204c IA32_SPEC_CTRL_SHADOW "IA32_SPEC_CTRL shadow", Tertiary(TertiaryProcessorBased::VIRTUALIZE_IA32_SPEC_CTRL), NONE;
    0x204e GUEST_DEADLINE_SHADOW "Guest deadline shadow", Tertiary(TertiaryProcessorBased::APIC_TIMER_VIRTUALIZATION), NONE;
    0x2052 INJECTED_EVENT_DATA "Injected-event data", Entry(EntryControls::LOAD_IA32_FRED), NONE;

    // SDM 3D B.2.2 "64-Bit Read-Only Data Fields".
    0x2400 GUEST_PHYSICAL_ADDRESS "Guest-physical address", Secondary(SecondaryProcessorBased::ENABLE_EPT), GUEST_BYTE;
    0x2402 MSR_DATA "MSR data", Tertiary(TertiaryProcessorBased::ENABLE_MSR_LIST_INSTRUCTIONS), NONE;
    0x2404 ORIGINAL_EVENT_DATA "Original-event data", Entry(EntryControls::LOAD_IA32_FRED), NONE;

    // SDM 3D B.2.3 "64-Bit Guest-State Fields".
    0x2800 VMCS_LINK_POINTER "VMCS link pointer", Always, PAGE;
    0x2802 GUEST_IA32_DEBUGCTL "Guest IA32_DEBUGCTL", Always, NONE;
    0x2804 GUEST_IA32_PAT "Guest IA32_PAT", EntryOrExit(EntryControls::LOAD_IA32_PAT, PrimaryExit::SAVE_IA32_PAT), NONE;
    0x2806 GUEST_IA32_EFER "Guest IA32_EFER", EntryOrExit(EntryControls::LOAD_IA32_EFER, PrimaryExit::SAVE_IA32_EFER), NONE;
    0x2808 GUEST_IA32_PERF_GLOBAL_CTRL "Guest IA32_PERF_GLOBAL_CTRL", EntryOrExit(EntryControls::LOAD_IA32_PERF_GLOBAL_CTRL, PrimaryExit::SAVE_IA32_PERF_GLOBAL_CTRL), NONE;
    0x280a GUEST_PDPTE0 "Guest PDPTE0", Secondary(SecondaryProcessorBased::ENABLE_EPT), NONE;
    0x280c GUEST_PDPTE1 "Guest PDPTE1", Secondary(SecondaryProcessorBased::ENABLE_EPT), NONE;
    0x280e GUEST_PDPTE2 "Guest PDPTE2", Secondary(SecondaryProcessorBased::ENABLE_EPT), NONE;
    0x2810 GUEST_PDPTE3 "Guest PDPTE3", Secondary(SecondaryProcessorBased::ENABLE_EPT), NONE;
    0x2812 GUEST_IA32_BNDCFGS "Guest IA32_BNDCFGS", EntryOrExit(EntryControls::LOAD_IA32_BNDCFGS, PrimaryExit::CLEAR_IA32_BNDCFGS), NONE;
    0x2814 GUEST_IA32_RTIT_CTL "Guest IA32_RTIT_CTL", EntryOrExit(EntryControls::LOAD_IA32_RTIT_CTL, PrimaryExit::CLEAR_IA32_RTIT_CTL), NONE;
    0x2816 GUEST_IA32_LBR_CTL "Guest IA32_LBR_CTL", EntryOrExit(EntryControls::LOAD_GUEST_IA32_LBR_CTL, PrimaryExit::CLEAR_IA32_LBR_CTL), NONE;
    0x2818 GUEST_IA32_PKRS "Guest IA32_PKRS", Entry(EntryControls::LOAD_PKRS), NONE;
    0x281a GUEST_IA32_FRED_CONFIG "Guest IA32_FRED_CONFIG", EntryOrSecondaryExit(EntryControls::LOAD_IA32_FRED, SecondaryExit::SAVE_IA32_FRED), NONE;
    0x281c GUEST_IA32_FRED_RSP1 "Guest IA32_FRED_RSP1", EntryOrSecondaryExit(EntryControls::LOAD_IA32_FRED, SecondaryExit::SAVE_IA32_FRED), NONE;
    0x281e GUEST_IA32_FRED_RSP2 "Guest IA32_FRED_RSP2", EntryOrSecondaryExit(EntryControls::LOAD_IA32_FRED, SecondaryExit::SAVE_IA32_FRED), NONE;
    0x2820 GUEST_IA32_FRED_RSP3 "Guest IA32_FRED_RSP3", EntryOrSecondaryExit(EntryControls::LOAD_IA32_FRED, SecondaryExit::SAVE_IA32_FRED), NONE;
    0x2822 GUEST_IA32_FRED_STKLVLS "Guest IA32_FRED_STKLVLS", EntryOrSecondaryExit(EntryControls::LOAD_IA32_FRED, SecondaryExit::SAVE_IA32_FRED), NONE;
    0x2824 GUEST_IA32_FRED_SSP1 "Guest IA32_FRED_SSP1", EntryOrSecondaryExit(EntryControls::LOAD_IA32_FRED, SecondaryExit::SAVE_IA32_FRED), NONE;
    0x2826 GUEST_IA32_FRED_SSP2 "Guest IA32_FRED_SSP2", EntryOrSecondaryExit(EntryControls::LOAD_IA32_FRED, SecondaryExit::SAVE_IA32_FRED), NONE;
    0x2828 GUEST_IA32_FRED_SSP3 "Guest IA32_FRED_SSP3", EntryOrSecondaryExit(EntryControls::LOAD_IA32_FRED, SecondaryExit::SAVE_IA32_FRED), NONE;
    0x282e GUEST_IA32_SPEC_CTRL "Guest IA32_SPEC_CTRL", Entry(EntryControls::LOAD_IA32_SPEC_CTRL), NONE;
    0x2830 GUEST_DEADLINE "Guest deadline", Tertiary(TertiaryProcessorBased::APIC_TIMER_VIRTUALIZATION), NONE;

    // SDM 3D B.2.4 "64-Bit Host-State Fields".
    0x2c00 HOST_IA32_PAT "Host IA32_PAT", PrimaryExit(PrimaryExit::LOAD_IA32_PAT), NONE;
    0x2c02 HOST_IA32_EFER "Host IA32_EFER", PrimaryExit(PrimaryExit::LOAD_IA32_EFER), NONE;
    0x2c04 HOST_IA32_PERF_GLOBAL_CTRL "Host IA32_PERF_GLOBAL_CTRL", PrimaryExit(PrimaryExit::LOAD_IA32_PERF_GLOBAL_CTRL), NONE;
    0x2c06 HOST_IA32_PKRS "Host IA32_PKRS", PrimaryExit(PrimaryExit::LOAD_PKRS), NONE;
    0x2c08 HOST_IA32_FRED_CONFIG "Host IA32_FRED_CONFIG", SecondaryExit(SecondaryExit::LOAD_IA32_FRED), NONE;
    0x2c0a HOST_IA32_FRED_RSP1 "Host IA32_FRED_RSP1", SecondaryExit(SecondaryExit::LOAD_IA32_FRED), NONE;
    0x2c0c HOST_IA32_FRED_RSP2 "Host IA32_FRED_RSP2", SecondaryExit(SecondaryExit::LOAD_IA32_FRED), NONE;
    0x2c0e HOST_IA32_FRED_RSP3 "Host IA32_FRED_RSP3", SecondaryExit(SecondaryExit::LOAD_IA32_FRED), NONE;
    0x2c10 HOST_IA32_FRED_STKLVLS "Host IA32_FRED_STKLVLS", SecondaryExit(SecondaryExit::LOAD_IA32_FRED), NONE;
    0x2c12 HOST_IA32_FRED_SSP1 "Host IA32_FRED_SSP1", SecondaryExit(SecondaryExit::LOAD_IA32_FRED), NONE;
    0x2c14 HOST_IA32_FRED_SSP2 "Host IA32_FRED_SSP2", SecondaryExit(SecondaryExit::LOAD_IA32_FRED), NONE;
    0x2c16 HOST_IA32_FRED_SSP3 "Host IA32_FRED_SSP3", SecondaryExit(SecondaryExit::LOAD_IA32_FRED), NONE;
    0x2c1a HOST_IA32_SPEC_CTRL "Host IA32_SPEC_CTRL", SecondaryExit(SecondaryExit::LOAD_IA32_SPEC_CTRL), NONE;

    // SDM 3D B.3.1 "32-Bit Control Fields".
    0x4000 PIN_BASED_VM_EXECUTION_CONTROLS "Pin-based VM-execution controls", Always, NONE;
    0x4002 PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS "Primary processor-based VM-execution controls", Always, NONE;
    0x4004 EXCEPTION_BITMAP "Exception bitmap", Always, NONE;
    0x4006 PAGE_FAULT_ERROR_CODE_MASK "Page-fault error-code mask", Always, NONE;
    0x4008 PAGE_FAULT_ERROR_CODE_MATCH "Page-fault error-code match", Always, NONE;
    0x400a CR3_TARGET_COUNT "CR3-target count", Always, NONE;
    0x400c PRIMARY_VM_EXIT_CONTROLS "Primary VM-exit controls", Always, NONE;
    0x400e VM_EXIT_MSR_STORE_COUNT "VM-exit MSR-store count", Always, NONE;
    0x4010 VM_EXIT_MSR_LOAD_COUNT "VM-exit MSR-load count", Always, NONE;
    0x4012 VM_ENTRY_CONTROLS "VM-entry controls", Always, NONE;
    0x4014 VM_ENTRY_MSR_LOAD_COUNT "VM-entry MSR-load count", Always, NONE;
    0x4016 VM_ENTRY_INTERRUPTION_INFORMATION "VM-entry interruption-information field", Always, NONE;
    0x4018 VM_ENTRY_EXCEPTION_ERROR_CODE "VM-entry exception error code", Always, NONE;
    0x401a VM_ENTRY_INSTRUCTION_LENGTH "VM-entry instruction length", Always, NONE;
    0x401c TPR_THRESHOLD "TPR threshold", Primary(PrimaryProcessorBased::USE_TPR_SHADOW), NONE;
    0x401e SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS "Secondary processor-based VM-execution controls", Primary(PrimaryProcessorBased::ACTIVATE_SECONDARY_CONTROLS), NONE;
    0x4020 PLE_GAP "PLE_Gap", Secondary(SecondaryProcessorBased::PAUSE_LOOP_EXITING), NONE;
    0x4022 PLE_WINDOW "PLE_Window", Secondary(SecondaryProcessorBased::PAUSE_LOOP_EXITING), NONE;
    0x4024 INSTRUCTION_TIMEOUT_CONTROL "Instruction-timeout control", Secondary(SecondaryProcessorBased::INSTRUCTION_TIMEOUT), NONE;
    0x4026 TD_HKID "TD HKID", SeamOnly, NONE;

    // SDM 3D B.3.2 "32-Bit Read-Only Data Fields".
    0x4400 VM_INSTRUCTION_ERROR "VM-instruction error", Always, NONE;
    0x4402 EXIT_REASON "Exit reason", Always, NONE;
    0x4404 VM_EXIT_INTERRUPTION_INFORMATION "VM-exit interruption information", Always, NONE;
    0x4406 VM_EXIT_INTERRUPTION_ERROR_CODE "VM-exit interruption error code", Always, NONE;
    0x4408 IDT_VECTORING_INFORMATION "IDT-vectoring information field", Always, NONE;
    0x440a IDT_VECTORING_ERROR_CODE "IDT-vectoring error code", Always, NONE;
    0x440c VM_EXIT_INSTRUCTION_LENGTH "VM-exit instruction length", Always, NONE;
    0x440e VM_EXIT_INSTRUCTION_INFORMATION "VM-exit instruction information", Always, NONE;

    // SDM 3D B.3.3 "32-Bit Guest-State Fields".
    0x4800 GUEST_ES_LIMIT "Guest ES limit", Always, NONE;
    0x4802 GUEST_CS_LIMIT "Guest CS limit", Always, NONE;
    0x4804 GUEST_SS_LIMIT "Guest SS limit", Always, NONE;
    0x4806 GUEST_DS_LIMIT "Guest DS limit", Always, NONE;
    0x4808 GUEST_FS_LIMIT "Guest FS limit", Always, NONE;
    0x480a GUEST_GS_LIMIT "Guest GS limit", Always, NONE;
    0x480c GUEST_LDTR_LIMIT "Guest LDTR limit", Always, NONE;
    0x480e GUEST_TR_LIMIT "Guest TR limit", Always, NONE;
    0x4810 GUEST_GDTR_LIMIT "Guest GDTR limit", Always, NONE;
    0x4812 GUEST_IDTR_LIMIT "Guest IDTR limit", Always, NONE;
    0x4814 GUEST_ES_ACCESS_RIGHTS "Guest ES access rights", Always, NONE;
    0x4816 GUEST_CS_ACCESS_RIGHTS "Guest CS access rights", Always, NONE;
    0x4818 GUEST_SS_ACCESS_RIGHTS "Guest SS access rights", Always, NONE;
    0x481a GUEST_DS_ACCESS_RIGHTS "Guest DS access rights", Always, NONE;
    0x481c GUEST_FS_ACCESS_RIGHTS "Guest FS access rights", Always, NONE;
    0x481e GUEST_GS_ACCESS_RIGHTS "Guest GS access rights", Always, NONE;
    0x4820 GUEST_LDTR_ACCESS_RIGHTS "Guest LDTR access rights", Always, NONE;
    0x4822 GUEST_TR_ACCESS_RIGHTS "Guest TR access rights", Always, NONE;
    0x4824 GUEST_INTERRUPTIBILITY_STATE "Guest interruptibility state", Always, NONE;
    0x4826 GUEST_ACTIVITY_STATE "Guest activity state", Always, NONE;
    0x4828 GUEST_SMBASE "Guest SMBASE", Always, NONE;
    0x482a GUEST_IA32_SYSENTER_CS "Guest IA32_SYSENTER_CS", Always, NONE;
    0x482e VMX_PREEMPTION_TIMER_VALUE "VMX-preemption timer value", PinBased(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER), NONE;

    // SDM 3D B.3.4 "32-Bit Host-State Field".
    0x4c00 HOST_IA32_SYSENTER_CS "Host IA32_SYSENTER_CS", Always, NONE;

    // SDM 3D B.4.1 "Natural-Width Control Fields".
    0x6000 CR0_GUEST_HOST_MASK "CR0 guest/host mask", Always, NONE;
    0x6002 CR4_GUEST_HOST_MASK "CR4 guest/host mask", Always, NONE;
    0x6004 CR0_READ_SHADOW "CR0 read shadow", Always, NONE;
    0x6006 CR4_READ_SHADOW "CR4 read shadow", Always, NONE;
    0x6008 CR3_TARGET_VALUE0 "CR3-target value 0", Cr3TargetsAbove(0), NONE;
    0x600a CR3_TARGET_VALUE1 "CR3-target value 1", Cr3TargetsAbove(1), NONE;
    0x600c CR3_TARGET_VALUE2 "CR3-target value 2", Cr3TargetsAbove(2), NONE;
    0x600e CR3_TARGET_VALUE3 "CR3-target value 3", Cr3TargetsAbove(3), NONE;

    // SDM 3D B.4.2 "Natural-Width Read-Only Data Fields".
    0x6400 EXIT_QUALIFICATION "Exit qualification", Always, NONE;
    0x6402 IO_RCX "I/O RCX", Always, NONE;
    0x6404 IO_RSI "I/O RSI", Always, NONE;
    0x6406 IO_RDI "I/O RDI", Always, NONE;
    0x6408 IO_RIP "I/O RIP", Always, NONE;
    0x640a GUEST_LINEAR_ADDRESS "Guest-linear address", Always, NONE;

    // SDM 3D B.4.3 "Natural-Width Guest-State Fields".
    0x6800 GUEST_CR0 "Guest CR0", Always, NONE;
    0x6802 GUEST_CR3 "Guest CR3", Always, GUEST_TABLE_POINTER;
    0x6804 GUEST_CR4 "Guest CR4", Always, NONE;
    0x6806 GUEST_ES_BASE "Guest ES base", Always, NONE;
    0x6808 GUEST_CS_BASE "Guest CS base", Always, NONE;
    0x680a GUEST_SS_BASE "Guest SS base", Always, NONE;
    0x680c GUEST_DS_BASE "Guest DS base", Always, NONE;
    0x680e GUEST_FS_BASE "Guest FS base", Always, NONE;
    0x6810 GUEST_GS_BASE "Guest GS base", Always, NONE;
    0x6812 GUEST_LDTR_BASE "Guest LDTR base", Always, NONE;
    0x6814 GUEST_TR_BASE "Guest TR base", Always, NONE;
    0x6816 GUEST_GDTR_BASE "Guest GDTR base", Always, NONE;
    0x6818 GUEST_IDTR_BASE "Guest IDTR base", Always, NONE;
    0x681a GUEST_DR7 "Guest DR7", Always, NONE;
    0x681c GUEST_RSP "Guest RSP", Always, NONE;
    0x681e GUEST_RIP "Guest RIP", Always, NONE;
    0x6820 GUEST_RFLAGS "Guest RFLAGS", Always, NONE;
    0x6822 GUEST_PENDING_DEBUG_EXCEPTIONS "Guest pending debug exceptions", Always, NONE;
    0x6824 GUEST_IA32_SYSENTER_ESP "Guest IA32_SYSENTER_ESP", Always, NONE;
    0x6826 GUEST_IA32_SYSENTER_EIP "Guest IA32_SYSENTER_EIP", Always, NONE;
    0x6828 GUEST_IA32_S_CET "Guest IA32_S_CET", Entry(EntryControls::LOAD_CET_STATE), NONE;
    0x682a GUEST_SSP "Guest SSP", Entry(EntryControls::LOAD_CET_STATE), NONE;
    0x682c GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR "Guest IA32_INTERRUPT_SSP_TABLE_ADDR", Entry(EntryControls::LOAD_CET_STATE), NONE;

    // SDM 3D B.4.4 "Natural-Width Host-State Fields".
    0x6c00 HOST_CR0 "Host CR0", Always, NONE;
    0x6c02 HOST_CR3 "Host CR3", Always, TABLE_POINTER;
    0x6c04 HOST_CR4 "Host CR4", Always, NONE;
    0x6c06 HOST_FS_BASE "Host FS base", Always, NONE;
    0x6c08 HOST_GS_BASE "Host GS base", Always, NONE;
    0x6c0a HOST_TR_BASE "Host TR base", Always, NONE;
    0x6c0c HOST_GDTR_BASE "Host GDTR base", Always, NONE;
    0x6c0e HOST_IDTR_BASE "Host IDTR base", Always, NONE;
    0x6c10 HOST_IA32_SYSENTER_ESP "Host IA32_SYSENTER_ESP", Always, NONE;
    0x6c12 HOST_IA32_SYSENTER_EIP "Host IA32_SYSENTER_EIP", Always, NONE;
    0x6c14 HOST_RSP "Host RSP", Always, NONE;
    0x6c16 HOST_RIP "Host RIP", Always, NONE;
    0x6c18 HOST_IA32_S_CET "Host IA32_S_CET", PrimaryExit(PrimaryExit::LOAD_CET_STATE), NONE;
    0x6c1a HOST_SSP "Host SSP", PrimaryExit(PrimaryExit::LOAD_CET_STATE), NONE;
    0x6c1c HOST_IA32_INTERRUPT_SSP_TABLE_ADDR "Host IA32_INTERRUPT_SSP_TABLE_ADDR", PrimaryExit(PrimaryExit::LOAD_CET_STATE), NONE;
}
