//! VMCS shadowing for a guest hypervisor's own guest hypervisor: VMREAD and VMWRITE that L3 executes and that the bitmaps
//! of vmcs23 let through.
//!
//! What always holds: vmcs13 has no VMCS shadowing, so each of these instructions exits and is served here, from the VMCS
//! that vmcs23's link pointer names. If that VMCS is active in the cache, the cached copy is the truth; if not, it lies in
//! L2's memory in the layout of [`Vmcs23::offset`]. An error number goes into vmcs23, as VMfailValid writes to the current
//! VMCS (SDM 3C 30.2 "Conventions").

use vmcs::field::{Field, Kind, Width};
use vmcs::instruction_error::InstructionError;

use super::{Machine, Operation, Reply};
use crate::vmcs23::Vmcs23;

/// Of a field's 8 bytes in memory what VMREAD of `field` gives.
fn extract(field: Field, stored: u64) -> u64 {
    match (field.width(), field.is_high()) {
        (Width::Bits64, true) => stored >> 32,
        (width, _) => stored & width.mask(),
    }
}

/// A field's 8 bytes in memory after VMWRITE of `field`.
fn insert(field: Field, stored: u64, value: u64) -> u64 {
    match (field.width(), field.is_high()) {
        (Width::Bits64, true) => stored & 0xffff_ffff | value << 32,
        (width, _) => value & width.mask(),
    }
}

impl Operation {
    /// The address of the linked VMCS, once the field is known to exist.
    fn linked(&mut self, field: Field) -> Result<u64, Reply> {
        let exists = self.exists(field);
        let Some(vmcs23) = self.current() else { return Err(Reply::FailInvalid) };
        let link = vmcs23.get(Field::VMCS_LINK_POINTER);
        if link == u64::MAX {
            return Err(Reply::FailInvalid);
        }
        if exists { Ok(link) } else { Err(self.fail(InstructionError::VMREAD_VMWRITE_UNSUPPORTED_VMCS_COMPONENT)) }
    }

    /// The cached copy of the VMCS at `address`, if it is active, with everything that the processor may still hold of it.
    fn cached(&mut self, address: u64, machine: &mut impl Machine) -> Option<&mut Vmcs23> {
        let slot = self.find(address)?;
        let entry = self.slots.get_mut(slot)?.as_mut()?;
        machine.pull(slot, &mut entry.vmcs23);
        Some(&mut entry.vmcs23)
    }

    /// VMREAD by L3, which vmcs23 does not intercept. The value is as in 64-bit mode.
    ///
    /// # Errors
    /// The [`Reply`] that says why not.
    pub fn linked_vmread(&mut self, field: Field, machine: &mut impl Machine) -> Result<u64, Reply> {
        let address = self.linked(field)?;
        if let Some(shadow_vmcs) = self.cached(address, machine) {
            return Ok(shadow_vmcs.get(field));
        }
        Ok(extract(field, stored(address, field, machine).1))
    }

    /// VMWRITE by L3, which vmcs23 does not intercept. Read-only fields can be written: `IA32_VMX_MISC[29]` is offered.
    pub fn linked_vmwrite(&mut self, field: Field, value: u64, machine: &mut impl Machine) -> Reply {
        let address = match self.linked(field) {
            Ok(address) => address,
            Err(reply) => return reply,
        };
        if let Some(shadow_vmcs) = self.cached(address, machine) {
            if field.kind() == Kind::ReadOnly {
                shadow_vmcs.record(field, value);
            } else {
                shadow_vmcs.write(field, value);
            }
            return Reply::Succeed;
        }
        let (place, old) = stored(address, field, machine);
        machine.write(place, &insert(field, old, value).to_le_bytes());
        Reply::Succeed
    }
}

