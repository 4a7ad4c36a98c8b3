//! The virtual processor between an exit and the next entry.

use l1_protocol::end::EndReason;
use l1_protocol::guest::{START_LONG_MODE, START_PROTECTED_MODE, START_REAL_MODE};
use proptest::prelude::*;
use vmcs::controls::PrimaryProcessorBased;
use vmcs::event::{InterruptionInformation as Information, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use super::time::HOST_POLLS_PER_SECOND;
use crate::context::register::{RAX, RSP};
use crate::exit::Action;
use crate::testing::{Machine, START, Scripted, TSC_FREQUENCY, TestVcpu, handle, step};

const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;
const RF: u64 = 1 << 16;
const BTF: u64 = 2;
const BS: u64 = 1 << 14;

fn cpuid() -> Scripted {
    Scripted::new(Reason::CPUID).length(2)
}

/// The event of the next entry, its error code and its instruction length.
fn event(vcpu: &TestVcpu<'_>) -> Option<(Information, u64, u64)> {
    let information = Information(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) as u32);
    let error_code = vcpu.get(Field::VM_ENTRY_EXCEPTION_ERROR_CODE);
    information.is_valid().then(|| (information, error_code, vcpu.get(Field::VM_ENTRY_INSTRUCTION_LENGTH)))
}

fn waits_for_window(vcpu: &TestVcpu<'_>) -> bool {
    let controls = vcpu.get(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) as u32;
    PrimaryProcessorBased::from_bits_retain(controls).contains(PrimaryProcessorBased::INTERRUPT_WINDOW_EXITING)
}

fn out(vcpu: &mut TestVcpu<'_>, port: u64, value: u64) {
    let exit = Scripted::new(Reason::IO_INSTRUCTION).qualification(port << 16).register(RAX, value).length(1);
    step(vcpu, &exit).expect("the guest goes on");
}

/// The guest's timer interrupt, vector 0x20, waits; the guest's interrupts are off.
fn with_pending_interrupt(vcpu: &mut TestVcpu<'_>) {
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe), (0x43, 0x30), (0x40, 2), (0x40, 0)] {
        out(vcpu, port, value);
    }
    vcpu.platform.tsc += TSC_FREQUENCY / 1000;
    vcpu.prepare_entry().expect("the guest goes on");
    assert!(vcpu.devices.interrupt_pending());
}

#[test]
fn the_way_of_cpuid_writes_rip_and_nothing_else() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    step(&mut vcpu, &cpuid()).expect("the first time sets the timer");
    step(&mut vcpu, &cpuid()).expect("the guest goes on");
    let reads: Vec<Field> = vcpu.platform.reads.clone();
    assert_eq!(
        reads,
        [Field::EXIT_REASON, Field::GUEST_RIP, Field::VM_EXIT_INSTRUCTION_LENGTH, Field::GUEST_RFLAGS],
        "at most four VMREADs"
    );
    assert_eq!(vcpu.platform.writes, [(Field::GUEST_RIP, START + 2, START + 4)]);
}

#[test]
fn no_exit_writes_the_timer_or_the_controls_without_need() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for reason in [Reason::CPUID, Reason::VMCALL, Reason::PAUSE, Reason::RDTSC, Reason::RDMSR] {
        let exit = Scripted::new(reason).length(2).register(1, 0x10);
        step(&mut vcpu, &exit).expect("the guest goes on");
        step(&mut vcpu, &exit).expect("the guest goes on");
        let fields: Vec<Field> = vcpu.platform.writes.iter().map(|(field, ..)| *field).collect();
        assert_eq!(fields, [Field::GUEST_RIP], "{reason}");
    }
}

