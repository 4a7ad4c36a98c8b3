//! The MC146818 real-time clock and its 128 bytes of CMOS memory, at 0x70 and 0x71.
//!
//! Time is kept in the registers themselves, in the format the guest chose, as in the chip. They are brought up to
//! date when somebody looks; between looks nothing runs. All interrupts are IRQ 8, which stays high from the first
//! event that is enabled until register C is read.

use core::ops::RangeInclusive;

use super::bus::{NANOSECONDS_PER_SECOND, Nanoseconds, Outputs, PortDevice, UNCLAIMED};
use super::frequency::Frequency;
use super::interrupt_lines::{InterruptLines, REAL_TIME_CLOCK};

mod memory;
mod time;

use time::TimeRegisters;

/// Index port; bit 7 masks NMI, of which there is none.
pub const INDEX: u16 = 0x70;
/// Data port.
pub const DATA: u16 = 0x71;
/// Where the century is; the FADT says so too.
pub const CENTURY: u8 = 0x32;

const REGISTER_A: usize = 0x0a;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REGISTER_D: usize = 0x0d;

/// Register A bit 7, UIP: the time is about to change.
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Register A bits 6 to 4, DV: 0b11x holds the divider in reset.
const DIVIDER_RESET: u8 = 0b110 << 4;
/// Register A bits 3 to 0, RS: how often the periodic interrupt comes.
const RATE: u8 = 0x0f;
/// Register B bit 7: the time stands still while it is set.
const SET: u8 = 1 << 7;
/// Bit 6 of B (enable) and C (flag).
const PERIODIC: u8 = 1 << 6;
/// Bit 5 of B (enable) and C (flag).
const ALARM: u8 = 1 << 5;
/// Bit 4 of B (enable) and C (flag).
const UPDATE_ENDED: u8 = 1 << 4;
/// Register C bit 7: some enabled flag is set, and the line is high.
const INTERRUPT_REQUEST: u8 = 1 << 7;
/// Register D bit 7: the battery is good.
const VALID: u8 = 1 << 7;

/// The oscillator, in ticks of which the periodic interrupt is counted.
const OSCILLATOR: Frequency = Frequency::from_hertz(32_768);
/// How long before a change of the time UIP is set: 244 microseconds.
const UPDATE_WARNING: Nanoseconds = 244_000;
/// The first change comes half a second after the divider is let go.
const HALF_SECOND: Nanoseconds = NANOSECONDS_PER_SECOND / 2;

/// The real-time clock.
#[derive(Debug, Clone)]
pub struct Rtc {
    index: u8,
    memory: [u8; 128],
    /// When the divider was let go last, and what was on it then.
    divider_start: Nanoseconds,
    divider_lead: Nanoseconds,
    /// Seconds of the divider that `memory` knows of.
    seconds: u64,
    /// Ticks of the oscillator that `memory` knows of.
    ticks: u64,
    deadline: Option<Nanoseconds>,
}

impl Rtc {
    /// The clock of a machine with `memory_size` bytes of memory that is switched on `wall_clock` seconds after 1970.
    #[must_use]
    pub fn new(wall_clock: u64, memory_size: u64) -> Self {
        let mut memory = memory::initial(memory_size);
        memory[REGISTER_A] = 0x26;
        memory[REGISTER_B] = time::HOURS_24;
        memory[REGISTER_D] = VALID;
        TimeRegisters::new(&mut memory, REGISTER_B, CENTURY).set(wall_clock);
        Self { index: 0, memory, divider_start: 0, divider_lead: 0, seconds: 0, ticks: 0, deadline: None }
    }

