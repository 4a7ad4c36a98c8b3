//! Driven as Linux's rtc-cmos and mc146818 code drive it.

use super::*;
use crate::device::tests::Machine;

const SECOND: Nanoseconds = NANOSECONDS_PER_SECOND;

impl Machine {
    fn cmos(&mut self, index: u8) -> u8 {
        self.write(INDEX, index);
        self.read(DATA)
    }

    fn set_cmos(&mut self, index: u8, value: u8) {
        self.write(INDEX, index);
        self.write(DATA, value);
    }

    /// Century, year, month, day, day of week, hour, minute, second, as they stand in the registers.
    fn clock(&mut self) -> [u8; 8] {
        [CENTURY, 9, 8, 7, 6, 4, 2, 0].map(|index| self.cmos(index))
    }

    fn set_clock(&mut self, value: [u8; 8]) {
        for (index, value) in [CENTURY, 9, 8, 7, 6, 4, 2, 0].into_iter().zip(value) {
            self.set_cmos(index, value);
        }
    }

    fn after(&mut self, wait: Nanoseconds) -> &mut Self {
        self.now += wait;
        self
    }
}

fn interrupting(enable: u8) -> Machine {
    let mut machine = Machine::with_interrupt_controllers();
    machine.unmask(REAL_TIME_CLOCK);
    machine.set_cmos(0x0b, 0x02 | enable);
    machine
}

#[test]
fn it_shows_the_wall_clock() {
    let mut machine = Machine::new();
    assert_eq!(machine.clock(), [0x20, 0x24, 0x01, 0x01, 2, 0x12, 0x34, 0x56]);
    assert_eq!(machine.after(4 * SECOND).clock(), [0x20, 0x24, 0x01, 0x01, 2, 0x12, 0x35, 0x00]);
    let to_midnight = 11 * 3600 + 25 * 60;
    assert_eq!(machine.after(to_midnight * SECOND).clock(), [0x20, 0x24, 0x01, 0x02, 3, 0x00, 0x00, 0x00]);
    assert_eq!(machine.after(58 * 86_400 * SECOND).clock(), [0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00]);
    assert_eq!(machine.cmos(0x0d), 0x80, "the battery is good");
}

#[test]
fn all_four_formats() {
    for (format, evening, midnight, noon) in [
        (0x02, [0x20, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59], [0x21, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00], 0x12),
        (0x00, [0x20, 0x99, 0x12, 0x31, 6, 0x91, 0x59, 0x59], [0x21, 0x00, 0x01, 0x01, 7, 0x12, 0x00, 0x00], 0x92),
        (0x06, [20, 99, 12, 31, 6, 23, 59, 59], [21, 0, 1, 1, 7, 0, 0, 0], 12),
        (0x04, [20, 99, 12, 31, 6, 11 | 0x80, 59, 59], [21, 0, 1, 1, 7, 12, 0, 0], 12 | 0x80),
    ] {
        let mut machine = Machine::new();
        machine.set_cmos(0x0b, format | SET);
        machine.set_clock(evening);
        machine.set_cmos(0x0b, format);
        assert_eq!(machine.clock(), evening);
        assert_eq!(machine.after(SECOND).clock(), midnight, "format {format:#x}");
        assert_eq!(machine.after(12 * 3600 * SECOND).cmos(4), noon, "format {format:#x}");
    }
}

#[test]
fn linux_sets_the_time() {
    // mc146818_set_time: the divider is held while the registers are written.
    let mut machine = Machine::new();
    machine.now = 777_000_000;
    machine.set_cmos(0x0b, 0x82);
    machine.set_cmos(0x0a, 0x66);
    machine.set_clock([0x19, 0x85, 0x10, 0x26, 7, 0x01, 0x21, 0x00]);
    machine.after(10 * SECOND);
    machine.set_cmos(0x0b, 0x02);
    machine.set_cmos(0x0a, 0x26);
    machine.after(SECOND / 2 - 1);
    assert_eq!(machine.clock(), [0x19, 0x85, 0x10, 0x26, 7, 0x01, 0x21, 0x00]);
    assert_eq!(machine.after(1).clock(), [0x19, 0x85, 0x10, 0x26, 7, 0x01, 0x21, 0x01], "half a second after");
    assert_eq!(machine.after(SECOND).cmos(0), 0x02);
}

#[test]
fn update_in_progress_warns() {
    let mut machine = Machine::new();
    assert_eq!(machine.cmos(0x0a), 0x26);
    machine.now = SECOND - 244_001;
    assert_eq!(machine.cmos(0x0a), 0x26);
    machine.now = SECOND - 244_000;
    assert_eq!((machine.cmos(0x0a), machine.cmos(0)), (0xa6, 0x56));
    machine.now = SECOND;
    assert_eq!((machine.cmos(0x0a), machine.cmos(0)), (0x26, 0x57));
    machine.set_cmos(0x0b, 0x82);
    machine.now = 2 * SECOND - 1;
    assert_eq!(machine.cmos(0x0a), 0x26, "no update while SET");
}

