//! Mutations that break the checks of the control fields.

use super::*;
use crate::event::InterruptionInformation;

/// One bit beyond the physical-address width.
const BEYOND: u64 = 1 << PHYSICAL_ADDRESS_WIDTH;

#[rustfmt::skip]
pub(super) const MUTATIONS: &[Mutation] = &[
    ("basic.current-vmcs.exists", |c| c.environment.current_vmcs = u64::MAX),
    ("basic.current-vmcs.ordinary", |c| c.environment.current_vmcs_is_shadow = true),
    ("basic.mov-ss", |c| c.environment.blocking_by_mov_ss = true),
    ("basic.launch-state.clear", |c| c.environment.launch_state = LaunchState::Launched),
    ("basic.launch-state.launched", |c| c.environment.instruction = EntryInstruction::Vmresume),

    ("execution.pin-based.required", |c| { c.and_not(Field::PIN_BASED_VM_EXECUTION_CONTROLS, 2); }),
    ("execution.pin-based.allowed", |c| { c.or(Field::PIN_BASED_VM_EXECUTION_CONTROLS, 0x100); }),
    ("execution.primary.required", |c| { c.and_not(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, 2); }),
    ("execution.primary.allowed", |c| { c.or(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, 1 << 18); }),
    ("execution.secondary.required", |c| { c.capability(msr::IA32_VMX_PROCBASED_CTLS2, 8).secondary(Secondary::empty()); }),
    ("execution.secondary.allowed", |c| { c.secondary(Secondary::ENABLE_EPC_VIRTUALIZATION_EXTENSIONS); }),
    ("execution.tertiary.allowed", |c| { c.tertiary(Tertiary::from_bits_retain(1 << 40)); }),
    ("execution.cr3-target-count", |c| { c.set(Field::CR3_TARGET_COUNT, 5); }),
    ("execution.io-bitmap-a", |c| { c.primary(Primary::USE_IO_BITMAPS).or(Field::IO_BITMAP_A, 0x800); }),
    ("execution.io-bitmap-b", |c| { c.primary(Primary::USE_IO_BITMAPS).or(Field::IO_BITMAP_B, BEYOND); }),
    ("execution.msr-bitmap", |c| { c.primary(Primary::USE_MSR_BITMAPS).or(Field::MSR_BITMAP, 1); }),
    ("execution.virtual-apic-address", |c| { c.primary(Primary::USE_TPR_SHADOW).or(Field::VIRTUAL_APIC_ADDRESS, 0x10); }),
    ("execution.tpr-threshold.reserved", |c| { c.primary(Primary::USE_TPR_SHADOW).set(Field::TPR_THRESHOLD, 0x10); }),
    ("execution.tpr-threshold.above-vtpr", |c| {
        c.primary(Primary::USE_TPR_SHADOW).set(Field::TPR_THRESHOLD, 5);
        c.memory.insert(PAGE + 0x80, 0x4f);
    }),
    ("execution.tpr-shadow.x2apic-mode", |c| { c.secondary(Secondary::VIRTUALIZE_X2APIC_MODE); }),
    ("execution.tpr-shadow.apic-registers", |c| { c.secondary(Secondary::APIC_REGISTER_VIRTUALIZATION); }),
    ("execution.tpr-shadow.interrupt-delivery", |c| { c.secondary(Secondary::VIRTUAL_INTERRUPT_DELIVERY); }),
    ("execution.tpr-shadow.ipi-virtualization", |c| { c.tertiary(Tertiary::IPI_VIRTUALIZATION); }),
    ("execution.virtual-nmis", |c| { c.pin(PinBased::VIRTUAL_NMIS); }),
    ("execution.nmi-window", |c| { c.pin(PinBased::NMI_EXITING).primary(Primary::NMI_WINDOW_EXITING); }),
    ("execution.apic-access-address", |c| { c.secondary(Secondary::VIRTUALIZE_APIC_ACCESSES).or(Field::APIC_ACCESS_ADDRESS, 0x30); }),
    ("execution.x2apic-mode", |c| {
        c.primary(Primary::USE_TPR_SHADOW).secondary(Secondary::VIRTUALIZE_APIC_ACCESSES | Secondary::VIRTUALIZE_X2APIC_MODE);
    }),
    ("execution.virtual-interrupt-delivery", |c| {
        c.primary(Primary::USE_TPR_SHADOW).secondary(Secondary::VIRTUAL_INTERRUPT_DELIVERY);
    }),
    ("execution.posted-interrupts.delivery", |c| {
        c.pin(PinBased::PROCESS_POSTED_INTERRUPTS).exit(PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    }),
    ("execution.posted-interrupts.acknowledge", |c| {
        posted_interrupts(c).and_not(Field::PRIMARY_VM_EXIT_CONTROLS, PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT.bits().into());
    }),
    ("execution.posted-interrupts.vector", |c| { posted_interrupts(c).set(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0x100); }),
    ("execution.posted-interrupts.descriptor", |c| { posted_interrupts(c).or(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 0x20); }),
    ("execution.vpid", |c| { c.secondary(Secondary::ENABLE_VPID).set(Field::VIRTUAL_PROCESSOR_IDENTIFIER, 0); }),
    ("execution.ept-pointer.memory-type", |c| { c.secondary(Secondary::ENABLE_EPT).set(Field::EPT_POINTER, PAGE | 0x1d); }),
    ("execution.ept-pointer.walk-length", |c| { c.secondary(Secondary::ENABLE_EPT).set(Field::EPT_POINTER, PAGE | 0x26); }),
    ("execution.ept-pointer.accessed-dirty", |c| {
        c.no_capability(msr::IA32_VMX_EPT_VPID_CAP, 1 << 21).secondary(Secondary::ENABLE_EPT);
    }),
    ("execution.ept-pointer.shadow-stack", |c| {
        c.no_capability(msr::IA32_VMX_EPT_VPID_CAP, 1 << 23).secondary(Secondary::ENABLE_EPT).or(Field::EPT_POINTER, 0x80);
    }),
    ("execution.ept-pointer.reserved", |c| { c.secondary(Secondary::ENABLE_EPT).or(Field::EPT_POINTER, 0x400); }),
    ("execution.ept-pointer.width", |c| { c.secondary(Secondary::ENABLE_EPT).or(Field::EPT_POINTER, BEYOND); }),
    ("execution.ept.pml", |c| { c.secondary(Secondary::ENABLE_PML); }),
    ("execution.ept.unrestricted-guest", |c| { c.secondary(Secondary::UNRESTRICTED_GUEST); }),
    ("execution.ept.mode-based-execute", |c| { c.secondary(Secondary::MODE_BASED_EXECUTE_CONTROL_FOR_EPT); }),
    ("execution.ept.sub-page", |c| { c.secondary(Secondary::SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT); }),
    ("execution.ept.processor-trace", |c| { c.secondary(Secondary::INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES); }),
    ("execution.ept.hlat", |c| { c.tertiary(Tertiary::ENABLE_HLAT); }),
    ("execution.ept.paging-write", |c| { c.tertiary(Tertiary::EPT_PAGING_WRITE_CONTROL); }),
    ("execution.ept.paging-verification", |c| { c.tertiary(Tertiary::GUEST_PAGING_VERIFICATION); }),
    ("execution.pml-address", |c| { c.secondary(Secondary::ENABLE_EPT | Secondary::ENABLE_PML).or(Field::PML_ADDRESS, 8); }),
    ("execution.sub-page-permission-table", |c| {
        c.secondary(Secondary::ENABLE_EPT | Secondary::SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT);
        c.or(Field::SUB_PAGE_PERMISSION_TABLE_POINTER, BEYOND);
    }),
    ("execution.vm-functions.allowed", |c| { c.secondary(Secondary::ENABLE_VM_FUNCTIONS).set(Field::VM_FUNCTION_CONTROLS, 2); }),
    ("execution.vm-functions.eptp-switching", |c| { c.secondary(Secondary::ENABLE_VM_FUNCTIONS).set(Field::VM_FUNCTION_CONTROLS, 1); }),
    ("execution.vm-functions.eptp-list", |c| {
        c.secondary(Secondary::ENABLE_VM_FUNCTIONS | Secondary::ENABLE_EPT).set(Field::VM_FUNCTION_CONTROLS, 1);
        c.or(Field::EPTP_LIST_ADDRESS, 0x800);
    }),
    ("execution.vmread-bitmap", |c| { c.secondary(Secondary::VMCS_SHADOWING).or(Field::VMREAD_BITMAP, 1); }),
    ("execution.vmwrite-bitmap", |c| { c.secondary(Secondary::VMCS_SHADOWING).or(Field::VMWRITE_BITMAP, BEYOND); }),
    ("execution.virtualization-exception-information", |c| {
        c.secondary(Secondary::EPT_VIOLATION_VE).or(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 0x40);
    }),
    ("execution.processor-trace.load", |c| {
        c.secondary(Secondary::ENABLE_EPT | Secondary::INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES).exit(PrimaryExit::CLEAR_IA32_RTIT_CTL);
    }),
    ("execution.processor-trace.clear", |c| {
        c.secondary(Secondary::ENABLE_EPT | Secondary::INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES).entry(Entry::LOAD_IA32_RTIT_CTL);
    }),
    ("execution.tsc-multiplier", |c| { c.secondary(Secondary::USE_TSC_SCALING).set(Field::TSC_MULTIPLIER, 0); }),
    ("execution.low-pasid-directory", |c| { c.secondary(Secondary::PASID_TRANSLATION).or(Field::LOW_PASID_DIRECTORY_ADDRESS, 1); }),
    ("execution.high-pasid-directory", |c| { c.secondary(Secondary::PASID_TRANSLATION).or(Field::HIGH_PASID_DIRECTORY_ADDRESS, 1); }),
    ("execution.hlat-pointer.reserved", |c| {
        c.secondary(Secondary::ENABLE_EPT).tertiary(Tertiary::ENABLE_HLAT).or(Field::HLAT_POINTER, 0x20);
    }),
    ("execution.hlat-pointer.width", |c| {
        c.secondary(Secondary::ENABLE_EPT).tertiary(Tertiary::ENABLE_HLAT).or(Field::HLAT_POINTER, BEYOND);
    }),
    ("execution.hlat-prefix-size", |c| {
        c.secondary(Secondary::ENABLE_EPT).tertiary(Tertiary::ENABLE_HLAT).set(Field::HLAT_PREFIX_SIZE, 53);
    }),
    ("execution.pid-pointer-table.address", |c| {
        c.primary(Primary::USE_TPR_SHADOW).tertiary(Tertiary::IPI_VIRTUALIZATION).or(Field::PID_POINTER_TABLE_ADDRESS, 4);
    }),
    ("execution.pid-pointer-table.end", |c| {
        c.primary(Primary::USE_TPR_SHADOW).tertiary(Tertiary::IPI_VIRTUALIZATION).set(Field::PID_POINTER_TABLE_ADDRESS, BEYOND - 8);
        c.set(Field::LAST_PID_POINTER_INDEX, 1);
    }),
    ("execution.apic-timer.delivery", |c| { c.tertiary(Tertiary::APIC_TIMER_VIRTUALIZATION); }),
    ("execution.apic-timer.vector", |c| {
        posted_interrupts(c).tertiary(Tertiary::APIC_TIMER_VIRTUALIZATION).set(Field::VIRTUAL_TIMER_VECTOR, 0x1ff);
    }),

    ("exit.primary.required", |c| { c.and_not(Field::PRIMARY_VM_EXIT_CONTROLS, 1); }),
    ("exit.primary.allowed", |c| { c.exit(PrimaryExit::CLEAR_IA32_BNDCFGS); }),
    ("exit.secondary.allowed", |c| { c.secondary_exit(SecondaryExit::from_bits_retain(0x10)); }),
    ("exit.preemption-timer", |c| { c.exit(PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE); }),
    ("exit.msr-store.address", |c| { c.set(Field::VM_EXIT_MSR_STORE_COUNT, 1).or(Field::VM_EXIT_MSR_STORE_ADDRESS, 8); }),
    ("exit.msr-store.end", |c| { c.set(Field::VM_EXIT_MSR_STORE_COUNT, 2).set(Field::VM_EXIT_MSR_STORE_ADDRESS, BEYOND - 16); }),
    ("exit.msr-load.address", |c| { c.set(Field::VM_EXIT_MSR_LOAD_COUNT, 1).or(Field::VM_EXIT_MSR_LOAD_ADDRESS, BEYOND); }),
    ("exit.msr-load.end", |c| { c.set(Field::VM_EXIT_MSR_LOAD_COUNT, 2).set(Field::VM_EXIT_MSR_LOAD_ADDRESS, BEYOND - 16); }),

    ("entry.controls.required", |c| { c.and_not(Field::VM_ENTRY_CONTROLS, 1); }),
    ("entry.controls.allowed", |c| { c.entry(Entry::from_bits_retain(1 << 25)); }),
    ("entry.event.type", |c| { c.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0x8000_0100); }),
    ("entry.event.vector", |c| { c.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0x8000_0203); }),
    ("entry.event.error-code.type", |c| { c.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0x8000_0a02); }),
    ("entry.event.reserved", |c| { c.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0x8000_1202); }),
    ("entry.event.nested-exception", |c| {
        c.capability(msr::IA32_VMX_BASIC, 1 << 58).set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0x8000_2202);
    }),
    ("entry.event.error-code.real-mode", |c| {
        c.secondary(Secondary::ENABLE_EPT | Secondary::UNRESTRICTED_GUEST).and_not(Field::GUEST_CR0, 1);
        c.inject(InterruptionInformation::hardware_exception(13, true));
    }),
    ("entry.event.error-code.missing", |c| { c.inject(InterruptionInformation::hardware_exception(13, false)); }),
    ("entry.event.error-code.superfluous", |c| { c.inject(InterruptionInformation::hardware_exception(6, true)); }),
    ("entry.event.error-code.reserved", |c| {
        c.inject(InterruptionInformation::hardware_exception(14, true)).set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0x1_0000);
    }),
    ("entry.event.length.maximum", |c| {
        c.inject(InterruptionInformation::software_interrupt(0x80)).set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 16);
    }),
    ("entry.event.length.zero", |c| { c.inject(InterruptionInformation::software_exception(3)); }),
    ("entry.msr-load.address", |c| { c.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 1).or(Field::VM_ENTRY_MSR_LOAD_ADDRESS, 4); }),
    ("entry.msr-load.end", |c| { c.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 0xffff_ffff).set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, BEYOND - 16); }),
    ("entry.smm.entry", |c| { c.entry(Entry::ENTRY_TO_SMM); }),
    ("entry.smm.deactivate", |c| { c.entry(Entry::DEACTIVATE_DUAL_MONITOR_TREATMENT); }),
    ("entry.smm.both", |c| {
        c.environment.in_smm = true;
        c.entry(Entry::ENTRY_TO_SMM | Entry::DEACTIVATE_DUAL_MONITOR_TREATMENT);
    }),
    ("entry.processor-trace", |c| {
        c.environment.processor_trace_enabled = true;
        c.entry(Entry::LOAD_IA32_RTIT_CTL);
    }),
];

