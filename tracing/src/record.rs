//! The record of one exit, or of one step of handling it: 64 bytes, fixed layout.
//!
//! What the fields hold is said here for exits; [`crate::nested`] says it for each kind of step.
//!
//! The names follow ftrace's `kvm_exit` event where that has one, so that a record reads like what people know:
//! `reason`, `rip`, `info1`, `info2`, `intr_info`, `error_code`.

use crate::rule::ReflectionRule;
use vmcs::event::{Injection, InterruptionInformation};
use vmcs::exit_reason::{BasicExitReason, ExitReason};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A VM exit.
    Exit = 0,
    /// A VM entry that failed (VMfailInvalid or VMfailValid); `info1` is the VM-instruction error.
    EntryFailure = 1,
    /// L2 entered L3, see [`crate::nested::NestedEntry`].
    NestedEntry = 2,
    /// L2 sees an exit of L3, see [`crate::nested::NestedExit`].
    NestedExit = 3,
    /// L1 injects an event into L3, see [`crate::nested::NestedInject`].
    NestedInject = 4,
    /// L2 did not get to enter L3, see [`crate::nested::NestedEntryFailed`].
    NestedEntryFailed = 5,
    /// An interrupt for L2 ends L3's turn, see [`crate::nested::NestedInterruptExit`].
    NestedInterruptExit = 6,
    /// What L2 wants to see of L3 changed, see [`crate::nested::NestedIntercepts`].
    NestedIntercepts = 7,
    /// vmcs23 and its shadow VMCS were brought into agreement, see [`crate::nested::ShadowSync`].
    Sync = 8,
    /// vmcs13 was made, see [`crate::nested::Merge`].
    Merge = 9,
}

impl RecordKind {
    /// The kind with the number `byte`, if there is one.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Exit,
            1 => Self::EntryFailure,
            2 => Self::NestedEntry,
            3 => Self::NestedExit,
            4 => Self::NestedInject,
            5 => Self::NestedEntryFailed,
            6 => Self::NestedInterruptExit,
            7 => Self::NestedIntercepts,
            8 => Self::Sync,
            9 => Self::Merge,
            _ => return None,
        })
    }

    /// Whether this is a step of handling an exit ([`crate::nested`]), and none itself.
    #[must_use]
    pub const fn is_step(self) -> bool {
        !matches!(self, Self::Exit | Self::EntryFailure)
    }
}

/// What became of an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// L1 did what the instruction or access would have done, and the guest went on.
    Emulated = 0,
    /// L1 delivered an exception or interrupt to the guest.
    Injected = 1,
    /// L1 handed the exit to the guest hypervisor.
    Reflected = 2,
    /// The run ended here.
    Stopped = 3,
    /// Nothing of the guest changed: a window opened, an interrupt or timer of L1's own.
    Resumed = 4,
    /// Nothing yet: L1 was still handling the exit when the record was read, so it stopped in the middle of that.
    Pending = 5,
}

impl Action {
    /// The action with the number `byte`, if there is one.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Emulated,
            1 => Self::Injected,
            2 => Self::Reflected,
            3 => Self::Stopped,
            4 => Self::Resumed,
            5 => Self::Pending,
            _ => return None,
        })
    }

    /// The word that traces use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::Injected => "injected",
            Self::Reflected => "reflected",
            Self::Stopped => "stopped",
            Self::Resumed => "resumed",
            Self::Pending => "pending",
        }
    }
}

