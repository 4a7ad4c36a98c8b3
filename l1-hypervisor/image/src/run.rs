//! The loop of the virtual processor.

use l1_protocol::end::EndReason;
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;

use crate::exit::dispatch;
use crate::exit::information::Exit;
use crate::exit::{Action, End, EndText};
use crate::nested;
use crate::platform::{EntryFailure, Platform};
use crate::recorder::{self, Recorder};
use crate::vcpu::{Host, Vcpu};

/// Runs the guest to its end. With `RECORD` every exit is written down; the two loops are compiled apart, so that the
/// one without records does not even test.
pub fn run<const RECORD: bool, P: Platform>(vcpu: &mut Vcpu<'_, P>, recorder: &mut Recorder, exits: &mut u64) -> End {
    if let Err(end) = vcpu.prepare_entry() {
        return end;
    }
    loop {
        if let Err(failure) = vcpu.platform.enter(&mut vcpu.context) {
            if vcpu.runs_l3 {
                nested::entry::refuse(vcpu);
                if RECORD {
                    recorder.refused(vcpu);
                }
                if let Err(end) = vcpu.prepare_entry() {
                    return end;
                }
                continue;
            }
            return refused::<RECORD, P>(vcpu, recorder, failure);
        }
        let tsc = if RECORD { vcpu.platform.time_stamp_counter() } else { 0 };
        *exits = exits.wrapping_add(1);
        let mut exit = Exit::read(&mut vcpu.platform);
        let record = RECORD.then(|| recorder.begin(vcpu, &mut exit, tsc));
        let action = if vcpu.runs_l3 {
            nested::exit::handle(vcpu, &mut exit)
        } else {
            // The preemption timer ends the next run in time, whether or not anybody looks at the clock here.
            if !RECORD && dispatch::handle_shortly(vcpu, &exit) {
                continue;
            }
            dispatch::handle(vcpu, &mut exit)
        };
        let result = vcpu.apply(&mut exit, action).and_then(|()| vcpu.prepare_entry());
        if let Some(record) = record {
            let now = vcpu.platform.time_stamp_counter();
            let shown = if let Err(end) = result { Action::Stop(end) } else { action };
            recorder.finish(vcpu, record, &mut exit, shown, now);
            if recorder.is_due() || waits(&exit) {
                send(recorder, &mut *vcpu.console, true);
            }
        }
        if let Err(end) = result {
            send(recorder, &mut *vcpu.console, true);
            return end;
        }
    }
}

/// Whether the guest waits or only the time passed: then what was recorded shall become visible.
fn waits(exit: &Exit) -> bool {
    matches!(exit.reason.basic(), BasicExitReason::HLT | BasicExitReason::VMX_PREEMPTION_TIMER_EXPIRED)
}

#[inline(never)]
fn send(recorder: &mut Recorder, host: &mut dyn Host, all: bool) {
    recorder.send(all, |bytes| host.records(bytes));
}

fn refused<const RECORD: bool, P: Platform>(vcpu: &mut Vcpu<'_, P>, recorder: &mut Recorder, failure: EntryFailure) -> End {
    if RECORD {
        let rip = vcpu.platform.read(Field::GUEST_RIP);
        let tsc = vcpu.platform.time_stamp_counter();
        recorder.ring.push(recorder::entry_failure(failure, rip, tsc));
        send(recorder, &mut *vcpu.console, true);
    }
    let (value, text) = match failure {
        EntryFailure::Invalid => (0, "VMfailInvalid: no current VMCS"),
        EntryFailure::Valid(number) => (u64::from(number), "VMfailValid: the VM-instruction error says why"),
    };
    End { reason: EndReason::EntryFailed, value, text: EndText::Words(text) }
}

#[cfg(test)]
mod tests;
