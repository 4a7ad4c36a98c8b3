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
    TakeNmi,
    ReadMemory(u64, usize),
    WriteMemory(u64, usize, u64),
    WriteMsr(u32, u64),
    Base(u64),
}

/// Registers of both APICs, and somewhere else.
fn memory() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..0x40_u64).prop_map(|number| 0xfee0_0000 + (number << 4)),
        4 => proptest::sample::select(&[0xfec0_0000_u64, 0xfec0_0010][..]),
        1 => any::<u64>(),
    ]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![0..0x40_u64, 0..0x8_0000_u64, any::<u64>()]
}

fn base() -> impl Strategy<Value = u64> {
    proptest::sample::select(&[0xfee0_0900_u64, 0xfee0_0d00, 0xfee0_0100][..])
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
        1 => Just(Step::TakeNmi),
        1 => memory().prop_map(|address| Step::ReadMemory(address, 4)),
        4 => (memory(), value()).prop_map(|(address, value)| Step::WriteMemory(address, 4, value)),
        1 => (0x800..0x840_u32, value()).prop_map(|(index, value)| Step::WriteMsr(index, value)),
        1 => base().prop_map(Step::Base),
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
                let could = self.devices.receive_room() > 0;
                assert_eq!(self.devices.receive(&[byte]), usize::from(could));
            }
            Step::Acknowledge => {
                self.devices.acknowledge_interrupt();
            }
            Step::TakeNmi => self.devices.take_nmi(),
            Step::ReadMemory(address, size) => drop(self.devices.read_memory(address, size, self.now)),
            Step::WriteMemory(address, size, value) => drop(self.devices.write_memory(address, size, value, self.now)),
            Step::WriteMsr(index, value) => drop(self.devices.write_local_apic(index, value, self.now)),
            Step::Base(value) => drop(self.devices.set_local_apic_base(value, 39)),
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
        machine.devices.take_nmi();
        if machine.devices.event_pending() {
            // A level-triggered line and automatic end of interrupt: it would go on for ever.
            return Ok(());
        }
        let Some(deadline) = machine.devices.next_deadline() else {
            machine.devices.advance(machine.now.saturating_add(100 * 365 * 86_400 * 1_000_000_000));
            prop_assert!(!machine.devices.event_pending(), "an interrupt without a deadline");
            return Ok(());
        };
        machine.devices.advance(deadline - 1);
        prop_assert!(!machine.devices.event_pending(), "an interrupt before its deadline");
        machine.devices.advance(deadline);
        prop_assert!(machine.devices.event_pending(), "no interrupt at its deadline");
    }

    /// With everything masked there is no deadline, whatever the timers are set to.
    #[test]
    fn masked_devices_have_no_deadline(steps in proptest::collection::vec(step(), 1..100)) {
        let mut machine = Machine::with_interrupt_controllers();
        for step in &steps {
            machine.take(step);
        }
        // Whatever state the steps left the controllers in: initialize and mask. The APICs: disable and mask.
        machine.devices.set_local_apic_base(0xfee0_0100, 39).expect("every mode can be left for this");
        machine.devices.take_nmi();
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