#[test]
fn rip_wraps_as_the_mode_has_it() {
    // Mode, RIP, length, RIP afterwards.
    let rows = [
        (START_LONG_MODE, 0xffff_fffe, 3, 0x1_0000_0001),
        (START_LONG_MODE, 0x7fff_ffff_fffe, 2, 0x8000_0000_0000),
        (START_PROTECTED_MODE, 0xffff_fffe, 2, 0),
        (START_PROTECTED_MODE, 0xffff_fffe, 3, 1),
        (START_PROTECTED_MODE, 0x7fff_ffff, 1, 0x8000_0000),
        (START_REAL_MODE, 0xfffe, 1, 0xffff),
    ];
    for (mode, rip, length, after) in rows {
        let mut machine = Machine::new(mode);
        let mut vcpu = machine.vcpu();
        step(&mut vcpu, &Scripted::new(Reason::CPUID).length(length).field(Field::GUEST_RIP, rip)).expect("the guest goes on");
        assert_eq!(vcpu.get(Field::GUEST_RIP), after, "{rip:#x} + {length} in mode {mode}");
    }
}

#[test]
fn what_follows_an_instruction() {
    const STI: u64 = 1;
    const MOV_SS: u64 = 2;
    // RFLAGS, DEBUGCTL, interruptibility, pending debug exceptions, and the same afterwards but DEBUGCTL.
    let rows = [
        (0, 0, 0, 0, (0, 0, 0)),
        (RF, 0, 0, 0, (0, 0, 0)),
        (TF, 0, 0, 0, (TF, 0, BS)),
        (TF | RF, 0, 0, 0, (TF, 0, BS)),
        (TF, BTF, 0, 0, (TF, 0, 0)),
        (TF | IF, 0, STI, BS, (TF | IF, 0, BS)),
        (TF, 0, MOV_SS, BS, (TF, 0, BS)),
        (TF, BTF, MOV_SS, 0, (TF, 0, 0)),
        (TF, 0, 0, 0b11, (TF, 0, BS | 0b11)),
        // Nobody looks: blocking stays an instruction too long.
        (IF, 0, STI, 0, (IF, STI, 0)),
    ];
    for (rflags, control, interruptibility, pending, expected) in rows {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        let exit = cpuid()
            .field(Field::GUEST_RFLAGS, 2 | rflags)
            .field(Field::GUEST_IA32_DEBUGCTL, control)
            .field(Field::GUEST_INTERRUPTIBILITY_STATE, interruptibility)
            .field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, pending);
        step(&mut vcpu, &exit).expect("the guest goes on");
        let found = (
            vcpu.get(Field::GUEST_RFLAGS) & !2,
            vcpu.get(Field::GUEST_INTERRUPTIBILITY_STATE),
            vcpu.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS),
        );
        assert_eq!(found, expected, "RFLAGS {rflags:#x} DEBUGCTL {control} blocking {interruptibility} pending {pending:#x}");
    }
}

#[test]
fn a_fault_leaves_the_instruction_undone() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    let exit = Scripted::new(Reason::RDPMC).length(2).field(Field::GUEST_RFLAGS, 2 | TF | RF);
    assert_eq!(step(&mut vcpu, &exit), Ok(Action::GENERAL_PROTECTION));
    assert_eq!((vcpu.get(Field::GUEST_RIP), vcpu.get(Field::GUEST_RFLAGS)), (START, 2 | TF | RF));
    assert_eq!(vcpu.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
}

#[test]
fn an_event_that_was_cut_short_comes_again() {
    let fault = Information::hardware_exception(Vector::PF, true);
    let rows = [
        (Information::external_interrupt(0x31), 0, 0, 0),
        (fault, 0xabcd_0006, 6, 0),
        (Information::hardware_exception(Vector::UD, false), 0, 0, 0),
        (Information::software_interrupt(0x80), 0, 0, 2),
        (Information::software_exception(Vector::BP), 0, 0, 2),
        (Information(fault.0 | 1 << 12), 6, 6, 0),
    ];
    for (interrupted, error_code, error_code_again, length) in rows {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        let exit = Scripted::new(Reason::EXTERNAL_INTERRUPT)
            .length(2)
            .vectoring(interrupted, error_code)
            .field(Field::GUEST_RFLAGS, 2 | IF);
        assert_eq!(step(&mut vcpu, &exit), Ok(Action::Resume));
        let expected = Information(interrupted.0 & !(1 << 12));
        assert_eq!(event(&vcpu), Some((expected, error_code_again, length)), "{interrupted}");
        // Once.
        step(&mut vcpu, &Scripted::new(Reason::EXTERNAL_INTERRUPT)).expect("the guest goes on");
        assert_eq!(event(&vcpu), None);
    }
}

