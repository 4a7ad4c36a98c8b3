//! Every exit reason there is, with nothing but zeros beside it, and the small handlers of the dispatcher itself.

use l1_protocol::end::EndReason;
use vmcs::exit_reason::{BasicExitReason as Reason, ExitReason};
use vmcs::field::Field;

use super::{GP, UD};
use crate::context::register::{RAX, RSP};
use crate::exit::Action;
use crate::testing::{Machine, Scripted, handle, step};

#[test]
fn no_reason_panics_and_unknown_ones_end_the_run() {
    // What L1 answers; all other reasons end the run with their number.
    const HANDLED: &[u16] = &[
        0, 1, 2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 36, 39, 40, 48,
        49, 50, 51, 52, 53, 54, 55, 57, 59, 61,
    ];
    for reason in 0..=100 {
        for in_long_mode in [false, true] {
            let mut machine = if in_long_mode { Machine::long_mode() } else { super::protected_mode() };
            let mut vcpu = machine.vcpu();
            let (_, action) = handle(&mut vcpu, &Scripted::new(Reason(reason)));
            let unhandled = Action::stop(EndReason::UnhandledExit, reason.into(), "");
            if HANDLED.contains(&reason) {
                assert_ne!(action, unhandled, "{}", Reason(reason));
            } else {
                assert_eq!(action, unhandled, "{}", Reason(reason));
            }
        }
    }
}

#[test]
fn a_failed_entry_ends_the_run_whatever_its_reason() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for basic in [Reason::ENTRY_FAILURE_INVALID_GUEST_STATE, Reason::ENTRY_FAILURE_MSR_LOADING, Reason::CPUID, Reason(99)] {
        let reason = ExitReason::entry_failure(basic).0;
        let (_, action) = handle(&mut vcpu, &Scripted::raw(reason));
        assert_eq!(action, Action::stop(EndReason::EntryFailed, reason.into(), ""), "{basic}");
    }
}

#[test]
fn flags_beside_the_reason_do_not_change_it() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    let with_bus_lock = u32::from(Reason::PAUSE.0) | 1 << 26;
    assert_eq!(handle(&mut vcpu, &Scripted::raw(with_bus_lock)).1, Action::Complete);
}

#[test]
fn fixed_answers() {
    let rows = [
        (Reason::TRIPLE_FAULT, Action::stop(EndReason::TripleFault, 0, "")),
        (Reason::EXTERNAL_INTERRUPT, Action::Resume),
        (Reason::VMX_PREEMPTION_TIMER_EXPIRED, Action::Resume),
        (Reason::PAUSE, Action::Complete),
        (Reason::RDPMC, GP),
        (Reason::GETSEC, UD),
        (Reason::MONITOR, UD),
        (Reason::MWAIT, UD),
        (Reason::VMLAUNCH, UD),
        (Reason::VMXON, UD),
        (Reason::VMREAD, UD),
        (Reason::INVEPT, UD),
        (Reason::INVVPID, UD),
        (Reason::VMFUNC, UD),
    ];
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for (reason, expected) in rows {
        assert_eq!(handle(&mut vcpu, &Scripted::new(reason)).1, expected, "{reason}");
        assert_eq!(vcpu.platform.writes, [], "{reason} changes nothing");
    }
}

#[test]
fn caches_are_written_back_and_never_thrown_away() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for (count, reason) in [(1, Reason::INVD), (2, Reason::WBINVD_OR_WBNOINVD)] {
        assert_eq!(handle(&mut vcpu, &Scripted::new(reason)).1, Action::Complete);
        assert_eq!(vcpu.platform.write_backs, count);
    }
}

#[test]
fn vmcall_answers_what_it_knows() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for (number, answer) in [(0, 0), (1, u64::MAX), (1 << 32, u64::MAX), (u64::MAX, u64::MAX)] {
        let exit = Scripted::new(Reason::VMCALL).register(RAX, number).length(3);
        assert_eq!(step(&mut vcpu, &exit), Ok(Action::Complete));
        assert_eq!(vcpu.context.general[RAX], answer, "{number:#x}");
    }
}

#[test]
fn random_numbers() {
    const ALL_FLAGS: u64 = 0x8d5;
    const NUMBER: u64 = 0x1122_3344_5566_7788;
    const OLD: u64 = 0xaaaa_bbbb_cccc_dddd;
    // Operand size in bits 12:11 of the instruction information, what there is to give, what is in the register then.
    let rows = [
        (0, Some(NUMBER), 0xaaaa_bbbb_cccc_7788),
        (1, Some(NUMBER), 0x5566_7788),
        (2, Some(NUMBER), NUMBER),
        (0, None, 0xaaaa_bbbb_cccc_0000),
        (1, None, 0),
        (2, None, 0),
    ];
    for (size, number, expected) in rows {
        for register in [RAX, RSP, 15] {
            let mut machine = Machine::long_mode();
            let mut vcpu = machine.vcpu();
            vcpu.platform.random = number;
            let exit = Scripted::new(Reason::RDRAND)
                .field(Field::VM_EXIT_INSTRUCTION_INFORMATION, size << 11 | (register as u64) << 3)
                .field(Field::GUEST_RFLAGS, 2 | ALL_FLAGS)
                .register(register, OLD);
            assert_eq!(handle(&mut vcpu, &exit).1, Action::Complete);
            let found = if register == RSP { vcpu.get(Field::GUEST_RSP) } else { vcpu.context.general[register] };
            assert_eq!(found, expected, "size {size}");
            assert_eq!(vcpu.get(Field::GUEST_RFLAGS), 2 | u64::from(number.is_some()), "only CF tells");
        }
    }
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.platform.random = Some(NUMBER);
    let exit = Scripted::new(Reason::RDSEED).field(Field::VM_EXIT_INSTRUCTION_INFORMATION, 2 << 11);
    assert_eq!(handle(&mut vcpu, &exit).1, Action::Complete);
    assert_eq!(vcpu.context.general[RAX], !NUMBER, "RDSEED is another source");
}
