//! What L1 does between an exit of L3 and the next entry, noted down for the recorder.
//!
//! What always holds: a platform without [`Platform::NOTES`] notes nothing. That is decided when L1 is compiled, once with
//! and once without, so that a run without tracing does not even ask. The recorder says before an exit is handled where L2
//! is ([`Events::begin`]) and takes the steps when it has been ([`Events::take`]).

use exit_trace::nested::{
    Direction, EntryRule, Merge, MergeGroups, NestedEntry, NestedEntryFailed, NestedExit, NestedIntercepts, NestedInterruptExit,
    ShadowSync,
};
use exit_trace::record::{Record, RecordKind};
use exit_trace::rule::ReflectionRule;
use shadow::exit::ExitInformation;
use shadow::field_set::FieldSet;
use shadow::merge::GROUPS;
use shadow::reflect::{primary_controls, rule_about, secondary_controls};
use shadow::vmcs23::Vmcs23;
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::entry_check::{Outcome, Violation};
use vmcs::event::{Injection, InterruptionInformation};
use vmcs::exit_reason::{BasicExitReason, ExitReason};
use vmcs::field::Field;

use crate::platform::Platform;

/// The most steps that one exit can make: the most are those of a VMRESUME that an interrupt undoes at once (sync,
/// intercepts, merge, entry, interrupt exit, exit, sync). What goes beyond is dropped.
const CAPACITY: usize = 12;

/// The steps of the exit that is being handled.
#[derive(Debug)]
pub struct Events {
    steps: [Record; CAPACITY],
    count: usize,
    /// L2-physical address of the current VMCS before the exit was handled, and the guest's RIP then.
    vmcs23: u64,
    rip: u64,
    /// Fields of vmcs23 that waited for the shadow VMCS before an exit of L3 was written to it.
    unsent: FieldSet,
    /// What L2 wanted to see of L3 at the last entry.
    intercepts: Option<NestedIntercepts>,
}

impl Events {
    /// No steps.
    #[must_use]
    pub const fn new() -> Self {
        Self { steps: [Record::ZERO; CAPACITY], count: 0, vmcs23: u64::MAX, rip: 0, unsent: FieldSet::EMPTY, intercepts: None }
    }

    /// An exit at `rip` will be handled; `vmcs23` is the current-VMCS pointer.
    pub const fn begin(&mut self, vmcs23: u64, rip: u64) {
        (self.vmcs23, self.rip) = (vmcs23, rip);
    }

    /// The steps since the last call, in their order; `vmcs23` is the current-VMCS pointer now.
    pub fn take(&mut self, vmcs23: u64) -> &[Record] {
        let steps = self.steps.get_mut(..core::mem::take(&mut self.count)).unwrap_or_default();
        // VMPTRLD brings the shadow VMCS of the old pointer home and fills that of the new one.
        for step in steps.iter_mut().filter(|step| step.kind() == Some(RecordKind::Sync)) {
            if let Some(sync @ ShadowSync { direction: Direction::ToShadow, .. }) = ShadowSync::read(step) {
                *step = ShadowSync { vmcs23, ..sync }.record(step.tsc);
            }
        }
        steps
    }

    fn push(&mut self, step: Record) {
        if let Some(place) = self.steps.get_mut(self.count) {
            *place = step;
            self.count += 1;
        }
    }

    /// vmcs23 and its shadow VMCS were brought into agreement.
    #[inline(always)]
    pub(super) fn sync<P: Platform>(&mut self, direction: Direction, fields: u32, platform: &mut P) {
        if P::NOTES {
            self.push(ShadowSync { vmcs23: self.vmcs23, direction, fields }.record(platform.time_stamp_counter()));
        }
    }

    /// L3 will be entered: `changed` had changed, and `fields` fields of vmcs13 were written for that.
    #[inline(always)]
    pub(super) fn enter<P: Platform>(
        &mut self,
        launch: bool,
        vmcs23: &Vmcs23,
        changed: &FieldSet,
        fields: u32,
        platform: &mut P,
    ) {
        if P::NOTES {
            self.note_entry(launch, vmcs23, changed, fields, platform.time_stamp_counter());
        }
    }

    #[inline(never)]
    fn note_entry(&mut self, launch: bool, vmcs23: &Vmcs23, changed: &FieldSet, fields: u32, tsc: u64) {
        let rip = vmcs23.get(Field::GUEST_RIP);
        let secondary = secondary_controls(vmcs23);
        let intercepts = NestedIntercepts {
            rip: 0,
            vmcs23: self.vmcs23,
            pin_based: vmcs23.get_u32(Field::PIN_BASED_VM_EXECUTION_CONTROLS),
            primary: primary_controls(vmcs23).bits(),
            secondary: secondary.bits(),
            exception_bitmap: vmcs23.get_u32(Field::EXCEPTION_BITMAP),
        };
        if self.intercepts != Some(intercepts) {
            self.intercepts = Some(intercepts);
            self.push(NestedIntercepts { rip, ..intercepts }.record(tsc));
        }
        self.push(Merge { vmcs23: self.vmcs23, groups: groups(changed), fields }.record(tsc));
        let event = InterruptionInformation(vmcs23.get_u32(Field::VM_ENTRY_INTERRUPTION_INFORMATION));
        let entry = NestedEntry {
            instruction: if launch { BasicExitReason::VMLAUNCH } else { BasicExitReason::VMRESUME },
            rip,
            vmcs23: self.vmcs23,
            ept_pointer: if secondary.contains(Secondary::ENABLE_EPT) { vmcs23.get(Field::EPT_POINTER) } else { 0 },
            event: event.is_valid().then(|| injection(event, vmcs23)),
            fields,
        };
        self.push(entry.record(tsc));
    }

