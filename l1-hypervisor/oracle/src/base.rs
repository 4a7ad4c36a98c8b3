//! The valid states that cases start from: one for every kind of guest, and some for features.

use vmcs::capability::{AllowedSettings, Capabilities};
use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::field::Field;
use vmcs::software::SoftwareVmcs;

use crate::field::{CS, LDTR, SEGMENTS, SS, TR};
use crate::machine::Machine;
use crate::memory::{GUEST_CODE, GUEST_STACK, PAGE_SIZE, Page};

/// A kind of guest, or a feature in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// 64-bit code at CPL 0, unrestricted guest.
    Long,
    /// 64-bit code without EPT.
    LongWithoutEpt,
    /// 64-bit code at CPL 3.
    LongUser,
    /// Compatibility mode.
    Compatibility,
    /// Protected mode with 32-bit paging, not an unrestricted guest.
    Protected,
    /// Protected mode with PAE paging and EPT.
    Pae,
    /// Protected mode with PAE paging, without EPT: the PDPTEs are in memory.
    PaeWithoutEpt,
    /// Protected mode without paging.
    Unpaged,
    /// Real mode.
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// 64-bit code with a virtual APIC.
    VirtualApic,
    /// 64-bit code with whatever else the processor offers.
    Features,
    /// 64-bit code with an event to inject.
    Event,
    /// 64-bit code, interrupts on, in an interrupt shadow.
    Shadow,
}

impl Base {
    /// All of them.
    pub const ALL: &'static [Base] = &[
        Base::Long,
        Base::LongWithoutEpt,
        Base::LongUser,
        Base::Compatibility,
        Base::Protected,
        Base::Pae,
        Base::PaeWithoutEpt,
        Base::Unpaged,
        Base::Real,
        Base::Virtual8086,
        Base::VirtualApic,
        Base::Features,
        Base::Event,
        Base::Shadow,
    ];

    fn ia32e(self) -> bool {
        use Base::{Compatibility, Event, Features, Long, LongUser, LongWithoutEpt, Shadow, VirtualApic};
        matches!(self, Long | LongWithoutEpt | LongUser | Compatibility | VirtualApic | Features | Event | Shadow)
    }

    fn ept(self) -> bool {
        !matches!(self, Base::LongWithoutEpt | Base::PaeWithoutEpt)
    }

    fn unrestricted(self) -> bool {
        matches!(self, Base::Long | Base::Unpaged | Base::Real | Base::Features | Base::Event | Base::VirtualApic)
    }

    fn pae(self) -> bool {
        self.ia32e() || matches!(self, Base::Pae | Base::PaeWithoutEpt)
    }

    fn paged(self) -> bool {
        !matches!(self, Base::Unpaged | Base::Real)
    }
}

/// All that an unrestricted guest is free in.
const CR0_PE_PG: u64 = 0x8000_0001;
const CR0_WP: u64 = 1 << 16;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG: u64 = 1 << 8 | 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;
const PAT: u64 = 0x0007_0406_0007_0406;
/// A general-protection exception with its error code.
const GENERAL_PROTECTION: u64 = 0x8000_0b0d;

/// What is wanted, as far as it is offered, and what is required.
fn fit(settings: AllowedSettings, wanted: u64) -> u64 {
    settings.adjust(wanted).value
}

/// The state `base` on this machine.
#[must_use]
pub fn build(base: Base, machine: &Machine, capabilities: &Capabilities) -> SoftwareVmcs {
    let mut vmcs = SoftwareVmcs::new();
    write_controls(&mut vmcs, base, machine, capabilities);
    write_addresses(&mut vmcs, machine);
    write_host(&mut vmcs, machine);
    write_segments(&mut vmcs, base);
    write_registers(&mut vmcs, base, machine, capabilities);
    vmcs
}

