//! An exception that L1's work on an instruction of L3 leads to.
//!
//! What always holds: L2's exception bitmap is asked before L3 gets it, as the processor would ask (SDM 3C 25.2 "Other
//! Causes of VM Exits"); an exception that exits leaves CR2 alone.

use shadow::exit::ExitInformation;
use shadow::reflect::{Facts, decide};
use vmcs::event::{InterruptionInformation, Vector};
use vmcs::exit_reason::BasicExitReason;

use super::{Nested, exit};
use crate::exit::Action;
use crate::guest_paging::PageFault;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// What is known of an exception that no exit has reported.
struct Exception {
    information: InterruptionInformation,
    error_code: u32,
}

impl Facts for Exception {
    fn qualification(&mut self) -> u64 {
        0
    }

    fn interruption(&mut self) -> InterruptionInformation {
        self.information
    }

    fn error_code(&mut self) -> u32 {
        self.error_code
    }

    fn general(&mut self, _number: usize) -> u64 {
        0
    }

    fn field_register(&mut self) -> usize {
        0
    }

    fn byte(&mut self, _address: u64) -> u8 {
        u8::MAX
    }
}

/// An exception among the actions becomes an exit of L2 if L2 intercepts it. vmcs13 is current before.
pub fn for_l3<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, action: Action) -> Action {
    match action {
        Action::Inject(injection) if reflect(vcpu, nested, injection.information, injection.error_code, 0) => Action::Reflect,
        action => action,
    }
}

/// #PF: L2's with the linear address as exit qualification, or L3's with the address in CR2.
pub fn page_fault<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, fault: PageFault) -> Action {
    let information = InterruptionInformation::hardware_exception(Vector::PF, true);
    if reflect(vcpu, nested, information, Some(fault.error_code), fault.address) {
        return Action::Reflect;
    }
    vcpu.platform.set_cr2(fault.address);
    Action::exception(Vector::PF, Some(fault.error_code))
}

fn reflect<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    nested: &mut Nested,
    information: InterruptionInformation,
    error_code: Option<u32>,
    qualification: u64,
) -> bool {
    let error_code = error_code.unwrap_or(0);
    let mut facts = Exception { information, error_code };
    let Some(vmcs23) = nested.operation.current() else { return false };
    if !decide(BasicExitReason::EXCEPTION_OR_NMI, vmcs23, &mut facts).reflect {
        return false;
    }
    let exit = ExitInformation {
        reason: BasicExitReason::EXCEPTION_OR_NMI.0.into(),
        qualification,
        interruption: information.0,
        error_code,
        ..ExitInformation::default()
    };
    exit::leave(vcpu, nested, &exit);
    true
}