/// One record. `zerocopy` guards the layout: no padding, no invalid bit patterns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Record {
    /// Counts records from 0; a gap means lost records.
    pub sequence: u32,
    /// The whole exit-reason field, bit 31 = VM-entry failure (SDM 3C 25.9.1 "Basic VM-Exit Information").
    pub reason: u32,
    /// Virtual processor.
    pub vcpu: u8,
    /// Level of the guest that exited: 2 for L2, 3 for L3.
    pub level: u8,
    /// Level that handled the exit: 1 for L1, 2 for L2.
    pub owner: u8,
    /// An [`Action`].
    pub action: u8,
    /// A [`RecordKind`].
    pub kind: u8,
    /// VM-exit instruction length in bytes; 0 where the exit defines none.
    pub instruction_length: u8,
    /// For an exit of L3 the rule that decided whose it is, a [`ReflectionRule`]. Zero for an exit of L2. For an entry
    /// of L3 that failed the rule that is broken, an [`EntryRule`](crate::nested::EntryRule).
    pub rule: u16,
    /// Guest RIP at the exit.
    pub rip: u64,
    /// Exit qualification; 0 where the exit defines none.
    pub info1: u64,
    /// IDT-vectoring information.
    pub info2: u32,
    /// VM-exit interruption information.
    pub intr_info: u32,
    /// VM-exit interruption error code.
    pub error_code: u32,
    /// Ticks of the time-stamp counter between the exit and the entry that followed; on Bochs these are instructions.
    /// In a step ([`crate::nested`]) the number of VMCS fields that were copied.
    pub cost: u32,
    /// Time-stamp counter at the exit.
    pub tsc: u64,
    /// What the exit was about, where the qualification does not say it: leaf for CPUID (sub-leaf in bits 63:32),
    /// index for RDMSR and WRMSR, guest-physical address for EPT exits, value for I/O, field and result for a VMX
    /// instruction ([`crate::nested::VmxInstruction`]). With [`Action::Injected`] it also tells what was injected, see
    /// [`Record::injected_event`].
    pub detail: u64,
}

impl Record {
    /// A record with every field zero, to fill static memory with.
    pub const ZERO: Self = Self {
        sequence: 0,
        reason: 0,
        vcpu: 0,
        level: 0,
        owner: 0,
        action: 0,
        kind: 0,
        instruction_length: 0,
        rule: 0,
        rip: 0,
        info1: 0,
        info2: 0,
        intr_info: 0,
        error_code: 0,
        cost: 0,
        tsc: 0,
        detail: 0,
    };

    /// What became of the exit; `None` in a damaged record.
    #[must_use]
    pub const fn action(&self) -> Option<Action> {
        Action::from_byte(self.action)
    }

    /// What the record tells of; `None` in a damaged record.
    #[must_use]
    pub const fn kind(&self) -> Option<RecordKind> {
        RecordKind::from_byte(self.kind)
    }

    /// The rule that decided whose this exit of L3 is, or whose an exit that L2 sees is.
    #[must_use]
    pub fn reflection_rule(&self) -> ReflectionRule {
        match self.kind() {
            Some(RecordKind::Exit | RecordKind::NestedExit) => ReflectionRule(self.rule),
            _ => ReflectionRule::NONE,
        }
    }

    /// VMCS fields that a step copied; `None` for records that are no step and for steps that copy none.
    #[must_use]
    pub fn field_count(&self) -> Option<u32> {
        use RecordKind as K;
        let copies = matches!(self.kind()?, K::NestedEntry | K::NestedExit | K::Sync | K::Merge);
        copies.then_some(self.cost)
    }

    /// The exit reason, typed. Means nothing in a record of [`RecordKind::EntryFailure`].
    #[must_use]
    pub const fn exit_reason(&self) -> ExitReason {
        ExitReason(self.reason)
    }

    /// The event L1 injected because of this exit, if the record says so.
    ///
    /// RDMSR and WRMSR keep the interruption information in bits 63:32 of `detail`, beside the index, and have no room
    /// for the error code. Reasons that need all of `detail` (CPUID, I/O, EPT violation and misconfiguration) do not
    /// say what was injected. All others keep it as [`injected_detail`] puts it together.
    #[must_use]
    pub fn injected_event(&self) -> Option<Injection> {
        use BasicExitReason as R;
        if self.kind() != Some(RecordKind::Exit) || self.action() != Some(Action::Injected) {
            return None;
        }
        let (low, high) = (self.detail as u32, (self.detail >> 32) as u32);
        let (information, error_code) = match self.exit_reason().basic() {
            R::CPUID | R::IO_INSTRUCTION | R::EPT_VIOLATION | R::EPT_MISCONFIGURATION => return None,
            R::RDMSR | R::WRMSR => (InterruptionInformation(high), None),
            _ => (InterruptionInformation(low), Some(high)),
        };
        let error_code = error_code.filter(|_| information.has_error_code());
        information.is_valid().then_some(Injection::new(information, error_code))
    }
}

