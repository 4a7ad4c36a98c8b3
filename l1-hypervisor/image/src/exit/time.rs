//! RDTSC and RDTSCP, where the user asked for these exits, and the end of the preemption timer.

use shadow::tsc::scale;
use vmcs::controls::SecondaryProcessorBased;
use vmcs::field::Field;

use super::Action;
use crate::context::register::{RAX, RCX, RDX};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// RDTSC: the counter with the guest's offset, as the processor computes it without the exit.
pub fn handle_rdtsc<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    let offset = vcpu.platform.read(Field::TSC_OFFSET);
    let counter = vcpu.platform.time_stamp_counter();
    // Only for L3 does L1 set "use TSC scaling".
    let scales = vcpu.runs_l3 && {
        let secondary = vcpu.platform.read(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) as u32;
        SecondaryProcessorBased::from_bits_retain(secondary).contains(SecondaryProcessorBased::USE_TSC_SCALING)
    };
    let counter = if scales { scale(counter, vcpu.platform.read(Field::TSC_MULTIPLIER)) } else { counter };
    let value = counter.wrapping_add(offset);
    vcpu.context.general[RAX] = value & 0xffff_ffff;
    vcpu.context.general[RDX] = value >> 32;
    Action::Complete
}

/// RDTSCP: also IA32_TSC_AUX, which L1 leaves to the guest.
pub fn handle_rdtscp<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    vcpu.context.general[RCX] = vcpu.platform.tsc_auxiliary() & 0xffff_ffff;
    handle_rdtsc(vcpu)
}
