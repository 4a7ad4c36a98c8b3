//! MOV from and to debug registers (SDM 3B 18.2 "Debug Registers").

use vmcs::event::Vector;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use super::{GP, UD, to_user_mode};
use crate::exit::Action;
use crate::testing::{Machine, Scripted, TestVcpu, handle};

/// R10 is the other operand.
const OPERAND: usize = 10;
const CR4_DE: u64 = 1 << 3;

fn read(vcpu: &mut TestVcpu<'_>, number: u64) -> Result<u64, Action> {
    let exit = Scripted::new(Reason::MOV_DR).qualification(number | 1 << 4 | (OPERAND as u64) << 8);
    match handle(vcpu, &exit).1 {
        Action::Complete => Ok(vcpu.context.general[OPERAND]),
        action => Err(action),
    }
}

fn write(vcpu: &mut TestVcpu<'_>, number: u64, value: u64) -> Action {
    let exit = Scripted::new(Reason::MOV_DR).qualification(number | (OPERAND as u64) << 8).register(OPERAND, value);
    let action = handle(vcpu, &exit).1;
    vcpu.platform.check_entry();
    action
}

#[test]
fn registers_keep_what_can_be_kept() {
    // Register, written, read back.
    let rows = [
        (0, 0x1234_5678_9abc_def0, 0x1234_5678_9abc_def0),
        (1, u64::MAX, u64::MAX),
        (2, 2, 2),
        (3, 3, 3),
        (6, 0, 0xffff_0ff0),
        (6, 0xffff_ffff, 0xffff_eff0 | 0xf),
        (7, 0, 0x400),
        (7, 0xffff_ffff & !(1 << 13), 0xffff_07ff),
    ];
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for (number, written, after) in rows {
        assert_eq!(write(&mut vcpu, number, written), Action::Complete, "DR{number} = {written:#x}");
        assert_eq!(read(&mut vcpu, number), Ok(after), "DR{number} = {written:#x}");
    }
}

#[test]
fn four_and_five_are_six_and_seven() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    assert_eq!(write(&mut vcpu, 4, 1), Action::Complete);
    assert_eq!(read(&mut vcpu, 6), Ok(0xffff_0ff1));
    assert_eq!(write(&mut vcpu, 5, 0x403), Action::Complete);
    assert_eq!(vcpu.get(Field::GUEST_DR7), 0x403);
    assert_eq!((read(&mut vcpu, 4), read(&mut vcpu, 5)), (Ok(0xffff_0ff1), Ok(0x403)));
    let cr4 = vcpu.get(Field::GUEST_CR4);
    vcpu.set(Field::GUEST_CR4, cr4 | CR4_DE);
    for number in [4, 5] {
        assert_eq!(read(&mut vcpu, number), Err(UD));
        assert_eq!(write(&mut vcpu, number, 0), UD);
    }
}

#[test]
fn upper_halves() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for number in [6, 7, 4, 5] {
        assert_eq!(write(&mut vcpu, number, 1 << 32), GP, "DR{number}");
    }
    assert_eq!((read(&mut vcpu, 6), read(&mut vcpu, 7)), (Ok(0xffff_0ff0), Ok(0x400)));
    let mut machine = super::protected_mode();
    let mut vcpu = machine.vcpu();
    assert_eq!(write(&mut vcpu, 7, 1 << 32 | 1), Action::Complete, "outside 64-bit mode there is no upper half");
    assert_eq!(vcpu.get(Field::GUEST_DR7), 0x401);
}

#[test]
fn general_detect() {
    const GD: u64 = 1 << 13;
    const BD: u64 = 1 << 13;
    let debug_exception = Action::exception(Vector::DB, None);
    for from in [false, true] {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        vcpu.set(Field::GUEST_DR7, 0x400 | GD);
        let action = if from { read(&mut vcpu, 0).expect_err("GD is set") } else { write(&mut vcpu, 0, 5) };
        assert_eq!(action, debug_exception);
        assert_eq!(vcpu.get(Field::GUEST_DR7), 0x400, "the handler of #DB may use the registers");
        assert_eq!(vcpu.platform.debug, [0, 0, 0, 0, 0xffff_0ff0 | BD]);
    }
}

/// The exit comes before the check of the privilege level, unlike other exits (SDM 3C 26.1.3 "Instructions That Cause
/// VM Exits Conditionally").
#[test]
fn the_privilege_level_is_checked() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.set(Field::GUEST_DR7, 0x400 | 1 << 13);
    to_user_mode(&mut vcpu);
    assert_eq!(read(&mut vcpu, 0), Err(GP));
    assert_eq!(write(&mut vcpu, 7, 0), GP);
    assert_eq!(vcpu.get(Field::GUEST_DR7), 0x400 | 1 << 13, "nothing changed");
    let cr4 = vcpu.get(Field::GUEST_CR4);
    vcpu.set(Field::GUEST_CR4, cr4 | CR4_DE);
    assert_eq!(read(&mut vcpu, 4), Err(UD));
}
