//! Exits of L3: L1 handles them, or they become exits to L2.

use exit_trace::nested::Direction;
use l1_protocol::end::EndReason;
use shadow::ept::{Access, Fault, Outcome, PageModificationLog};
use shadow::exit::{
    ExitInformation, HostState, Kept, load_frequent_host_state, load_host_state, pin_based, save_guest_state, segments_are_loaded,
};
use shadow::field_set::FieldSet;
use shadow::reflect::{Decision, Facts, decide, secondary_controls};
use vmcs::controls::{PinBased, PrimaryExit, SecondaryProcessorBased as Secondary};
use vmcs::event::{EventType, Interruptibility, InterruptionInformation};
use vmcs::exit_reason::{BasicExitReason as Reason, ExitReason, When};
use vmcs::field::Field;
use vmcs::instruction_information::{InstructionInformation, Operands};
use vmcs::qualification::EptViolation;

use super::memory::Outside;
use super::{Nested, exception, linked, msr_lists, owned, switch, with};
use crate::exit::control_register::load_pdptes;
use crate::exit::information::Exit;
use crate::exit::{Action, dispatch};
use crate::guest_memory::{GuestMemory, GuestPhysical};
use crate::platform::{Platform, Region};
use crate::vcpu::Vcpu;
use crate::vmcs12::{CR0_PG, CR4_PAE, real_cr0, real_cr4};

const IA_32E_MODE_GUEST: u64 = 1 << 9;
const EFER_LMA: u64 = 1 << 10;
/// Blocking by NMI, in the interruptibility state.
pub(super) const NMI_BLOCKING: u64 = Interruptibility::BLOCKING_BY_NMI.bits() as u64;

/// An exit of L3.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    if exit.reason.is_entry_failure() {
        return with(vcpu, |vcpu, nested| late_failure(vcpu, nested, exit)).unwrap_or(Action::Continue);
    }
    let decided = with(vcpu, |vcpu, nested| {
        let decision = decide_exit(vcpu, nested, exit);
        if decision.reflect {
            reflect(vcpu, nested, exit);
            return Some(Action::Reflect);
        }
        keep(vcpu, nested, exit)
    });
    let action = match decided {
        Some(Some(action)) => action,
        Some(None) | None if matches!(exit.reason.basic(), Reason::VMREAD | Reason::VMWRITE) => linked::handle(vcpu, exit),
        // L1's own handlers work on the VMCS that is current, which is L3's.
        Some(None) | None => dispatch::handle(vcpu, exit),
    };
    match action {
        Action::Inject(injection) => exception::raise(vcpu, exit, injection),
        Action::Stop(end) if end.reason == EndReason::UnhandledExit && was_delivering(vcpu, exit) => {
            // Where nothing is all ones are read, and an IDT of these shuts the processor down.
            let reason = Reason::TRIPLE_FAULT.0.into();
            let information = ExitInformation { reason, ..ExitInformation::default() };
            let rip = exit.rip;
            with(vcpu, |vcpu, nested| leave(vcpu, nested, &information, rip));
            Action::Reflect
        }
        action => action,
    }
}

/// Whether an event was being delivered through memory that L1 would have to emulate.
fn was_delivering<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> bool {
    exit.reason.basic() == Reason::EPT_VIOLATION && exit.idt_vectoring(&mut vcpu.platform) >> 31 != 0
}

/// IRET has ended the blocking of NMIs, and then met the EPT violation that L3 never hears of: it is executed again, and must
/// find NMIs blocked (SDM 3C 27.2.3 "Information About NMI Unblocking Due to IRET").
fn restore_nmi_blocking<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit, qualification: u64) {
    const NMI_UNBLOCKING: u64 = EptViolation::NMI_UNBLOCKING_DUE_TO_IRET;
    if qualification & NMI_UNBLOCKING != 0 && exit.idt_vectoring(&mut vcpu.platform) >> 31 == 0 {
        let state = vcpu.platform.read(Field::GUEST_INTERRUPTIBILITY_STATE);
        vcpu.platform.write(Field::GUEST_INTERRUPTIBILITY_STATE, state | NMI_BLOCKING);
    }
}

fn decide_exit<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Decision {
    let reason = exit.reason.basic();
    match nested.operation.current() {
        Some(vmcs23) => decide(reason, vmcs23, &mut ExitFacts { vcpu, exit }),
        None => Decision { reflect: false, rule: 0 },
    }
}

/// What the rules ask about an exit.
struct ExitFacts<'a, 'm, P> {
    vcpu: &'a mut Vcpu<'m, P>,
    exit: &'a mut Exit,
}