fn write_controls(vmcs: &mut SoftwareVmcs, base: Base, machine: &Machine, capabilities: &Capabilities) {
    let pin = PinBased::EXTERNAL_INTERRUPT_EXITING
        | PinBased::NMI_EXITING
        | PinBased::VIRTUAL_NMIS
        | PinBased::ACTIVATE_VMX_PREEMPTION_TIMER;
    let mut primary = Primary::HLT_EXITING
        | Primary::USE_TSC_OFFSETTING
        | Primary::MWAIT_EXITING
        | Primary::USE_IO_BITMAPS
        | Primary::USE_MSR_BITMAPS
        | Primary::ACTIVATE_SECONDARY_CONTROLS;
    let mut secondary = Secondary::ENABLE_VPID;
    let mut exit = PrimaryExit::HOST_ADDRESS_SPACE_SIZE
        | PrimaryExit::SAVE_DEBUG_CONTROLS
        | PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT
        | PrimaryExit::SAVE_IA32_PAT
        | PrimaryExit::LOAD_IA32_PAT
        | PrimaryExit::SAVE_IA32_EFER
        | PrimaryExit::LOAD_IA32_EFER
        | PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE;
    let mut entry = Entry::LOAD_DEBUG_CONTROLS | Entry::LOAD_IA32_PAT | Entry::LOAD_IA32_EFER;
    secondary.set(Secondary::ENABLE_EPT, base.ept());
    secondary.set(Secondary::UNRESTRICTED_GUEST, base.unrestricted());
    entry.set(Entry::IA_32E_MODE_GUEST, base.ia32e());
    if base == Base::VirtualApic {
        primary |= Primary::USE_TPR_SHADOW;
        secondary |=
            Secondary::VIRTUALIZE_APIC_ACCESSES | Secondary::APIC_REGISTER_VIRTUALIZATION | Secondary::VIRTUAL_INTERRUPT_DELIVERY;
    }
    if base == Base::Features {
        primary |= Primary::USE_TPR_SHADOW;
        secondary |= Secondary::DESCRIPTOR_TABLE_EXITING
            | Secondary::ENABLE_RDTSCP
            | Secondary::WBINVD_EXITING
            | Secondary::PAUSE_LOOP_EXITING
            | Secondary::RDRAND_EXITING
            | Secondary::ENABLE_INVPCID
            | Secondary::ENABLE_VM_FUNCTIONS
            | Secondary::VMCS_SHADOWING
            | Secondary::RDSEED_EXITING
            | Secondary::ENABLE_PML
            | Secondary::EPT_VIOLATION_VE
            | Secondary::ENABLE_XSAVES_XRSTORS
            | Secondary::SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT
            | Secondary::USE_TSC_SCALING;
        exit |= PrimaryExit::LOAD_IA32_PERF_GLOBAL_CTRL | PrimaryExit::LOAD_CET_STATE | PrimaryExit::LOAD_PKRS;
        entry |= Entry::LOAD_IA32_PERF_GLOBAL_CTRL | Entry::LOAD_CET_STATE | Entry::LOAD_PKRS;
    }
    let rows = [
        (Field::PIN_BASED_VM_EXECUTION_CONTROLS, fit(capabilities.pin_based(), pin.bits().into())),
        (Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, fit(capabilities.primary(), primary.bits().into())),
        (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, fit(capabilities.secondary(), secondary.bits().into())),
        (Field::PRIMARY_VM_EXIT_CONTROLS, fit(capabilities.primary_exit(), exit.bits().into())),
        (Field::VM_ENTRY_CONTROLS, fit(capabilities.entry(), entry.bits().into())),
        // Every exception exits: none is delivered through the guest's IDT, so none becomes a triple fault.
        (Field::EXCEPTION_BITMAP, 0xffff_ffff),
        (Field::VIRTUAL_PROCESSOR_IDENTIFIER, 1),
        (Field::EPT_POINTER, machine.ept_pointer),
        (Field::TSC_MULTIPLIER, 1 << 48),
        (Field::PML_INDEX, 511),
        (Field::TPR_THRESHOLD, if base == Base::Features { 2 } else { 0 }),
        (Field::VM_FUNCTION_CONTROLS, if base == Base::Features { capabilities.vm_functions().allowed & 1 } else { 0 }),
        (Field::VM_ENTRY_MSR_LOAD_COUNT, if base == Base::Features { 3 } else { 0 }),
        (Field::VM_EXIT_MSR_LOAD_COUNT, if base == Base::Features { 2 } else { 0 }),
        (Field::VM_EXIT_MSR_STORE_COUNT, if base == Base::Features { 2 } else { 0 }),
        (Field::VM_ENTRY_INTERRUPTION_INFORMATION, if base == Base::Event { GENERAL_PROTECTION } else { 0 }),
        (Field::VM_ENTRY_EXCEPTION_ERROR_CODE, if base == Base::Event { 0x18 } else { 0 }),
        (Field::VM_ENTRY_INSTRUCTION_LENGTH, 2),
    ];
    write(vmcs, &rows);
}

