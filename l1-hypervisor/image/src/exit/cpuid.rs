//! CPUID: always exits (SDM 3C 26.1.2 "Instructions That Cause VM Exits Unconditionally").

use vmcs::field::Field;

use super::Action;
use crate::context::register::{RAX, RBX, RCX, RDX};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// CPUID.1:EDX[9].
const LOCAL_APIC: u32 = 1 << 9;

/// Answers CPUID with what L1 shows.
#[inline(always)]
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    let leaf = vcpu.context.general[RAX] as u32;
    let subleaf = vcpu.context.general[RCX] as u32;
    // Only leaf 1 shows a bit of CR4 (OSXSAVE) and whether the local APIC is enabled.
    let cr4 = if leaf == 1 { vcpu.platform.read(Field::GUEST_CR4) } else { 0 };
    let mut answer = vcpu.features.answer(&mut vcpu.platform, leaf, subleaf, cr4);
    if leaf == 1 && !vcpu.devices.has_local_apic() {
        answer.edx &= !LOCAL_APIC;
    }
    vcpu.context.general[RAX] = answer.eax.into();
    vcpu.context.general[RBX] = answer.ebx.into();
    vcpu.context.general[RCX] = answer.ecx.into();
    vcpu.context.general[RDX] = answer.edx.into();
    Action::Complete
}