impl<P: Platform> Facts for ExitFacts<'_, '_, P> {
    fn qualification(&mut self) -> u64 {
        self.exit.qualification(&mut self.vcpu.platform)
    }

    fn interruption(&mut self) -> InterruptionInformation {
        InterruptionInformation(self.vcpu.platform.read(Field::VM_EXIT_INTERRUPTION_INFORMATION) as u32)
    }

    fn error_code(&mut self) -> u32 {
        self.vcpu.platform.read(Field::VM_EXIT_INTERRUPTION_ERROR_CODE) as u32
    }

    fn general(&mut self, number: usize) -> u64 {
        self.vcpu.operand(number)
    }

    fn field_register(&mut self) -> usize {
        let information = self.vcpu.platform.read(Field::VM_EXIT_INSTRUCTION_INFORMATION) as u32;
        match InstructionInformation(information).decode(self.exit.reason.basic()) {
            Some(Operands::VmreadVmwrite { field, .. }) => field.number().into(),
            _ => 0,
        }
    }

    fn byte(&mut self, address: u64) -> u8 {
        byte(&mut self.vcpu.memory, address)
    }
}

fn byte(memory: &mut GuestMemory<'_>, address: u64) -> u8 {
    let [byte] = memory.read_array::<1>(GuestPhysical(address));
    byte
}

/// Exits that L1 keeps, and that need the state of nesting; `None` for all that its ordinary handlers do.
fn keep<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Option<Action> {
    match exit.reason.basic() {
        // A misconfiguration is never L2's: the tables that the processor walks are L1's own.
        Reason::EPT_VIOLATION => ept(vcpu, nested, exit),
        Reason::VMX_PREEMPTION_TIMER_EXPIRED => {
            let now = vcpu.platform.time_stamp_counter();
            if nested.timer.is_some_and(|timer| now >= timer) {
                leave(vcpu, nested, &ExitInformation { reason: exit.reason.0, ..ExitInformation::default() }, exit.rip);
                return Some(Action::Reflect);
            }
            Some(Action::Resume)
        }
        Reason::CONTROL_REGISTER_ACCESS => super::virtual_apic::handle(vcpu, nested, exit),
        Reason::VMFUNC => Some(super::vm_function::handle(vcpu, nested, exit)),
        _ => None,
    }
}

/// EPT13 lacks an entry, or EPT23 forbids the access.
fn ept<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Option<Action> {
    let vmcs23 = nested.operation.current()?;
    if !secondary_controls(vmcs23).contains(Secondary::ENABLE_EPT) {
        return None;
    }
    let pointer = vmcs23.get(Field::EPT_POINTER);
    let address = vcpu.platform.read(Field::GUEST_PHYSICAL_ADDRESS);
    let qualification = exit.qualification(&mut vcpu.platform);
    let mut outside = Outside { memory: &mut vcpu.memory, base: nested.regions.constants.memory_base };
    let log_is_full = PageModificationLog::of(vmcs23).is_some_and(PageModificationLog::is_full);
    let outcome = nested.composition.fault(&mut outside, pointer, Access { log_is_full, ..Access::new(address, qualification) });
    if let Outcome::Filled { newly_dirty: true, .. } | Outcome::L1 { newly_dirty: true, .. } = outcome {
        let memory = &mut vcpu.memory;
        PageModificationLog::log(vmcs23, address, |place, entry| memory.write(GuestPhysical(place), &entry.to_le_bytes()));
    }
    match outcome {
        Outcome::Filled { .. } => {
            if nested.composition.take_flush() {
                vcpu.platform.invalidate_ept();
            }
            restore_nmi_blocking(vcpu, exit, qualification);
            Some(Action::Resume)
        }
        Outcome::L2(fault) => {
            let mut information = ExitInformation::read(&mut vcpu.platform, ExitReason(fault.exit_reason().0.into()));
            information.qualification = fault.qualification();
            if !matches!(fault, Fault::Violation { .. }) {
                information.guest_linear_address = None;
            }
            if !matches!(fault, Fault::PageModificationLogFull { .. }) {
                information.guest_physical_address = Some(address);
            }
            leave(vcpu, nested, &information, exit.rip);
            Some(Action::Reflect)
        }
        Outcome::L1 { .. } => None,
    }
}

/// The exit that has happened becomes L2's.
pub(super) fn reflect<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &Exit) {
    let information = ExitInformation::read(&mut vcpu.platform, exit.reason);
    leave(vcpu, nested, &information, exit.rip);
}

