//! RDTSC and RDTSCP, where the user asked for these exits, and the end of the preemption timer.

use vmcs::field::Field;

use super::Action;
use crate::context::register::{RAX, RCX, RDX};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// RDTSC: the counter with the guest's offset, as the processor computes it without the exit.
pub fn handle_rdtsc<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    let offset = vcpu.platform.read(Field::TSC_OFFSET);
    let value = vcpu.platform.time_stamp_counter().wrapping_add(offset);
    vcpu.context.general[RAX] = value & 0xffff_ffff;
    vcpu.context.general[RDX] = value >> 32;
    Action::Complete
}

/// RDTSCP: also IA32_TSC_AUX, which L1 leaves to the guest.
pub fn handle_rdtscp<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    vcpu.context.general[RCX] = vcpu.platform.tsc_auxiliary() & 0xffff_ffff;
    handle_rdtsc(vcpu)
}
