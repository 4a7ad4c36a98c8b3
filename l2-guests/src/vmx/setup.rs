//! The controls and the host state that a new vmcs23 has.
#![expect(unsafe_code, reason = "SGDT and the segment registers have no other form than assembly")]

use core::arch::asm;

use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryProcessorBased};
use vmcs::field::Field;

use super::l3::L3;
use super::world_switch;
use crate::control::{read_cr0, read_cr3, read_cr4};
use crate::idt::{self, TableRegister};
use crate::msr::efer;

/// Power-on value of IA32_PAT (SDM 3A 11.12.4 "Programming the PAT").
pub const PAT_AFTER_RESET: u64 = 0x0007_0406_0007_0406;
/// What HOST_TR_SELECTOR holds. A VM exit reads no descriptor, but the selector must not be null (SDM 3C 26.2.3 "Checks
/// on Host Segment and Descriptor-Table Registers").
const TASK_SELECTOR: u64 = 0x20;

/// The controls a vmcs23 is to have; what must be 1 is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the control field it is named after")]
pub struct Controls {
    pub pin_based: PinBased,
    pub primary: PrimaryProcessorBased,
    pub secondary: SecondaryProcessorBased,
    pub exit: PrimaryExit,
    pub entry: Entry,
}

impl Controls {
    /// No intercepts but those that cannot be switched off.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pin_based: PinBased::empty(),
            primary: PrimaryProcessorBased::ACTIVATE_SECONDARY_CONTROLS,
            secondary: SecondaryProcessorBased::empty(),
            exit: PrimaryExit::HOST_ADDRESS_SPACE_SIZE
                | PrimaryExit::SAVE_IA32_EFER
                | PrimaryExit::LOAD_IA32_EFER
                | PrimaryExit::SAVE_IA32_PAT
                | PrimaryExit::LOAD_IA32_PAT,
            entry: Entry::LOAD_IA32_EFER | Entry::LOAD_IA32_PAT,
        }
    }
}

impl Default for Controls {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes the host-state area: all as it is now, and exits to [`world_switch`].
pub fn write_host_state(l3: &L3) {
    let mut gdtr = TableRegister::default();
    // SAFETY: writes the 10 bytes of the variable.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut gdtr, options(nostack, preserves_flags)) };
    let rows = [
        (Field::HOST_CR0, read_cr0()),
        (Field::HOST_CR3, read_cr3()),
        (Field::HOST_CR4, read_cr4()),
        (Field::HOST_ES_SELECTOR, 0x18),
        (Field::HOST_CS_SELECTOR, 0x10),
        (Field::HOST_SS_SELECTOR, 0x18),
        (Field::HOST_DS_SELECTOR, 0x18),
        (Field::HOST_FS_SELECTOR, 0),
        (Field::HOST_GS_SELECTOR, 0),
        (Field::HOST_TR_SELECTOR, TASK_SELECTOR),
        (Field::HOST_FS_BASE, 0),
        (Field::HOST_GS_BASE, 0),
        (Field::HOST_TR_BASE, 0),
        (Field::HOST_GDTR_BASE, gdtr.base),
        (Field::HOST_IDTR_BASE, idt::register().base),
        (Field::HOST_IA32_SYSENTER_CS, 0),
        (Field::HOST_IA32_SYSENTER_ESP, 0),
        (Field::HOST_IA32_SYSENTER_EIP, 0),
        (Field::HOST_IA32_EFER, efer::LME | efer::LMA),
        (Field::HOST_IA32_PAT, PAT_AFTER_RESET),
        (Field::HOST_RSP, l3.registers_address()),
        (Field::HOST_RIP, world_switch::exit_address()),
    ];
    rows.into_iter().for_each(|(field, value)| l3.write(field, value));
}

/// Fields of the control area that a new VMCS leaves undefined and that matter whatever the controls are.
pub fn write_neutral_fields(l3: &L3) {
    let fields = [
        Field::EXCEPTION_BITMAP,
        Field::PAGE_FAULT_ERROR_CODE_MASK,
        Field::PAGE_FAULT_ERROR_CODE_MATCH,
        Field::CR3_TARGET_COUNT,
        Field::VM_EXIT_MSR_STORE_COUNT,
        Field::VM_EXIT_MSR_LOAD_COUNT,
        Field::VM_ENTRY_MSR_LOAD_COUNT,
        Field::VM_ENTRY_INTERRUPTION_INFORMATION,
        Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
        Field::VM_ENTRY_INSTRUCTION_LENGTH,
        Field::TSC_OFFSET,
        Field::CR0_GUEST_HOST_MASK,
        Field::CR4_GUEST_HOST_MASK,
    ];
    fields.into_iter().for_each(|field| l3.write(field, 0));
}