#[test]
fn real_mode_pushes_no_error_code() {
    let fault = Information::hardware_exception(Vector::GP, true);
    for (mode, expected) in [
        (START_REAL_MODE, Information::hardware_exception(Vector::GP, false)),
        (START_PROTECTED_MODE, fault),
        (START_LONG_MODE, fault),
    ] {
        let mut machine = Machine::new(mode);
        let mut vcpu = machine.vcpu();
        step(&mut vcpu, &Scripted::new(Reason::RDPMC)).expect("the guest goes on");
        assert_eq!(event(&vcpu).map(|(information, ..)| information), Some(expected));
    }
}

#[test]
fn an_interrupt_waits_for_its_window() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    with_pending_interrupt(&mut vcpu);
    assert!(waits_for_window(&vcpu) && event(&vcpu).is_none(), "IF is 0");
    // Still closed: nothing is written again.
    step(&mut vcpu, &cpuid()).expect("the guest goes on");
    let fields: Vec<Field> = vcpu.platform.writes.iter().map(|(field, ..)| *field).collect();
    assert_eq!(fields, [Field::GUEST_RIP]);
    // It opens.
    let exit = Scripted::new(Reason::INTERRUPT_WINDOW).field(Field::GUEST_RFLAGS, 2 | IF);
    assert_eq!(step(&mut vcpu, &exit), Ok(Action::Resume));
    assert_eq!(event(&vcpu), Some((Information::external_interrupt(0x20), 0, 0)));
    assert!(!waits_for_window(&vcpu));
    // The next one has to wait until this one is done.
    step(&mut vcpu, &cpuid()).expect("the guest goes on");
    assert_eq!(event(&vcpu), None);
}

#[test]
fn an_interrupt_comes_at_once_if_the_guest_can_take_it() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    with_pending_interrupt(&mut vcpu);
    // What blocks, and whether it comes.
    let rows = [(0, 0, false), (IF, 1, false), (IF, 2, false), (IF, 0, true)];
    for (rflags, interruptibility, comes) in rows {
        let exit = Scripted::new(Reason::EXTERNAL_INTERRUPT)
            .field(Field::GUEST_RFLAGS, 2 | rflags)
            .field(Field::GUEST_INTERRUPTIBILITY_STATE, interruptibility);
        step(&mut vcpu, &exit).expect("the guest goes on");
        assert_eq!(event(&vcpu).is_some(), comes, "RFLAGS {rflags:#x} blocking {interruptibility}");
        assert!(comes || waits_for_window(&vcpu));
    }
}

#[test]
fn an_exception_goes_before_an_interrupt() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    with_pending_interrupt(&mut vcpu);
    let exit = Scripted::new(Reason::RDPMC).field(Field::GUEST_RFLAGS, 2 | IF);
    step(&mut vcpu, &exit).expect("the guest goes on");
    let fault = Information::hardware_exception(Vector::GP, true);
    assert_eq!(event(&vcpu).map(|(information, ..)| information), Some(fault));
    assert!(waits_for_window(&vcpu), "the interrupt comes when the handler lets it");
    assert!(vcpu.devices.interrupt_pending(), "it is not acknowledged");
    // The same with an event that was cut short.
    let exit = Scripted::new(Reason::EXTERNAL_INTERRUPT).vectoring(Information::external_interrupt(0x55), 0);
    step(&mut vcpu, &exit).expect("the guest goes on");
    assert_eq!(event(&vcpu).map(|(information, ..)| information), Some(Information::external_interrupt(0x55)));
}

#[test]
fn nmi_windows_are_closed() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.controls.primary |= PrimaryProcessorBased::NMI_WINDOW_EXITING;
    assert_eq!(step(&mut vcpu, &Scripted::new(Reason::NMI_WINDOW)), Ok(Action::Resume));
    let controls = vcpu.get(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS);
    assert_eq!(controls >> 22 & 1, 0, "NMI-window exiting");
}

