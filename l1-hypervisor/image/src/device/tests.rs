//! All devices together, driven by guests that mean well. Those that do not are in `any_guest`.

use std::ops::RangeInclusive;
use std::vec::Vec;

use super::bus::{AccessSize, Console, EndRequest, Nanoseconds, PortDevice};
use super::interrupt_lines::{REAL_TIME_CLOCK, TIMER};
use super::{Configuration, Devices};

mod any_guest;

/// The first of January 2024, 12:34:56.
pub(super) const WALL_CLOCK: u64 = 1_704_112_496;

#[derive(Default)]
pub(super) struct Printed(pub(super) Vec<u8>);

impl Console for Printed {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// The devices with a guest's hands on them.
pub(super) struct Machine {
    pub(super) devices: Devices,
    pub(super) now: Nanoseconds,
    pub(super) printed: Printed,
}

impl Machine {
    pub(super) fn new() -> Self {
        let devices = Devices::new(Configuration { wall_clock: WALL_CLOCK, memory_size: 256 << 20 });
        Self { devices, now: 0, printed: Printed::default() }
    }

    /// With the interrupt controllers at vectors 0x20 and 0x28, all masked but the cascade.
    pub(super) fn with_interrupt_controllers() -> Self {
        let mut machine = Self::new();
        for (port, base, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            machine.write(port, 0x11);
            machine.write(port + 1, base);
            machine.write(port + 1, cascade);
            machine.write(port + 1, 0x01);
            machine.write(port + 1, if port == 0x20 { 0xfb } else { 0xff });
        }
        machine
    }

    pub(super) fn read(&mut self, port: u16) -> u8 {
        self.devices.read(port, AccessSize::One, self.now) as u8
    }

    pub(super) fn read2(&mut self, port: u16) -> u16 {
        self.devices.read(port, AccessSize::Two, self.now) as u16
    }

    pub(super) fn read4(&mut self, port: u16) -> u32 {
        self.devices.read(port, AccessSize::Four, self.now)
    }

    pub(super) fn write(&mut self, port: u16, value: u8) {
        self.devices.write(port, AccessSize::One, value.into(), self.now, &mut self.printed);
    }

    pub(super) fn write2(&mut self, port: u16, value: u16) {
        self.devices.write(port, AccessSize::Two, value.into(), self.now, &mut self.printed);
    }

    pub(super) fn write4(&mut self, port: u16, value: u32) {
        self.devices.write(port, AccessSize::Four, value, self.now, &mut self.printed);
    }

    pub(super) fn unmask(&mut self, irq: u8) {
        let port = if irq < 8 { 0x21 } else { 0xa1 };
        let mask = self.read(port) & !(1 << (irq & 7));
        self.write(port, mask);
    }

    pub(super) fn mask(&mut self, irq: u8) {
        let port = if irq < 8 { 0x21 } else { 0xa1 };
        let mask = self.read(port) | 1 << (irq & 7);
        self.write(port, mask);
    }

    /// The vector of the interrupt the processor takes now, if there is one.
    pub(super) fn interrupt(&mut self) -> Option<u8> {
        self.devices.advance(self.now);
        self.devices.interrupt_pending().then(|| self.devices.acknowledge_interrupt())
    }

    pub(super) fn end_of_interrupt(&mut self, irq: u8) {
        if irq >= 8 {
            self.write(0xa0, 0x60 | irq & 7);
            self.write(0x20, 0x62);
        } else {
            self.write(0x20, 0x60 | irq);
        }
    }

