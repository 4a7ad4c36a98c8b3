//! An interrupt of L2's devices while L3 runs.
//!
//! What always holds: with "external-interrupt exiting" the interrupt ends L3's run whatever L3's RFLAGS.IF is, and is
//! acknowledged only if L2 asked for that; without it L3 takes the interrupt itself, as a guest of that kind would on a
//! processor. An event that is about to be injected into L3 is delivered first.

use shadow::exit::{ExitInformation, pin_based};
use vmcs::controls::{PinBased, PrimaryExit};
use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;

use super::{exit, with};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

const VALID: u64 = 1 << 31;

/// Offers the interrupt that waits.
pub fn offer<P: Platform>(vcpu: &mut Vcpu<'_, P>) {
    let exits = with(vcpu, |_, nested| {
        nested.operation.current().is_some_and(|vmcs23| pin_based(vmcs23, PinBased::EXTERNAL_INTERRUPT_EXITING))
    });
    if exits != Some(true) {
        vcpu.offer_interrupt();
        return;
    }
    let injects = vcpu.has_injection() || vcpu.platform.read(Field::VM_ENTRY_INTERRUPTION_INFORMATION) & VALID != 0;
    if injects {
        vcpu.exit_at_once();
        return;
    }
    with(vcpu, |vcpu, nested| {
        let acknowledge = nested.operation.current().is_some_and(|vmcs23| {
            PrimaryExit::from_bits_retain(vmcs23.get_u32(Field::PRIMARY_VM_EXIT_CONTROLS))
                .contains(PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT)
        });
        let interruption = if acknowledge {
            vcpu.devices_changed();
            InterruptionInformation::external_interrupt(vcpu.devices.acknowledge_interrupt()).0
        } else {
            0
        };
        let reason = BasicExitReason::EXTERNAL_INTERRUPT.0.into();
        let rip = vcpu.platform.read(Field::GUEST_RIP);
        exit::leave(vcpu, nested, &ExitInformation { reason, interruption, ..ExitInformation::default() }, rip);
    });
    if vcpu.devices.interrupt_pending() {
        vcpu.offer_interrupt();
    }
}
