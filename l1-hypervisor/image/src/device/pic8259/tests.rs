//! Driven as Linux and kvm-unit-tests drive it, and as the data sheet says.

use std::vec::Vec;

use super::*;
use crate::device::bus::{Console, EndRequest};

struct Pair {
    pic: Pic8259,
    lines: InterruptLines,
}

struct Silence;

impl Console for Silence {
    fn bytes(&mut self, _bytes: &[u8]) {}
}

impl Pair {
    /// Vectors 0x20 and 0x28, nothing masked, with the given ICW4.
    fn new(modes: u8) -> Self {
        let mut pair = Self { pic: Pic8259::new(), lines: InterruptLines::default() };
        for (port, base, cascade) in [(FIRST, 0x20, 4), (SECOND, 0x28, 2)] {
            pair.write(port, 0x11);
            pair.write(port + 1, base);
            pair.write(port + 1, cascade);
            pair.write(port + 1, modes);
        }
        pair
    }

    fn write(&mut self, port: u16, value: u8) {
        let mut end: Option<EndRequest> = None;
        let outputs = &mut Outputs { lines: &mut self.lines, console: &mut Silence, end: &mut end };
        self.pic.write(port, value, 0, outputs);
    }

    fn read(&mut self, port: u16) -> u8 {
        self.pic.read(port, 0, &mut self.lines)
    }

    fn set(&mut self, irq: u8, high: bool) {
        self.lines.set(irq, high);
        self.pic.take_lines(self.lines.take());
    }

    fn pulse(&mut self, irq: u8) {
        self.set(irq, false);
        self.lines.pulse(irq);
        self.pic.take_lines(self.lines.take());
    }

    fn interrupt(&mut self) -> Option<u8> {
        self.pic.interrupt_pending().then(|| self.pic.acknowledge())
    }

    fn requested(&mut self, port: u16) -> u8 {
        self.write(port, 0x0a);
        self.read(port)
    }

    fn in_service(&mut self, port: u16) -> u8 {
        self.write(port, 0x0b);
        self.read(port)
    }
}

#[test]
fn before_initialization_all_is_masked() {
    let mut pair = Pair { pic: Pic8259::new(), lines: InterruptLines::default() };
    assert_eq!((pair.read(FIRST_DATA), pair.read(SECOND_DATA)), (0xff, 0xff));
    pair.pulse(0);
    assert_eq!(pair.interrupt(), None);
    pair.write(FIRST_DATA, 0xfe);
    assert_eq!(pair.interrupt(), Some(0x08), "firmware's vectors");
}

#[test]
fn linux_probes_the_first_controller_by_its_mask() {
    let mut pair = Pair::new(1);
    pair.write(SECOND_DATA, 0xff);
    pair.write(FIRST_DATA, 0xfb);
    assert_eq!(pair.read(FIRST_DATA), 0xfb);
}

#[test]
fn an_edge_is_one_request_and_needs_an_end_of_interrupt() {
    let mut pair = Pair::new(1);
    pair.set(4, true);
    assert_eq!(pair.requested(FIRST), 0x10);
    assert_eq!(pair.interrupt(), Some(0x24));
    assert_eq!((pair.requested(FIRST), pair.in_service(FIRST)), (0, 0x10));
    pair.set(4, false);
    pair.set(4, true);
    assert_eq!(pair.interrupt(), None, "in service");
    pair.write(FIRST, 0x20);
    assert_eq!(pair.interrupt(), Some(0x24));
    pair.write(FIRST, 0x64);
    assert_eq!(pair.interrupt(), None, "the line is still high, and no new edge");
}

#[test]
fn a_request_that_is_withdrawn_leaves_a_spurious_interrupt() {
    let mut pair = Pair::new(1);
    pair.set(4, true);
    pair.set(4, false);
    assert!(!pair.pic.interrupt_pending());
    assert_eq!(pair.pic.acknowledge(), 0x27, "spurious IRQ 7");
    assert_eq!(pair.in_service(FIRST), 0, "and nothing is in service, which is how Linux tells");
}

