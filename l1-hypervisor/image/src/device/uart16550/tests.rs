//! Driven as Linux's 8250 driver and kvm-unit-tests drive it.

use super::*;
use crate::device::interrupt_lines::SERIAL;
use crate::device::tests::Machine;

const DATA: u16 = BASE;
const IER: u16 = BASE + 1;
const IIR: u16 = BASE + 2;
const FCR: u16 = BASE + 2;
const LCR: u16 = BASE + 3;
const MCR: u16 = BASE + 4;
const LSR: u16 = BASE + 5;
const MSR: u16 = BASE + 6;
const SCR: u16 = BASE + 7;

fn interrupting(enable: u8) -> Machine {
    let mut machine = Machine::with_interrupt_controllers();
    machine.unmask(SERIAL);
    machine.write(MCR, 0x0b);
    machine.write(FCR, 0x01);
    machine.write(IER, enable);
    machine
}

impl Machine {
    fn serve(&mut self) -> Option<u8> {
        let vector = self.interrupt();
        if vector.is_some() {
            self.end_of_interrupt(SERIAL);
        }
        vector
    }
}

#[test]
fn kvm_unit_tests_prints() {
    let mut machine = Machine::new();
    machine.write(LCR, 0x80);
    machine.write(DATA, 1);
    machine.write(IER, 0);
    machine.write(LCR, 0x03);
    machine.write(IER, 0);
    machine.write(FCR, 0);
    machine.write(MCR, 3);
    for byte in b"PASS\n" {
        assert_eq!(machine.read(LSR) & 0x20, 0x20);
        machine.write(DATA, *byte);
    }
    assert_eq!(machine.printed.0, b"PASS\n", "the divisor was not printed");
    machine.write(LCR, 0x83);
    assert_eq!((machine.read(DATA), machine.read(IER)), (1, 0));
}

#[test]
fn linux_finds_a_16550a() {
    // autoconfig and autoconfig_16550a of 8250_port.c, step by step.
    let mut machine = Machine::new();
    machine.write(IER, 0);
    assert_eq!(machine.read(IER) & 0x0f, 0);
    machine.write(IER, 0x0f);
    assert_eq!(machine.read(IER), 0x0f, "bits above do not exist");
    machine.write(IER, 0);
    machine.write(MCR, 0x1a);
    assert_eq!(machine.read(MSR) & 0xf0, 0x90, "loopback of RTS and OUT2");
    machine.write(MCR, 0);
    machine.write(LCR, 0xbf);
    machine.write(FCR, 0);
    machine.write(LCR, 0);
    machine.write(FCR, 0x01);
    assert_eq!(machine.read(IIR) >> 6, 3, "a FIFO that works");
    machine.write(LCR, 0xbf);
    assert_ne!(machine.read(IIR), 0, "no EFR");
    machine.write(LCR, 0);
    machine.write(FCR, 0x21);
    assert_eq!(machine.read(IIR) >> 5, 6, "no FIFO of 64");
    machine.write(LCR, 0x80);
    machine.write(FCR, 0x21);
    assert_eq!(machine.read(IIR) >> 5, 6, "not a TI16750");
    machine.write(LCR, 0);
    machine.write(IER, 0x40);
    assert_eq!(machine.read(IER), 0, "not an XScale");
    machine.write(SCR, 0xa5);
    assert_eq!(machine.read(SCR), 0xa5);
}

#[test]
fn linux_counts_the_fifo_in_loopback() {
    // size_fifo: sends 256 characters to itself and counts what arrives.
    let mut machine = Machine::new();
    machine.write(FCR, 0x07);
    machine.write(MCR, 0x10);
    for byte in 0..=255 {
        machine.write(DATA, byte);
    }
    let mut received = std::vec::Vec::new();
    assert_eq!(machine.read(LSR) & 0x02, 0x02, "overrun");
    while machine.read(LSR) & 1 != 0 {
        received.push(machine.read(DATA));
    }
    assert_eq!(received, (0..16).collect::<std::vec::Vec<u8>>());
    assert!(machine.printed.0.is_empty());
}

#[test]
fn linux_tests_the_transmitter_interrupt() {
    // serial8250_do_startup: enabling the interrupt of an empty transmitter gives one, every time.
    let mut machine = interrupting(0);
    for _ in 0..2 {
        machine.write(IER, 0x02);
        assert_eq!(machine.read(LSR) & 0x60, 0x60);
        assert_eq!(machine.read(IIR), 0xc2);
        assert_eq!(machine.read(IIR), 0xc1, "reading it clears it");
        machine.write(IER, 0);
    }
}

