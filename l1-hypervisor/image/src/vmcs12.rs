//! Sets up vmcs12, the VMCS that runs L2: controls from the capability MSRs, L1's host state, L2's first state.

use l1_protocol::boot;
use l1_protocol::guest::{GuestStart, START_LONG_MODE, START_REAL_MODE};
use vmcs::access::VmcsAccess;
use vmcs::capability::{AllowedSettings, Capabilities};
use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryProcessorBased};
use vmcs::field::Field;
use x86::controlregs::{Cr0, Cr4};

use crate::cpuid::Features;

/// Values for the host-state area: what the processor runs with in L1.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "each field is the register or field it is named after")]
pub struct HostState {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pat: u64,
    pub code_selector: u16,
    pub data_selector: u16,
    pub task_selector: u16,
    pub task_base: u64,
    pub gdtr_base: u64,
    pub idtr_base: u64,
    pub rsp: u64,
    pub rip: u64,
}

/// Physical addresses of the structures that vmcs12 points to.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each field is the VMCS field it is named after")]
pub struct Structures {
    pub io_bitmap_a: u64,
    pub io_bitmap_b: u64,
    pub msr_bitmap: u64,
    pub ept_pointer: u64,
}

/// The controls of vmcs12 that change while L2 runs or that handlers ask for.
#[derive(Debug, Clone, Copy)]
pub struct Controls {
    /// Pin-based.
    pub pin_based: PinBased,
    /// Primary processor-based.
    pub primary: PrimaryProcessorBased,
    /// Secondary processor-based.
    pub secondary: SecondaryProcessorBased,
    /// VM-exit controls.
    pub exit: PrimaryExit,
    /// VM-entry controls, without IA-32e mode guest.
    pub entry: Entry,
}

/// Exits that L1 does not need, by the bits of the boot information.
const PRIMARY_INTERCEPTS: &[(u32, PrimaryProcessorBased)] = &[
    (boot::INTERCEPT_RDTSC, PrimaryProcessorBased::RDTSC_EXITING),
    (boot::INTERCEPT_PAUSE, PrimaryProcessorBased::PAUSE_EXITING),
    (boot::INTERCEPT_MOV_DR, PrimaryProcessorBased::MOV_DR_EXITING),
    (boot::INTERCEPT_CR3, PrimaryProcessorBased::CR3_LOAD_EXITING.union(PrimaryProcessorBased::CR3_STORE_EXITING)),
    (boot::INTERCEPT_INVLPG, PrimaryProcessorBased::INVLPG_EXITING),
];

/// See [`PRIMARY_INTERCEPTS`].
const SECONDARY_INTERCEPTS: &[(u32, SecondaryProcessorBased)] = &[
    (boot::INTERCEPT_RDRAND, SecondaryProcessorBased::RDRAND_EXITING),
    (boot::INTERCEPT_RDSEED, SecondaryProcessorBased::RDSEED_EXITING),
];

/// VPID of L2; 0 is L1's own.
const GUEST_VPID: u64 = 1;
/// Power-on value of IA32_PAT (SDM 3A 12.12.4 "Programming the PAT").
pub const PAT_AFTER_RESET: u64 = 0x0007_0406_0007_0406;