/// A valid entry with posted interrupts.
fn posted_interrupts(c: &mut Case) -> &mut Case {
    c.pin(PinBased::PROCESS_POSTED_INTERRUPTS | PinBased::EXTERNAL_INTERRUPT_EXITING).primary(Primary::USE_TPR_SHADOW);
    c.secondary(Secondary::VIRTUAL_INTERRUPT_DELIVERY).exit(PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT)
}

#[test]
fn posted_interrupts_are_accepted() {
    posted_interrupts(&mut Case::valid()).assert_valid("posted interrupts");
}

#[test]
fn error_codes_are_optional_where_basic_56_says_so() {
    for has_error_code in [false, true] {
        for vector in 0..32 {
            let mut case = Case::valid();
            case.capability(msr::IA32_VMX_BASIC, 1 << 56);
            case.inject(InterruptionInformation::hardware_exception(vector, has_error_code));
            case.assert_valid("an exception");
        }
    }
}

#[test]
fn an_address_is_limited_to_32_bits_where_basic_48_says_so() {
    let mut case = Case::valid();
    case.capability(msr::IA32_VMX_BASIC, 1 << 48).primary(Primary::USE_MSR_BITMAPS).set(Field::MSR_BITMAP, 0x1_0000_0000);
    let violations = case.violations();
    assert_eq!(violations.first().map(|violation| violation.offending), Some(0x1_0000_0000));
}