/// From L3, whose RIP is `rip`, to L2, with an exit that L2 shall see. vmcs13 is current before, vmcs12 after.
pub fn leave<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, information: &ExitInformation, rip: u64) {
    let owned = owned(vcpu);
    let timer = nested.timer;
    let Some(vmcs23) = nested.operation.current() else { return };
    let ept = secondary_controls(vmcs23).contains(Secondary::ENABLE_EPT);
    let reason = ExitReason(information.reason).basic();
    let by_instruction = reason.information().is_some_and(|row| row.instruction_length == When::Always);
    nested.regions.events.leaving(vmcs23, &vcpu.platform);
    save_guest_state(vmcs23, &mut vcpu.platform, &owned, ept, rip, by_instruction);
    information.write(vmcs23);
    if nested.regions.hardware.as_ref().is_some_and(super::regions::Hardware::serves_everything) {
        shadow::exit::pull(vmcs23, &mut vcpu.platform);
    }
    let controls = PrimaryExit::from_bits_retain(vmcs23.get_u32(Field::PRIMARY_VM_EXIT_CONTROLS));
    if let Some(timer) = timer
        && controls.contains(PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE)
    {
        let rate = vcpu.capabilities.misc().preemption_timer_rate();
        let now = vcpu.platform.time_stamp_counter();
        let left = (timer >> rate).saturating_sub(now >> rate).min(u64::from(u32::MAX));
        vmcs23.record(Field::VMX_PREEMPTION_TIMER_VALUE, left);
    }
    nested.regions.events.left(information, rip, vmcs23, &mut vcpu.platform);
    let interruption = InterruptionInformation(information.interruption);
    let by_nmi = reason == Reason::EXCEPTION_OR_NMI && interruption.is_valid() && interruption.event_type() == EventType::NMI;
    let blocked = vmcs23.get(Field::GUEST_INTERRUPTIBILITY_STATE) & NMI_BLOCKING != 0;
    let nmi_blocking = by_nmi || blocked && !pin_based(vmcs23, PinBased::VIRTUAL_NMIS);
    let cr0 = vmcs23.get(Field::GUEST_CR0);
    msr_lists::store_on_exit(vcpu, nested);
    let kept = kept(vcpu, controls, cr0);
    load(vcpu, nested, &kept, nmi_blocking);
}

/// A failed entry: L2's host state is loaded, and only the reason and the qualification change (SDM 3C 26.8).
pub fn fail<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, information: &ExitInformation) {
    nested.regions.events.failed(information, &mut vcpu.platform);
    let Some(vmcs23) = nested.operation.current() else { return };
    information.write(vmcs23);
    let cr0 = vcpu.seen_cr0();
    let blocked = vcpu.platform.read(Field::GUEST_INTERRUPTIBILITY_STATE) & NMI_BLOCKING != 0;
    let kept = kept(vcpu, PrimaryExit::empty(), cr0);
    nested.host_is_loaded = false;
    load(vcpu, nested, &kept, blocked);
}

/// The processor found vmcs13's guest state wrong although L1's checks did not.
fn late_failure<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Action {
    let qualification = exit.qualification(&mut vcpu.platform);
    let information = ExitInformation { reason: exit.reason.0, qualification, ..ExitInformation::default() };
    unwind(vcpu, nested);
    fail(vcpu, nested, &information);
    Action::Reflect
}

/// Takes back an entry that failed after the merge: L2's VMCS is current again, and the launch state is what it was. What vmcs13
/// holds beyond what the merge wrote is written anew next time.
#[cold]
pub fn unwind<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    // The merge does not write what is still to be fetched; after this it writes everything.
    if let Some(vmcs23) = nested.operation.current() {
        shadow::exit::pull(vmcs23, &mut vcpu.platform);
    }
    back_to_l2(vcpu, nested);
    switch(vcpu, Region::Vmcs12);
    // vmcs12 still holds what its last exit, L2's VMLAUNCH or VMRESUME, has left.
    let launch = ExitReason(vcpu.platform.read(Field::EXIT_REASON) as u32).basic() == Reason::VMLAUNCH;
    if let Some(vmcs23) = nested.operation.current() {
        vmcs23.launched = !launch;
        vmcs23.changed = FieldSet::ALL;
        vmcs23.unchecked = FieldSet::ALL;
    }
}

