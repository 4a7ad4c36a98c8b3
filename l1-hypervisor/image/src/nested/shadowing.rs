//! L2's VMREAD and VMWRITE beside the canonical copy: what must be fetched first, what must be carried on.

use exit_trace::nested::Direction;
use vmcs::field::Field;

use super::Nested;
use super::regions::World;
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