/// CR0 bits that L2 does not own: NE, which VMX fixes, the cache control bits NW and CD, which have no meaning in a
/// guest whose memory types come from EPT, and everything reserved. A write that changes one of them exits.
pub const CR0_HOST_OWNED: u64 = !(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_WP | CR0_AM | CR0_PG);
/// Protection enable.
pub const CR0_PE: u64 = Cr0::CR0_PROTECTED_MODE.bits() as u64;
/// Monitor coprocessor.
pub const CR0_MP: u64 = Cr0::CR0_MONITOR_COPROCESSOR.bits() as u64;
/// Emulation.
pub const CR0_EM: u64 = Cr0::CR0_EMULATE_COPROCESSOR.bits() as u64;
/// Task switched.
pub const CR0_TS: u64 = Cr0::CR0_TASK_SWITCHED.bits() as u64;
/// Extension type; always 1.
pub const CR0_ET: u64 = Cr0::CR0_EXTENSION_TYPE.bits() as u64;
/// Numeric error.
pub const CR0_NE: u64 = Cr0::CR0_NUMERIC_ERROR.bits() as u64;
/// Write protect.
pub const CR0_WP: u64 = Cr0::CR0_WRITE_PROTECT.bits() as u64;
/// Alignment mask.
pub const CR0_AM: u64 = Cr0::CR0_ALIGNMENT_MASK.bits() as u64;
/// Not write-through.
pub const CR0_NW: u64 = Cr0::CR0_NOT_WRITE_THROUGH.bits() as u64;
/// Cache disable.
pub const CR0_CD: u64 = Cr0::CR0_CACHE_DISABLE.bits() as u64;
/// Paging.
pub const CR0_PG: u64 = Cr0::CR0_ENABLE_PAGING.bits() as u64;
/// Physical-address extension.
pub const CR4_PAE: u64 = Cr4::CR4_ENABLE_PAE.bits() as u64;
/// XSETBV and XGETBV work.
pub const CR4_OSXSAVE: u64 = Cr4::CR4_ENABLE_OS_XSAVE.bits() as u64;
/// VMX enable: always 1 in the real CR4. L2 reads what it wrote, which is 0 where it has no VMX.
pub const CR4_VMXE: u64 = Cr4::CR4_ENABLE_VMX.bits() as u64;

impl Controls {
    /// Chooses the controls. What L1 cannot do without was checked by `fitness`; what is merely useful is taken where
    /// it is offered.
    #[must_use]
    pub fn new(capabilities: &Capabilities, intercepts: u32) -> Self {
        let mut primary = PrimaryProcessorBased::HLT_EXITING
            | PrimaryProcessorBased::USE_TSC_OFFSETTING
            | PrimaryProcessorBased::MWAIT_EXITING
            | PrimaryProcessorBased::MONITOR_EXITING
            | PrimaryProcessorBased::RDPMC_EXITING
            // Without a TPR shadow CR8 is the machine's own task priority.
            | PrimaryProcessorBased::CR8_LOAD_EXITING
            | PrimaryProcessorBased::CR8_STORE_EXITING
            | PrimaryProcessorBased::USE_IO_BITMAPS
            | PrimaryProcessorBased::USE_MSR_BITMAPS
            | PrimaryProcessorBased::ACTIVATE_SECONDARY_CONTROLS;
        let mut secondary = SecondaryProcessorBased::ENABLE_EPT
            | SecondaryProcessorBased::UNRESTRICTED_GUEST
            | SecondaryProcessorBased::ENABLE_VPID
            | SecondaryProcessorBased::ENABLE_RDTSCP
            | SecondaryProcessorBased::ENABLE_INVPCID
            | SecondaryProcessorBased::WBINVD_EXITING;
        for &(_, controls) in PRIMARY_INTERCEPTS.iter().filter(|(bit, _)| intercepts & bit != 0) {
            primary |= controls;
        }
        for &(_, controls) in SECONDARY_INTERCEPTS.iter().filter(|(bit, _)| intercepts & bit != 0) {
            secondary |= controls;
        }
        let exit = PrimaryExit::HOST_ADDRESS_SPACE_SIZE
            | PrimaryExit::SAVE_DEBUG_CONTROLS
            | PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT
            | PrimaryExit::SAVE_IA32_PAT
            | PrimaryExit::LOAD_IA32_PAT
            | PrimaryExit::SAVE_IA32_EFER
            | PrimaryExit::LOAD_IA32_EFER
            | PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE;
        let entry = Entry::LOAD_DEBUG_CONTROLS | Entry::LOAD_IA32_PAT | Entry::LOAD_IA32_EFER;
        let pin_based = PinBased::EXTERNAL_INTERRUPT_EXITING
            | PinBased::NMI_EXITING
            | PinBased::VIRTUAL_NMIS
            | PinBased::ACTIVATE_VMX_PREEMPTION_TIMER;
        Self {
            pin_based: PinBased::from_bits_retain(fit(capabilities.pin_based(), pin_based.bits().into())),
            primary: PrimaryProcessorBased::from_bits_retain(fit(capabilities.primary(), primary.bits().into())),
            secondary: SecondaryProcessorBased::from_bits_retain(fit(capabilities.secondary(), secondary.bits().into())),
            exit: PrimaryExit::from_bits_retain(fit(capabilities.primary_exit(), exit.bits().into())),
            entry: Entry::from_bits_retain(fit(capabilities.entry(), entry.bits().into())),
        }
    }
}

