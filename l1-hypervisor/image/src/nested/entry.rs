//! VMLAUNCH and VMRESUME of L2: from L2 to L3.
//!
//! What always holds: vmcs23 is checked in L1's own copy, which L2 cannot reach, and the copy is what is merged. An entry
//! that is refused leaves L2 as the SDM says: flags and an error number, or a VM exit with only reason and qualification
//! changed. What the processor finds wrong with vmcs13 although L1 found nothing is unwound to the same.

use core::cell::RefCell;

use exit_trace::nested::Direction;
use shadow::exit::{ExitInformation, HOST_FIELDS};
use shadow::field_set::FieldSet;
use shadow::merge::{self, Inherited};
use shadow::operation::{Machine as _, Reply};
use shadow::reflect::{primary_controls, secondary_controls};
use shadow::vmcs23::Vmcs23;
use vmcs::controls::{Entry, PinBased, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::entry_check::{self, EntryInstruction, Environment, LaunchState, Outcome, Violation};
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;
use vmcs::instruction_error::InstructionError;

use super::regions::World;
use super::{Nested, activity, exit, inherited, msr_lists, outer, pdptes, switch, vmcs13, with};
use crate::exit::information::Exit;
use crate::guest_memory::{GuestMemory, GuestPhysical};
use crate::guest_paging::is_canonical;
use crate::platform::{Platform, Region};
use crate::vcpu::Vcpu;
use crate::verdict;
use crate::vmcs12::{CR0_CD, CR0_NW};

/// What an exit of L3 has left in L2's DR7 (SDM 3C 27.5.1).
const DR7_AFTER_EXIT: u64 = 0x400;
/// Blocking by MOV SS, in the interruptibility state.
const MOV_SS_BLOCKING: u64 = 1 << 1;
/// Bit 31 of the exit reason: VM-entry failure.
const ENTRY_FAILURE: u32 = 1 << 31;
/// VPID 0 is what a processor without VPIDs uses; VM entry refuses it with "enable VPID".
pub const NO_VPID: u32 = 0;
/// VPID of L3; L2 has 1.
pub const VPID: u64 = 2;

/// Enters L3.
///
/// # Errors
/// What the instruction reports if it fails. A failure that is a VM exit is no error: L2 goes on at its host RIP.
pub fn enter<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, launch: bool) -> Result<(), Reply> {
    let Some(slot) = nested.operation.current_slot() else { return Err(Reply::FailInvalid) };
    let interruptibility = blocking(vcpu);
    let outer = outer(vcpu, nested);
    let Some(vmcs23) = nested.operation.current() else { return Err(Reply::FailInvalid) };
    if vmcs23.is_shadow {
        return Err(Reply::FailInvalid);
    }
    if vmcs23.changed.intersects(&HOST_FIELDS) || !vmcs23.launched {
        nested.host_is_loaded = false;
    }
    nested.interruptibility12 = interruptibility;
    let inherited = if !merge::inherits(vmcs23) {
        Inherited::default()
    } else if nested.host_is_loaded {
        Inherited { efer: nested.loaded.efer, pat: nested.loaded.pat, debugctl: 0, dr7: DR7_AFTER_EXIT }
    } else {
        inherited(vcpu)
    };
    if let Some(hardware) = &mut nested.regions.hardware {
        let fields = hardware.fetch(slot, vmcs23, &mut vcpu.platform, false);
        nested.regions.events.sync(Direction::FromShadow, fields, &mut vcpu.platform);
    }
    let instruction_fits = vmcs23.launched != launch && interruptibility & MOV_SS_BLOCKING == 0;
    if !instruction_fits || !holds_still(vmcs23, &nested.free) {
        vcpu.platform.make_current(Region::Vmcs12);
        if let Err(violation) = check(vcpu, nested, launch, interruptibility) {
            return report(vcpu, nested, violation);
        }
    }
    let Some(vmcs23) = nested.operation.current() else { return Err(Reply::FailInvalid) };
    vmcs23.unchecked = FieldSet::EMPTY;
    if vmcs23.changed.contains(Field::GUEST_CR0) {
        vcpu.platform.make_current(Region::Vmcs12);
        keep_caching(vmcs23, vcpu.seen_cr0());
    }
    switch(vcpu, vmcs13(slot));
    nested.regions.prepare(slot, &mut vcpu.platform, &vcpu.controls, &vcpu.capabilities);
    nested.regions.note_tsc_offset(slot, outer.tsc_offset, vmcs23);
    let base = nested.regions.constants.memory_base;
    let tpr_shadow = super::virtual_apic::prepare(vmcs23, &mut vcpu.memory, base, &mut vcpu.platform);
    let outer = merge::Outer { tpr_shadow, ..outer };
    let changed = vmcs23.changed;
    let fields = merge::merge(vmcs23, &outer, &inherited, &mut vcpu.platform);
    nested.regions.events.enter(launch, vmcs23, &changed, fields, &mut vcpu.platform);
    let (primary, secondary) = (primary_controls(vmcs23), secondary_controls(vmcs23));
    let pointer = if secondary.contains(Secondary::ENABLE_EPT) {
        nested.composition.pointer(vmcs23.get(Field::EPT_POINTER))
    } else {
        nested.regions.constants.ept_pointer
    };
    let bitmap = primary.contains(Primary::USE_MSR_BITMAPS).then(|| vmcs23.get(Field::MSR_BITMAP));
    nested.regions.set_ept_pointer(slot, &mut vcpu.platform, pointer);
    if changed.contains(Field::GUEST_CR4) {
        nested.regions.set_host_cr4(slot, &mut vcpu.platform, vmcs23.get(Field::GUEST_CR4));
    }
    nested.regions.merge_msr_bitmap(bitmap, &mut vcpu.memory);
    if nested.composition.take_flush() {
        vcpu.platform.invalidate_ept();
    }
    // L3's translations are tagged with a VPID of L1's whether or not L2 uses VPIDs; without them every entry and exit
    // drops what is cached (SDM 3C 28.3.3.1 "Operations that Invalidate Cached Mappings"). What the last exit has dropped
    // for all VPIDs cannot have come back: nothing has run with L3's since, and L2's own is dropped by the exit to come.
    let dropped = core::mem::take(&mut nested.translations_dropped);
    let vpid23 =
        if secondary.contains(Secondary::ENABLE_VPID) { vmcs23.get_u32(Field::VIRTUAL_PROCESSOR_IDENTIFIER) } else { NO_VPID };
    // All L3 share the one VPID, so what another of L2's VPIDs has left is dropped, too.
    let other = core::mem::replace(&mut nested.vpid23, vpid23) != vpid23;
    if !dropped && (other || vpid23 == NO_VPID) {
        vcpu.platform.invalidate_translations();
    }
    vmcs23.launched = true;
    nested.timer = preemption_timer(vcpu, vmcs23);
    nested.primary12 = vcpu.controls.primary;
    nested.primary13 = merge::primary(vmcs23, &outer);
    vcpu.controls.primary = nested.primary13;
    nested.running = Some(slot);
    vcpu.runs_l3 = true;
    vcpu.timer_changed();
    if pdptes::load_on_entry(vcpu, nested) {
        msr_lists::load_on_entry(vcpu, nested);
        activity::look(vcpu, nested);
    }
    Ok(())
}

