//! XSETBV: always exits, after the checks of CPL and CR4.OSXSAVE (SDM 3C 26.1.2).

use super::Action;
use crate::context::register::{RAX, RCX, RDX};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// Sets the guest's XCR0, which L1 leaves in the processor while it runs itself.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    let general = &vcpu.context.general;
    let value = general[RDX] << 32 | general[RAX] & 0xffff_ffff;
    if general[RCX] as u32 != 0 || !vcpu.features.accepts_extended_control(value) {
        return Action::GENERAL_PROTECTION;
    }
    vcpu.platform.set_extended_control(value);
    Action::Complete
}