/// What is wanted, as far as it is allowed, and what is required.
fn fit(settings: AllowedSettings, wanted: u64) -> u32 {
    settings.adjust(wanted).value as u32
}

/// Writes everything: controls, host state and L2's first state. The VMCS has just been cleared.
pub fn set_up(
    vmcs: &mut impl VmcsAccess,
    capabilities: &Capabilities,
    controls: &Controls,
    host: &HostState,
    structures: &Structures,
    information: &boot::BootInformation,
    features: &Features,
) {
    write_controls(vmcs, controls, structures, information, features);
    write_host_state(vmcs, host);
    write_guest_state(vmcs, capabilities, controls, &information.start);
}

fn write_controls(
    vmcs: &mut impl VmcsAccess,
    controls: &Controls,
    structures: &Structures,
    information: &boot::BootInformation,
    features: &Features,
) {
    let rows = [
        (Field::PIN_BASED_VM_EXECUTION_CONTROLS, controls.pin_based.bits().into()),
        (Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.primary.bits().into()),
        (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.secondary.bits().into()),
        (Field::PRIMARY_VM_EXIT_CONTROLS, controls.exit.bits().into()),
        (Field::EXCEPTION_BITMAP, information.exception_intercepts.into()),
        // With the mask 0 and the match 0 bit 14 of the exception bitmap alone decides (SDM 3C 25.6.3).
        (Field::PAGE_FAULT_ERROR_CODE_MASK, 0),
        (Field::PAGE_FAULT_ERROR_CODE_MATCH, 0),
        (Field::CR3_TARGET_COUNT, 0),
        (Field::VM_EXIT_MSR_STORE_COUNT, 0),
        (Field::VM_EXIT_MSR_LOAD_COUNT, 0),
        (Field::VM_ENTRY_MSR_LOAD_COUNT, 0),
        (Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0),
        (Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0),
        (Field::VM_ENTRY_INSTRUCTION_LENGTH, 0),
        (Field::IO_BITMAP_A, structures.io_bitmap_a),
        (Field::IO_BITMAP_B, structures.io_bitmap_b),
        (Field::MSR_BITMAP, structures.msr_bitmap),
        (Field::EPT_POINTER, structures.ept_pointer),
        (Field::CR0_GUEST_HOST_MASK, CR0_HOST_OWNED),
        (Field::CR4_GUEST_HOST_MASK, !features.cr4),
        (Field::VMX_PREEMPTION_TIMER_VALUE, 0),
    ];
    for (field, value) in rows {
        vmcs.write(field, value);
    }
    if controls.secondary.contains(SecondaryProcessorBased::ENABLE_VPID) {
        vmcs.write(Field::VIRTUAL_PROCESSOR_IDENTIFIER, GUEST_VPID);
    }
}

/// L1's CR4 after an exit of a guest with `guest_cr4`: `cr4` with the guest's OSXSAVE. L1 needs the bit for XSETBV only; but a
/// KVM that L1 is a guest of computes CPUID anew whenever an exit or entry changes it, for some 1,000 instructions each time.
#[must_use]
pub const fn host_cr4(cr4: u64, guest_cr4: u64) -> u64 {
    cr4 & !CR4_OSXSAVE | guest_cr4 & CR4_OSXSAVE
}

