//! HLT.

use l1_protocol::end::EndReason;
use vmcs::event::{ActivityState, InterruptionInformation};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::context::register::{RAX, RDX};
use crate::exit::{Action, End};
use crate::testing::{Machine, START, Scripted, TSC_FREQUENCY, TestVcpu, step};

const IF: u64 = 1 << 9;
const TF: u64 = 1 << 8;
const BLOCKING_BY_STI: u64 = 1;

/// The guest writes a byte to a port.
pub(super) fn out(vcpu: &mut TestVcpu<'_>, port: u64, value: u64) {
    let exit = Scripted::new(Reason::IO_INSTRUCTION).qualification(port << 16).register(RDX, port).register(RAX, value).length(1);
    step(vcpu, &exit).expect("the guest goes on");
}

/// The interrupt controllers at vectors 0x20 and 0x28, with these lines of the first one masked.
pub(super) fn with_interrupt_controllers(vcpu: &mut TestVcpu<'_>, mask: u64) {
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 1)] {
        out(vcpu, port, value);
    }
    out(vcpu, 0x21, mask);
    out(vcpu, 0xa1, 0xff);
}

/// Channel 0 of the timer interrupts once, after this many of its ticks.
pub(super) fn with_timer(vcpu: &mut TestVcpu<'_>, ticks: u64) {
    for (port, value) in [(0x43, 0x30), (0x40, ticks & 0xff), (0x40, ticks >> 8)] {
        out(vcpu, port, value);
    }
}

fn halt(vcpu: &mut TestVcpu<'_>, rflags: u64, interruptibility: u64) -> Result<Action, End> {
    let rip = vcpu.get(Field::GUEST_RIP);
    let exit = Scripted::new(Reason::HLT)
        .length(1)
        .field(Field::GUEST_RFLAGS, 2 | rflags)
        .field(Field::GUEST_INTERRUPTIBILITY_STATE, interruptibility);
    let result = step(vcpu, &exit);
    assert_eq!(vcpu.get(Field::GUEST_RIP), rip + 1, "HLT is done, whatever follows");
    result
}

fn activity(vcpu: &TestVcpu<'_>) -> ActivityState {
    ActivityState(vcpu.get(Field::GUEST_ACTIVITY_STATE) as u32)
}

#[test]
fn sleeps_until_the_timer() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    with_interrupt_controllers(&mut vcpu, !1 & 0xff);
    with_timer(&mut vcpu, 1193);
    assert_eq!(halt(&mut vcpu, IF, BLOCKING_BY_STI), Ok(Action::Continue));
    assert_eq!(activity(&vcpu), ActivityState::HLT);
    assert_eq!(vcpu.get(Field::GUEST_INTERRUPTIBILITY_STATE), 0, "blocking by STI ends with HLT");
    // The preemption timer is set for it: about a millisecond, in ticks of the counter.
    let ticks = vcpu.get(Field::VMX_PREEMPTION_TIMER_VALUE);
    assert!((TSC_FREQUENCY / 1100..TSC_FREQUENCY / 900).contains(&ticks), "{ticks}");
    vcpu.platform.tsc += ticks;
    step(&mut vcpu, &Scripted::new(Reason::VMX_PREEMPTION_TIMER_EXPIRED)).expect("the guest goes on");
    let event = InterruptionInformation::external_interrupt(0x20);
    assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), u64::from(event.0));
    assert_eq!(activity(&vcpu), ActivityState::HLT, "injection wakes it");
}

#[test]
fn sleeps_until_input_comes() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    with_interrupt_controllers(&mut vcpu, !(1 << 4) & 0xff);
    // The serial line interrupts on input, and its interrupt gets out (OUT2).
    out(&mut vcpu, 0x3f9, 1);
    out(&mut vcpu, 0x3fc, 0xb);
    assert_eq!(halt(&mut vcpu, IF, 0), Ok(Action::Continue));
    assert_eq!(activity(&vcpu), ActivityState::HLT);
    out(&mut vcpu, 0x21, 0xff);
    assert!(halt(&mut vcpu, IF, 0).is_err(), "with its line masked it cannot wake anybody");
}

#[test]
fn what_was_typed_wakes_it() {
    let mut machine = Machine::long_mode();
    machine.host.input.extend(*b"x");
    let mut vcpu = machine.vcpu();
    with_interrupt_controllers(&mut vcpu, !(1 << 4) & 0xff);
    out(&mut vcpu, 0x3f9, 1);
    out(&mut vcpu, 0x3fc, 0xb);
    assert_eq!(halt(&mut vcpu, IF, 0), Ok(Action::Continue));
    vcpu.platform.tsc += vcpu.get(Field::VMX_PREEMPTION_TIMER_VALUE);
    step(&mut vcpu, &Scripted::new(Reason::VMX_PREEMPTION_TIMER_EXPIRED)).expect("the guest goes on");
    let event = InterruptionInformation::external_interrupt(0x24);
    assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), u64::from(event.0));
}

#[test]
fn does_not_sleep_when_an_interrupt_waits() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    with_interrupt_controllers(&mut vcpu, !1 & 0xff);
    with_timer(&mut vcpu, 100);
    vcpu.platform.tsc += TSC_FREQUENCY;
    out(&mut vcpu, 0x80, 0);
    assert_eq!(halt(&mut vcpu, IF, BLOCKING_BY_STI), Ok(Action::Continue));
    assert_eq!(activity(&vcpu), ActivityState::ACTIVE);
    let event = InterruptionInformation::external_interrupt(0x20);
    assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), u64::from(event.0), "STI blocks HLT only, not what follows");
}

#[test]
fn a_single_step_trap_wakes_it_at_once() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    assert_eq!(halt(&mut vcpu, TF, 0), Ok(Action::Continue), "the trap follows HLT, with interrupts off as well");
    assert_eq!(vcpu.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), 1 << 14);
}

#[test]
fn halted_for_ever() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    with_interrupt_controllers(&mut vcpu, 0);
    with_timer(&mut vcpu, 1193);
    let end = halt(&mut vcpu, 0, 0).expect_err("interrupts are off");
    assert_eq!((end.reason, end.text.to_string().as_str()), (EndReason::HaltedForEver, "halted with interrupts off"));

    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    with_interrupt_controllers(&mut vcpu, 0xff);
    let end = halt(&mut vcpu, IF, 0).expect_err("every line is masked");
    assert_eq!(end.reason, EndReason::HaltedForEver);
    assert!(end.text.to_string().contains("no device can interrupt"), "{}", end.text);
    drop(vcpu);
    assert_eq!(machine.host.waits, 1, "what it printed is shown before");
    assert_eq!(START, 0x1_0000);
}
