//! Events for the guest: what an exit cut short, what a handler raises, what the devices ask for.

use l1_protocol::end::EndReason;
use vmcs::controls::PrimaryProcessorBased;
use vmcs::event::{
    ActivityState, EventType, Injection, Interruptibility, InterruptionInformation, Vector, external_interrupt_allowed,
    may_inject, reinjection,
};
use vmcs::field::Field;

use super::{RFLAGS_RF, Vcpu};
use crate::double_fault::{Combined, combine};
use crate::exit::debug_register::DR7_GENERAL_DETECT;
use crate::exit::information::Exit;
use crate::exit::{Action, End, EndText};
use crate::guest_paging::PageFault;
use crate::platform::{DebugRegister, Platform};

impl<P: Platform> Vcpu<'_, P> {
    /// Ends blocking by STI and by MOV SS.
    pub fn clear_instruction_blocking(&mut self) -> Interruptibility {
        self.end_blocking(Interruptibility::BLOCKING_BY_STI | Interruptibility::BLOCKING_BY_MOV_SS)
    }

    /// An event whose delivery the exit cut short is injected again (SDM 3C 28.2.4 "Information for VM Exits During
    /// Event Delivery").
    #[cold]
    pub(super) fn keep_interrupted_event(&mut self, exit: &mut Exit) {
        let information = InterruptionInformation(exit.idt_vectoring(&mut self.platform));
        if information.is_valid() {
            let error_code =
                if information.has_error_code() { self.platform.read(Field::IDT_VECTORING_ERROR_CODE) as u32 } else { 0 };
            let length =
                if information.event_type().has_instruction_length() { exit.instruction_length(&mut self.platform) } else { 0 };
            self.next_injection = reinjection(information, error_code, length);
            if information.event_type() == EventType::NMI {
                self.unblock_nmi();
            }
        }
    }

    /// An NMI of L2's for L3 is delivered again: its first delivery has blocked NMIs, and VM entry injects none then (SDM 3C
    /// 26.3.1.5 "Checks on Guest Non-Register State").
    fn unblock_nmi(&mut self) {
        self.end_blocking(Interruptibility::BLOCKING_BY_NMI);
    }

    /// Ends these kinds of blocking; gives those that are left.
    fn end_blocking(&mut self, ended: Interruptibility) -> Interruptibility {
        let old = self.interruptibility();
        let new = old - ended;
        if new != old {
            self.platform.write(Field::GUEST_INTERRUPTIBILITY_STATE, new.bits().into());
        }
        new
    }

    fn interruptibility(&mut self) -> Interruptibility {
        Interruptibility::from_bits_retain(self.platform.read(Field::GUEST_INTERRUPTIBILITY_STATE) as u32)
    }

    /// Delivers an exception that an exit led to. One that arose while another was being delivered may make a double
    /// fault, or a triple fault (SDM 3A table 7-5 "Conditions for Generating a Double Fault").
    #[cold]
    pub(super) fn inject_after(&mut self, exit: &mut Exit, injection: Injection) -> Result<(), End> {
        let first = InterruptionInformation(exit.idt_vectoring(&mut self.platform));
        let injection = match combine(first, injection) {
            Combined::Deliver(injection) => injection,
            Combined::TripleFault => return Err(End { reason: EndReason::TripleFault, value: 0, text: EndText::Words("") }),
        };
        self.note_fault(injection.information);
        self.next_injection = Some(injection);
        Ok(())
    }

    /// #PF that an exit leads to. For L3 CR2 is set only when it is delivered: L2 may want it as an exit.
    pub fn page_fault(&mut self, fault: PageFault) -> Action {
        self.raise(Vector::PF, Some(fault.error_code), fault.address)
    }

    /// #DB that an exit leads to, with the bits it sets in DR6.
    pub fn debug_exception(&mut self, bits: u64) -> Action {
        self.raise(Vector::DB, None, bits)
    }

    fn raise(&mut self, vector: u8, error_code: Option<u32>, qualification: u64) -> Action {
        if self.runs_l3 {
            self.raised = qualification;
        } else {
            self.enter_exception_state(vector, qualification);
        }
        Action::exception(vector, error_code)
    }

    /// What #PF and #DB do to registers when they are delivered, and not when they are VM exits (SDM 3C 27.1 "Architectural
    /// State Before a VM Exit").
    pub(crate) fn enter_exception_state(&mut self, vector: u8, qualification: u64) {
        match vector {
            Vector::PF => self.platform.set_cr2(qualification),
            Vector::DB => {
                let dr6 = self.platform.debug_register(DebugRegister::Dr6);
                self.platform.set_debug_register(DebugRegister::Dr6, dr6 | qualification);
                let dr7 = self.platform.read(Field::GUEST_DR7);
                self.platform.write(Field::GUEST_DR7, dr7 & !DR7_GENERAL_DETECT);
            }
            _ => {}
        }
    }

    /// Delivers this at the next entry.
    pub(crate) const fn inject(&mut self, injection: Injection) {
        self.next_injection = Some(injection);
    }

    /// A fault leaves RF set in the RFLAGS that it pushes, or that an exit for it saves, unless it is a debug exception
    /// (SDM 3B 18.3.1.1 "Instruction-Breakpoint Exception Condition"); an injected event pushes RFLAGS as they are.
    pub(crate) fn note_fault(&mut self, information: InterruptionInformation) {
        let vector = information.vector();
        let is_fault =
            information.event_type() == EventType::HARDWARE_EXCEPTION && !matches!(vector, Vector::DB | Vector::DF | Vector::MC);
        if is_fault {
            let rflags = self.platform.read(Field::GUEST_RFLAGS);
            self.platform.write(Field::GUEST_RFLAGS, rflags | RFLAGS_RF);
        }
    }

    /// The guest can take interrupts now: no more exits for that.
    pub fn close_interrupt_window(&mut self) {
        self.set_primary(self.controls.primary - PrimaryProcessorBased::INTERRUPT_WINDOW_EXITING);
    }

    /// The guest can take NMIs now: no more exits for that.
    pub fn close_nmi_window(&mut self) {
        self.set_primary(self.controls.primary - PrimaryProcessorBased::NMI_WINDOW_EXITING);
    }

    pub(crate) fn set_primary(&mut self, controls: PrimaryProcessorBased) {
        if controls != self.controls.primary {
            self.controls.primary = controls;
            self.platform.write(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into());
        }
    }

    /// Whether an event waits for the next entry.
    pub(crate) const fn has_injection(&self) -> bool {
        self.next_injection.is_some()
    }

    /// Injects the NMI or the interrupt that the devices ask for, or asks for an exit as soon as the guest can take it.
    #[inline(never)]
    pub(crate) fn offer_event(&mut self) {
        let rflags = self.platform.read(Field::GUEST_RFLAGS);
        let interruptibility = self.interruptibility();
        let activity = ActivityState(self.platform.read(Field::GUEST_ACTIVITY_STATE) as u32);
        if self.devices.nmi_pending() {
            if self.next_injection.is_none()
                && may_inject(InterruptionInformation::nmi(), rflags, interruptibility, activity, true).is_ok()
            {
                self.devices.take_nmi();
                self.next_injection = Some(Injection::new(InterruptionInformation::nmi(), None));
            } else {
                self.set_primary(self.controls.primary | PrimaryProcessorBased::NMI_WINDOW_EXITING);
            }
        }
        if !self.devices.interrupt_pending() {
            return;
        }
        if self.next_injection.is_none() && external_interrupt_allowed(rflags, interruptibility, activity).is_ok() {
            let vector = self.devices.acknowledge_interrupt();
            self.devices_changed();
            self.next_injection = Some(Injection::new(InterruptionInformation::external_interrupt(vector), None));
        } else {
            self.set_primary(self.controls.primary | PrimaryProcessorBased::INTERRUPT_WINDOW_EXITING);
        }
    }

    #[inline(never)]
    pub(super) fn write_injection(&mut self, injection: Injection) {
        self.injected = injection;
        if let Some(error_code) = injection.error_code {
            self.platform.write(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, error_code.into());
        }
        if let Some(length) = injection.instruction_length {
            self.platform.write(Field::VM_ENTRY_INSTRUCTION_LENGTH, length.into());
        }
        // In real mode no error code is pushed, and VM entry refuses one (SDM 3C 27.2.1.3).
        let mut information = injection.information;
        if information.has_error_code() && self.platform.read(Field::GUEST_CR0) & 1 == 0 {
            information = InterruptionInformation(information.0 & !InterruptionInformation::ERROR_CODE_VALID);
        }
        self.platform.write(Field::VM_ENTRY_INTERRUPTION_INFORMATION, information.0.into());
    }

    /// What the entry that was prepared last delivers, for the record of the exit before it.
    #[must_use]
    pub const fn injected(&self) -> Option<Injection> {
        if self.has_injected { Some(self.injected) } else { None }
    }
}