/// The `detail` of an exit that made L1 inject an event, for reasons that do not need `detail` themselves: VM-entry
/// interruption information in bits 31:0, error code in bits 63:32.
#[must_use]
pub fn injected_detail(event: Injection) -> u64 {
    u64::from(event.information.0) | u64::from(event.error_code.unwrap_or(0)) << 32
}

/// The `detail` of RDMSR and WRMSR: the index, and the VM-entry interruption information of what was injected (0 for
/// nothing) in bits 63:32.
#[must_use]
pub const fn msr_detail(index: u32, injected: InterruptionInformation) -> u64 {
    index as u64 | (injected.0 as u64) << 32
}

/// The `detail` of CPUID.
#[must_use]
pub const fn cpuid_detail(leaf: u32, sub_leaf: u32) -> u64 {
    leaf as u64 | (sub_leaf as u64) << 32
}

/// The bytes of `records` as they travel to the host.
#[must_use]
pub fn bytes(records: &[Record]) -> &[u8] {
    records.as_bytes()
}

const _: () = assert!(size_of::<Record>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_FAULT: InterruptionInformation = InterruptionInformation(0x8000_0b0e);

    fn injected(reason: BasicExitReason, detail: u64) -> Option<Injection> {
        Record { reason: reason.0.into(), action: Action::Injected as u8, detail, ..Record::ZERO }.injected_event()
    }

    #[test]
    fn numbers_and_enumerations_agree() {
        for byte in 0..=u8::MAX {
            assert!(RecordKind::from_byte(byte).is_none_or(|kind| kind as u8 == byte));
            assert!(Action::from_byte(byte).is_none_or(|action| action as u8 == byte));
        }
        assert_eq!((0..=u8::MAX).filter_map(Action::from_byte).count(), 6);
        assert_eq!((0..=u8::MAX).filter_map(RecordKind::from_byte).count(), 10);
    }

    #[test]
    fn the_layout_is_the_one_on_the_wire() {
        let record = Record { sequence: 0x0403_0201, level: 2, rip: 0x1122_3344_5566_7788, detail: 0xff, ..Record::ZERO };
        let bytes = bytes(core::slice::from_ref(&record));
        assert_eq!((&bytes[..4], bytes[9]), (&[1, 2, 3, 4][..], 2));
        assert_eq!((&bytes[16..24], bytes[56]), (&0x1122_3344_5566_7788_u64.to_le_bytes()[..], 0xff));
    }

    #[test]
    fn what_was_injected_comes_back() {
        let page_fault = Injection::new(PAGE_FAULT, Some(2));
        assert_eq!(injected(BasicExitReason::EXCEPTION_OR_NMI, injected_detail(page_fault)), Some(page_fault));
        let interrupt = Injection::new(InterruptionInformation::external_interrupt(0x20), None);
        assert_eq!(injected(BasicExitReason::INTERRUPT_WINDOW, injected_detail(interrupt)), Some(interrupt));
        let by_msr = injected(BasicExitReason::WRMSR, msr_detail(0x10, PAGE_FAULT));
        assert_eq!(by_msr, Some(Injection::new(PAGE_FAULT, None)));
    }

    #[test]
    fn records_that_do_not_say_what_was_injected() {
        assert_eq!(injected(BasicExitReason::WRMSR, msr_detail(0x8000_0b0e, InterruptionInformation(0))), None);
        assert_eq!(injected(BasicExitReason::CPUID, cpuid_detail(0x8000_0b0e, 0)), None);
        assert_eq!(injected(BasicExitReason::HLT, 0), None);
        assert_eq!(Record { detail: injected_detail(Injection::new(PAGE_FAULT, None)), ..Record::ZERO }.injected_event(), None);
    }
}