    /// The guest halts: time goes on to the next deadline, whose interrupt it takes and ends.
    pub(super) fn halt(&mut self) -> Option<u8> {
        if !self.devices.interrupt_pending() {
            self.now = self.devices.next_deadline()?;
        }
        let vector = self.interrupt().expect("a deadline brings an interrupt");
        self.end_of_interrupt(vector - 0x20);
        Some(vector)
    }
}

fn claimed() -> Vec<(&'static str, &'static [RangeInclusive<u16>])> {
    fn of<Device: PortDevice>() -> (&'static str, &'static [RangeInclusive<u16>]) {
        (core::any::type_name::<Device>(), Device::PORTS)
    }
    std::vec![
        of::<super::debug_console::DebugConsole>(),
        of::<super::debug_exit::DebugExit>(),
        of::<super::keyboard_controller::KeyboardController>(),
        of::<super::pic8259::Pic8259>(),
        of::<super::pit8254::Pit8254>(),
        of::<super::power::PowerManagement>(),
        of::<super::reset_control::ResetControl>(),
        of::<super::rtc::Rtc>(),
        of::<super::status_line::StatusLine>(),
        of::<super::system_control::SystemControl>(),
        of::<super::uart16550::Uart16550>(),
    ]
}

#[test]
fn every_port_goes_to_the_device_that_claims_it() {
    for port in 0..=u16::MAX {
        let names: Vec<_> = claimed()
            .into_iter()
            .filter(|(_, ports)| ports.iter().any(|range| range.contains(&port)))
            .map(|(name, _)| name)
            .collect();
        assert!(names.len() <= 1, "{port:#x} is claimed by {names:?}");
        let owner = std::format!("{:?}", super::devices::owner(port));
        let expected = match names.first().map_or("", |name| name.rsplit("::").next().unwrap_or("")) {
            "" => "Nobody",
            "Pic8259" => "InterruptControllers",
            "Pit8254" => "Timer",
            "Uart16550" => "Serial",
            "Rtc" => "Clock",
            "PowerManagement" => "Power",
            "KeyboardController" => "Keyboard",
            same => same,
        };
        assert_eq!(owner, expected, "{port:#x}");
    }
}

#[test]
fn unclaimed_ports_read_all_ones_and_ignore_writes() {
    let mut machine = Machine::new();
    for port in [0x80, 0x100, 0x3e8, 0xcf8, 0xcfc, 0xfff0] {
        machine.write4(port, 0);
        assert_eq!((machine.read(port), machine.read2(port), machine.read4(port)), (0xff, 0xffff, 0xffff_ffff));
    }
    assert_eq!(machine.read4(0xfffe), 0xffff_ffff, "an access past the last port");
    machine.write4(0xfffe, 0);
    assert_eq!(machine.devices.take_end(), None);
}

#[test]
fn wide_accesses_are_split_into_bytes() {
    let mut machine = Machine::new();
    machine.write2(0x70, 0x5a0f);
    assert_eq!(machine.read(0x71), 0x5a, "index 0x0f, then data");
    // Scratch register, and 0x400 that nobody claims.
    machine.write(0x3ff, 0x77);
    assert_eq!(machine.read2(0x3ff), 0xff77);
}

#[test]
fn the_debug_exit_takes_any_width() {
    let mut machine = Machine::new();
    // kvm-unit-tests: out of EAX.
    machine.write4(0xf4, 0x0001_0203);
    assert_eq!(machine.devices.take_end(), Some(EndRequest::DebugExit { value: 0x0001_0203 }));
    assert_eq!(machine.devices.take_end(), None, "reported once");
    machine.write2(0xf4, 0x1234);
    assert_eq!(machine.devices.take_end(), Some(EndRequest::DebugExit { value: 0x1234 }));
    machine.write(0xf4, 0x10);
    machine.write(0x64, 0xfe);
    assert_eq!(machine.devices.take_end(), Some(EndRequest::DebugExit { value: 0x10 }), "the first request counts");
}

#[test]
fn the_debug_console_is_there_and_prints() {
    let mut machine = Machine::new();
    assert_eq!(machine.read(0xe9), 0xe9);
    for byte in b"hello" {
        machine.write(0xe9, *byte);
    }
    assert_eq!(machine.printed.0, b"hello");
}

#[test]
fn all_ways_to_reset() {
    for (port, value) in [(0x64, 0xfe), (0x64, 0xf0), (0x92, 0x01), (0xcf9, 0x06), (0xcf9, 0x0e)] {
        let mut machine = Machine::new();
        machine.write(port, value);
        assert_eq!(machine.devices.take_end(), Some(EndRequest::Reset), "{value:#x} to {port:#x}");
    }
    for (port, value) in [(0x60, 0xfe), (0x64, 0xff), (0x64, 0xd1), (0x64, 0x20), (0x92, 0x02), (0xcf9, 0x02)] {
        let mut machine = Machine::new();
        machine.write(port, value);
        assert_eq!(machine.devices.take_end(), None, "{value:#x} to {port:#x}");
    }
}

#[test]
fn looking_for_pci_does_not_reset() {
    let mut machine = Machine::new();
    // Linux's pci_check_type1 and a bus number that sets bit 2 of the second byte.
    machine.write(0xcfb, 0x01);
    machine.write4(0xcf8, 0x8000_0400);
    assert_eq!(machine.read4(0xcf8), 0xffff_ffff);
    assert_eq!(machine.devices.take_end(), None);
}

#[test]
fn linux_finds_no_keyboard_controller_and_no_reason_to_wait() {
    let mut machine = Machine::new();
    // i8042_flush gives up after 16 bytes.
    for _ in 0..17 {
        assert_eq!(machine.read(0x64) & 1, 1);
        machine.read(0x60);
    }
    // kb_wait before the reset command.
    assert_eq!(machine.read(0x64) & 2, 0);
    assert_eq!(machine.read(0x92) & 2, 2, "address line 20 is on");
}

#[test]
fn a_machine_with_everything_masked_sleeps_for_ever() {
    let mut machine = Machine::with_interrupt_controllers();
    machine.write(0x70, 0x0b);
    machine.write(0x71, 0x72);
    machine.write2(0x602, 1);
    assert_eq!(machine.devices.next_deadline(), None);
    machine.now = 1 << 50;
    assert_eq!(machine.interrupt(), None);
    assert_eq!(machine.devices.next_deadline(), None);
    machine.unmask(TIMER);
    assert_eq!(machine.interrupt(), Some(0x20), "the edges before the mask was lifted left one request");
}

#[test]
fn what_is_in_service_holds_back_deadlines_of_lower_priority() {
    let mut machine = Machine::with_interrupt_controllers();
    machine.unmask(TIMER);
    machine.unmask(REAL_TIME_CLOCK);
    machine.write(0x70, 0x0b);
    machine.write(0x71, 0x42);
    machine.now = machine.devices.next_deadline().expect("timer and clock run");
    while machine.interrupt() != Some(0x20) {
        machine.end_of_interrupt(REAL_TIME_CLOCK);
        machine.write(0x70, 0x0c);
        machine.read(0x71);
        machine.now = machine.devices.next_deadline().expect("timer and clock run");
    }
    assert_eq!(machine.devices.next_deadline(), None, "IRQ 0 in service inhibits all others and itself");
    machine.end_of_interrupt(TIMER);
    assert!(machine.devices.next_deadline().is_some());
}

#[test]
fn a_pending_interrupt_leaves_nothing_to_wait_for() {
    let mut machine = Machine::with_interrupt_controllers();
    machine.unmask(TIMER);
    machine.now = machine.devices.next_deadline().expect("the timer runs");
    machine.devices.advance(machine.now);
    assert!(machine.devices.interrupt_pending());
    assert_eq!(machine.devices.next_deadline(), None);
}

#[test]
fn time_does_not_go_back() {
    let mut machine = Machine::new();
    machine.now = 1_000_000_000;
    let late = machine.read4(0x608);
    machine.now = 0;
    assert_eq!(machine.read4(0x608), late);
}
