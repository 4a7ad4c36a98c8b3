//! The exit-information fields of one exit, read from the VMCS when a handler or the recorder first asks.

use vmcs::access::VmcsAccess;
use vmcs::exit_reason::ExitReason;
use vmcs::field::Field;

/// One VM exit.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// Why.
    pub reason: ExitReason,
    /// Guest RIP.
    pub rip: u64,
    qualification: Option<u64>,
    instruction_length: Option<u32>,
    idt_vectoring: Option<u32>,
}

impl Exit {
    /// Reads what every exit needs.
    #[inline]
    pub fn read(vmcs: &mut impl VmcsAccess) -> Self {
        Self {
            reason: ExitReason(vmcs.read(Field::EXIT_REASON) as u32),
            rip: vmcs.read(Field::GUEST_RIP),
            qualification: None,
            instruction_length: None,
            idt_vectoring: None,
        }
    }

    /// Exit qualification. Only for exits that define one.
    #[inline]
    pub fn qualification(&mut self, vmcs: &mut impl VmcsAccess) -> u64 {
        *self.qualification.get_or_insert_with(|| vmcs.read(Field::EXIT_QUALIFICATION))
    }

    /// VM-exit instruction length in bytes. Only for exits that define one.
    #[inline]
    pub fn instruction_length(&mut self, vmcs: &mut impl VmcsAccess) -> u32 {
        *self.instruction_length.get_or_insert_with(|| vmcs.read(Field::VM_EXIT_INSTRUCTION_LENGTH) as u32)
    }

    /// The instruction length if anybody has asked for it.
    #[must_use]
    pub const fn known_instruction_length(&self) -> Option<u32> {
        self.instruction_length
    }

    /// IDT-vectoring information.
    #[inline]
    pub fn idt_vectoring(&mut self, vmcs: &mut impl VmcsAccess) -> u32 {
        *self.idt_vectoring.get_or_insert_with(|| vmcs.read(Field::IDT_VECTORING_INFORMATION) as u32)
    }
}
