//! Exceptions that the user asked to see (they are handed on to the guest unchanged), NMIs, and interrupts of the
//! machine.

use vmcs::event::{EventType, Injection, InterruptionInformation, Vector};
use vmcs::field::Field;

use super::Action;
use super::debug_register::DR7_GENERAL_DETECT;
use super::information::Exit;
use crate::platform::{DebugRegister, Platform};
use crate::vcpu::Vcpu;

/// DR6 bits that a debug exception sets: B0 to B3, BD, BS (SDM 3C table 28-1 "Exit Qualification for Debug
/// Exceptions").
const DEBUG_CAUSES: u64 = 0x600f;
const DR6_LOW: u64 = 0xf;

/// An exception or NMI.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    let information = InterruptionInformation(vcpu.platform.read(Field::VM_EXIT_INTERRUPTION_INFORMATION) as u32);
    match information.event_type() {
        // An NMI of the machine, not of the guest. L1 has no use for it.
        EventType::NMI => Action::Resume,
        kind => {
            let error_code =
                information.has_error_code().then(|| vcpu.platform.read(Field::VM_EXIT_INTERRUPTION_ERROR_CODE) as u32);
            if information.vector() == Vector::PF {
                let address = exit.qualification(&mut vcpu.platform);
                vcpu.platform.set_cr2(address);
            }
            if information.vector() == Vector::DB {
                let causes = exit.qualification(&mut vcpu.platform) & DEBUG_CAUSES;
                let old = vcpu.platform.debug_register(DebugRegister::Dr6);
                vcpu.platform.set_debug_register(DebugRegister::Dr6, old & !DR6_LOW | causes);
                let dr7 = vcpu.platform.read(Field::GUEST_DR7);
                if dr7 & DR7_GENERAL_DETECT != 0 {
                    vcpu.platform.write(Field::GUEST_DR7, dr7 & !DR7_GENERAL_DETECT);
                }
            }
            // Bits 12 and 31 as for injection: "NMI unblocking" is undefined there (SDM 3C 25.8.3).
            let mut injection = Injection::new(InterruptionInformation(information.0 & !(1 << 12)), error_code);
            if kind.has_instruction_length() {
                injection.instruction_length = Some(exit.instruction_length(&mut vcpu.platform));
            }
            Action::Inject(injection)
        }
    }
}
