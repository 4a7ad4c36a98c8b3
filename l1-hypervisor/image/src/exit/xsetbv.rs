//! XSETBV: always exits, after the checks of CPL and CR4.OSXSAVE (SDM 3C 26.1.2).

use vmcs::field::Field;

use super::Action;
use crate::context::register::{RAX, RCX, RDX};
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vmcs12::host_cr4;

/// Sets the guest's XCR0, which L1 leaves in the processor while it runs itself.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    let general = &vcpu.context.general;
    let value = general[RDX] << 32 | general[RAX] & 0xffff_ffff;
    if general[RCX] as u32 != 0 || !vcpu.features.accepts_extended_control(value) {
        return Action::GENERAL_PROTECTION;
    }
    vcpu.platform.set_extended_control(value);
    // A guest that uses XSAVE goes on using it.
    let cr4 = vcpu.platform.read(Field::HOST_CR4);
    let guest_cr4 = vcpu.platform.read(Field::GUEST_CR4);
    vcpu.platform.write(Field::HOST_CR4, host_cr4(cr4, guest_cr4));
    Action::Complete
}
