//! Guests that do anything at all.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Read(u64, usize),
    Write(u64, usize, u64),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    Base(u64),
    Deadline(u64, Option<Nanoseconds>),
    TaskPriority(u8),
    External(bool),
    Pass(Nanoseconds),
    Acknowledge,
    TakeNmi,
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![8 => (0..0x40_u64).prop_map(|number| number << 4), 1 => 0..PAGE]
}

const PAGE: u64 = super::super::PAGE_SIZE;

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(0x1ff), 0..0x8_0000_u64, any::<u64>()]
}

fn step() -> impl Strategy<Value = Step> {
    let size = proptest::sample::select(&[1_usize, 2, 4, 4, 4, 8][..]);
    let base = proptest::sample::select(&[BASE, BASE | EXTENDED, BASE & !ENABLE, 0][..]);
    let nanoseconds = prop_oneof![0..2_000_u64, 0..2_000_000_000_u64, any::<u64>()];
    prop_oneof![
        1 => (offset(), size.clone()).prop_map(|(offset, size)| Step::Read(offset, size)),
        6 => (offset(), size, value()).prop_map(|(offset, size, value)| Step::Write(offset, size, value)),
        1 => (0x7f0..0x910_u32).prop_map(Step::ReadMsr),
        4 => (0x7f0..0x850_u32, value()).prop_map(|(index, value)| Step::WriteMsr(index, value)),
        1 => base.prop_map(Step::Base),
        1 => (any::<u64>(), proptest::option::of(any::<u64>())).prop_map(|(deadline, at)| Step::Deadline(deadline, at)),
        1 => (0..16_u8).prop_map(Step::TaskPriority),
        1 => any::<bool>().prop_map(Step::External),
        1 => nanoseconds.prop_map(Step::Pass),
        2 => Just(Step::Acknowledge),
        1 => Just(Step::TakeNmi),
    ]
}

impl Machine {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Read(offset, size) => {
                let value = self.apic.read_page(offset, size, self.now);
                assert!(size == 8 || value >> (8 * size) == 0, "no more bits than asked for");
            }
            Step::Write(offset, size, value) => self.apic.write_page(offset, size, value, self.now),
            Step::ReadMsr(index) => drop(self.apic.read_msr(index, self.now)),
            Step::WriteMsr(index, value) => drop(self.apic.write_msr(index, value, self.now)),
            Step::Base(value) => drop(self.apic.set_base(value, WIDTH)),
            Step::Deadline(deadline, at) => self.apic.set_tsc_deadline(deadline, at),
            Step::TaskPriority(class) => self.apic.set_task_priority_class(class),
            Step::External(level) => self.apic.set_external(level),
            Step::Pass(nanoseconds) => self.now = self.now.saturating_add(nanoseconds),
            Step::Acknowledge => drop(self.interrupt()),
            Step::TakeNmi => self.apic.take_nmi(),
        }
    }
}

proptest! {
    /// No guest can make the APIC panic. A deadline is always ahead, and what interrupts is a valid vector above the
    /// processor's priority.
    #[test]
    fn any_guest_is_survived(steps in proptest::collection::vec(step(), 1..200)) {
        let mut machine = Machine::xapic();
        for step in &steps {
            machine.take(step);
            machine.apic.advance(machine.now);
            prop_assert!(machine.apic.next_deadline().is_none_or(|deadline| deadline > machine.now), "after {:?}", step);
            let mut copy = Machine { apic: machine.apic.clone(), now: machine.now };
            if let Some(vector) = copy.interrupt() {
                prop_assert!(vector >= 16);
                prop_assert!(!copy.apic.interrupt_pending() || copy.apic.acknowledge() >> 4 > vector >> 4);
            }
        }
    }

    /// A guest that sleeps until the timer is said to interrupt it finds an interrupt there, and none before.
    #[test]
    fn the_timer_interrupts_when_it_says(steps in proptest::collection::vec(step(), 1..100)) {
        let mut machine = Machine::xapic();
        for step in &steps {
            machine.take(step);
        }
        machine.apic.advance(machine.now);
        while machine.interrupt().is_some() {}
        match machine.apic.next_interrupt() {
            Some(deadline) => {
                machine.apic.advance(deadline - 1);
                prop_assert!(!machine.apic.interrupt_pending(), "an interrupt before its deadline");
                machine.apic.advance(deadline);
                prop_assert!(machine.apic.interrupt_pending(), "no interrupt at its deadline");
            }
            None => {
                machine.apic.advance(Nanoseconds::MAX);
                prop_assert!(!machine.apic.interrupt_pending(), "an interrupt without a deadline");
            }
        }
    }
}
