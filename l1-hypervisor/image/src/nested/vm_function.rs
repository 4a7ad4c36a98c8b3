//! VMFUNC of L3, which exits because vmcs13 enables no function: the hands of [`shadow::vm_function`].

use shadow::vm_function::{self, Outcome};
use vmcs::capability::Capabilities;
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::field::Field;

use super::memory::is_ept_pointer;
use super::{Nested, exit};
use crate::context::register::{RAX, RCX};
use crate::exit::Action;
use crate::exit::information::Exit;
use crate::guest_memory::GuestPhysical;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// Makes every VMFUNC of L3 exit that its control lets happen at all. vmcs13 is current for the first time.
pub fn prepare<P: Platform>(platform: &mut P, real: &Capabilities) {
    if real.supports_secondary(Secondary::ENABLE_VM_FUNCTIONS) {
        platform.write(Field::VM_FUNCTION_CONTROLS, 0);
    }
}

/// The exit for VMFUNC.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &Exit) -> Action {
    let (eax, ecx) = (vcpu.context.general[RAX] as u32, vcpu.context.general[RCX] as u32);
    let (offered, width) = (nested.offered.ept_vpid(), vcpu.features.physical_address_width);
    let Some((slot, vmcs23)) = nested.running.zip(nested.operation.current()) else { return Action::INVALID_OPCODE };
    let memory = &mut vcpu.memory;
    let outcome = vm_function::execute(
        vmcs23,
        eax,
        ecx,
        |pointer| is_ept_pointer(pointer, offered, width),
        |address| memory.read_u64(GuestPhysical(address)),
    );
    match outcome {
        Outcome::InvalidOpcode => Action::INVALID_OPCODE,
        Outcome::Exit => {
            exit::reflect(vcpu, nested, exit);
            Action::Reflect
        }
        Outcome::Switched(pointer) => {
            let pointer = nested.composition.pointer(pointer);
            nested.regions.set_ept_pointer(slot, &mut vcpu.platform, pointer);
            if nested.composition.take_flush() {
                vcpu.platform.invalidate_ept();
            }
            Action::Complete
        }
    }
}
