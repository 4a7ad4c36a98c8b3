//! L3 in an activity state that it was entered in.
//!
//! What always holds: the processor is never left in wait-for-SIPI, where neither an interrupt nor an NMI nor the VMX-preemption timer
//! would bring it back to L1 (SDM 3C 25.5.1 "VMX-Preemption Timer"). L2 has one processor, so there is none that could send the
//! SIPI: L3, and with it L2, waits for ever, and the run ends like that of a guest that halts for ever. In HLT the timer goes on,
//! and L1 looks after its host. Shutdown is not offered.

use l1_protocol::end::EndReason;
use vmcs::event::ActivityState;
use vmcs::field::Field;

use super::Nested;
use crate::exit::{End, EndText};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// Looks at the state that L3 is about to be entered in.
#[inline]
pub fn look<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    let waits = nested
        .operation
        .current()
        .is_some_and(|vmcs23| vmcs23.get_u32(Field::GUEST_ACTIVITY_STATE) == ActivityState::WAIT_FOR_SIPI.0);
    if waits {
        let text = EndText::Words("L3 waits for a SIPI, which no other processor of L2 can send");
        nested.end_run(vcpu, End { reason: EndReason::HaltedForEver, value: 0, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;
    use vmcs::exit_reason::BasicExitReason as Reason;

    #[test]
    fn an_l3_that_waits_for_a_sipi_ends_the_run() {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        vcpu.vmwrites(&[(Field::GUEST_ACTIVITY_STATE, ActivityState::WAIT_FOR_SIPI.0.into())]);
        let end = vcpu.enter_l3(Reason::VMLAUNCH).expect_err("nobody could wake it");
        assert_eq!(end.reason, EndReason::HaltedForEver);
        assert!(vcpu.platform.entries.is_empty(), "the processor is never entered in that state");
    }

    #[test]
    fn an_l3_that_is_entered_in_hlt_leaves_l1_its_timer() {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        vcpu.vmwrites(&[(Field::GUEST_ACTIVITY_STATE, ActivityState::HLT.0.into())]);
        vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 halts");
        assert_eq!(vcpu.get(Field::GUEST_ACTIVITY_STATE), u64::from(ActivityState::HLT.0));
        let timer = u64::from(vmcs::controls::PinBased::ACTIVATE_VMX_PREEMPTION_TIMER.bits());
        assert!(vcpu.get(Field::PIN_BASED_VM_EXECUTION_CONTROLS) & timer != 0);
    }
}
