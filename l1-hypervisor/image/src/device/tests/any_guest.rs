//! Guests that do anything at all.

use std::vec::Vec;

use proptest::prelude::*;

use super::{Machine, claimed};
use crate::device::bus::{AccessSize, Nanoseconds};
use crate::device::interrupt_lines::{REAL_TIME_CLOCK, SERIAL, TIMER};

#[derive(Debug, Clone)]
enum Step {
    Read(u16, AccessSize),
    Write(u16, AccessSize, u32),
    Pass(Nanoseconds),
    Receive(u8),
    Acknowledge,
}

fn port() -> impl Strategy<Value = u16> {
    let claimed: Vec<u16> = claimed().into_iter().flat_map(|(_, ports)| ports.iter().cloned().flatten()).collect();
    prop_oneof![9 => proptest::sample::select(claimed), 1 => any::<u16>()]
}

fn size() -> impl Strategy<Value = AccessSize> {
    prop_oneof![6 => Just(AccessSize::One), 1 => Just(AccessSize::Two), 1 => Just(AccessSize::Four)]
}

fn step() -> impl Strategy<Value = Step> {
    let nanoseconds = prop_oneof![0..2_000u64, 0..2_000_000_000u64, 0..u64::MAX];
    prop_oneof![
        3 => (port(), size()).prop_map(|(port, size)| Step::Read(port, size)),
        6 => (port(), size(), any::<u32>()).prop_map(|(port, size, value)| Step::Write(port, size, value)),
        3 => nanoseconds.prop_map(Step::Pass),
        1 => any::<u8>().prop_map(Step::Receive),
        1 => Just(Step::Acknowledge),
    ]
}

impl Machine {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Read(port, size) => {
                let value = self.devices.read(port, size, self.now);
                assert_eq!(size.truncate(value), value, "no more bits than asked for");
            }
            Step::Write(port, size, value) => self.devices.write(port, size, value, self.now, &mut self.printed),
            Step::Pass(nanoseconds) => self.now = self.now.saturating_add(nanoseconds),
            Step::Receive(byte) => {
                let could = self.devices.can_receive();
                assert_eq!(self.devices.receive(&[byte]), usize::from(could));
            }
            Step::Acknowledge => {
                self.devices.acknowledge_interrupt();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// No guest can make a device panic, and a deadline is always in the future.
    #[test]
    fn any_guest_is_survived(steps in proptest::collection::vec(step(), 1..200)) {
        let mut machine = Machine::with_interrupt_controllers();
        for step in &steps {
            machine.take(step);
            machine.devices.advance(machine.now);
            if let Some(deadline) = machine.devices.next_deadline() {
                prop_assert!(deadline > machine.now, "deadline {} at {} after {:?}", deadline, machine.now, step);
            }
        }
    }

    /// A halted guest that sleeps until the deadline finds an interrupt there, and none before.
    #[test]
    fn a_deadline_brings_an_interrupt_and_nothing_comes_before(steps in proptest::collection::vec(step(), 1..100)) {
        let mut machine = Machine::with_interrupt_controllers();
        for irq in [TIMER, REAL_TIME_CLOCK, SERIAL] {
            machine.unmask(irq);
        }
        for step in &steps {
            machine.take(step);
        }
        machine.devices.advance(machine.now);
        for _ in 0..16 {
            machine.interrupt();
        }
        if machine.devices.interrupt_pending() {
            // A level-triggered line and automatic end of interrupt: it would go on for ever.
            return Ok(());
        }
        let Some(deadline) = machine.devices.next_deadline() else {
            machine.devices.advance(machine.now.saturating_add(100 * 365 * 86_400 * 1_000_000_000));
            prop_assert!(!machine.devices.interrupt_pending(), "an interrupt without a deadline");
            return Ok(());
        };
        machine.devices.advance(deadline - 1);
        prop_assert!(!machine.devices.interrupt_pending(), "an interrupt before its deadline");
        machine.devices.advance(deadline);
        prop_assert!(machine.devices.interrupt_pending(), "no interrupt at its deadline");
    }

    /// With everything masked there is no deadline, whatever the timers are set to.
    #[test]
    fn masked_devices_have_no_deadline(steps in proptest::collection::vec(step(), 1..100)) {
        let mut machine = Machine::with_interrupt_controllers();
        for step in &steps {
            machine.take(step);
        }
        // Whatever state the steps left the controllers in: initialize and mask.
        for port in [0x20, 0xa0] {
            machine.write(port, 0x11);
            for value in [0x20, 0x04, 0x01, 0xff] {
                machine.write(port + 1, value);
            }
        }
        machine.devices.advance(machine.now);
        prop_assert_eq!(machine.devices.next_deadline(), None);
        prop_assert!(!machine.devices.interrupt_pending());
        prop_assert!(!machine.devices.wants_input());
    }
}
