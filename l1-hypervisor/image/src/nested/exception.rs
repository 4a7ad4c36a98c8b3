//! An exception that L1's own work for L3 leads to: L3's, or an exit to L2.
//!
//! What always holds: vmcs23's exception bitmap is asked as the processor would ask it for an exception of its own, after what
//! the exception makes together with the event whose delivery it interrupted. An exception that is an exit changes neither CR2
//! nor DR6 nor DR7 (SDM 3C 27.1 "Architectural State Before a VM Exit").

use shadow::exit::ExitInformation;
use shadow::reflect::{Facts, decide};
use vmcs::event::{EventType, Injection, InterruptionInformation, Vector};
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;

use super::{exit, guarded, with};
use crate::double_fault::{Combined, combine};
use crate::exit::Action;
use crate::exit::information::Exit;
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vmcs12::CR0_PE;

const RFLAGS_RF: u64 = 1 << 16;

/// What the rule about exceptions asks, answered for one that has not happened in the processor.
struct Raised(Injection);

impl Facts for Raised {
    fn qualification(&mut self) -> u64 {
        0
    }

    fn interruption(&mut self) -> InterruptionInformation {
        self.0.information
    }

    fn error_code(&mut self) -> u32 {
        self.0.error_code.unwrap_or(0)
    }

    fn general(&mut self, _number: usize) -> u64 {
        0
    }

    fn field_register(&mut self) -> usize {
        0
    }

    fn byte(&mut self, _address: u64) -> u8 {
        0
    }
}

/// Delivers an exception that the handling of `exit` led to: to L3, or as an exit to L2.
#[cold]
pub fn raise<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit, injection: Injection) -> Action {
    let first = InterruptionInformation(exit.idt_vectoring(&mut vcpu.platform));
    let injection = match combine(first, injection) {
        Combined::Deliver(injection) => injection,
        Combined::TripleFault => {
            let reason = BasicExitReason::TRIPLE_FAULT.0.into();
            return leave(vcpu, &ExitInformation { reason, ..ExitInformation::default() });
        }
    };
    let vector = injection.information.vector();
    let wanted = with(vcpu, |_, nested| {
        let vmcs23 = nested.operation.current()?;
        Some(decide(BasicExitReason::EXCEPTION_OR_NMI, vmcs23, &mut Raised(injection)).reflect)
    });
    if wanted.flatten() != Some(true) {
        guarded::register_changes(vcpu);
        vcpu.enter_exception_state(vector, vcpu.raised);
        vcpu.note_fault(injection.information);
        vcpu.inject(injection);
        return Action::Continue;
    }
    let information = information(vcpu, exit, first, injection);
    // RFLAGS is saved as the delivery of a fault would have pushed it (SDM 3C 27.3.3 "Saving RIP, RSP, RFLAGS, and SSP").
    let rflags = vcpu.platform.read(Field::GUEST_RFLAGS);
    vcpu.platform.write(Field::GUEST_RFLAGS, rflags | RFLAGS_RF);
    leave(vcpu, &information)
}

fn leave<P: Platform>(vcpu: &mut Vcpu<'_, P>, information: &ExitInformation) -> Action {
    let rip = vcpu.platform.read(Field::GUEST_RIP);
    with(vcpu, |vcpu, nested| exit::leave(vcpu, nested, information, rip));
    Action::Reflect
}

/// The exit as L2 sees it (SDM 3C 27.2.2 "Information for VM Exits Due to Vectored Events").
fn information<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    exit: &mut Exit,
    first: InterruptionInformation,
    injection: Injection,
) -> ExitInformation {
    let vector = injection.information.vector();
    let mut information = ExitInformation {
        reason: BasicExitReason::EXCEPTION_OR_NMI.0.into(),
        qualification: if matches!(vector, Vector::PF | Vector::DB) { vcpu.raised } else { 0 },
        interruption: injection.information.0,
        error_code: injection.error_code.unwrap_or(0),
        ..ExitInformation::default()
    };
    // In real mode no error code is pushed.
    if vcpu.platform.read(Field::GUEST_CR0) & CR0_PE == 0 {
        information.interruption &= !InterruptionInformation::ERROR_CODE_VALID;
    }
    // An event that led to a double fault was not being delivered any more when that was to be (SDM 3C 27.2.4).
    if first.is_valid() && vector != Vector::DF {
        information.idt_vectoring = first.0;
        if first.has_error_code() {
            information.idt_vectoring_error_code = vcpu.platform.read(Field::IDT_VECTORING_ERROR_CODE) as u32;
        }
        if first.event_type() != EventType::HARDWARE_EXCEPTION && first.event_type().has_instruction_length() {
            information.instruction_length = Some(exit.instruction_length(&mut vcpu.platform));
        }
    }
    information
}

#[cfg(test)]
#[path = "tests/exception.rs"]
mod tests;