#[test]
fn a_spurious_interrupt_of_the_second_controller_has_the_first_in_service() {
    let mut pair = Pair::new(1);
    pair.set(8, true);
    // Withdrawn between the two acknowledge cycles: only the second controller sees that.
    pair.pic.second.take_lines(0, 0, 1);
    assert_eq!(pair.pic.acknowledge(), 0x2f, "spurious IRQ 15");
    assert_eq!((pair.in_service(SECOND), pair.in_service(FIRST)), (0, 0x04));
}

#[test]
fn priorities_and_nesting() {
    let mut pair = Pair::new(1);
    for irq in [3, 5, 8, 14] {
        pair.pulse(irq);
    }
    assert_eq!(pair.interrupt(), Some(0x28), "IRQ 8 comes in at the cascade, before 3");
    assert_eq!(pair.interrupt(), None);
    pair.pulse(1);
    assert_eq!(pair.interrupt(), Some(0x21), "higher priority nests");
    pair.write(FIRST, 0x61);
    pair.write(SECOND, 0x20);
    assert_eq!(pair.interrupt(), None, "the cascade is still in service");
    pair.write(FIRST, 0x62);
    assert_eq!(pair.interrupt(), Some(0x2e));
    pair.write(SECOND, 0x66);
    pair.write(FIRST, 0x62);
    assert_eq!(pair.interrupt(), Some(0x23));
    pair.write(FIRST, 0x20);
    assert_eq!(pair.interrupt(), Some(0x25));
}

#[test]
fn a_masked_request_waits() {
    let mut pair = Pair::new(1);
    pair.write(FIRST_DATA, 0x01);
    pair.pulse(0);
    pair.pulse(0);
    assert_eq!(pair.interrupt(), None);
    assert_eq!(pair.requested(FIRST), 0x01);
    assert!(!pair.pic.would_interrupt(0));
    pair.write(FIRST_DATA, 0x00);
    assert_eq!(pair.interrupt(), Some(0x20), "two edges, one request");
    pair.write(FIRST, 0x20);
    assert_eq!(pair.interrupt(), None);
}

#[test]
fn a_level_triggered_line_requests_until_it_falls() {
    let mut pair = Pair::new(1);
    assert_eq!(pair.read(EDGE_LEVEL_CONTROL_SECOND), 0x02, "the system control interrupt");
    pair.write(EDGE_LEVEL_CONTROL, 0xff);
    assert_eq!(pair.read(EDGE_LEVEL_CONTROL), 0xf8, "timer, keyboard and cascade stay edge-triggered");
    pair.set(5, true);
    for _ in 0..3 {
        assert_eq!(pair.interrupt(), Some(0x25));
        pair.write(FIRST, 0x65);
    }
    pair.set(5, false);
    assert_eq!(pair.interrupt(), None);
}

#[test]
fn automatic_end_of_interrupt() {
    let mut pair = Pair::new(3);
    for _ in 0..2 {
        pair.pulse(0);
        assert_eq!(pair.interrupt(), Some(0x20));
        assert_eq!(pair.in_service(FIRST), 0);
    }
}

#[test]
fn rotation_on_automatic_end() {
    let mut pair = Pair::new(3);
    pair.write(FIRST, 0x80);
    let mut order = Vec::new();
    for _ in 0..3 {
        pair.pulse(3);
        pair.pulse(5);
        order.extend(pair.interrupt());
    }
    assert_eq!(order, [0x23, 0x25, 0x23]);
    pair.write(FIRST, 0x00);
    pair.write(FIRST, 0xc7);
    assert_eq!(pair.interrupt(), Some(0x25));
}

#[test]
fn rotation_by_command() {
    let mut pair = Pair::new(1);
    pair.pulse(3);
    assert_eq!(pair.interrupt(), Some(0x23));
    pair.write(FIRST, 0xa0);
    pair.pulse(3);
    pair.pulse(4);
    assert_eq!(pair.interrupt(), Some(0x24), "3 has the lowest priority now");
    pair.write(FIRST, 0xe4);
    assert_eq!(pair.interrupt(), Some(0x23), "and then 4");
    pair.write(FIRST, 0x63);
    pair.write(FIRST, 0xc7);
    pair.pulse(0);
    pair.pulse(7);
    assert_eq!(pair.interrupt(), Some(0x20), "set priority: as at the start");
}

