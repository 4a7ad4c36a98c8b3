//! A complete vmcs23 that can be entered, as rows of field and value.

use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::field::Field;

use super::scene::{LOW_CODE, LOW_DATA, Scene};
use super::vmcs_access::{get, set};
use crate::control::{cr0, cr4};
use crate::msr::efer;
use crate::vmx::region::PAGE;
use crate::vmx::{ept, setup, world_switch};

/// How L3 runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit mode under EPT.
    Long,
    /// 64-bit mode, L3's paging leading to L2's addresses.
    LongWithoutEpt,
    /// 32-bit protected mode with PAE paging, under EPT.
    Pae,
    /// 32-bit protected mode with PAE paging, without EPT.
    PaeWithoutEpt,
    /// 32-bit protected mode without paging.
    Unpaged,
    /// Real mode.
    Real,
}

/// All of them; the first ones are the more usual ones.
pub const MODES: &[Mode] =
    &[Mode::Long, Mode::Long, Mode::Long, Mode::LongWithoutEpt, Mode::Pae, Mode::PaeWithoutEpt, Mode::Unpaged, Mode::Real];

impl Mode {
    /// Whether it is IA-32e mode.
    #[must_use]
    pub fn is_long(self) -> bool {
        matches!(self, Self::Long | Self::LongWithoutEpt)
    }

    /// Whether L3 runs under EPT.
    #[must_use]
    pub fn has_ept(self) -> bool {
        !matches!(self, Self::LongWithoutEpt | Self::PaeWithoutEpt)
    }

    /// The address of a byte of the page of code, as RIP.
    #[must_use]
    pub fn code(self, scene: &Scene, offset: u64) -> u64 {
        if self == Self::Real { offset } else { scene.code + offset }
    }

    /// The address of a byte of the page of data, as an offset in DS.
    #[must_use]
    pub fn data(self, scene: &Scene, offset: u64) -> u64 {
        if self == Self::Real { offset } else { scene.data + offset }
    }
}

/// Adds the bits that must be 1. No offered bit is asked for that a processor with EPT lacks.
fn controls(mode: Mode) -> [(Field, u64); 5] {
    let ept = if mode.has_ept() { Secondary::ENABLE_EPT } else { Secondary::empty() };
    let unrestricted =
        if matches!(mode, Mode::Unpaged | Mode::Real) { Secondary::UNRESTRICTED_GUEST } else { Secondary::empty() };
    let long = if mode.is_long() { Entry::IA_32E_MODE_GUEST } else { Entry::empty() };
    let exit = PrimaryExit::HOST_ADDRESS_SPACE_SIZE
        | PrimaryExit::SAVE_IA32_EFER
        | PrimaryExit::LOAD_IA32_EFER
        | PrimaryExit::SAVE_IA32_PAT
        | PrimaryExit::LOAD_IA32_PAT
        | PrimaryExit::SAVE_DEBUG_CONTROLS;
    let entry = Entry::LOAD_IA32_EFER | Entry::LOAD_IA32_PAT | Entry::LOAD_DEBUG_CONTROLS | long;
    // The default1 class (SDM 3D A.3 to A.5), less what the true capability MSRs leave free and is not wanted.
    [
        (Field::PIN_BASED_VM_EXECUTION_CONTROLS, u64::from(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER.bits() | 0x16)),
        (
            Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
            u64::from((Primary::ACTIVATE_SECONDARY_CONTROLS | Primary::HLT_EXITING).bits() | 0x0400_6172),
        ),
        (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, u64::from((ept | unrestricted).bits())),
        (Field::PRIMARY_VM_EXIT_CONTROLS, u64::from(exit.bits() | 0x0003_6dfb)),
        (Field::VM_ENTRY_CONTROLS, u64::from(entry.bits() | 0x0000_11fb)),
    ]
}