    fn time(&mut self) -> TimeRegisters<'_> {
        TimeRegisters::new(&mut self.memory, REGISTER_B, CENTURY)
    }

    const fn divider_runs(&self) -> bool {
        self.memory[REGISTER_A] & DIVIDER_RESET != DIVIDER_RESET
    }

    const fn time_runs(&self) -> bool {
        self.divider_runs() && self.memory[REGISTER_B] & SET == 0
    }

    /// Nanoseconds on the divider.
    const fn divider(&self, now: Nanoseconds) -> Nanoseconds {
        now.saturating_sub(self.divider_start).saturating_add(self.divider_lead)
    }

    /// When the divider will hold `value`, if time goes that far.
    const fn when(&self, value: Nanoseconds) -> Option<Nanoseconds> {
        value.saturating_sub(self.divider_lead).checked_add(self.divider_start)
    }

    /// Ticks of the oscillator from one periodic event to the next.
    const fn period(&self) -> Option<u64> {
        match self.memory[REGISTER_A] & RATE {
            0 => None,
            // With a 32768 Hz oscillator the first two rates are those of 8 and 9.
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// Brings time and flags up to date.
    fn settle(&mut self, now: Nanoseconds) {
        if !self.divider_runs() {
            return;
        }
        let seconds = self.divider(now) / NANOSECONDS_PER_SECOND;
        let passed = seconds.saturating_sub(self.seconds);
        self.seconds = seconds;
        if passed > 0 && self.time_runs() {
            let alarm = self.time().seconds_to_alarm().is_some_and(|wait| wait <= passed);
            self.memory[REGISTER_C] |= UPDATE_ENDED | if alarm { ALARM } else { 0 };
            self.time().add(passed);
        }
        let ticks = OSCILLATOR.ticks_at(self.divider(now));
        if self.period().is_some_and(|period| ticks / period > self.ticks / period) {
            self.memory[REGISTER_C] |= PERIODIC;
        }
        self.ticks = ticks;
    }

    /// Carries the flags to the line and finds the next event. `self` is up to date.
    fn schedule(&mut self, lines: &mut InterruptLines) {
        let enabled = self.memory[REGISTER_B] & (PERIODIC | ALARM | UPDATE_ENDED);
        if self.memory[REGISTER_C] & enabled != 0 {
            self.memory[REGISTER_C] |= INTERRUPT_REQUEST;
        }
        let requested = self.memory[REGISTER_C] & INTERRUPT_REQUEST != 0;
        lines.set(REAL_TIME_CLOCK, requested);
        self.deadline = if requested || enabled == 0 { None } else { self.next_event(enabled) };
    }

    fn next_event(&mut self, enabled: u8) -> Option<Nanoseconds> {
        if !self.divider_runs() {
            return None;
        }
        let second = |seconds: u64| seconds.checked_mul(NANOSECONDS_PER_SECOND);
        let wait = if enabled & ALARM == 0 { None } else { self.time().seconds_to_alarm() };
        let periodic = self.period().filter(|_| enabled & PERIODIC != 0);
        let updates = self.time_runs();
        let next = [
            periodic.and_then(|period| OSCILLATOR.time_of((self.ticks / period + 1) * period)),
            second(self.seconds + 1).filter(|_| updates && enabled & UPDATE_ENDED != 0),
            wait.filter(|_| updates).and_then(|wait| second(self.seconds + wait)),
        ];
        next.into_iter().flatten().min().and_then(|value| self.when(value))
    }

    fn read_register(&mut self, now: Nanoseconds, lines: &mut InterruptLines) -> u8 {
        let index = usize::from(self.index);
        let value = self.memory[index];
        match index {
            REGISTER_A => {
                let rest = NANOSECONDS_PER_SECOND - self.divider(now) % NANOSECONDS_PER_SECOND;
                if self.time_runs() && rest <= UPDATE_WARNING { value | UPDATE_IN_PROGRESS } else { value }
            }
            REGISTER_C => {
                self.memory[REGISTER_C] = 0;
                self.schedule(lines);
                value
            }
            _ => value,
        }
    }

    fn write_register(&mut self, value: u8, now: Nanoseconds) {
        match usize::from(self.index) {
            REGISTER_A => {
                let ran = self.divider_runs();
                self.memory[REGISTER_A] = value & !UPDATE_IN_PROGRESS;
                if !ran && self.divider_runs() {
                    (self.divider_start, self.divider_lead) = (now, HALF_SECOND);
                    self.seconds = 0;
                    self.ticks = OSCILLATOR.ticks_at(HALF_SECOND);
                }
            }
            // Setting the time switches the update interrupt off.
            REGISTER_B => {
                self.memory[REGISTER_B] = if value & SET != 0 { value & !UPDATE_ENDED } else { value };
            }
            REGISTER_C | REGISTER_D => {}
            index => self.memory[index] = value,
        }
    }
}

impl PortDevice for Rtc {
    const PORTS: &'static [RangeInclusive<u16>] = &[INDEX..=DATA];

    fn read(&mut self, port: u16, now: Nanoseconds, lines: &mut InterruptLines) -> u8 {
        if port == INDEX {
            return UNCLAIMED;
        }
        self.settle(now);
        self.schedule(lines);
        self.read_register(now, lines)
    }

    fn write(&mut self, port: u16, value: u8, now: Nanoseconds, outputs: &mut Outputs<'_>) {
        if port == INDEX {
            self.index = value & 0x7f;
            return;
        }
        self.settle(now);
        self.write_register(value, now);
        self.schedule(outputs.lines);
    }

    fn advance(&mut self, now: Nanoseconds, lines: &mut InterruptLines) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.settle(now);
            self.schedule(lines);
        }
    }

    fn next_deadline(&self) -> Option<Nanoseconds> {
        self.deadline
    }
}

#[cfg(test)]
mod tests;