    /// An exit of L3 will be written to vmcs23.
    #[inline(always)]
    pub(super) fn leaving<P: Platform>(&mut self, vmcs23: &mut Vmcs23, _: &P) {
        if P::NOTES {
            self.unsent = core::mem::replace(&mut vmcs23.unsent, FieldSet::EMPTY);
        }
    }

    /// It was.
    #[inline(always)]
    pub(super) fn left<P: Platform>(&mut self, information: &ExitInformation, rip: u64, vmcs23: &mut Vmcs23, platform: &mut P) {
        if P::NOTES {
            self.note_exit(information, rip, vmcs23, platform.time_stamp_counter());
        }
    }

    #[inline(never)]
    fn note_exit(&mut self, information: &ExitInformation, rip: u64, vmcs23: &mut Vmcs23, tsc: u64) {
        let fields = vmcs23.unsent.len();
        vmcs23.unsent = vmcs23.unsent.union(&self.unsent);
        let reason = ExitReason(information.reason);
        let interruption = InterruptionInformation(information.interruption);
        // Interrupts of the machine never go to L2: this is one of L2's devices.
        if reason.basic() == BasicExitReason::EXTERNAL_INTERRUPT {
            let vector = interruption.is_valid().then(|| interruption.vector());
            self.push(NestedInterruptExit { rip, vector }.record(tsc));
        }
        let exit = NestedExit {
            rip,
            reason,
            qualification: information.qualification,
            guest_physical_address: information.guest_physical_address.unwrap_or(0),
            interruption,
            error_code: information.error_code,
            idt_vectoring: InterruptionInformation(information.idt_vectoring),
            instruction_length: information.instruction_length.and_then(|length| u8::try_from(length).ok()).unwrap_or(0),
            rule: ReflectionRule(rule_about(reason.basic())),
            fields,
        };
        self.push(exit.record(tsc));
    }

    /// An entry of L3 fails because of `violation`.
    #[inline(always)]
    pub(super) fn refuse<P: Platform>(&mut self, violation: &Violation, platform: &mut P) {
        if P::NOTES {
            let failed = NestedEntryFailed::from_violation(violation, self.rip, self.vmcs23);
            self.push(failed.record(platform.time_stamp_counter()));
        }
    }

    /// An entry that no rule of L1's forbids has failed all the same; vmcs12 is current.
    #[inline(always)]
    pub(super) fn refused<P: Platform>(&mut self, outcome: Outcome, platform: &mut P) {
        if P::NOTES {
            let rip = platform.read(Field::GUEST_RIP);
            self.note_refusal(outcome, rip, platform.time_stamp_counter());
        }
    }

    /// The same, with a VM exit; one that has been noted is not noted again.
    #[inline(always)]
    pub(super) fn failed<P: Platform>(&mut self, information: &ExitInformation, platform: &mut P) {
        if P::NOTES && self.last_kind() != Some(RecordKind::NestedEntryFailed) {
            let (reason, qualification) = (ExitReason(information.reason).basic(), information.qualification);
            self.refused(Outcome::EntryFailure { reason, qualification }, platform);
        }
    }

    #[cold]
    fn note_refusal(&mut self, outcome: Outcome, rip: u64, tsc: u64) {
        // It did not take place.
        if self.last_kind() == Some(RecordKind::NestedEntry) {
            self.count -= 1;
        }
        let failed = NestedEntryFailed { rip, vmcs23: self.vmcs23, outcome, rule: EntryRule::NONE, offending: 0 };
        self.push(failed.record(tsc));
    }

    fn last_kind(&self) -> Option<RecordKind> {
        self.steps.get(self.count.checked_sub(1)?)?.kind()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

/// The event that vmcs23 injects.
fn injection(information: InterruptionInformation, vmcs23: &Vmcs23) -> Injection {
    let has_length = information.event_type().has_instruction_length();
    Injection {
        information,
        error_code: information.has_error_code().then(|| vmcs23.get_u32(Field::VM_ENTRY_EXCEPTION_ERROR_CODE)),
        instruction_length: has_length.then(|| vmcs23.get_u32(Field::VM_ENTRY_INSTRUCTION_LENGTH)),
    }
}

/// The groups of [`GROUPS`] that `changed` is about, as a record has them: "everything" first, then in their order.
fn groups(changed: &FieldSet) -> MergeGroups {
    if *changed == FieldSet::ALL {
        return MergeGroups::EVERYTHING;
    }
    let changed = GROUPS.iter().zip(1..).filter(|((_, fields), _)| changed.intersects(fields));
    MergeGroups(changed.fold(0, |all, (_, bit)| all | 1 << bit))
}

#[cfg(test)]
mod tests;