#[test]
fn special_mask_mode_lets_lower_priorities_through() {
    let mut pair = Pair::new(1);
    pair.pulse(1);
    assert_eq!(pair.interrupt(), Some(0x21));
    pair.pulse(6);
    assert_eq!(pair.interrupt(), None);
    pair.write(FIRST_DATA, 0x02);
    pair.write(FIRST, 0x68);
    assert_eq!(pair.interrupt(), Some(0x26));
    pair.write(FIRST, 0x20);
    assert_eq!(pair.in_service(FIRST), 0x02, "the command does not see what is masked");
    pair.write(FIRST, 0x48);
    pair.pulse(6);
    assert_eq!(pair.interrupt(), None, "the mode is over");
}

#[test]
fn special_fully_nested_mode_lets_the_second_controller_nest() {
    let mut pair = Pair::new(0x11);
    pair.pulse(10);
    assert_eq!(pair.interrupt(), Some(0x2a));
    pair.pulse(8);
    assert_eq!(pair.interrupt(), Some(0x28));
    pair.pulse(12);
    assert_eq!(pair.interrupt(), None);
}

#[test]
fn poll_mode() {
    let mut pair = Pair::new(1);
    pair.write(FIRST, 0x0c);
    assert_eq!(pair.read(FIRST), 0, "no request");
    pair.pulse(6);
    pair.write(FIRST, 0x0c);
    assert_eq!(pair.read(FIRST), 0x86);
    assert_eq!(pair.in_service(FIRST), 0x40, "a poll is an acknowledge");
    assert_eq!(pair.interrupt(), None);
}

#[test]
fn initialization_forgets_requests_and_withholds_interrupts() {
    let mut pair = Pair::new(1);
    pair.pulse(4);
    pair.set(9, true);
    assert_eq!(pair.interrupt(), Some(0x29));
    pair.write(FIRST, 0x11);
    assert_eq!(pair.interrupt(), None, "until the last word");
    pair.write(FIRST_DATA, 0x47);
    pair.write(FIRST_DATA, 0x04);
    pair.pulse(3);
    assert_eq!(pair.interrupt(), None);
    pair.write(FIRST_DATA, 0x01);
    assert_eq!(pair.interrupt(), Some(0x43), "the low three bits of the base do not count, the old edge is forgotten");
}

#[test]
fn single_without_icw4() {
    let mut pair = Pair::new(3);
    pair.write(FIRST, 0x12);
    pair.write(FIRST_DATA, 0x30);
    pair.write(FIRST_DATA, 0xf7);
    assert_eq!(pair.read(FIRST_DATA), 0xf7, "the second word after ICW1 is a mask");
    pair.pulse(3);
    assert_eq!(pair.interrupt(), Some(0x33));
    assert_eq!(pair.in_service(FIRST), 0x08, "automatic end of interrupt is off");
}

#[test]
fn would_interrupt_is_what_happens() {
    // All masks and what is in service, for every line: the forecast is compared with what comes.
    for irq in (0..16).filter(|&irq| irq != CASCADE) {
        for serving in (0..16).filter(|&irq| irq != CASCADE) {
            for masked in [false, true] {
                let mut pair = Pair::new(1);
                pair.pulse(serving);
                pair.interrupt();
                if masked {
                    pair.write(if irq < 8 { FIRST_DATA } else { SECOND_DATA }, 1 << (irq & 7));
                }
                let forecast = pair.pic.would_interrupt(irq);
                pair.lines.pulse(irq);
                pair.lines.set(irq, true);
                pair.pic.take_lines(pair.lines.take());
                assert_eq!(pair.interrupt().is_some(), forecast, "IRQ {irq} while {serving} is in service, masked {masked}");
            }
        }
    }
}
