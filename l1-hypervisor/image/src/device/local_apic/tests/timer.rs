//! The timer in its three modes.

use super::*;

const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 2 << 17;

#[test]
fn one_shot() {
    for mut machine in [Machine::xapic(), Machine::x2apic()] {
        machine.write(DIVIDE_CONFIGURATION, DIVIDE_BY_1);
        machine.write(TIMER, 0x40);
        machine.write(INITIAL_COUNT, 1000);
        assert_eq!(machine.apic.next_interrupt(), Some(machine.now + 1000));
        machine.pass(1);
        assert_eq!(machine.read(CURRENT_COUNT), 999);
        machine.pass(998);
        assert_eq!((machine.read(CURRENT_COUNT), machine.interrupt()), (1, None));
        machine.pass(1);
        assert_eq!((machine.read(CURRENT_COUNT), machine.interrupt()), (0, Some(0x40)));
        machine.write(END_OF_INTERRUPT, 0);
        machine.pass(1 << 40);
        assert_eq!((machine.read(INITIAL_COUNT), machine.interrupt(), machine.apic.next_deadline()), (1000, None, None));
        machine.write(INITIAL_COUNT, 5);
        machine.write(INITIAL_COUNT, 0);
        assert_eq!(machine.apic.next_deadline(), None, "a count of 0 stops");
    }
}

#[test]
fn periodic() {
    let mut machine = Machine::xapic();
    machine.write(DIVIDE_CONFIGURATION, DIVIDE_BY_1);
    machine.write(TIMER, PERIODIC | 0x40);
    machine.write(INITIAL_COUNT, 1000);
    let start = machine.now;
    machine.pass(1000);
    assert_eq!(machine.interrupt(), Some(0x40));
    machine.write(END_OF_INTERRUPT, 0);
    machine.pass(3700);
    assert_eq!(machine.interrupt(), Some(0x40));
    machine.write(END_OF_INTERRUPT, 0);
    assert_eq!(machine.interrupt(), None, "three periods at once are one request");
    assert_eq!(machine.apic.next_deadline(), Some(start + 5000), "without drift");
    assert_eq!(machine.read(CURRENT_COUNT), 300);
}

#[test]
fn divisors() {
    for (value, divisor) in [(0b1011, 1), (0, 2), (1, 4), (2, 8), (3, 16), (0b1000, 32), (0b1001, 64), (0b1010, 128)] {
        let mut machine = Machine::xapic();
        machine.write(DIVIDE_CONFIGURATION, value);
        machine.write(INITIAL_COUNT, 10);
        assert_eq!(machine.apic.next_deadline(), Some(machine.now + 10 * divisor), "{value:#b}");
        machine.pass(3 * divisor);
        assert_eq!(machine.read(CURRENT_COUNT), 7);
        machine.write(DIVIDE_CONFIGURATION, DIVIDE_BY_1);
        assert_eq!((machine.read(CURRENT_COUNT), machine.apic.next_deadline()), (7, Some(machine.now + 7)));
    }
}

#[test]
fn masked_it_runs_without_interrupt() {
    let mut machine = Machine::xapic();
    machine.write(INITIAL_COUNT, 100);
    assert!(machine.apic.next_deadline().is_some());
    assert_eq!(machine.apic.next_interrupt(), None);
    machine.pass(200);
    assert_eq!((machine.read(CURRENT_COUNT), machine.interrupt()), (0, None));
    machine.write(TIMER, 0x40);
    machine.write(TASK_PRIORITY, 0x40);
    machine.write(INITIAL_COUNT, 100);
    assert_eq!(machine.apic.next_interrupt(), None, "held back by the task priority");
}

#[test]
fn tsc_deadline() {
    let mut machine = Machine::x2apic();
    machine.apic.set_tsc_deadline(5, Some(9_000));
    assert_eq!((machine.apic.tsc_deadline(), machine.apic.next_deadline()), (0, None), "ignored in other modes");
    machine.write(INITIAL_COUNT, 100);
    machine.write(TIMER, TSC_DEADLINE | 0x40);
    assert_eq!(machine.apic.next_deadline(), None, "the change disarms");
    machine.write(INITIAL_COUNT, 100);
    assert_eq!((machine.read(INITIAL_COUNT), machine.apic.next_deadline()), (0, None), "ignored in this mode");
    machine.apic.set_tsc_deadline(777, Some(9_000));
    assert_eq!((machine.apic.tsc_deadline(), machine.apic.next_interrupt()), (777, Some(9_000)));
    assert_eq!(machine.read(CURRENT_COUNT), 0);
    machine.write(DIVIDE_CONFIGURATION, DIVIDE_BY_1);
    machine.pass(8_000);
    assert_eq!((machine.interrupt(), machine.apic.tsc_deadline()), (Some(0x40), 0));
    machine.write(END_OF_INTERRUPT, 0);
    machine.apic.set_tsc_deadline(u64::MAX, None);
    assert_eq!((machine.apic.tsc_deadline(), machine.apic.next_deadline()), (u64::MAX, None));
    machine.apic.set_tsc_deadline(888, Some(10_000));
    machine.apic.set_tsc_deadline(0, Some(0));
    machine.pass(10_000);
    assert_eq!(machine.interrupt(), None, "0 disarms");
    machine.apic.set_tsc_deadline(888, Some(1 << 20));
    machine.write(TIMER, PERIODIC | 0x40);
    assert_eq!((machine.apic.tsc_deadline(), machine.apic.next_deadline()), (0, None), "the change disarms");
}

#[test]
fn the_end_of_time() {
    let mut machine = Machine::xapic();
    machine.now = u64::MAX - 10;
    machine.write(DIVIDE_CONFIGURATION, DIVIDE_BY_1);
    machine.write(TIMER, PERIODIC | 0x40);
    machine.write(INITIAL_COUNT, 8);
    machine.pass(10);
    assert_eq!((machine.interrupt(), machine.apic.next_deadline()), (Some(0x40), None));
    machine.write(INITIAL_COUNT, u32::MAX);
    assert_eq!(machine.apic.next_deadline(), None);
}
