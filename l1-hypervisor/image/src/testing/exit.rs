//! An exit that a test writes down.

use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;
use vmcs::software::SoftwareVmcs;

use crate::context::Context;
use crate::context::register::RSP;

/// What the processor leaves in the VMCS and in the registers when it exits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scripted {
    reason: u32,
    fields: Vec<(Field, u64)>,
    registers: Vec<(usize, u64)>,
}

impl Scripted {
    /// An exit for this reason, with all information zero.
    pub(crate) fn new(reason: BasicExitReason) -> Self {
        Self::raw(reason.0.into())
    }

    /// An exit with this exit-reason field.
    pub(crate) fn raw(reason: u32) -> Self {
        Self { reason, ..Self::default() }
    }

    /// An exit that an exception causes.
    pub(crate) fn exception(information: InterruptionInformation, error_code: u32) -> Self {
        Self::new(BasicExitReason::EXCEPTION_OR_NMI)
            .field(Field::VM_EXIT_INTERRUPTION_INFORMATION, information.0.into())
            .field(Field::VM_EXIT_INTERRUPTION_ERROR_CODE, error_code.into())
    }

    pub(crate) fn field(mut self, field: Field, value: u64) -> Self {
        self.fields.push((field, value));
        self
    }

    pub(crate) fn qualification(self, value: u64) -> Self {
        self.field(Field::EXIT_QUALIFICATION, value)
    }

    pub(crate) fn length(self, bytes: u64) -> Self {
        self.field(Field::VM_EXIT_INSTRUCTION_LENGTH, bytes)
    }

    /// The event whose delivery the exit cut short.
    pub(crate) fn vectoring(self, information: InterruptionInformation, error_code: u32) -> Self {
        self.field(Field::IDT_VECTORING_INFORMATION, information.0.into())
            .field(Field::IDT_VECTORING_ERROR_CODE, error_code.into())
    }

    /// What the guest has in a general register.
    pub(crate) fn register(mut self, number: usize, value: u64) -> Self {
        self.registers.push((number, value));
        self
    }

    /// Puts it there. The information of the exit before is gone, and the event that was injected has been delivered.
    pub(crate) fn happen(&self, vmcs: &mut SoftwareVmcs, context: &mut Context) {
        const INFORMATION: [Field; 9] = [
            Field::EXIT_QUALIFICATION,
            Field::VM_EXIT_INSTRUCTION_LENGTH,
            Field::VM_EXIT_INSTRUCTION_INFORMATION,
            Field::VM_EXIT_INTERRUPTION_INFORMATION,
            Field::VM_EXIT_INTERRUPTION_ERROR_CODE,
            Field::IDT_VECTORING_INFORMATION,
            Field::IDT_VECTORING_ERROR_CODE,
            Field::GUEST_LINEAR_ADDRESS,
            Field::GUEST_PHYSICAL_ADDRESS,
        ];
        for field in INFORMATION {
            vmcs.set(field, 0);
        }
        let entry = vmcs.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) as u32;
        vmcs.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, (entry & !InterruptionInformation::VALID).into());
        vmcs.set(Field::EXIT_REASON, self.reason.into());
        for &(field, value) in &self.fields {
            vmcs.set(field, value);
        }
        for &(number, value) in &self.registers {
            if number == RSP {
                vmcs.set(Field::GUEST_RSP, value);
            } else {
                context.general[number] = value;
            }
        }
    }
}
