//! Exits and the steps of handling them, in the order of what happened.
//!
//! What always holds: an exit of a guest that has VMX is in the ring from when it comes, as pending, and completed when it
//! is handled; its steps stand behind it. Exits of other guests have no steps and come when they are handled. An entry of L3 is in the ring once the processor has not refused it: what the processor refuses is a
//! failed entry and nothing else.

use exit_trace::nested::{InstructionResult, NestedInject, VmxInstruction, is_vmx_instruction};
use exit_trace::record::{Action as RecordAction, Record, RecordKind};
use shadow::reflect::rule_about;
use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;
use vmcs::instruction_error::InstructionError;
use vmcs::instruction_information::{InstructionInformation, Operands};

use super::{LEVEL_L3, Recorder};
use crate::exit::Action;
use crate::exit::information::Exit;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

const RFLAGS_CF: u64 = 1;
const RFLAGS_ZF: u64 = 1 << 6;

impl Recorder {
    /// An exit has come.
    #[inline(always)]
    pub fn begin<P: Platform>(&mut self, vcpu: &mut Vcpu<'_, P>, exit: &mut Exit, tsc: u64) -> Record {
        let mut record = super::begin(vcpu, exit, tsc);
        if vcpu.nested.is_some() {
            self.begin_steps(vcpu, exit, &mut record);
        }
        record
    }

    #[inline(never)]
    fn begin_steps<P: Platform>(&mut self, vcpu: &mut Vcpu<'_, P>, exit: &Exit, record: &mut Record) {
        if is_vmx_instruction(exit.reason.basic()) {
            describe_instruction(vcpu, record);
        }
        let Some(nested) = &mut vcpu.nested else { return };
        let pointer = nested.operation.current_pointer();
        nested.events().begin(pointer, exit.rip);
        let refused = record.level == LEVEL_L3 && exit.reason.is_entry_failure();
        let entry = self.entry.take();
        self.pending = None;
        if refused {
            return;
        }
        if let Some(entry) = entry {
            self.ring.push(entry);
        }
        if record.level == LEVEL_L3 {
            record.rule = rule_about(exit.reason.basic());
        }
        self.pending = Some(self.ring.push(Record { action: RecordAction::Pending as u8, ..*record }));
    }

    /// It is handled, and the next entry prepared.
    #[inline(always)]
    pub fn finish<P: Platform>(&mut self, vcpu: &mut Vcpu<'_, P>, mut record: Record, exit: &mut Exit, action: Action, now: u64) {
        if vcpu.nested.is_some() {
            self.finish_steps(vcpu, &mut record, exit, action, now);
        } else {
            super::finish(&mut record, exit, action, vcpu.injected(), now);
            self.ring.push(record);
        }
    }

    #[inline(never)]
    fn finish_steps<P: Platform>(
        &mut self,
        vcpu: &mut Vcpu<'_, P>,
        record: &mut Record,
        exit: &mut Exit,
        action: Action,
        now: u64,
    ) {
        let mut injected = vcpu.injected();
        let mut shown = action;
        let mut again = None;
        if record.level == LEVEL_L3 {
            match action {
                Action::Resume if vcpu.runs_l3 => {
                    let vectoring = InterruptionInformation(exit.idt_vectoring(&mut vcpu.platform));
                    again = injected.take_if(|_| vectoring.is_valid());
                }
                // An interrupt of L2's devices has ended L3's turn.
                Action::Resume if is_timed(exit.reason.basic()) => shown = Action::Reflect,
                // L2 wants to see the exception that L1 was about to inject.
                Action::Inject(_) if !vcpu.runs_l3 => shown = Action::Reflect,
                _ => {}
            }
        }
        super::finish(record, exit, shown, injected, now);
        let completed = matches!(action, Action::Complete | Action::Continue) && !vcpu.runs_l3;
        if is_vmx_instruction(exit.reason.basic()) && completed && record.level != LEVEL_L3 {
            complete_instruction(vcpu, record);
        }
        if let Some(number) = self.pending.take() {
            self.ring.amend(number, *record);
        }
        if let Some(event) = again {
            self.ring.push(NestedInject { rip: exit.rip, event }.record(now));
        }
        self.take_steps(vcpu);
        if !vcpu.runs_l3 || matches!(action, Action::Stop(_)) {
            self.flush_entry();
        }
    }

    /// The processor has refused an entry of L3, and L2 will see its instruction fail.
    #[cold]
    pub fn refused<P>(&mut self, vcpu: &mut Vcpu<'_, P>) {
        self.entry = None;
        self.take_steps(vcpu);
    }

    /// Takes the steps over, but for an entry of L3 that is yet to come.
    fn take_steps<P>(&mut self, vcpu: &mut Vcpu<'_, P>) {
        let Some(nested) = &mut vcpu.nested else { return };
        let pointer = nested.operation.current_pointer();
        for step in nested.events().take(pointer) {
            self.flush_entry();
            if step.kind() == Some(RecordKind::NestedEntry) {
                self.entry = Some(*step);
            } else {
                self.ring.push(*step);
            }
        }
    }

    fn flush_entry(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.ring.push(entry);
        }
    }
}

/// Exits that come from a clock or device of L1's.
const fn is_timed(reason: Reason) -> bool {
    matches!(reason, Reason::EXTERNAL_INTERRUPT | Reason::VMX_PREEMPTION_TIMER_EXPIRED)
}

/// What is known of a VMX instruction before it is emulated.
fn describe_instruction<P: Platform>(vcpu: &mut Vcpu<'_, P>, record: &mut Record) {
    let reason = record.exit_reason().basic();
    if !matches!(reason, Reason::VMREAD | Reason::VMWRITE) {
        return;
    }
    let information = vcpu.platform.read(Field::VM_EXIT_INSTRUCTION_INFORMATION) as u32;
    if let Some(Operands::VmreadVmwrite { field, .. }) = InstructionInformation(information).decode(reason) {
        let encoding = vcpu.operand(field.number().into());
        let field = Some(Field(u32::try_from(encoding).unwrap_or(u32::MAX)));
        record.detail = VmxInstruction { field, result: None }.detail();
    }
}

/// What it reported, from the flags.
fn complete_instruction<P: Platform>(vcpu: &mut Vcpu<'_, P>, record: &mut Record) {
    let flags = vcpu.platform.read(Field::GUEST_RFLAGS);
    let result = if flags & RFLAGS_CF != 0 {
        InstructionResult::FailInvalid
    } else if flags & RFLAGS_ZF != 0 {
        let vmcs23 = vcpu.nested.as_mut().and_then(|nested| nested.operation.current());
        let error = vmcs23.map_or(0, |vmcs23| vmcs23.get_u32(Field::VM_INSTRUCTION_ERROR));
        InstructionResult::FailValid(InstructionError(error))
    } else {
        InstructionResult::Succeed
    };
    let field = VmxInstruction::read(record).and_then(|instruction| instruction.field);
    record.detail = VmxInstruction { field, result: Some(result) }.detail();
}