#[test]
fn the_update_interrupt_comes_each_second_and_waits_for_register_c() {
    let mut machine = interrupting(UPDATE_ENDED);
    assert_eq!(machine.devices.next_deadline(), Some(SECOND));
    machine.now = SECOND;
    assert_eq!(machine.interrupt(), Some(0x28));
    machine.end_of_interrupt(REAL_TIME_CLOCK);
    assert_eq!(machine.devices.next_deadline(), None, "the line is high until register C is read");
    machine.now = 5 * SECOND + 1;
    assert_eq!(machine.interrupt(), None);
    assert_eq!(machine.cmos(0x0c) & 0xbf, 0x90);
    assert_eq!(machine.cmos(0x0c), 0, "reading clears");
    assert_eq!(machine.devices.next_deadline(), Some(6 * SECOND));
}

#[test]
fn the_periodic_interrupt_has_the_chosen_rate() {
    for (rate, period) in [(1, 128), (2, 256), (3, 4), (6, 32), (15, 16_384)] {
        let mut machine = interrupting(PERIODIC);
        machine.set_cmos(0x0a, 0x20 | rate);
        for event in 1..5 {
            assert_eq!(machine.halt(), Some(0x28));
            assert_eq!(machine.now, OSCILLATOR.time_of(event * period).expect("soon"), "rate {rate}");
            assert_eq!(machine.cmos(0x0c) & 0xc0, 0xc0);
        }
    }
    let mut machine = interrupting(PERIODIC);
    machine.set_cmos(0x0a, 0x20);
    assert_eq!(machine.devices.next_deadline(), None, "rate 0 is off");
}

#[test]
fn the_alarm_comes_when_the_time_matches() {
    // It is 12:34:56.
    for (hour, minute, second, wait) in [
        (0x12, 0x34, 0x57, 1),
        (0x12, 0x34, 0x56, 86_400),
        (0x12, 0x35, 0x00, 4),
        (0xff, 0xff, 0xff, 1),
        (0xff, 0xff, 0x56, 60),
        (0xff, 0xff, 0x10, 14),
        (0xff, 0x34, 0x10, 3600 - 46),
        (0xc0, 0x00, 0x00, 25 * 60 + 4),
        (0x13, 0xff, 0xff, 25 * 60 + 4),
        (0x12, 0xff, 0x00, 4),
        (0x00, 0x00, 0x00, 11 * 3600 + 25 * 60 + 4),
        (0x12, 0x33, 0xff, 86_400 - 116),
    ] {
        let mut machine = interrupting(0);
        for (index, value) in [(5, hour), (3, minute), (1, second)] {
            machine.set_cmos(index, value);
        }
        machine.set_cmos(0x0b, 0x22);
        assert_eq!(machine.halt(), Some(0x28), "{hour:x}:{minute:x}:{second:x}");
        assert_eq!(machine.now, wait * SECOND, "{hour:x}:{minute:x}:{second:x}");
        assert_eq!(machine.cmos(0x0c) & 0xa0, 0xa0);
    }
}

#[test]
fn an_alarm_that_cannot_match_never_comes() {
    let mut machine = interrupting(ALARM);
    machine.set_cmos(5, 0x24);
    assert_eq!(machine.devices.next_deadline(), None);
    machine.after(3 * 86_400 * SECOND);
    assert_eq!(machine.cmos(0x0c) & ALARM, 0);
}

#[test]
fn flags_show_without_being_enabled() {
    let mut machine = Machine::new();
    machine.now = 3 * SECOND;
    assert_eq!(machine.cmos(0x0c), PERIODIC | UPDATE_ENDED, "polled, no interrupt request");
    machine.now = 4 * SECOND;
    machine.set_cmos(0x0b, 0x12);
    assert_eq!(machine.cmos(0x0c) & 0x90, 0x90, "enabling a flag that is set requests at once");
}

#[test]
fn memory_size_is_where_firmware_leaves_it() {
    let mut machine = Machine::new();
    let mut word = |low: u8| u16::from_le_bytes([machine.cmos(low), machine.cmos(low + 1)]);
    assert_eq!((word(0x15), word(0x17), word(0x30), word(0x34)), (640, 0xffff, 0xffff, 240 * 16));
    let sum: u16 = (0x10..0x2e).map(|index| u16::from(machine.cmos(index))).sum();
    assert_eq!(u16::from_be_bytes([machine.cmos(0x2e), machine.cmos(0x2f)]), sum);
    machine.set_cmos(0x0f | 0x80, 0x0a);
    assert_eq!(machine.cmos(0x0f), 0x0a, "the NMI bit of the index is ignored");
}

#[test]
fn nonsense_is_brought_into_range() {
    for format in [0x00, 0x02, 0x04, 0x06] {
        for nonsense in [0x00, 0x3a, 0x7f, 0x9f, 0xff] {
            let mut machine = Machine::new();
            machine.set_cmos(0x0b, format);
            machine.set_clock([nonsense; 8]);
            assert_eq!(machine.clock(), [nonsense; 8], "kept as written");
            let [_, _, month, day, day_of_week, _, minute, second] = machine.after(2 * 86_400 * SECOND).clock();
            let limit = |binary: u8, decimal: u8| if format & 4 == 0 { decimal } else { binary };
            assert!((1..=limit(12, 0x12)).contains(&month) && (1..=limit(31, 0x31)).contains(&day));
            assert!((1..=7).contains(&day_of_week) && minute <= limit(59, 0x59) && second <= limit(59, 0x59));
        }
    }
}