fn neutral(scene: &Scene) -> [(Field, u64); 30] {
    [
        (Field::EXCEPTION_BITMAP, 0),
        (Field::PAGE_FAULT_ERROR_CODE_MASK, 0),
        (Field::PAGE_FAULT_ERROR_CODE_MATCH, 0),
        (Field::CR3_TARGET_COUNT, 0),
        (Field::CR3_TARGET_VALUE0, 0),
        (Field::CR3_TARGET_VALUE1, 0),
        (Field::CR3_TARGET_VALUE2, 0),
        (Field::CR3_TARGET_VALUE3, 0),
        (Field::VM_EXIT_MSR_STORE_ADDRESS, 0),
        (Field::VM_EXIT_MSR_STORE_COUNT, 0),
        (Field::VM_EXIT_MSR_LOAD_ADDRESS, 0),
        (Field::VM_EXIT_MSR_LOAD_COUNT, 0),
        (Field::VM_ENTRY_MSR_LOAD_ADDRESS, 0),
        (Field::VM_ENTRY_MSR_LOAD_COUNT, 0),
        (Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0),
        (Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0),
        (Field::VM_ENTRY_INSTRUCTION_LENGTH, 1),
        (Field::TSC_OFFSET, 0),
        (Field::CR0_GUEST_HOST_MASK, 0),
        (Field::CR4_GUEST_HOST_MASK, 0),
        (Field::IO_BITMAP_A, scene.io_bitmaps),
        (Field::IO_BITMAP_B, scene.io_bitmaps + PAGE),
        (Field::MSR_BITMAP, scene.msr_bitmap),
        (Field::EPT_POINTER, scene.ept.root() | ept::POINTER),
        (Field::VIRTUAL_PROCESSOR_IDENTIFIER, 1),
        (Field::VMX_PREEMPTION_TIMER_VALUE, super::limits::TIMER),
        (Field::GUEST_PDPTE0, crate::vmx::region::read(scene.pae)),
        (Field::GUEST_PDPTE1, crate::vmx::region::read(scene.pae + 8)),
        (Field::GUEST_PDPTE2, 0),
        (Field::GUEST_PDPTE3, 0),
    ]
}

/// The host state: L2 goes on as it is, in `world_switch`.
pub fn host(scene: &Scene) -> [(Field, u64); 22] {
    [
        (Field::HOST_CR0, scene.found.cr0),
        (Field::HOST_CR3, scene.found.cr3),
        (Field::HOST_CR4, scene.found.cr4),
        (Field::HOST_ES_SELECTOR, 0x18),
        (Field::HOST_CS_SELECTOR, 0x10),
        (Field::HOST_SS_SELECTOR, 0x18),
        (Field::HOST_DS_SELECTOR, 0x18),
        (Field::HOST_FS_SELECTOR, 0),
        (Field::HOST_GS_SELECTOR, 0),
        (Field::HOST_TR_SELECTOR, 0x20),
        (Field::HOST_FS_BASE, 0),
        (Field::HOST_GS_BASE, 0),
        (Field::HOST_TR_BASE, 0),
        (Field::HOST_GDTR_BASE, l1_protocol::guest::LOADER_GDT),
        (Field::HOST_IDTR_BASE, crate::idt::register().base),
        (Field::HOST_IA32_SYSENTER_CS, 0),
        (Field::HOST_IA32_SYSENTER_ESP, 0),
        (Field::HOST_IA32_SYSENTER_EIP, 0),
        (Field::HOST_IA32_EFER, efer::LME | efer::LMA),
        (Field::HOST_IA32_PAT, setup::PAT_AFTER_RESET),
        (Field::HOST_RSP, scene.registers),
        (Field::HOST_RIP, world_switch::exit_address()),
    ]
}

/// Selector, base, limit, access rights.
type Segment = (u64, u64, u64, u64);

fn segments(mode: Mode) -> [Segment; 8] {
    let flat = 0xffff_ffff;
    let (code, data): (Segment, Segment) = match mode {
        Mode::Long | Mode::LongWithoutEpt => ((0x10, 0, flat, 0xa09b), (0x18, 0, flat, 0xc093)),
        Mode::Pae | Mode::PaeWithoutEpt | Mode::Unpaged => ((0x10, 0, flat, 0xc09b), (0x18, 0, flat, 0xc093)),
        Mode::Real => ((LOW_CODE >> 4, LOW_CODE, 0xffff, 0x9b), (LOW_DATA >> 4, LOW_DATA, 0xffff, 0x93)),
    };
    [data, code, data, data, data, data, (0, 0, 0xffff, 0x82), (0x20, 0, 0xffff, 0x8b)]
}