#[test]
fn the_stack_pointer_is_a_general_register() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.set_general(RSP, 0x1234);
    vcpu.set_general(15, 5);
    assert_eq!((vcpu.general(RSP), vcpu.general(15), vcpu.get(Field::GUEST_RSP)), (0x1234, 5, 0x1234));
}

/// Lets the guest run until the preemption timer ends its run: the counter has then changed bit `rate` that often.
fn run_until_timer(vcpu: &mut TestVcpu<'_>) -> Result<(), crate::exit::End> {
    let ticks = vcpu.get(Field::VMX_PREEMPTION_TIMER_VALUE);
    let rate = vcpu.timer_rate;
    vcpu.platform.tsc = ((vcpu.platform.tsc >> rate) + ticks) << rate;
    vcpu.set(Field::VMX_PREEMPTION_TIMER_VALUE, 0);
    step(vcpu, &Scripted::new(Reason::VMX_PREEMPTION_TIMER_EXPIRED)).map(drop)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_preemption_timer_is_never_early_and_hardly_late(rate in 0_u32..8, start in 0_u64..1000, period in 2_u64..0x1_0000) {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        vcpu.timer_rate = rate;
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
            out(&mut vcpu, port, value);
        }
        vcpu.platform.tsc += start;
        for (port, value) in [(0x43, 0x30), (0x40, period & 0xff), (0x40, period >> 8)] {
            out(&mut vcpu, port, value);
        }
        for _ in 0..4 {
            let deadline = vcpu.deadline;
            prop_assert!(deadline > vcpu.platform.tsc);
            run_until_timer(&mut vcpu).expect("the guest goes on");
            prop_assert!(vcpu.platform.tsc >= deadline, "early: nothing would be due, and the timer has run out");
            prop_assert!(vcpu.platform.tsc - deadline <= 1 << rate, "late by {}", vcpu.platform.tsc - deadline);
        }
    }
}

#[test]
fn a_request_to_stop_is_seen_within_a_poll_interval() {
    let mut machine = Machine::long_mode();
    machine.host.stop_at_poll = Some(2);
    let mut vcpu = machine.vcpu();
    vcpu.prepare_entry().expect("the guest goes on");
    let begin = vcpu.platform.tsc;
    let end = (0..3).find_map(|_| run_until_timer(&mut vcpu).err()).expect("the guest spins, and ends all the same");
    assert_eq!(end.reason, EndReason::Stopped);
    let passed = vcpu.platform.tsc - begin;
    assert!(passed <= 2 * TSC_FREQUENCY / HOST_POLLS_PER_SECOND + 2, "{passed} ticks");
    // A guest that exits all the time is asked no more often.
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for _ in 0..100 {
        vcpu.platform.tsc += TSC_FREQUENCY / HOST_POLLS_PER_SECOND / 25;
        let (mut exit, action) = handle(&mut vcpu, &cpuid());
        vcpu.apply(&mut exit, action).and_then(|()| vcpu.prepare_entry()).expect("the guest goes on");
    }
    drop(vcpu);
    assert_eq!(machine.host.polls, 4);
}

/// The serial line after reset holds one byte; with its FIFO, 16.
#[test]
fn input_that_the_serial_line_has_no_room_for_stays_with_the_host() {
    const FIFO_CONTROL: u64 = 0x3fa;
    for (fifo, room) in [(false, 1), (true, 16)] {
        let mut machine = Machine::long_mode();
        machine.host.input.extend(0..40);
        let mut vcpu = machine.vcpu();
        if fifo {
            out(&mut vcpu, FIFO_CONTROL, 1);
        }
        for _ in 0..5 {
            vcpu.platform.tsc += TSC_FREQUENCY;
            step(&mut vcpu, &cpuid()).expect("the guest goes on");
        }
        drop(vcpu);
        assert_eq!(machine.host.input.len(), 40 - room);
    }
}
