//! Writes down every exit and sends what is written to the host.

use exit_trace::record::{self, Action as RecordAction, Record, RecordKind, cpuid_detail, injected_detail, msr_detail};
use exit_trace::ring::Ring;
use vmcs::event::{Injection, InterruptionInformation};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::context::register::{RAX, RCX};
use crate::exit::Action;
use crate::exit::information::Exit;
use crate::platform::{EntryFailure, Platform};
use crate::vcpu::Vcpu;

pub mod nested;

/// Records the ring holds.
pub const CAPACITY: usize = 1024;
/// With so many records waiting they are sent: early enough that none is lost, late enough to send them in one go.
const SEND_AT: u64 = 256;
/// Levels of the guest, of L1 that handles its exits, and of the guest's own guest.
const LEVEL_L1: u8 = 1;
const LEVEL_L2: u8 = exit_trace::nested::LEVEL_L2;
const LEVEL_L3: u8 = exit_trace::nested::LEVEL_L3;

/// The ring, and whether records are sent as they come.
#[derive(Debug)]
pub struct Recorder {
    /// The records.
    pub ring: Ring<CAPACITY>,
    stream: bool,
    /// An entry of L3 that the processor has not begun yet.
    entry: Option<Record>,
    /// Number of the exit that is being handled, if it is in the ring.
    pending: Option<u64>,
}

impl Recorder {
    /// A recorder that sends nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { ring: Ring::new(), stream: false, entry: None, pending: None }
    }

    /// Sends records as they come from now on.
    pub fn start_stream(&mut self) {
        self.stream = true;
    }

    /// Whether records are sent as they come.
    #[must_use]
    pub const fn streams(&self) -> bool {
        self.stream
    }

    /// Whether so many records wait that they are to be sent.
    #[inline(always)]
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.stream && self.ring.has_waiting(SEND_AT)
    }

    /// Hands over what waits, through `send`, if that is enough or `all` is asked for.
    pub fn send(&mut self, all: bool, mut send: impl FnMut(&[u8])) {
        if !self.stream || !all && self.ring.pending() < SEND_AT {
            return;
        }
        loop {
            let records = self.ring.drain(SEND_AT as usize);
            if records.is_empty() {
                return;
            }
            send(record::bytes(records));
        }
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known of an exit before it is handled: handlers change registers.
#[inline(always)]
pub fn begin<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit, tsc: u64) -> Record {
    let mut record = Record {
        reason: exit.reason.0,
        level: if vcpu.runs_l3 { LEVEL_L3 } else { LEVEL_L2 },
        owner: LEVEL_L1,
        kind: RecordKind::Exit as u8,
        rip: exit.rip,
        tsc,
        ..Record::ZERO
    };
    let general = &vcpu.context.general;
    match exit.reason.basic() {
        Reason::CPUID => record.detail = cpuid_detail(general[RAX] as u32, general[RCX] as u32),
        Reason::RDMSR | Reason::WRMSR => record.detail = msr_detail(general[RCX] as u32, InterruptionInformation(0)),
        Reason::VMCALL => record.detail = general[RAX],
        Reason::IO_INSTRUCTION => {
            record.detail = general[RAX] & 0xffff_ffff;
            record.info1 = exit.qualification(&mut vcpu.platform);
        }
        Reason::EPT_VIOLATION | Reason::EPT_MISCONFIGURATION => {
            record.detail = vcpu.platform.read(Field::GUEST_PHYSICAL_ADDRESS);
            record.info1 = if exit.reason.basic() == Reason::EPT_VIOLATION { exit.qualification(&mut vcpu.platform) } else { 0 };
            record.info2 = exit.idt_vectoring(&mut vcpu.platform);
        }
        Reason::EXCEPTION_OR_NMI | Reason::EXTERNAL_INTERRUPT => {
            record.intr_info = vcpu.platform.read(Field::VM_EXIT_INTERRUPTION_INFORMATION) as u32;
            if InterruptionInformation(record.intr_info).has_error_code() {
                record.error_code = vcpu.platform.read(Field::VM_EXIT_INTERRUPTION_ERROR_CODE) as u32;
            }
            record.info1 = exit.qualification(&mut vcpu.platform);
            record.info2 = exit.idt_vectoring(&mut vcpu.platform);
        }
        Reason::CONTROL_REGISTER_ACCESS | Reason::MOV_DR | Reason::TASK_SWITCH | Reason::INVLPG => {
            record.info1 = exit.qualification(&mut vcpu.platform);
        }
        _ if exit.reason.is_entry_failure() => record.info1 = exit.qualification(&mut vcpu.platform),
        _ => {}
    }
    record
}

/// Completes the record with what became of the exit.
#[inline(always)]
pub fn finish(record: &mut Record, exit: &Exit, action: Action, injected: Option<Injection>, now: u64) {
    record.instruction_length = exit.known_instruction_length().unwrap_or(0) as u8;
    record.cost = u32::try_from(now.wrapping_sub(record.tsc)).unwrap_or(u32::MAX);
    let outcome = match action {
        Action::Complete | Action::Continue => RecordAction::Emulated,
        Action::Reflect => RecordAction::Reflected,
        Action::Resume if injected.is_some() => RecordAction::Injected,
        Action::Resume => RecordAction::Resumed,
        Action::Inject(_) => RecordAction::Injected,
        Action::Stop(_) => RecordAction::Stopped,
    };
    record.action = outcome as u8;
    if outcome == RecordAction::Reflected {
        record.owner = LEVEL_L2;
    }
    if let (RecordAction::Injected, Some(event)) = (outcome, injected) {
        match exit.reason.basic() {
            Reason::CPUID | Reason::IO_INSTRUCTION | Reason::EPT_VIOLATION | Reason::EPT_MISCONFIGURATION => {}
            Reason::RDMSR | Reason::WRMSR => record.detail = msr_detail(record.detail as u32, event.information),
            _ => record.detail = injected_detail(event),
        }
    }
}

/// The record of an entry that the processor refused.
#[must_use]
pub fn entry_failure(failure: EntryFailure, rip: u64, tsc: u64) -> Record {
    let error = match failure {
        EntryFailure::Invalid => 0,
        EntryFailure::Valid(number) => number.into(),
    };
    Record {
        level: LEVEL_L2,
        owner: LEVEL_L1,
        kind: RecordKind::EntryFailure as u8,
        action: RecordAction::Stopped as u8,
        info1: error,
        rip,
        tsc,
        ..Record::ZERO
    }
}

#[cfg(test)]
mod tests;