/// All addresses, whether or not the base uses them: a control that a mutation sets then finds one.
fn write_addresses(vmcs: &mut SoftwareVmcs, machine: &Machine) {
    let rows = [
        (Field::IO_BITMAP_A, Page::IoBitmapA),
        (Field::IO_BITMAP_B, Page::IoBitmapB),
        (Field::MSR_BITMAP, Page::MsrBitmap),
        (Field::VM_EXIT_MSR_STORE_ADDRESS, Page::ExitMsrs),
        (Field::VM_EXIT_MSR_LOAD_ADDRESS, Page::ExitMsrs),
        (Field::VM_ENTRY_MSR_LOAD_ADDRESS, Page::EntryMsrs),
        (Field::PML_ADDRESS, Page::ModificationLog),
        (Field::VIRTUAL_APIC_ADDRESS, Page::VirtualApic),
        (Field::APIC_ACCESS_ADDRESS, Page::ApicAccess),
        (Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, Page::Spare),
        (Field::EPTP_LIST_ADDRESS, Page::EptpList),
        (Field::VMREAD_BITMAP, Page::VmreadBitmap),
        (Field::VMWRITE_BITMAP, Page::VmwriteBitmap),
        (Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, Page::VirtualizationException),
        (Field::SUB_PAGE_PERMISSION_TABLE_POINTER, Page::Spare),
    ];
    for (field, page) in rows {
        vmcs.set(field, machine.page(page));
    }
}

fn write_host(vmcs: &mut SoftwareVmcs, machine: &Machine) {
    let host = &machine.host;
    let rows = [
        (Field::HOST_CR0, host.cr0),
        (Field::HOST_CR3, host.cr3),
        (Field::HOST_CR4, host.cr4),
        (Field::HOST_CS_SELECTOR, host.code_selector),
        (Field::HOST_SS_SELECTOR, host.data_selector),
        (Field::HOST_DS_SELECTOR, host.data_selector),
        (Field::HOST_ES_SELECTOR, host.data_selector),
        (Field::HOST_TR_SELECTOR, host.task_selector),
        (Field::HOST_TR_BASE, host.task_base),
        (Field::HOST_GDTR_BASE, host.gdtr_base),
        (Field::HOST_IDTR_BASE, host.idtr_base),
        (Field::HOST_IA32_EFER, host.efer),
        (Field::HOST_IA32_PAT, host.pat),
        (Field::HOST_RSP, host.rsp),
        (Field::HOST_RIP, host.rip),
    ];
    write(vmcs, &rows);
}