/// What an exit with these controls keeps.
#[inline]
fn kept<P: Platform>(vcpu: &mut Vcpu<'_, P>, controls: PrimaryExit, cr0: u64) -> Kept {
    let mut unless = |loaded, field| if controls.contains(loaded) { 0 } else { vcpu.platform.read(field) };
    Kept {
        cr0,
        efer: unless(PrimaryExit::LOAD_IA32_EFER, Field::GUEST_IA32_EFER),
        pat: unless(PrimaryExit::LOAD_IA32_PAT, Field::GUEST_IA32_PAT),
    }
}

/// L1's own notes say that L2 runs again.
pub fn back_to_l2<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    if nested.running.take().is_some() {
        // A window that L1 has opened for an event of its own is none of L2's: the next merge closes it.
        if vcpu.controls.primary != nested.primary13
            && let Some(vmcs23) = nested.operation.current()
        {
            vmcs23.changed.insert(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS);
        }
        vcpu.controls.primary = nested.primary12;
    }
    nested.timer = None;
    vcpu.runs_l3 = false;
    vcpu.timer_changed();
}

/// Loads L2's host state into vmcs12.
fn load<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, kept: &Kept, nmi_blocking: bool) {
    if nested.running.is_some() {
        back_to_l2(vcpu, nested);
    }
    let slot = nested.operation.current_slot();
    let Some(vmcs23) = nested.operation.current() else { return };
    if let (Some(hardware), Some(slot)) = (&mut nested.regions.hardware, slot) {
        let fields = hardware.send(slot, vmcs23, &mut vcpu.platform);
        nested.regions.events.sync(Direction::ToShadow, fields, &mut vcpu.platform);
    }
    switch(vcpu, Region::Vmcs12);
    let host = HostState::read(vmcs23, kept);
    let platform = &mut vcpu.platform;
    load_frequent_host_state(vmcs23, platform);
    platform.write(Field::GUEST_CR0, real_cr0(&vcpu.capabilities, host.cr0));
    platform.write(Field::GUEST_CR3, host.cr3);
    platform.write(Field::GUEST_CR4, real_cr4(&vcpu.capabilities, host.cr4));
    let interruptibility = if nmi_blocking { NMI_BLOCKING } else { 0 };
    // L2 was active and had no debug exception pending when it executed VMRESUME; only NMIs may have been blocked.
    // Another VMCS has other host state.
    let same = nested.loaded_from == slot && HostState { cr3: host.cr3, ..nested.loaded } == host;
    let loaded = nested.host_is_loaded && same && segments_are_loaded(vmcs23, platform);
    if !loaded || nested.interruptibility12 != interruptibility {
        platform.write(Field::GUEST_INTERRUPTIBILITY_STATE, interruptibility);
    }
    if !loaded {
        load_host_state(vmcs23, &host, platform);
        let entry = u64::from(vcpu.controls.entry.bits());
        let mode = if host.efer & EFER_LMA != 0 { IA_32E_MODE_GUEST } else { 0 };
        let rows = [
            (Field::CR0_READ_SHADOW, host.cr0),
            (Field::CR4_READ_SHADOW, host.cr4),
            (Field::GUEST_IA32_EFER, host.efer),
            (Field::GUEST_IA32_PAT, host.pat),
            (Field::VM_ENTRY_CONTROLS, entry | mode),
        ];
        for (field, value) in rows {
            platform.write(field, value);
        }
        nested.loaded = host;
        nested.loaded_from = slot;
        nested.host_is_loaded = host.is_64_bit;
        super::guarded::guard(vcpu, nested);
    }
    if !host.is_64_bit && host.cr0 & CR0_PG != 0 && host.cr4 & CR4_PAE != 0 && load_pdptes(vcpu, host.cr3).is_err() {
        // SDM 3C 27.5.4 "Checking and Loading Host Page-Directory-Pointer-Table Entries".
        msr_lists::abort(vcpu, nested, msr_lists::Abort::LoadingHostPdptes);
    }
    let Some(vmcs23) = nested.operation.current() else { return };
    if !secondary_controls(vmcs23).contains(Secondary::ENABLE_VPID) {
        vcpu.platform.invalidate_translations();
        nested.translations_dropped = true;
    }
    // L2 goes on at an address of its own, and not behind what L1 has done for L3.
    vcpu.finished_at = u64::MAX;
    if core::mem::take(&mut vcpu.tsc_offset_is_stale) {
        vcpu.platform.write(Field::TSC_OFFSET, vcpu.tsc_offset);
    }
    msr_lists::load_on_exit(vcpu, nested);
}

#[cfg(test)]
#[path = "tests/exit.rs"]
mod tests;
