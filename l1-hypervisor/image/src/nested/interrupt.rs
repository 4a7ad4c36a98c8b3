//! NMIs and interrupts of L2's devices while L3 runs.
//!
//! What always holds: with "NMI exiting" or "external-interrupt exiting" the event ends L3's run whatever L3's RFLAGS.IF is,
//! and an interrupt is acknowledged only if L2 asked for that; without these controls L3 takes the event itself, as a guest
//! of that kind would on a processor. An event that is about to be injected into L3 is delivered first.

use shadow::exit::{ExitInformation, pin_based};
use vmcs::controls::{PinBased, PrimaryExit};
use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;

use super::{Nested, exit, with};
use crate::exit::End;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

const VALID: u64 = 1 << 31;

/// Offers the events that wait.
///
/// # Errors
/// The end of the run: the exit to L2 became a VMX abort.
pub fn offer<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Result<(), End> {
    let event = with(vcpu, |vcpu, nested| exiting(vcpu, nested)).flatten();
    let Some(event) = event else {
        vcpu.offer_event();
        return Ok(());
    };
    if vcpu.has_injection() || vcpu.platform.read(Field::VM_ENTRY_INTERRUPTION_INFORMATION) & VALID != 0 {
        vcpu.exit_at_once();
        return Ok(());
    }
    with(vcpu, |vcpu, nested| {
        let (reason, interruption) = match event {
            Event::Nmi => {
                vcpu.devices.take_nmi();
                (BasicExitReason::EXCEPTION_OR_NMI, InterruptionInformation::nmi().0)
            }
            Event::Interrupt => (BasicExitReason::EXTERNAL_INTERRUPT, acknowledge(vcpu, nested)),
        };
        let rip = vcpu.platform.read(Field::GUEST_RIP);
        let information = ExitInformation { reason: reason.0.into(), interruption, ..ExitInformation::default() };
        exit::leave(vcpu, nested, &information, rip);
    });
    if let Some(end) = vcpu.nested.as_ref().and_then(|nested| nested.end()) {
        return Err(end);
    }
    if vcpu.devices.event_pending() {
        vcpu.offer_event();
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Nmi,
    Interrupt,
}

/// The event that ends L3's run, NMIs first (SDM 3A 6.9 "Prioritization of Concurrent Events").
fn exiting<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) -> Option<Event> {
    let vmcs23 = nested.operation.current()?;
    let virtual_nmis = pin_based(vmcs23, PinBased::VIRTUAL_NMIS);
    if vcpu.devices.nmi_pending() && pin_based(vmcs23, PinBased::NMI_EXITING) {
        // Without virtual NMIs blocking by NMI holds back the NMI itself.
        let blocked = !virtual_nmis && vcpu.platform.read(Field::GUEST_INTERRUPTIBILITY_STATE) & exit::NMI_BLOCKING != 0;
        if !blocked {
            return Some(Event::Nmi);
        }
    }
    let interrupt = vcpu.devices.interrupt_pending() && pin_based(vmcs23, PinBased::EXTERNAL_INTERRUPT_EXITING);
    interrupt.then_some(Event::Interrupt)
}

/// The interruption information of an external interrupt: only "acknowledge interrupt on exit" makes it valid.
fn acknowledge<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) -> u32 {
    let wanted = nested.operation.current().is_some_and(|vmcs23| {
        PrimaryExit::from_bits_retain(vmcs23.get_u32(Field::PRIMARY_VM_EXIT_CONTROLS))
            .contains(PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT)
    });
    if !wanted {
        return 0;
    }
    vcpu.devices_changed();
    InterruptionInformation::external_interrupt(vcpu.devices.acknowledge_interrupt()).0
}

/// Whether something may still end the run of an L3 that halts: L2's VMX-preemption timer, or an interrupt that exits.
pub fn can_end_halt<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> bool {
    let interrupts = vcpu.devices.next_deadline().is_some() || vcpu.devices.wants_input();
    vcpu.runs_l3
        && with(vcpu, |_, nested| {
            nested.timer().is_some()
                || interrupts
                    && nested.operation.current().is_some_and(|vmcs23| pin_based(vmcs23, PinBased::EXTERNAL_INTERRUPT_EXITING))
        }) == Some(true)
}