fn write_segments(vmcs: &mut SoftwareVmcs, base: Base) {
    // Selector, base, limit and access rights (SDM 3C table 25-2) of CS and of the data segments.
    let (code, data): ([u64; 4], [u64; 4]) = match base {
        Base::Compatibility | Base::Protected | Base::Pae | Base::PaeWithoutEpt | Base::Unpaged => {
            ([0x10, 0, 0xffff_ffff, 0xc09b], [0x18, 0, 0xffff_ffff, 0xc093])
        }
        Base::Real => ([GUEST_CODE >> 4, GUEST_CODE, 0xffff, 0x9b], [0, 0, 0xffff, 0x93]),
        Base::Virtual8086 => ([GUEST_CODE >> 4, GUEST_CODE, 0xffff, 0xf3], [GUEST_STACK >> 4, GUEST_STACK, 0xffff, 0xf3]),
        Base::LongUser => ([0x23, 0, 0xffff_ffff, 0xa0fb], [0x2b, 0, 0xffff_ffff, 0xc0f3]),
        _ => ([0x10, 0, 0xffff_ffff, 0xa09b], [0x18, 0, 0xffff_ffff, 0xc093]),
    };
    for (number, segment) in SEGMENTS.iter().enumerate() {
        let [selector, start, limit, rights] = match number {
            CS => code,
            LDTR => [0x30, 0x5000, 0xffff, 0x82],
            TR => [0x28, 0x4000, 0x67, 0x8b],
            SS => data,
            _ => data,
        };
        let rows = [(segment.selector, selector), (segment.base, start), (segment.limit, limit), (segment.rights, rights)];
        write(vmcs, &rows);
    }
}

fn write_registers(vmcs: &mut SoftwareVmcs, base: Base, machine: &Machine, capabilities: &Capabilities) {
    let (fixed0, fixed4) = (capabilities.cr0_fixed(), capabilities.cr4_fixed());
    let mode = match base {
        Base::Real => 0,
        Base::Unpaged => 1,
        _ => CR0_PE_PG,
    };
    let cr3 = match base {
        _ if !base.paged() => 0,
        _ if base.ia32e() => machine.page(Page::Pml4),
        _ if base.pae() => machine.page(Page::PaePdpt),
        _ => machine.page(Page::PageDirectory32),
    };
    let efer = (machine.host.efer & EFER_NXE) | if base.ia32e() { EFER_LONG } else { 0 };
    let interrupts = if matches!(base, Base::Shadow | Base::VirtualApic) { RFLAGS_IF } else { 0 };
    let virtual_8086 = if base == Base::Virtual8086 { RFLAGS_VM } else { 0 };
    // In real and virtual-8086 mode CS begins where the code does.
    let segmented = matches!(base, Base::Real | Base::Virtual8086);
    let first_entry = machine.page(Page::PageDirectory) | 1;
    let rows = [
        (Field::GUEST_CR0, (fixed0.required & !CR0_PE_PG) | mode | CR0_WP),
        (Field::GUEST_CR3, cr3),
        (Field::GUEST_CR4, fixed4.required | if base.pae() { CR4_PAE } else { 0 }),
        (Field::GUEST_IA32_EFER, efer),
        (Field::GUEST_IA32_PAT, PAT),
        (Field::GUEST_PDPTE0, if base == Base::Pae { first_entry } else { 0 }),
        (Field::GUEST_RIP, if segmented { 0 } else { GUEST_CODE }),
        (Field::GUEST_RSP, if segmented { 0xff0 } else { GUEST_STACK + PAGE_SIZE - 16 }),
        (Field::GUEST_RFLAGS, 2 | interrupts | virtual_8086),
        (Field::GUEST_GDTR_LIMIT, 0x3f),
        // No table: what is delivered and does not exit itself faults, and that exits.
        (Field::GUEST_IDTR_LIMIT, 0),
        (Field::GUEST_DR7, 0x400),
        (Field::GUEST_INTERRUPTIBILITY_STATE, if base == Base::Shadow { 1 } else { 0 }),
        (
            Field::VMCS_LINK_POINTER,
            if base == Base::Features && capabilities.supports_secondary(Secondary::VMCS_SHADOWING) {
                machine.page(Page::ShadowVmcs)
            } else {
                u64::MAX
            },
        ),
    ];
    write(vmcs, &rows);
}

fn write(vmcs: &mut SoftwareVmcs, rows: &[(Field, u64)]) {
    for &(field, value) in rows {
        vmcs.set(field, value);
    }
}
