//! Whole runs.

use exit_trace::record::{Action as RecordAction, Record, RecordKind};
use vmcs::event::{ActivityState, InterruptionInformation as Information, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use zerocopy::FromBytes;

use super::*;
use crate::context::register::RAX;
use crate::testing::{Machine, START, Scripted};

fn records(bytes: &[u8]) -> Vec<Record> {
    let size = size_of::<Record>();
    bytes.chunks(size).map(|chunk| Record::read_from_bytes(chunk).expect("whole records")).collect()
}

fn out(port: u64, value: u64) -> Scripted {
    Scripted::new(Reason::IO_INSTRUCTION).qualification(port << 16).register(RAX, value).length(1)
}

#[test]
fn a_guest_that_prints_and_succeeds() {
    let script = [out(0xe9, u64::from(b'o')), out(0xe9, u64::from(b'k')), Scripted::new(Reason::RDPMC).length(2), out(0xf4, 0)];
    for records_all in [false, true] {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        vcpu.platform.script.extend(script.clone());
        let mut recorder = Recorder::new();
        recorder.start_stream();
        let mut exits = 0;
        let end = if records_all {
            run::<true, _>(&mut vcpu, &mut recorder, &mut exits)
        } else {
            run::<false, _>(&mut vcpu, &mut recorder, &mut exits)
        };
        assert_eq!((end.reason, exits), (EndReason::GuestSuccess, 4));
        let entries = &vcpu.platform.entries;
        let places: Vec<u64> = entries.iter().map(|entry| entry.rip).collect();
        assert_eq!(places, [START, START + 1, START + 2, START + 2]);
        let fault = Information::hardware_exception(Vector::GP, true);
        let events: Vec<_> = entries.iter().map(|entry| entry.event).collect();
        assert_eq!(events, [None, None, None, Some(fault)]);
        assert!(entries.iter().all(|entry| entry.activity == ActivityState::ACTIVE));
        drop(vcpu);
        assert_eq!(machine.host.printed, b"ok");
        let records = records(&machine.host.records);
        if !records_all {
            assert_eq!(records, []);
            continue;
        }
        let shown: Vec<_> = records.iter().map(|record| (record.sequence, record.action())).collect();
        use RecordAction::{Emulated, Injected, Stopped};
        assert_eq!(shown, [(0, Some(Emulated)), (1, Some(Emulated)), (2, Some(Injected)), (3, Some(Stopped))]);
    }
}

#[test]
fn records_are_one_for_each_exit() {
    const EXITS: usize = 700;
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.platform.tsc_step = 3;
    vcpu.platform.script.extend((0..EXITS).map(|_| Scripted::new(Reason::CPUID).length(2)));
    let mut recorder = Recorder::new();
    recorder.start_stream();
    let mut exits = 0;
    let end = run::<true, _>(&mut vcpu, &mut recorder, &mut exits);
    assert_eq!((end.reason, exits), (EndReason::TripleFault, EXITS as u64 + 1));
    assert_eq!((recorder.ring.pushed(), recorder.ring.lost(), recorder.ring.pending()), (exits, 0, 0));
    drop(vcpu);
    let records = records(&machine.host.records);
    assert!(records.iter().zip(0..).all(|(record, number)| record.sequence == number));
    let last = records.last().expect("there are some");
    assert_eq!((last.reason, last.action()), (Reason::TRIPLE_FAULT.0.into(), Some(RecordAction::Stopped)));
    assert!(records.iter().all(|record| record.cost > 0), "each exit took some time");
}

#[test]
fn a_guest_that_waits_shows_its_records() {
    let mut machine = Machine::long_mode();
    machine.host.stop_at_poll = Some(2);
    let mut vcpu = machine.vcpu();
    vcpu.platform.script.extend([Scripted::new(Reason::CPUID).length(2), Scripted::new(Reason::VMX_PREEMPTION_TIMER_EXPIRED)]);
    let mut recorder = Recorder::new();
    recorder.start_stream();
    run::<true, _>(&mut vcpu, &mut recorder, &mut 0);
    drop(vcpu);
    assert_eq!(records(&machine.host.records).len(), 3);
}

#[test]
fn an_entry_that_is_refused_ends_the_run() {
    for (failure, value) in [(EntryFailure::Invalid, 0), (EntryFailure::Valid(7), 7)] {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        vcpu.platform.refuse = Some(failure);
        let mut recorder = Recorder::new();
        let mut exits = 0;
        let end = run::<true, _>(&mut vcpu, &mut recorder, &mut exits);
        assert_eq!((end.reason, end.value, exits), (EndReason::EntryFailed, value, 0));
        let [last, _] = recorder.ring.last(1);
        assert_eq!((last[0].kind(), last[0].info1, last[0].rip), (Some(RecordKind::EntryFailure), value, START));
    }
}

#[test]
fn the_end_is_recorded_even_if_it_comes_after_the_handler() {
    let mut machine = Machine::long_mode();
    machine.host.stop_at_poll = Some(2);
    let mut vcpu = machine.vcpu();
    vcpu.platform.tsc_step = 1 << 24;
    vcpu.platform.script.push_back(Scripted::new(Reason::CPUID).length(2));
    let mut recorder = Recorder::new();
    let end = run::<true, _>(&mut vcpu, &mut recorder, &mut 0);
    assert_eq!(end.reason, EndReason::Stopped);
    let [last, _] = recorder.ring.last(2);
    let shown: Vec<_> = last.iter().map(|record| (record.reason, record.action())).collect();
    assert_eq!(shown, [(Reason::CPUID.0.into(), Some(RecordAction::Stopped))]);
}