/// L2's interruptibility state. Blocking by MOV SS that an emulated instruction has left over (see [`Vcpu::finish_at`]) is none:
/// nothing but this instruction was executed since.
#[inline]
fn blocking<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> u64 {
    let state = vcpu.platform.read(Field::GUEST_INTERRUPTIBILITY_STATE);
    if state & MOV_SS_BLOCKING != 0 && vcpu.platform.read(Field::GUEST_RIP) == vcpu.finished_at {
        vcpu.platform.write(Field::GUEST_INTERRUPTIBILITY_STATE, state & !MOV_SS_BLOCKING);
        return state & !MOV_SS_BLOCKING;
    }
    state
}

/// Whether nothing has changed since the rules were last found to hold that any of them looks at, but for RIP, whose rule
/// is judged here: it depends on the mode alone (SDM 3C 26.3.1.4 "Checks on Guest RIP, RFLAGS, and SSP").
#[inline]
fn holds_still(vmcs23: &Vmcs23, free: &FieldSet) -> bool {
    const RIP: FieldSet = FieldSet::of(&[Field::GUEST_RIP]);
    const CODE_SEGMENT_LONG: u64 = 1 << 13;
    if !vmcs23.unchecked.difference(free).difference(&RIP).is_empty() || looks_into_memory(vmcs23) {
        return false;
    }
    let long_mode = Entry::from_bits_retain(vmcs23.get_u32(Field::VM_ENTRY_CONTROLS)).contains(Entry::IA_32E_MODE_GUEST);
    let rip = vmcs23.get(Field::GUEST_RIP);
    if long_mode && vmcs23.get(Field::GUEST_CS_ACCESS_RIGHTS) & CODE_SEGMENT_LONG != 0 {
        is_canonical(rip)
    } else {
        rip >> 32 == 0
    }
}

/// VM entry loads neither CD nor NW: L3 goes on with L2's (SDM 3C 26.3.2.1 "Loading Guest Control Registers, Debug Registers,
/// and MSRs"), and an exit saves what L3 has.
fn keep_caching(vmcs23: &mut Vmcs23, cr0: u64) {
    const KEPT: u64 = CR0_CD | CR0_NW;
    vmcs23.record(Field::GUEST_CR0, vmcs23.get(Field::GUEST_CR0) & !KEPT | cr0 & KEPT);
}

