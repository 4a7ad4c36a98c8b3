//! The I/O APIC with the local APIC it sends to.

use super::*;
use crate::device::interrupt_lines::{InterruptLines, SERIAL, SYSTEM_CONTROL};

#[derive(Debug, Default)]
struct Pair {
    io: IoApic,
    local: LocalApic,
    lines: InterruptLines,
}

impl Pair {
    fn write(&mut self, register: u8, value: u32) {
        self.io.write(SELECT, 4, register.into(), &mut self.local);
        self.io.write(WINDOW, 4, value.into(), &mut self.local);
    }

    fn read(&mut self, register: u8) -> u32 {
        self.io.write(SELECT, 4, register.into(), &mut self.local);
        self.io.read(WINDOW, 4) as u32
    }

    fn entry(&mut self, pin: u8, value: u64) {
        self.write(FIRST_ENTRY + 2 * pin + 1, (value >> 32) as u32);
        self.write(FIRST_ENTRY + 2 * pin, value as u32);
    }

    fn set(&mut self, irq: u8, high: bool) {
        self.lines.set(irq, high);
        self.io.take_lines(self.lines.take(), &mut self.local);
    }

    fn interrupt(&mut self) -> Option<u8> {
        self.local.interrupt_pending().then(|| self.local.acknowledge())
    }

    fn end(&mut self) {
        self.local.write_page(0xb0, 4, 0, 0);
        if let Some(vector) = self.local.take_ended() {
            self.io.end_of_interrupt(vector, &mut self.local);
        }
    }
}

#[test]
fn registers() {
    let mut pair = Pair::default();
    assert_eq!(pair.read(VERSION), 0x17_0011, "24 pins");
    pair.write(VERSION, 0);
    pair.write(IDENTIFIER, u32::MAX);
    assert_eq!((pair.read(VERSION), pair.read(IDENTIFIER), pair.read(ARBITRATION)), (0x17_0011, 0x0f00_0000, 0x0f00_0000));
    for pin in 0..24 {
        assert_eq!((pair.read(0x10 + 2 * pin), pair.read(0x11 + 2 * pin)), (0x1_0000, 0), "pin {pin} is masked");
        pair.entry(pin, u64::MAX);
        assert_eq!((pair.read(0x10 + 2 * pin), pair.read(0x11 + 2 * pin)), (0x1_afff, 0xff00_0000), "read-only bits stay 0");
    }
    for register in (3..0x10).chain(0x40..=0xff) {
        pair.write(register, u32::MAX);
        assert_eq!(pair.read(register), 0, "{register:#x}");
    }
    pair.io.write(SELECT, 1, VERSION.into(), &mut pair.local);
    assert_eq!(pair.io.read(SELECT, 4), 0xff, "registers are accessed whole");
    assert_eq!((pair.io.read(WINDOW, 1), pair.io.read(0x20, 4)), (0, 0));
}

#[test]
fn an_edge_is_sent_once_and_lost_while_masked() {
    let mut pair = Pair::default();
    pair.set(SERIAL, true);
    pair.entry(SERIAL, 0x41);
    assert_eq!(pair.interrupt(), None);
    pair.set(SERIAL, false);
    pair.set(SERIAL, true);
    assert_eq!(pair.interrupt(), Some(0x41));
    pair.end();
    assert_eq!(pair.interrupt(), None);
}

#[test]
fn the_timer_comes_in_at_pin_2() {
    let mut pair = Pair::default();
    pair.entry(0, 0x40);
    pair.entry(2, 0x42);
    pair.lines.pulse(TIMER);
    pair.io.take_lines(pair.lines.take(), &mut pair.local);
    assert_eq!(pair.interrupt(), Some(0x42));
    assert_eq!(pair.io.message(TIMER).map(|message| message.vector), Some(0x42));
    pair.end();
    pair.set(2, true);
    assert_eq!(pair.interrupt(), None, "line 2 is the cascade of the 8259 pair");
}

#[test]
fn a_level_is_sent_again_after_its_end_while_it_stands() {
    let mut pair = Pair::default();
    pair.set(SYSTEM_CONTROL, true);
    pair.entry(SYSTEM_CONTROL, LEVEL_TRIGGERED | 0x51);
    assert_eq!(pair.interrupt(), Some(0x51), "it stood before the mask was lifted");
    assert_eq!(pair.read(FIRST_ENTRY + 18), 0xc051, "remote IRR");
    assert_eq!(pair.io.message(SYSTEM_CONTROL), None);
    pair.set(SYSTEM_CONTROL, false);
    pair.set(SYSTEM_CONTROL, true);
    assert_eq!(pair.interrupt(), None);
    pair.end();
    assert_eq!(pair.interrupt(), Some(0x51));
    pair.set(SYSTEM_CONTROL, false);
    pair.end();
    assert_eq!((pair.interrupt(), pair.read(FIRST_ENTRY + 18)), (None, 0x8051));
    pair.set(SYSTEM_CONTROL, true);
    pair.entry(SYSTEM_CONTROL, 0x51);
    assert_eq!(pair.read(FIRST_ENTRY + 18), 0x51, "edge-triggered it has no remote IRR");
}

#[test]
fn destinations_and_delivery_modes() {
    const NMI: u64 = 4 << 8;
    const LOWEST_PRIORITY: u64 = 1 << 8;
    // Entry, whether it is delivered.
    let rows = [
        (0x41, true),
        (LOWEST_PRIORITY | 0x41, true),
        (1 << 56 | 0x41, false),
        (0xff << 56 | 0x41, true),
        (LOGICAL | 2 << 56 | 0x41, true),
        (LOGICAL | 1 << 56 | 0x41, false),
        (2 << 8 | 0x41, false),
        (7 << 8 | 0x41, false),
        (MASKED | 0x41, false),
    ];
    for (entry, delivered) in rows {
        for x2apic in [false, true] {
            let mut pair = Pair::default();
            pair.local.write_page(0xd0, 4, 2 << 24, 0);
            if x2apic && entry & LOGICAL == 0 {
                pair.local.set_base(0xfee0_0d00, 39).expect("xAPIC to x2APIC mode");
            }
            pair.entry(SERIAL, entry);
            let forecast = pair.io.message(SERIAL).is_some_and(|message| pair.local.would_receive(message));
            pair.set(SERIAL, true);
            assert_eq!((pair.interrupt().is_some(), forecast), (delivered, delivered), "{entry:#x}");
        }
    }
    let mut pair = Pair::default();
    assert!(!pair.io.sends_nmis());
    pair.entry(SERIAL, NMI);
    assert!(pair.io.sends_nmis());
    pair.set(SERIAL, true);
    assert!(pair.local.nmi_pending() && !pair.local.interrupt_pending());
}
