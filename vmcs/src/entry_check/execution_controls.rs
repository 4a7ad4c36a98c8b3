//! The checks of the VM-execution control fields.

use super::rule::{Group, Outcome, bits, group, unless};
use super::state::State;
use crate::capability::EptVpid;
use crate::controls::{
    Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary,
    TertiaryProcessorBased as Tertiary, VmFunctions,
};
use crate::field::Field;

/// Number and title of the SDM's section.
const SECTION: (&str, &str) = ("26.2.1.1", "VM-Execution Control Fields");
/// Shorter in the rows below.
const CONTROLS: Outcome = Outcome::CONTROLS;

/// Said of every field whose address must fit, whatever the alignment.
const PAGE: &str = "must be 4-KByte aligned and within the physical-address width";

/// The offending bits of a capability word: what must be 1 and isn't.
fn not_set(required: u64, value: u64) -> Option<u64> {
    bits(required & !value)
}

/// The offending bits of a capability word: what is 1 and may not be.
fn not_allowed(allowed: u64, value: u64) -> Option<u64> {
    bits(value & !allowed)
}

/// The offending control if it is 1 although it must be 0.
fn forbidden(state: &State<'_>, control: Secondary) -> Option<u64> {
    bits((state.secondary & control).bits().into())
}

fn without_ept(state: &State<'_>) -> bool {
    !state.secondary.contains(Secondary::ENABLE_EPT)
}

fn tpr_shadow(state: &State<'_>) -> bool {
    state.primary.contains(Primary::USE_TPR_SHADOW)
}

/// Bits 7:4 of the virtual TPR, byte 80H of the virtual-APIC page. All ones where memory isn't known: then the threshold isn't above it.
fn virtual_tpr(state: &State<'_>) -> u64 {
    let page = state.get(Field::VIRTUAL_APIC_ADDRESS) & !0xfff;
    (state.environment.platform.read_memory(page.wrapping_add(0x80)).unwrap_or(u64::MAX) >> 4) & 15
}

/// The page-walk length in an EPT pointer, bits 5:3 plus 1, is one that IA32_VMX_EPT_VPID_CAP offers.
fn walk_length_offered(state: &State<'_>, ept_pointer: u64) -> bool {
    let offered = state.capabilities.ept_vpid();
    match (ept_pointer >> 3) & 7 {
        3 => offered.contains(EptVpid::PAGE_WALK_LENGTH_4),
        4 => offered.contains(EptVpid::PAGE_WALK_LENGTH_5),
        _ => false,
    }
}

/// The memory type in an EPT pointer, bits 2:0, is one that IA32_VMX_EPT_VPID_CAP offers.
fn memory_type_offered(state: &State<'_>, ept_pointer: u64) -> bool {
    let offered = state.capabilities.ept_vpid();
    match ept_pointer & 7 {
        0 => offered.contains(EptVpid::MEMORY_TYPE_UNCACHEABLE),
        6 => offered.contains(EptVpid::MEMORY_TYPE_WRITE_BACK),
        _ => false,
    }
}

/// The last byte of the PID-pointer table.
fn last_pid_pointer(state: &State<'_>, table: u64) -> u64 {
    table.saturating_add(8 * state.get(Field::LAST_PID_POINTER_INDEX) + 7)
}