#[test]
fn sending_by_interrupt() {
    let mut machine = interrupting(0x02);
    for byte in b"abc" {
        assert_eq!(machine.serve(), Some(0x24));
        assert_eq!(machine.read(IIR), 0xc2);
        machine.write(DATA, *byte);
    }
    assert_eq!(machine.serve(), Some(0x24));
    assert_eq!(machine.read(IIR), 0xc2);
    assert_eq!(machine.serve(), None, "nothing more to send");
    assert_eq!(machine.printed.0, b"abc");
}

#[test]
fn receiving_by_interrupt() {
    let mut machine = interrupting(0x05);
    assert!(machine.devices.wants_input());
    assert_eq!(machine.devices.receive(b"hello, this is too much"), 16);
    assert!(machine.devices.receive_room() == 0);
    assert_eq!(machine.serve(), Some(0x24));
    assert_eq!(machine.read(IIR), 0xc4);
    for &expected in b"hello, this is t" {
        assert_eq!(machine.read(LSR), 0x61);
        assert_eq!(machine.read(DATA), expected);
    }
    assert_eq!((machine.read(LSR), machine.read(IIR)), (0x60, 0xc1));
    assert_eq!(machine.serve(), None);
    assert_eq!(machine.devices.receive(b"x"), 1);
    assert_eq!(machine.serve(), Some(0x24));
}

#[test]
fn fewer_characters_than_the_trigger_level_time_out_at_once() {
    let mut machine = interrupting(0x01);
    machine.write(FCR, 0x81);
    machine.devices.receive(b"1234567");
    assert_eq!(machine.read(IIR), 0xcc);
    machine.devices.receive(b"8");
    assert_eq!(machine.read(IIR), 0xc4);
    machine.write(FCR, 0x83);
    assert_eq!((machine.read(IIR), machine.read(LSR)), (0xc1, 0x60), "cleared");
}

#[test]
fn without_fifo_one_character_is_received() {
    let mut machine = Machine::new();
    assert_eq!(machine.devices.receive(b"ab"), 1);
    assert!(machine.devices.receive_room() == 0);
    assert_eq!(machine.read(DATA), b'a');
    assert!(machine.devices.receive_room() > 0);
    machine.write(MCR, 0x10);
    assert!(machine.devices.receive_room() == 0, "loopback");
    machine.write(DATA, 1);
    machine.write(DATA, 2);
    assert_eq!((machine.read(LSR), machine.read(LSR)), (0x63, 0x61), "reading clears the overrun");
    assert_eq!(machine.read(DATA), 2, "the last one wins");
}

#[test]
fn priorities_of_the_identification() {
    let mut machine = interrupting(0);
    machine.write(MCR, 0x18);
    for byte in 0..17 {
        machine.write(DATA, byte);
    }
    machine.write(MCR, 0x0b);
    machine.write(IER, 0x0f);
    assert_eq!(machine.read(IIR), 0xc6, "overrun");
    machine.read(LSR);
    assert_eq!(machine.read(IIR), 0xc4, "data");
    machine.write(FCR, 0x03);
    assert_eq!(machine.read(IIR), 0xc2, "transmitter");
    assert_eq!(machine.read(IIR), 0xc0, "modem status");
    assert_ne!(machine.read(MSR) & 0x0f, 0);
    assert_eq!(machine.read(IIR), 0xc1);
}

#[test]
fn modem_status_changes() {
    let mut machine = Machine::new();
    assert_eq!(machine.read(MSR), 0xb0);
    machine.write(MCR, 0x14);
    assert_eq!(machine.read(MSR), 0x4b, "RING began, which does not count; the others ended");
    assert_eq!(machine.read(MSR), 0x40);
    machine.write(MCR, 0x10);
    assert_eq!(machine.read(MSR), 0x04, "RING ended");
}

#[test]
fn the_interrupt_needs_out2() {
    let mut machine = interrupting(0x01);
    machine.write(MCR, 0x03);
    assert!(!machine.devices.wants_input());
    machine.devices.receive(b"x");
    assert_eq!(machine.serve(), None);
    machine.write(MCR, 0x0b);
    assert_eq!(machine.serve(), Some(0x24));
}

#[test]
fn input_is_wanted_only_where_it_can_wake() {
    let mut machine = interrupting(0x01);
    assert!(machine.devices.wants_input());
    machine.mask(SERIAL);
    assert!(!machine.devices.wants_input());
    machine.unmask(SERIAL);
    machine.write(IER, 0x02);
    assert!(!machine.devices.wants_input());
}
