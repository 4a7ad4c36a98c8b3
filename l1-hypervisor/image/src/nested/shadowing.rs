//! L2's VMREAD and VMWRITE beside the canonical copy: what must be fetched first, what must be carried on.

use vmcs::field::Field;

use super::Nested;
use super::regions::World;
use crate::platform::{Platform, Region};
use crate::vcpu::Vcpu;
use shadow::operation::Machine as _;

/// Before L2 reads or writes a field: guest state that is still in vmcs13 is fetched.
#[inline]
pub fn before_access<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, field: Field) {
    let Some(slot) = nested.operation.current_slot() else { return };
    let mut world = World { memory: &mut vcpu.memory, platform: &mut vcpu.platform, regions: &mut nested.regions };
    if let Some(vmcs23) = nested.operation.current()
        && vmcs23.in_vmcs13.contains(field)
    {
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
        hardware.send(slot, vmcs23, &mut vcpu.platform);
        vcpu.platform.make_current(Region::Vmcs12);
    }
}
