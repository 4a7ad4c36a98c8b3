//! What is written down of each kind of exit.

use vmcs::event::{InterruptionInformation as Information, Vector};

use super::*;
use crate::context::register::RDX;
use crate::exit::dispatch;
use crate::testing::{Machine, START, Scripted};

const SECOND: u64 = 1 << 32;

/// The record of an exit.
fn record(exit: &Scripted) -> Record {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.platform.script.push_back(exit.clone());
    vcpu.platform.tsc = 1000 - 77;
    vcpu.platform.tsc_step = 77;
    vcpu.platform.enter(&mut vcpu.context).expect("it is not refused");
    let tsc = vcpu.platform.time_stamp_counter();
    let mut exit = Exit::read(&mut vcpu.platform);
    let mut record = begin(&mut vcpu, &mut exit, tsc);
    vcpu.platform.tsc_step = 0;
    let action = dispatch::handle(&mut vcpu, &mut exit);
    let result = vcpu.apply(&mut exit, action).and_then(|()| vcpu.prepare_entry());
    let shown = result.err().map_or(action, Action::Stop);
    finish(&mut record, &exit, shown, vcpu.injected(), 1000 + 77);
    record
}

#[test]
fn each_kind_of_exit() {
    let page_fault = Information::hardware_exception(Vector::PF, true);
    let general_protection = Information::hardware_exception(Vector::GP, true);
    let base = |reason: Reason, action| Record {
        reason: reason.0.into(),
        level: 2,
        owner: 1,
        action: action as u8,
        rip: START,
        tsc: 1000,
        cost: 77,
        ..Record::ZERO
    };
    use RecordAction::{Emulated, Injected, Resumed, Stopped};
    let rows = [
        (
            Scripted::new(Reason::CPUID).length(2).register(RAX, 0xd).register(RCX, 1 | SECOND),
            Record { detail: 0xd | SECOND, instruction_length: 2, ..base(Reason::CPUID, Emulated) },
        ),
        (
            Scripted::new(Reason::RDMSR).length(2).register(RCX, 0x277),
            Record { detail: 0x277, instruction_length: 2, ..base(Reason::RDMSR, Emulated) },
        ),
        (
            Scripted::new(Reason::WRMSR).length(2).register(RCX, 0x179).register(RDX, 5),
            Record { detail: 0x179 | u64::from(general_protection.0) << 32, ..base(Reason::WRMSR, Injected) },
        ),
        (
            Scripted::new(Reason::VMCALL).length(3).register(RAX, 0x1234),
            Record { detail: 0x1234, instruction_length: 3, ..base(Reason::VMCALL, Emulated) },
        ),
        (
            Scripted::new(Reason::IO_INSTRUCTION).length(1).qualification(0x80_0000).register(RAX, 0xab | SECOND),
            Record { detail: 0xab, info1: 0x80_0000, instruction_length: 1, ..base(Reason::IO_INSTRUCTION, Emulated) },
        ),
        (
            Scripted::exception(page_fault, 4).qualification(0x1_2345),
            Record {
                intr_info: page_fault.0,
                error_code: 4,
                info1: 0x1_2345,
                detail: u64::from(page_fault.0) | 4 << 32,
                ..base(Reason::EXCEPTION_OR_NMI, Injected)
            },
        ),
        (
            Scripted::new(Reason::EXTERNAL_INTERRUPT)
                .field(Field::VM_EXIT_INTERRUPTION_INFORMATION, Information::external_interrupt(0xef).0.into()),
            Record { intr_info: Information::external_interrupt(0xef).0, ..base(Reason::EXTERNAL_INTERRUPT, Resumed) },
        ),
        (
            Scripted::new(Reason::EXTERNAL_INTERRUPT).vectoring(page_fault, 2),
            Record {
                info2: page_fault.0,
                detail: u64::from(page_fault.0) | 2 << 32,
                ..base(Reason::EXTERNAL_INTERRUPT, Injected)
            },
        ),
        (
            Scripted::new(Reason::EPT_VIOLATION).qualification(0x184).field(Field::GUEST_PHYSICAL_ADDRESS, 0x20_0000),
            Record { detail: 0x20_0000, info1: 0x184, ..base(Reason::EPT_VIOLATION, Injected) },
        ),
        (
            Scripted::new(Reason::EPT_MISCONFIGURATION).qualification(7).field(Field::GUEST_PHYSICAL_ADDRESS, 0x3000),
            Record { detail: 0x3000, ..base(Reason::EPT_MISCONFIGURATION, Stopped) },
        ),
        (
            Scripted::new(Reason::CONTROL_REGISTER_ACCESS).length(3).qualification(0x18),
            Record { info1: 0x18, instruction_length: 3, ..base(Reason::CONTROL_REGISTER_ACCESS, Emulated) },
        ),
        (
            Scripted::new(Reason::MOV_DR).length(3).qualification(0x10),
            Record { info1: 0x10, instruction_length: 3, ..base(Reason::MOV_DR, Emulated) },
        ),
        (
            Scripted::new(Reason::INVLPG).length(3).qualification(0x7000),
            Record { info1: 0x7000, instruction_length: 3, ..base(Reason::INVLPG, Emulated) },
        ),
        (Scripted::new(Reason::RDPMC).length(2), Record { detail: general_protection.0.into(), ..base(Reason::RDPMC, Injected) }),
        (Scripted::new(Reason::TRIPLE_FAULT), base(Reason::TRIPLE_FAULT, Stopped)),
        (Scripted::new(Reason::HLT).length(1), Record { instruction_length: 1, ..base(Reason::HLT, Stopped) }),
        (
            Scripted::raw(0x8000_0021).qualification(4),
            Record { reason: 0x8000_0021, info1: 4, ..base(Reason::ENTRY_FAILURE_INVALID_GUEST_STATE, Stopped) },
        ),
    ];
    for (exit, expected) in rows {
        assert_eq!(record(&exit), expected, "{exit:?}");
    }
}

#[test]
fn entries_that_failed() {
    for (failure, error) in [(EntryFailure::Invalid, 0), (EntryFailure::Valid(7), 7)] {
        let record = entry_failure(failure, 0x1234, 99);
        assert_eq!(record.kind(), Some(RecordKind::EntryFailure));
        assert_eq!(record.action(), Some(RecordAction::Stopped));
        assert_eq!((record.info1, record.rip, record.tsc, record.level), (error, 0x1234, 99, 2));
    }
}

#[test]
fn what_waits_is_sent_when_there_is_enough_of_it() {
    let mut recorder = Recorder::new();
    let mut sent = Vec::new();
    recorder.ring.push(Record::ZERO);
    recorder.send(true, |bytes| sent.push(bytes.len()));
    assert!(sent.is_empty() && !recorder.streams(), "nobody asked for them");
    recorder.start_stream();
    recorder.send(false, |bytes| sent.push(bytes.len()));
    assert!(sent.is_empty(), "one is not enough");
    for _ in 1..SEND_AT {
        recorder.ring.push(Record::ZERO);
    }
    recorder.send(false, |bytes| sent.push(bytes.len()));
    assert_eq!(sent.iter().sum::<usize>(), SEND_AT as usize * size_of::<Record>());
    recorder.ring.push(Record::ZERO);
    recorder.send(true, |bytes| sent.push(bytes.len()));
    assert_eq!(sent.last(), Some(&size_of::<Record>()));
    assert_eq!(recorder.ring.lost(), 0);
}
