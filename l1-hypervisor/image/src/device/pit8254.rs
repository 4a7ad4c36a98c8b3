//! The 8254 timer at 0x40 to 0x43 and system control port B at 0x61, which holds channel 2's gate and output.
//!
//! Channel 0's output is IRQ 0; a rising edge is a request. However many edges were missed, one request stands, and
//! the next comes when it would have come anyway. Channel 1 counts and is wired to nothing.

use core::ops::RangeInclusive;

use super::bus::{Nanoseconds, Outputs, PortDevice};
use super::frequency::Frequency;
use super::interrupt_lines::{InterruptLines, TIMER};

mod channel;
mod control_word;

use channel::Channel;

/// Counter of channel 0; those of channels 1 and 2 follow.
pub const COUNTER: u16 = 0x40;
/// Control word.
pub const CONTROL: u16 = 0x43;
/// System control port B.
pub const SYSTEM_CONTROL_B: u16 = 0x61;
/// Frequency of the timer's clock, in hertz.
pub const HERTZ: u32 = 1_193_182;

const CLOCK: Frequency = Frequency::from_hertz(HERTZ);

/// Port 0x61 bit 0: gate of channel 2.
const GATE_2: u8 = 1 << 0;
/// Port 0x61 bits that read as written: gate, speaker and the two NMI masks.
const STORED: u8 = 0x0f;
/// Port 0x61 bit 4: toggles with each refresh of the memory.
const REFRESH: u8 = 1 << 4;
/// Port 0x61 bit 5: output of channel 2.
const OUTPUT_2: u8 = 1 << 5;
/// Ticks from one refresh to the next, about 15 microseconds.
const REFRESH_TICKS: u64 = 18;

/// The timer.
#[derive(Debug, Clone)]
pub struct Pit8254 {
    channels: [Channel; 3],
    system_control: u8,
    next_edge: Option<Nanoseconds>,
}

impl Default for Pit8254 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit8254 {
    /// The timer as firmware leaves it: channel 0 at 18.2 Hz, channel 2 shut.
    #[must_use]
    pub fn new() -> Self {
        let mut timer = Self { channels: [const { Channel::new() }; 3], system_control: 0, next_edge: None };
        for channel in &mut timer.channels {
            channel.write_control(0x36, 0);
            channel.write(0, 0);
            channel.write(0, 0);
        }
        timer.channels[2].set_gate(false, 0);
        timer.schedule(0);
        timer
    }

    fn schedule(&mut self, tick: u64) {
        self.next_edge = self.channels[0].next_edge_after(tick).and_then(|edge| CLOCK.time_of(edge));
    }

    fn write_control(&mut self, value: u8, tick: u64, lines: &mut InterruptLines) {
        let Some(channel) = self.channels.get_mut(usize::from(value >> 6)) else {
            for (number, channel) in self.channels.iter_mut().enumerate() {
                if value & (2 << number) != 0 {
                    channel.read_back(value, tick);
                }
            }
            return;
        };
        let before = channel.output(tick);
        channel.write_control(value, tick);
        // The control word alone can lift the output, and so ask for an interrupt.
        if value >> 6 == 0 && !before && channel.output(tick) {
            lines.pulse(TIMER);
        }
    }
}

impl PortDevice for Pit8254 {
    const PORTS: &'static [RangeInclusive<u16>] = &[COUNTER..=CONTROL, SYSTEM_CONTROL_B..=SYSTEM_CONTROL_B];

    fn read(&mut self, port: u16, now: Nanoseconds, _lines: &mut InterruptLines) -> u8 {
        let tick = CLOCK.ticks_at(now);
        match port {
            SYSTEM_CONTROL_B => {
                let refresh = if (tick / REFRESH_TICKS).is_multiple_of(2) { 0 } else { REFRESH };
                let output = if self.channels[2].output(tick) { OUTPUT_2 } else { 0 };
                self.system_control | refresh | output
            }
            CONTROL => super::bus::UNCLAIMED,
            _ => self.channels[usize::from(port - COUNTER) % 3].read(tick),
        }
    }

    fn write(&mut self, port: u16, value: u8, now: Nanoseconds, outputs: &mut Outputs<'_>) {
        let tick = CLOCK.ticks_at(now);
        match port {
            SYSTEM_CONTROL_B => {
                self.system_control = value & STORED;
                self.channels[2].set_gate(value & GATE_2 != 0, tick);
            }
            CONTROL => self.write_control(value, tick, outputs.lines),
            _ => self.channels[usize::from(port - COUNTER) % 3].write(value, tick),
        }
        self.schedule(tick);
    }

    fn advance(&mut self, now: Nanoseconds, lines: &mut InterruptLines) {
        if self.next_edge.is_some_and(|edge| edge <= now) {
            lines.pulse(TIMER);
            let tick = CLOCK.ticks_at(now);
            self.channels[0].settle(tick);
            self.schedule(tick);
        }
    }

    fn next_deadline(&self) -> Option<Nanoseconds> {
        self.next_edge
    }
}

#[cfg(test)]
mod tests;