/// Whether a rule looks at L2's memory, where much may have changed without L1 having seen it: a VMCS is linked.
fn looks_into_memory(vmcs23: &Vmcs23) -> bool {
    vmcs23.get(Field::VMCS_LINK_POINTER) != u64::MAX
}

/// When L2's VMX-preemption timer expires (SDM 3C 25.5.1 "VMX-Preemption Timer").
fn preemption_timer<P: Platform>(vcpu: &mut Vcpu<'_, P>, vmcs23: &Vmcs23) -> Option<u64> {
    shadow::exit::pin_based(vmcs23, PinBased::ACTIVATE_VMX_PREEMPTION_TIMER).then(|| {
        let rate = vcpu.capabilities.misc().preemption_timer_rate();
        let now = vcpu.platform.time_stamp_counter();
        ((now >> rate) + vmcs23.get(Field::VMX_PREEMPTION_TIMER_VALUE)) << rate
    })
}

/// The rules of VM entry, as far as something has changed since they were found to hold.
#[inline(never)]
fn check<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, launch: bool, interruptibility: u64) -> Result<(), Violation> {
    let slot = nested.operation.current_slot().unwrap_or(0);
    let (current_vmcs, vmxon_pointer) = (nested.operation.current_pointer(), nested.operation.vmxon_pointer());
    let Some(vmcs23) = nested.operation.current() else { return Ok(()) };
    let mut world = World { memory: &mut vcpu.memory, platform: &mut vcpu.platform, regions: &mut nested.regions };
    world.pull(slot, vmcs23);
    const EFER_LMA: u64 = 1 << 10;
    let long_mode = vcpu.platform.read(Field::GUEST_IA32_EFER) & EFER_LMA != 0;
    let platform = L2Platform(RefCell::new(&mut vcpu.memory));
    let environment = Environment {
        instruction: if launch { EntryInstruction::Vmlaunch } else { EntryInstruction::Vmresume },
        launch_state: if vmcs23.launched { LaunchState::Launched } else { LaunchState::Clear },
        blocking_by_mov_ss: interruptibility & MOV_SS_BLOCKING != 0,
        current_vmcs,
        current_vmcs_is_shadow: false,
        vmxon_pointer,
        long_mode,
        debugctl: 3,
        platform: &platform,
        linear_address_masking: false,
        restricted_transactional_memory: false,
        bus_lock_detection: false,
        software_guard_extensions: false,
        ..verdict::environment(&mut vcpu.platform, &vcpu.features)
    };
    match entry_check::check(vmcs23, &nested.offered, &environment) {
        // What a list leads to is known when it is loaded: L2 can change it until then, and what stands before a bad entry is loaded.
        Err(Violation { outcome: Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_MSR_LOADING, .. }, .. }) => {
            Ok(())
        }
        result => result,
    }
}

/// L2's memory and MSRs, as the rules ask for them.
struct L2Platform<'a, 'm>(RefCell<&'a mut GuestMemory<'m>>);

impl entry_check::Platform for L2Platform<'_, '_> {
    fn read_memory(&self, physical_address: u64) -> Option<u64> {
        self.0.try_borrow_mut().ok().map(|mut memory| memory.read_u64(GuestPhysical(physical_address)))
    }

    fn accepts_msr(&self, _number: u32, _value: u64) -> bool {
        true
    }
}

/// What a broken rule leads to.
fn report<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, violation: Violation) -> Result<(), Reply> {
    nested.regions.events.refuse(&violation, &mut vcpu.platform);
    match violation.outcome {
        Outcome::VmfailInvalid => Err(Reply::FailInvalid),
        Outcome::VmfailValid(error) => Err(nested.operation.fail(error)),
        Outcome::EntryFailure { reason, qualification } => {
            let information =
                ExitInformation { reason: u32::from(reason.0) | ENTRY_FAILURE, qualification, ..ExitInformation::default() };
            exit::fail(vcpu, nested, &information);
            Ok(())
        }
    }
}

/// The processor has refused vmcs13 before it loaded anything of L3: L2 sees its instruction fail.
#[cold]
pub fn refuse<P: Platform>(vcpu: &mut Vcpu<'_, P>) {
    with(vcpu, |vcpu, nested| {
        exit::unwind(vcpu, nested);
        let error = InstructionError::VM_ENTRY_WITH_INVALID_CONTROL_FIELDS;
        nested.regions.events.refused(Outcome::VmfailValid(error), &mut vcpu.platform);
        let reply = nested.operation.fail(error);
        let rflags = vcpu.platform.read(Field::GUEST_RFLAGS) & !Reply::FLAGS | reply.flags();
        vcpu.platform.write(Field::GUEST_RFLAGS, rflags);
        // vmcs12 still holds what its last exit, L2's VMLAUNCH or VMRESUME, has left.
        let mut exit = Exit::read(&mut vcpu.platform);
        vcpu.finish_instruction(&mut exit);
    });
}

#[cfg(test)]
#[path = "tests/entry.rs"]
mod tests;