/// Where in L2's memory a field of the VMCS at `address` lies, and what stands there.
fn stored(address: u64, field: Field, machine: &mut impl Machine) -> (u64, u64) {
    let place = address.wrapping_add(Vmcs23::offset(field).unwrap_or(0) as u64);
    let mut bytes = [0; 8];
    machine.read(place, &mut bytes);
    (place, u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;
    use vmcs::capability::Capabilities;
    use vmcs::field::FIELDS;

    use super::*;
    use crate::capability::VMCS_REVISION_IDENTIFIER;
    use crate::vmcs23::SHADOW_INDICATOR;

    const VMXON: u64 = 0x1000;
    const CONTROLLING: u64 = 0x2000;
    const LINKED: u64 = 0x3000;
    const WIDTH: u32 = 40;

    /// L2's memory, and no hardware.
    struct World(Vec<u8>);

    impl Machine for World {
        fn read(&mut self, address: u64, bytes: &mut [u8]) {
            match self.0.get(address as usize..address as usize + bytes.len()) {
                Some(ram) => bytes.copy_from_slice(ram),
                None => bytes.fill(0xff),
            }
        }
        fn write(&mut self, address: u64, bytes: &[u8]) {
            if let Some(ram) = self.0.get_mut(address as usize..address as usize + bytes.len()) {
                ram.copy_from_slice(bytes);
            }
        }
        fn pull(&mut self, _slot: usize, _vmcs23: &mut Vmcs23) {}
        fn activate(&mut self, _slot: usize, _vmcs23: &mut Vmcs23) {}
        fn deactivate(&mut self, _slot: usize, _vmcs23: &mut Vmcs23) {}
        fn release(&mut self, _slot: usize) {}
    }

    /// A processor on which everything may be 1, so that every field exists but those of SEAM.
    fn everything() -> Capabilities {
        Capabilities::read(|number| Some(if number == vmcs::msr::IA32_VMX_BASIC { 1 << 55 } else { u64::MAX }))
            .expect("every MSR is given")
    }

    fn scene() -> (Operation, World) {
        let mut world = World(vec![0; 0x5000]);
        for (region, indicator) in [(VMXON, 0), (CONTROLLING, 0), (LINKED, SHADOW_INDICATOR)] {
            world.write(region, &(VMCS_REVISION_IDENTIFIER | indicator).to_le_bytes());
        }
        let mut operation = Operation::new(&everything(), WIDTH);
        assert_eq!(operation.vmxon(VMXON, &mut world), Reply::Succeed);
        load(&mut operation, CONTROLLING, &mut world);
        assert_eq!(operation.vmwrite(Field::VMCS_LINK_POINTER, LINKED), Reply::Succeed);
        (operation, world)
    }

    fn load(operation: &mut Operation, address: u64, world: &mut World) {
        assert_eq!(operation.vmptrld(address, world), Reply::Succeed);
    }

    #[test]
    fn without_a_link_pointer_there_is_no_vmcs() {
        let (mut operation, mut world) = scene();
        operation.vmwrite(Field::VMCS_LINK_POINTER, u64::MAX);
        for field in [Field::GUEST_RIP, Field(0x7ffe)] {
            assert_eq!(operation.linked_vmread(field, &mut world), Err(Reply::FailInvalid));
            assert_eq!(operation.linked_vmwrite(field, 1, &mut world), Reply::FailInvalid);
        }
        assert_eq!(operation.vmread(Field::VM_INSTRUCTION_ERROR), Ok(0));
    }

    #[test]
    fn the_error_number_goes_into_the_controlling_vmcs() {
        let (mut operation, mut world) = scene();
        let error = InstructionError::VMREAD_VMWRITE_UNSUPPORTED_VMCS_COMPONENT;
        assert_eq!(operation.linked_vmread(Field(0x7ffe), &mut world), Err(Reply::FailValid(error)));
        assert_eq!(operation.linked_vmread(Field::VM_INSTRUCTION_ERROR, &mut world), Ok(0), "the shadow VMCS has its own");
        assert_eq!(operation.vmread(Field::VM_INSTRUCTION_ERROR), Ok(12));
        assert_eq!(operation.linked_vmwrite(Field(u32::MAX), 1, &mut world), Reply::FailValid(error));
    }

    #[test]
    fn an_active_shadow_vmcs_is_served_from_the_cache() {
        let (mut operation, mut world) = scene();
        load(&mut operation, LINKED, &mut world);
        operation.vmwrite(Field::GUEST_RIP, 0x1234);
        load(&mut operation, CONTROLLING, &mut world);
        assert_eq!(operation.linked_vmread(Field::GUEST_RIP, &mut world), Ok(0x1234), "memory still has 0");
        assert_eq!(operation.linked_vmwrite(Field::EXIT_REASON, 7, &mut world), Reply::Succeed);
        load(&mut operation, LINKED, &mut world);
        assert_eq!(operation.vmread(Field::EXIT_REASON), Ok(7));
    }

    proptest! {
        /// What L3 writes is what L2 finds when it loads the shadow VMCS, and the other way round, for each field and half.
        #[test]
        fn memory_and_cache_have_one_layout(row in 0..FIELDS.len(), high: bool, value: u64, active: bool) {
            let field = FIELDS[row].field;
            let field = if high && field.width() == Width::Bits64 { field.high() } else { field };
            let (mut operation, mut world) = scene();
            if active {
                load(&mut operation, LINKED, &mut world);
                load(&mut operation, CONTROLLING, &mut world);
            }
            let exists = operation.vmread(field).is_ok();
            let written = operation.linked_vmwrite(field, value, &mut world);
            prop_assert_eq!(written == Reply::Succeed, exists);
            let read = operation.linked_vmread(field, &mut world);
            load(&mut operation, LINKED, &mut world);
            if exists {
                prop_assert_eq!(operation.vmread(field), read);
                operation.vmwrite(field, !value);
                let expected = operation.vmread(field);
                operation.vmclear(LINKED, &mut world);
                load(&mut operation, CONTROLLING, &mut world);
                prop_assert_eq!(operation.linked_vmread(field, &mut world), expected);
            }
        }
    }
}
