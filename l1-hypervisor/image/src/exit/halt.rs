//! HLT: the guest waits.
//!
//! L1 does not spin: it enters the guest in the activity state HLT with the VMX-preemption timer set for the next
//! deadline, so that the processor (or the hypervisor below) sleeps until then.

use l1_protocol::end::EndReason;
use vmcs::event::{ActivityState, RFLAGS_IF};
use vmcs::field::Field;

use super::Action;
use super::information::Exit;
use crate::nested::interrupt;
use crate::platform::Platform;
use crate::vcpu::{PENDING_SINGLE_STEP, Vcpu};

/// Puts the guest to sleep, or finds that nothing could ever wake it.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    vcpu.finish_instruction(exit);
    // Blocking by STI ends with HLT: what follows STI; HLT may be CLI, and then an interrupt that waits could not come
    // in any more. The activity state may be HLT only without it, too (SDM 3C 27.3.1.5).
    vcpu.clear_instruction_blocking();
    vcpu.console.idle();
    let can_take_interrupts = vcpu.platform.read(Field::GUEST_RFLAGS) & RFLAGS_IF != 0;
    // A single-step trap follows HLT at once, with interrupts off as well.
    let is_trapped = vcpu.platform.read(Field::GUEST_PENDING_DEBUG_EXCEPTIONS) & PENDING_SINGLE_STEP != 0;
    if is_trapped || can_take_interrupts && vcpu.devices.interrupt_pending() || vcpu.devices.nmi_pending() {
        return Action::Continue;
    }
    let listens = can_take_interrupts || vcpu.devices.interrupts_as_nmi();
    let can_be_woken = listens && (vcpu.devices.next_deadline().is_some() || vcpu.devices.wants_input());
    if !can_be_woken && !interrupt::can_end_halt(vcpu) {
        let text = if can_take_interrupts {
            "halted, and no device can interrupt: all lines are masked or idle"
        } else {
            "halted with interrupts off"
        };
        return Action::stop(EndReason::HaltedForEver, 0, text);
    }
    vcpu.platform.write(Field::GUEST_ACTIVITY_STATE, ActivityState::HLT.0.into());
    Action::Continue
}
