//! L3's virtual-APIC page, which holds its CR8: a page of L2's that vmcs13 points to.
//!
//! What always holds: the address that the processor gets is inside L2's RAM, which stays where it is for the whole run. A
//! page elsewhere is not passed on: VM entry succeeds as it would on a processor, CR8 exits, and L1 does what the processor
//! would meet there: reads give all ones, writes are lost. (KVM refuses such an entry unless both CR8 exits are on.)

use shadow::field_set::FieldSet;
use shadow::reflect::primary_controls;
use shadow::vmcs23::Vmcs23;
use vmcs::access::VmcsAccess;
use vmcs::controls::PrimaryProcessorBased as Primary;
use vmcs::field::Field;
use vmcs::qualification::{ControlRegisterAccess, ControlRegisterAccessType};

use super::Nested;
use crate::exit::Action;
use crate::exit::information::Exit;
use crate::guest_memory::{GuestMemory, GuestPhysical};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

const PAGE: usize = 4096;
/// CR8 with no page behind it: bits 7:4 of a TPR of all ones.
const CR8_OF_NOTHING: u64 = 0xf;
/// Bits of CR8 that are reserved.
const CR8_RESERVED: u64 = !0xf;

/// Points vmcs13, which is current, to the page; says whether L3 can run with a TPR shadow. To be called before the merge
/// forgets what has changed.
pub fn prepare(vmcs23: &Vmcs23, memory: &mut GuestMemory<'_>, memory_base: u64, vmcs13: &mut impl VmcsAccess) -> bool {
    const FIELDS: FieldSet =
        FieldSet::of(&[Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, Field::VIRTUAL_APIC_ADDRESS, Field::TPR_THRESHOLD]);
    if !primary_controls(vmcs23).contains(Primary::USE_TPR_SHADOW) {
        return false;
    }
    let page = vmcs23.get(Field::VIRTUAL_APIC_ADDRESS);
    let usable = memory.is_ram(GuestPhysical(page), PAGE);
    if usable && vmcs23.changed.intersects(&FIELDS) {
        vmcs13.write(Field::VIRTUAL_APIC_ADDRESS, memory_base + page);
        vmcs13.write(Field::TPR_THRESHOLD, vmcs23.get(Field::TPR_THRESHOLD));
    }
    usable
}

/// A MOV to or from CR8 that only L1 wanted, because the page is no RAM; `None` for everything else.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Option<Action> {
    let access = ControlRegisterAccess(exit.qualification(&mut vcpu.platform));
    let shadowed = primary_controls(nested.operation.current()?).contains(Primary::USE_TPR_SHADOW);
    if access.register() != 8 || !shadowed {
        return None;
    }
    let register = access.general_register().number().into();
    match access.access() {
        ControlRegisterAccessType::MovTo if vcpu.operand(register) & CR8_RESERVED != 0 => Some(Action::GENERAL_PROTECTION),
        // 15 is never below the threshold, so no exit follows.
        ControlRegisterAccessType::MovTo => Some(Action::Complete),
        _ => {
            vcpu.set_general(register, CR8_OF_NOTHING);
            Some(Action::Complete)
        }
    }
}