pub(super) const GROUPS: &[Group] = &[
    group!(SECTION, CONTROLS, "", |_| true, [], {
        "execution.pin-based.required", [PIN_BASED_VM_EXECUTION_CONTROLS], "bits that IA32_VMX_(TRUE_)PINBASED_CTLS[31:0] requires must be 1",
            |s, value| not_set(s.capabilities.pin_based().required, value);
        "execution.pin-based.allowed", [PIN_BASED_VM_EXECUTION_CONTROLS], "bits that IA32_VMX_(TRUE_)PINBASED_CTLS[63:32] forbids must be 0",
            |s, value| not_allowed(s.capabilities.pin_based().allowed, value);
        "execution.primary.required", [PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "bits that IA32_VMX_(TRUE_)PROCBASED_CTLS[31:0] requires must be 1",
            |s, value| not_set(s.capabilities.primary().required, value);
        "execution.primary.allowed", [PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "bits that IA32_VMX_(TRUE_)PROCBASED_CTLS[63:32] forbids must be 0",
            |s, value| not_allowed(s.capabilities.primary().allowed, value);
    }),
    group!(SECTION, CONTROLS, "with \"activate secondary controls\"", |s| s.primary.contains(Primary::ACTIVATE_SECONDARY_CONTROLS), [], {
        "execution.secondary.required", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "bits that IA32_VMX_PROCBASED_CTLS2[31:0] requires must be 1",
            |s, value| not_set(s.capabilities.secondary().required, value);
        "execution.secondary.allowed", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "bits that IA32_VMX_PROCBASED_CTLS2[63:32] forbids must be 0",
            |s, value| not_allowed(s.capabilities.secondary().allowed, value);
    }),
    group!(SECTION, CONTROLS, "with \"activate tertiary controls\"", |s| s.primary.contains(Primary::ACTIVATE_TERTIARY_CONTROLS), [], {
        "execution.tertiary.allowed", [TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "bits that IA32_VMX_PROCBASED_CTLS3 forbids must be 0",
            |s, value| not_allowed(s.capabilities.tertiary().allowed, value);
    }),
    group!(SECTION, CONTROLS, "", |_| true, [], {
        "execution.cr3-target-count", [CR3_TARGET_COUNT], "must not exceed IA32_VMX_MISC[24:16]",
            |s, value| unless(value <= s.capabilities.misc().cr3_target_values().into(), value);
    }),
    group!(SECTION, CONTROLS, "with \"use I/O bitmaps\"", |s| s.primary.contains(Primary::USE_IO_BITMAPS), [IO_BITMAP_A IO_BITMAP_B], {
        "execution.io-bitmap-a", [IO_BITMAP_A], PAGE, |s, value| bits(s.misplaced_bits(Field::IO_BITMAP_A, value));
        "execution.io-bitmap-b", [IO_BITMAP_B], PAGE, |s, value| bits(s.misplaced_bits(Field::IO_BITMAP_B, value));
    }),
    group!(SECTION, CONTROLS, "with \"use MSR bitmaps\"", |s| s.primary.contains(Primary::USE_MSR_BITMAPS), [MSR_BITMAP], {
        "execution.msr-bitmap", [MSR_BITMAP], PAGE, |s, value| bits(s.misplaced_bits(Field::MSR_BITMAP, value));
    }),
    group!(SECTION, CONTROLS, "with \"use TPR shadow\"", tpr_shadow, [VIRTUAL_APIC_ADDRESS TPR_THRESHOLD], {
        "execution.virtual-apic-address", [VIRTUAL_APIC_ADDRESS], PAGE,
            |s, value| bits(s.misplaced_bits(Field::VIRTUAL_APIC_ADDRESS, value));
        "execution.tpr-threshold.reserved", [TPR_THRESHOLD], "without \"virtual-interrupt delivery\" bits 31:4 must be 0",
            |s, value| unless(s.secondary.contains(Secondary::VIRTUAL_INTERRUPT_DELIVERY), value).and(bits(value & !15));
        "execution.tpr-threshold.above-vtpr", [TPR_THRESHOLD VIRTUAL_APIC_ADDRESS],
            "without \"virtualize APIC accesses\" and \"virtual-interrupt delivery\" bits 3:0 must not be greater than bits 7:4 of the \
             virtual TPR",
            |s, value| unless(s.secondary.intersects(Secondary::VIRTUALIZE_APIC_ACCESSES | Secondary::VIRTUAL_INTERRUPT_DELIVERY)
                || value & 15 <= virtual_tpr(s), value);
    }),
    group!(SECTION, CONTROLS, "without \"use TPR shadow\"", |s| !tpr_shadow(s), [], {
        "execution.tpr-shadow.x2apic-mode", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS], "\"virtualize x2APIC mode\" must be 0",
            |s, _| forbidden(s, Secondary::VIRTUALIZE_X2APIC_MODE);
        "execution.tpr-shadow.apic-registers", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "\"APIC-register virtualization\" must be 0", |s, _| forbidden(s, Secondary::APIC_REGISTER_VIRTUALIZATION);
        "execution.tpr-shadow.interrupt-delivery", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "\"virtual-interrupt delivery\" must be 0", |s, _| forbidden(s, Secondary::VIRTUAL_INTERRUPT_DELIVERY);
        "execution.tpr-shadow.ipi-virtualization", [TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS], "\"IPI virtualization\" must be 0",
            |s, _| bits((s.tertiary & Tertiary::IPI_VIRTUALIZATION).bits());
    }),
    group!(SECTION, CONTROLS, "without \"NMI exiting\"", |s| !s.pin.contains(PinBased::NMI_EXITING), [], {
        "execution.virtual-nmis", [PIN_BASED_VM_EXECUTION_CONTROLS], "\"virtual NMIs\" must be 0",
            |s, _| bits((s.pin & PinBased::VIRTUAL_NMIS).bits().into());
    }),
    group!(SECTION, CONTROLS, "without \"virtual NMIs\"", |s| !s.pin.contains(PinBased::VIRTUAL_NMIS), [], {
        "execution.nmi-window", [PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS PIN_BASED_VM_EXECUTION_CONTROLS],
            "\"NMI-window exiting\" must be 0", |s, _| bits((s.primary & Primary::NMI_WINDOW_EXITING).bits().into());
    }),
    group!(SECTION, CONTROLS, "with \"virtualize APIC accesses\"", |s| s.secondary.contains(Secondary::VIRTUALIZE_APIC_ACCESSES),
        [APIC_ACCESS_ADDRESS], {
        "execution.apic-access-address", [APIC_ACCESS_ADDRESS], PAGE,
            |s, value| bits(s.misplaced_bits(Field::APIC_ACCESS_ADDRESS, value));
        "execution.x2apic-mode", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS], "\"virtualize x2APIC mode\" must be 0",
            |s, _| forbidden(s, Secondary::VIRTUALIZE_X2APIC_MODE);
    }),
    group!(SECTION, CONTROLS, "with \"virtual-interrupt delivery\"", |s| s.secondary.contains(Secondary::VIRTUAL_INTERRUPT_DELIVERY), [], {
        "execution.virtual-interrupt-delivery", [PIN_BASED_VM_EXECUTION_CONTROLS], "\"external-interrupt exiting\" must be 1",
            |s, value| unless(s.pin.contains(PinBased::EXTERNAL_INTERRUPT_EXITING), value);
    }),
    group!(SECTION, CONTROLS, "with \"process posted interrupts\"", |s| s.pin.contains(PinBased::PROCESS_POSTED_INTERRUPTS),
        [POSTED_INTERRUPT_NOTIFICATION_VECTOR POSTED_INTERRUPT_DESCRIPTOR_ADDRESS], {
        "execution.posted-interrupts.delivery", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "\"virtual-interrupt delivery\" must be 1",
            |s, value| unless(s.secondary.contains(Secondary::VIRTUAL_INTERRUPT_DELIVERY), value);
        "execution.posted-interrupts.acknowledge", [PRIMARY_VM_EXIT_CONTROLS], "\"acknowledge interrupt on exit\" must be 1",
            |s, value| unless(s.exit.contains(PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT), value);
        "execution.posted-interrupts.vector", [POSTED_INTERRUPT_NOTIFICATION_VECTOR], "bits 15:8 must be 0",
            |_, value| bits(value & !0xff);
        "execution.posted-interrupts.descriptor", [POSTED_INTERRUPT_DESCRIPTOR_ADDRESS],
            "must be 64-byte aligned and within the physical-address width",
            |s, value| bits(s.misplaced_bits(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, value));
    }),
    group!(SECTION, CONTROLS, "with \"enable VPID\"", |s| s.secondary.contains(Secondary::ENABLE_VPID), [VIRTUAL_PROCESSOR_IDENTIFIER], {
        "execution.vpid", [VIRTUAL_PROCESSOR_IDENTIFIER], "must not be 0", |_, value| unless(value != 0, value);
    }),
    group!(SECTION, CONTROLS, "with \"enable EPT\"", |s| !without_ept(s), [EPT_POINTER], {
        "execution.ept-pointer.memory-type", [EPT_POINTER], "bits 2:0 must be a memory type that IA32_VMX_EPT_VPID_CAP offers",
            |s, value| unless(memory_type_offered(s, value), value & 7);
        "execution.ept-pointer.walk-length", [EPT_POINTER], "bits 5:3 must be a page-walk length less 1 that IA32_VMX_EPT_VPID_CAP offers",
            |s, value| unless(walk_length_offered(s, value), value & 0x38);
        "execution.ept-pointer.accessed-dirty", [EPT_POINTER], "bit 6 must be 0 unless IA32_VMX_EPT_VPID_CAP[21] is 1",
            |s, value| unless(s.capabilities.ept_vpid().contains(EptVpid::ACCESSED_AND_DIRTY_FLAGS) || value & 0x40 == 0, 0x40);
        "execution.ept-pointer.shadow-stack", [EPT_POINTER], "bit 7 must be 0 unless IA32_VMX_EPT_VPID_CAP[23] is 1",
            |s, value| unless(s.capabilities.ept_vpid().contains(EptVpid::SUPERVISOR_SHADOW_STACK_CONTROL) || value & 0x80 == 0, 0x80);
        "execution.ept-pointer.reserved", [EPT_POINTER], "bits 11:8 must be 0", |_, value| bits(value & 0xf00);
        "execution.ept-pointer.width", [EPT_POINTER], "must be within the physical-address width",
            |s, value| bits(value & s.beyond_physical_width());
    }),
    group!(SECTION, CONTROLS, "without \"enable EPT\"", without_ept, [], {
        "execution.ept.pml", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS], "\"enable PML\" must be 0",
            |s, _| forbidden(s, Secondary::ENABLE_PML);
        "execution.ept.unrestricted-guest", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS], "\"unrestricted guest\" must be 0",
            |s, _| forbidden(s, Secondary::UNRESTRICTED_GUEST);
        "execution.ept.mode-based-execute", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "\"mode-based execute control for EPT\" must be 0", |s, _| forbidden(s, Secondary::MODE_BASED_EXECUTE_CONTROL_FOR_EPT);
        "execution.ept.sub-page", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "\"sub-page write permissions for EPT\" must be 0", |s, _| forbidden(s, Secondary::SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT);
        "execution.ept.processor-trace", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "\"Intel PT uses guest physical addresses\" must be 0",
            |s, _| forbidden(s, Secondary::INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES);
        "execution.ept.hlat", [TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS], "\"enable HLAT\" must be 0",
            |s, _| bits((s.tertiary & Tertiary::ENABLE_HLAT).bits());
        "execution.ept.paging-write", [TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS], "\"EPT paging-write control\" must be 0",
            |s, _| bits((s.tertiary & Tertiary::EPT_PAGING_WRITE_CONTROL).bits());
        "execution.ept.paging-verification", [TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "\"guest-paging verification\" must be 0", |s, _| bits((s.tertiary & Tertiary::GUEST_PAGING_VERIFICATION).bits());
    }),
    group!(SECTION, CONTROLS, "with \"enable PML\"", |s| s.secondary.contains(Secondary::ENABLE_PML), [PML_ADDRESS], {
        "execution.pml-address", [PML_ADDRESS], PAGE, |s, value| bits(s.misplaced_bits(Field::PML_ADDRESS, value));
    }),
    group!(SECTION, CONTROLS, "with \"sub-page write permissions for EPT\"",
        |s| s.secondary.contains(Secondary::SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT), [SUB_PAGE_PERMISSION_TABLE_POINTER], {
        "execution.sub-page-permission-table", [SUB_PAGE_PERMISSION_TABLE_POINTER], PAGE,
            |s, value| bits(s.misplaced_bits(Field::SUB_PAGE_PERMISSION_TABLE_POINTER, value));
    }),
    group!(SECTION, CONTROLS, "with \"enable VM functions\"", |s| s.secondary.contains(Secondary::ENABLE_VM_FUNCTIONS),
        [VM_FUNCTION_CONTROLS EPTP_LIST_ADDRESS], {
        "execution.vm-functions.allowed", [VM_FUNCTION_CONTROLS], "bits that IA32_VMX_VMFUNC forbids must be 0",
            |s, value| not_allowed(s.capabilities.vm_functions().allowed, value);
        "execution.vm-functions.eptp-switching", [VM_FUNCTION_CONTROLS SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS],
            "\"EPTP switching\" needs \"enable EPT\"",
            |s, value| unless(value & VmFunctions::EPTP_SWITCHING.bits() == 0 || !without_ept(s), value);
        "execution.vm-functions.eptp-list", [EPTP_LIST_ADDRESS VM_FUNCTION_CONTROLS],
            "with \"EPTP switching\" must be 4-KByte aligned and within the physical-address width",
            |s, value| match s.get(Field::VM_FUNCTION_CONTROLS) & VmFunctions::EPTP_SWITCHING.bits() {
                0 => None,
                _ => bits(s.misplaced_bits(Field::EPTP_LIST_ADDRESS, value)),
            };
    }),
    group!(SECTION, CONTROLS, "with \"VMCS shadowing\"", |s| s.secondary.contains(Secondary::VMCS_SHADOWING),
        [VMREAD_BITMAP VMWRITE_BITMAP], {
        "execution.vmread-bitmap", [VMREAD_BITMAP], PAGE, |s, value| bits(s.misplaced_bits(Field::VMREAD_BITMAP, value));
        "execution.vmwrite-bitmap", [VMWRITE_BITMAP], PAGE, |s, value| bits(s.misplaced_bits(Field::VMWRITE_BITMAP, value));
    }),
    group!(SECTION, CONTROLS, "with \"EPT-violation #VE\"", |s| s.secondary.contains(Secondary::EPT_VIOLATION_VE),
        [VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS], {
        "execution.virtualization-exception-information", [VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS], PAGE,
            |s, value| bits(s.misplaced_bits(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, value));
    }),
    group!(SECTION, CONTROLS, "with \"Intel PT uses guest physical addresses\"",
        |s| s.secondary.contains(Secondary::INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES), [], {
        "execution.processor-trace.load", [VM_ENTRY_CONTROLS], "\"load IA32_RTIT_CTL\" must be 1",
            |s, value| unless(s.entry.contains(Entry::LOAD_IA32_RTIT_CTL), value);
        "execution.processor-trace.clear", [PRIMARY_VM_EXIT_CONTROLS], "\"clear IA32_RTIT_CTL\" must be 1",
            |s, value| unless(s.exit.contains(PrimaryExit::CLEAR_IA32_RTIT_CTL), value);
    }),
    group!(SECTION, CONTROLS, "with \"use TSC scaling\"", |s| s.secondary.contains(Secondary::USE_TSC_SCALING), [TSC_MULTIPLIER], {
        "execution.tsc-multiplier", [TSC_MULTIPLIER], "must not be 0", |_, value| unless(value != 0, value);
    }),
    group!(SECTION, CONTROLS, "with \"PASID translation\"", |s| s.secondary.contains(Secondary::PASID_TRANSLATION),
        [LOW_PASID_DIRECTORY_ADDRESS HIGH_PASID_DIRECTORY_ADDRESS], {
        "execution.low-pasid-directory", [LOW_PASID_DIRECTORY_ADDRESS], PAGE,
            |s, value| bits(s.misplaced_bits(Field::LOW_PASID_DIRECTORY_ADDRESS, value));
        "execution.high-pasid-directory", [HIGH_PASID_DIRECTORY_ADDRESS], PAGE,
            |s, value| bits(s.misplaced_bits(Field::HIGH_PASID_DIRECTORY_ADDRESS, value));
    }),
    group!(SECTION, CONTROLS, "with \"enable HLAT\"", |s| s.tertiary.contains(Tertiary::ENABLE_HLAT), [HLAT_POINTER HLAT_PREFIX_SIZE], {
        "execution.hlat-pointer.reserved", [HLAT_POINTER], "bits 2:0 and 11:5 must be 0", |_, value| bits(value & 0xfe7);
        "execution.hlat-pointer.width", [HLAT_POINTER], "must be within the physical-address width",
            |s, value| bits(value & s.beyond_physical_width());
        "execution.hlat-prefix-size", [HLAT_PREFIX_SIZE], "must not exceed IA32_VMX_EPT_VPID_CAP[53:48]",
            |s, value| unless(value <= s.capabilities.ept_vpid().hlat_prefix_size_maximum().into(), value);
    }),
    group!(SECTION, CONTROLS, "with \"IPI virtualization\"", |s| s.tertiary.contains(Tertiary::IPI_VIRTUALIZATION),
        [PID_POINTER_TABLE_ADDRESS LAST_PID_POINTER_INDEX], {
        "execution.pid-pointer-table.address", [PID_POINTER_TABLE_ADDRESS],
            "must be 8-byte aligned and within the physical-address width",
            |s, value| bits(s.misplaced_bits(Field::PID_POINTER_TABLE_ADDRESS, value));
        "execution.pid-pointer-table.end", [PID_POINTER_TABLE_ADDRESS LAST_PID_POINTER_INDEX],
            "the last entry must be within the physical-address width",
            |s, value| bits(last_pid_pointer(s, value) & s.beyond_physical_width());
    }),
    group!(SECTION, CONTROLS, "with \"APIC-timer virtualization\"", |s| s.tertiary.contains(Tertiary::APIC_TIMER_VIRTUALIZATION),
        [VIRTUAL_TIMER_VECTOR], {
        "execution.apic-timer.delivery", [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS], "\"virtual-interrupt delivery\" must be 1",
            |s, value| unless(s.secondary.contains(Secondary::VIRTUAL_INTERRUPT_DELIVERY), value);
        "execution.apic-timer.vector", [VIRTUAL_TIMER_VECTOR], "bits 15:8 must be 0", |_, value| bits(value & !0xff);
    }),
];