/// Writes the host-state area.
pub fn write_host_state(vmcs: &mut impl VmcsAccess, host: &HostState) {
    let rows = [
        (Field::HOST_CR0, host.cr0),
        (Field::HOST_CR3, host.cr3),
        (Field::HOST_CR4, host.cr4),
        (Field::HOST_CS_SELECTOR, host.code_selector.into()),
        (Field::HOST_SS_SELECTOR, host.data_selector.into()),
        (Field::HOST_DS_SELECTOR, host.data_selector.into()),
        (Field::HOST_ES_SELECTOR, host.data_selector.into()),
        (Field::HOST_FS_SELECTOR, 0),
        (Field::HOST_GS_SELECTOR, 0),
        (Field::HOST_TR_SELECTOR, host.task_selector.into()),
        (Field::HOST_FS_BASE, 0),
        (Field::HOST_GS_BASE, 0),
        (Field::HOST_TR_BASE, host.task_base),
        (Field::HOST_GDTR_BASE, host.gdtr_base),
        (Field::HOST_IDTR_BASE, host.idtr_base),
        (Field::HOST_IA32_SYSENTER_CS, 0),
        (Field::HOST_IA32_SYSENTER_ESP, 0),
        (Field::HOST_IA32_SYSENTER_EIP, 0),
        (Field::HOST_IA32_EFER, host.efer),
        (Field::HOST_IA32_PAT, host.pat),
        (Field::HOST_RSP, host.rsp),
        (Field::HOST_RIP, host.rip),
    ];
    for (field, value) in rows {
        vmcs.write(field, value);
    }
}

/// Selector, base, limit and access rights of a segment register.
type Segment = (u16, u64, u32, u32);

/// Access rights (SDM 3C table 25-2): present, type, S, D/B, G as named.
const DATA_16: u32 = 0x93;
const CODE_16: u32 = 0x9b;
const DATA_32: u32 = 0xc093;
const CODE_32: u32 = 0xc09b;
const CODE_64: u32 = 0xa09b;
const LOCAL_DESCRIPTOR_TABLE: u32 = 0x82;
/// In IA-32e mode TR must be a busy 64-bit TSS (SDM 3C 27.3.1.2 "Checks on Guest Segment Registers"), and a guest that
/// starts in real mode may go there without ever loading TR.
const BUSY_TASK: u32 = 0x8b;