fn guest(scene: &Scene, mode: Mode) -> [(Field, u64); 25] {
    let fixed = cr0::NE | 1 << 4;
    let (cr0, cr3, cr4, efer) = match mode {
        Mode::Long | Mode::LongWithoutEpt => {
            (cr0::PG | cr0::PE | fixed, scene.paging.root(), cr4::PAE | cr4::VMXE, efer::LME | efer::LMA)
        }
        Mode::Pae | Mode::PaeWithoutEpt => (cr0::PG | cr0::PE | fixed, scene.pae, cr4::PAE | cr4::VMXE, 0),
        Mode::Unpaged => (cr0::PE | fixed, 0, cr4::VMXE, 0),
        Mode::Real => (fixed, 0, cr4::VMXE, 0),
    };
    [
        (Field::GUEST_CR0, cr0),
        (Field::GUEST_CR3, cr3),
        (Field::GUEST_CR4, cr4),
        (Field::CR0_READ_SHADOW, cr0),
        (Field::CR4_READ_SHADOW, cr4),
        (Field::GUEST_IA32_EFER, efer),
        (Field::GUEST_IA32_PAT, setup::PAT_AFTER_RESET),
        (Field::GUEST_DR7, 0x400),
        (Field::GUEST_RIP, mode.code(scene, 0)),
        (Field::GUEST_RSP, mode.data(scene, PAGE)),
        (Field::GUEST_RFLAGS, 2),
        (Field::GUEST_GDTR_BASE, scene.data),
        (Field::GUEST_GDTR_LIMIT, 0x1f),
        (Field::GUEST_IDTR_BASE, if mode == Mode::Real { LOW_DATA } else { scene.idt }),
        (Field::GUEST_IDTR_LIMIT, 0xfff),
        (Field::GUEST_IA32_DEBUGCTL, 0),
        (Field::GUEST_IA32_SYSENTER_CS, 0),
        (Field::GUEST_IA32_SYSENTER_ESP, 0),
        (Field::GUEST_IA32_SYSENTER_EIP, 0),
        (Field::GUEST_INTERRUPTIBILITY_STATE, 0),
        (Field::GUEST_ACTIVITY_STATE, 0),
        (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
        (Field::GUEST_SMBASE, 0),
        (Field::EXECUTIVE_VMCS_POINTER, 0),
        (Field::VMCS_LINK_POINTER, u64::MAX),
    ]
}

/// The mode that the current VMCS has, as far as snippets and addresses go.
#[must_use]
pub fn current_mode() -> Option<Mode> {
    let ept = get(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS)? & u64::from(Secondary::ENABLE_EPT.bits()) != 0;
    let long = get(Field::VM_ENTRY_CONTROLS)? & u64::from(Entry::IA_32E_MODE_GUEST.bits()) != 0;
    let cr0 = get(Field::GUEST_CR0)?;
    Some(match (long, cr0 & cr0::PE != 0, cr0 & cr0::PG != 0, ept) {
        (true, _, _, true) => Mode::Long,
        (true, _, _, false) => Mode::LongWithoutEpt,
        (false, false, _, _) => Mode::Real,
        (false, true, false, _) => Mode::Unpaged,
        (false, true, true, true) => Mode::Pae,
        (false, true, true, false) => Mode::PaeWithoutEpt,
    })
}

/// Writes all of it to the current VMCS.
pub fn write(scene: &Scene, mode: Mode) {
    let rows = controls(mode).into_iter().chain(neutral(scene)).chain(host(scene)).chain(guest(scene, mode));
    for (field, value) in rows {
        set(field, value);
    }
    // ES, CS, SS, DS, FS, GS, LDTR, TR: the encodings of each are 2 apart.
    for (offset, (selector, base, limit, rights)) in (0..).step_by(2).zip(segments(mode)) {
        set(Field(Field::GUEST_ES_SELECTOR.0 + offset), selector);
        set(Field(Field::GUEST_ES_BASE.0 + offset), base);
        set(Field(Field::GUEST_ES_LIMIT.0 + offset), limit);
        set(Field(Field::GUEST_ES_ACCESS_RIGHTS.0 + offset), rights);
    }
}
