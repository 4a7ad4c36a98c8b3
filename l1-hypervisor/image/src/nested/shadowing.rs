//! L2's VMREAD and VMWRITE beside the canonical copy: what must be fetched first, what must be carried on.

use exit_trace::nested::Direction;
use vmcs::field::Field;

use super::regions::World;
use super::{Nested, with};
use crate::platform::{Platform, Region};
use crate::vcpu::Vcpu;
use shadow::operation::Machine as _;

/// L2 asks for guest state that is still in vmcs13: all of it is fetched.
#[inline(never)]
pub fn fetch_guest_state<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    let Some(slot) = nested.operation.current_slot() else { return };
    let mut world = World { memory: &mut vcpu.memory, platform: &mut vcpu.platform, regions: &mut nested.regions };
    if let Some(vmcs23) = nested.operation.current() {
        world.pull(slot, vmcs23);
    }
}

/// After L2 wrote a field by a VMWRITE that exited: if it reads that field without an exit, it must find what it wrote.
#[inline]
pub fn after_write<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, field: Field) {
    let Some(hardware) = &mut nested.regions.hardware else { return };
    if hardware.serves(field)
        && let Some(slot) = nested.operation.current_slot()
        && let Some(vmcs23) = nested.operation.current()
    {
        let fields = hardware.send(slot, vmcs23, &mut vcpu.platform);
        nested.regions.events.sync(Direction::ToShadow, fields, &mut vcpu.platform);
        vcpu.platform.make_current(Region::Vmcs12);
    }
}

/// L2's VMREAD or VMWRITE that the processor was to answer has a memory operand where there is no RAM. The processor's part of
/// VMCS shadowing is switched off, so that the instruction exits when it is executed again and is served by [`super::instruction`];
/// false if it is not on.
#[cold]
pub fn suspend<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> bool {
    if vcpu.runs_l3 {
        return false;
    }
    with(vcpu, |vcpu, nested| {
        let Some(slot) = nested.operation.current_slot() else { return false };
        if nested.regions.hardware.as_ref().is_none_or(|hardware| hardware.suspended) {
            return false;
        }
        let Some(vmcs23) = nested.operation.current() else { return false };
        let mut world = World { memory: &mut vcpu.memory, platform: &mut vcpu.platform, regions: &mut nested.regions };
        world.deactivate(slot, vmcs23);
        if let Some(hardware) = &mut nested.regions.hardware {
            hardware.suspended = true;
        }
        true
    })
    .unwrap_or(false)
}

/// After any VMX instruction of L2: switches it on again.
#[inline]
pub fn resume<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    if nested.regions.hardware.as_ref().is_some_and(|hardware| hardware.suspended) {
        resume_now(vcpu, nested);
    }
}

#[cold]
fn resume_now<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    // With L3 about to run the control stays off; the first VMX instruction after its exit comes here again.
    if nested.runs_l3() {
        return;
    }
    if let Some(hardware) = &mut nested.regions.hardware {
        hardware.suspended = false;
    }
    if let Some(slot) = nested.operation.current_slot()
        && let Some(vmcs23) = nested.operation.current()
    {
        let mut world = World { memory: &mut vcpu.memory, platform: &mut vcpu.platform, regions: &mut nested.regions };
        world.activate(slot, vmcs23);
    }
}

#[cfg(test)]
#[path = "tests/shadowing.rs"]
mod tests;