fn write_guest_state(vmcs: &mut impl VmcsAccess, capabilities: &Capabilities, controls: &Controls, start: &GuestStart) {
    let (code, data): (Segment, Segment) = match start.mode {
        START_REAL_MODE => {
            let selector = start.code_segment as u16;
            ((selector, u64::from(selector) << 4, 0xffff, CODE_16), (0, 0, 0xffff, DATA_16))
        }
        START_LONG_MODE => ((0x10, 0, u32::MAX, CODE_64), (0x18, 0, u32::MAX, DATA_32)),
        _ => ((0x10, 0, u32::MAX, CODE_32), (0x18, 0, u32::MAX, DATA_32)),
    };
    let segments = [
        (Field::GUEST_ES_SELECTOR, Field::GUEST_ES_BASE, Field::GUEST_ES_LIMIT, Field::GUEST_ES_ACCESS_RIGHTS, data),
        (Field::GUEST_CS_SELECTOR, Field::GUEST_CS_BASE, Field::GUEST_CS_LIMIT, Field::GUEST_CS_ACCESS_RIGHTS, code),
        (Field::GUEST_SS_SELECTOR, Field::GUEST_SS_BASE, Field::GUEST_SS_LIMIT, Field::GUEST_SS_ACCESS_RIGHTS, data),
        (Field::GUEST_DS_SELECTOR, Field::GUEST_DS_BASE, Field::GUEST_DS_LIMIT, Field::GUEST_DS_ACCESS_RIGHTS, data),
        (Field::GUEST_FS_SELECTOR, Field::GUEST_FS_BASE, Field::GUEST_FS_LIMIT, Field::GUEST_FS_ACCESS_RIGHTS, data),
        (Field::GUEST_GS_SELECTOR, Field::GUEST_GS_BASE, Field::GUEST_GS_LIMIT, Field::GUEST_GS_ACCESS_RIGHTS, data),
        (
            Field::GUEST_LDTR_SELECTOR,
            Field::GUEST_LDTR_BASE,
            Field::GUEST_LDTR_LIMIT,
            Field::GUEST_LDTR_ACCESS_RIGHTS,
            (0, 0, 0xffff, LOCAL_DESCRIPTOR_TABLE),
        ),
        (
            Field::GUEST_TR_SELECTOR,
            Field::GUEST_TR_BASE,
            Field::GUEST_TR_LIMIT,
            Field::GUEST_TR_ACCESS_RIGHTS,
            (0, 0, 0xffff, BUSY_TASK),
        ),
    ];
    for (selector_field, base_field, limit_field, rights_field, (selector, base, limit, rights)) in segments {
        vmcs.write(selector_field, selector.into());
        vmcs.write(base_field, base);
        vmcs.write(limit_field, limit.into());
        vmcs.write(rights_field, rights.into());
    }
    write_control_registers(vmcs, capabilities, controls, start);
    let real_mode = start.mode == START_REAL_MODE;
    let rows = [
        (Field::GUEST_RIP, start.rip),
        (Field::GUEST_RSP, start.rsp),
        // Bit 1 is always 1; interrupts are off.
        (Field::GUEST_RFLAGS, 2),
        (Field::GUEST_GDTR_BASE, start.gdt_base),
        (Field::GUEST_GDTR_LIMIT, if start.gdt_base == 0 { 0xffff } else { start.gdt_limit & 0xffff }),
        (Field::GUEST_IDTR_BASE, 0),
        // The real-mode vector table, or no table at all.
        (Field::GUEST_IDTR_LIMIT, if real_mode { 0x3ff } else { 0 }),
        (Field::GUEST_DR7, 0x400),
        (Field::GUEST_IA32_DEBUGCTL, 0),
        (Field::GUEST_IA32_SYSENTER_CS, 0),
        (Field::GUEST_IA32_SYSENTER_ESP, 0),
        (Field::GUEST_IA32_SYSENTER_EIP, 0),
        (Field::GUEST_IA32_PAT, PAT_AFTER_RESET),
        (Field::GUEST_INTERRUPTIBILITY_STATE, 0),
        (Field::GUEST_ACTIVITY_STATE, 0),
        (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
        (Field::VMCS_LINK_POINTER, u64::MAX),
    ];
    for (field, value) in rows {
        vmcs.write(field, value);
    }
}

fn write_control_registers(vmcs: &mut impl VmcsAccess, capabilities: &Capabilities, controls: &Controls, start: &GuestStart) {
    const EFER_LONG_MODE: u64 = 1 << 8;
    const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
    let (cr0, cr4, efer, entry) = match start.mode {
        START_REAL_MODE => (CR0_ET, 0, 0, controls.entry),
        START_LONG_MODE => (
            CR0_PE | CR0_ET | CR0_NE | CR0_PG,
            CR4_PAE,
            EFER_LONG_MODE | EFER_LONG_MODE_ACTIVE,
            controls.entry | Entry::IA_32E_MODE_GUEST,
        ),
        _ => (CR0_PE | CR0_ET, 0, 0, controls.entry),
    };
    let rows = [
        (Field::GUEST_CR0, real_cr0(capabilities, cr0)),
        (Field::CR0_READ_SHADOW, cr0),
        (Field::GUEST_CR3, start.cr3),
        (Field::GUEST_CR4, real_cr4(capabilities, cr4)),
        (Field::CR4_READ_SHADOW, cr4),
        (Field::GUEST_IA32_EFER, efer),
        (Field::VM_ENTRY_CONTROLS, entry.bits().into()),
    ];
    for (field, value) in rows {
        vmcs.write(field, value);
    }
}

/// The CR0 that the processor runs with when L2 has set `seen`: VMX fixes NE (and PE and PG, which "unrestricted guest"
/// sets free), and the caches stay on.
#[must_use]
pub fn real_cr0(capabilities: &Capabilities, seen: u64) -> u64 {
    let required = capabilities.cr0_fixed().required & !(CR0_PE | CR0_PG);
    (seen & !(CR0_CD | CR0_NW) | required) & capabilities.cr0_fixed().allowed
}

/// The CR4 that the processor runs with when L2 has set `seen`.
#[must_use]
pub fn real_cr4(capabilities: &Capabilities, seen: u64) -> u64 {
    seen | capabilities.cr4_fixed().required
}
