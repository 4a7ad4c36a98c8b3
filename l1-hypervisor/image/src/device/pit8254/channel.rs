//! One counter of the 8254 (Intel data sheet 231164, "Mode Definitions").
//!
//! Nothing counts: a channel knows the tick at which its count was loaded, and from the number of ticks since then
//! computes counter and output when they are asked for. A count that is written is loaded one tick later.

use super::control_word::{Access, Mode};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No count has been loaded since the control word.
    Waiting,
    /// The count was loaded at tick `origin`, which may be the next one. Wraps: it may lie before tick 0.
    Counting { origin: u64 },
    /// The gate is low; so many ticks had passed since the count was loaded.
    Paused { elapsed: u64 },
}

/// A periodic channel got a new count and will load it when the current (half) period ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reload {
    at: u64,
    /// The new count starts with the low half of a square wave.
    low_half: bool,
}

/// A counter.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    mode: Mode,
    access: Access,
    binary_coded_decimal: bool,
    /// What the guest wrote last, 1 to 65536 (or to what four decimal digits can hold).
    count: u32,
    /// What counting began from.
    loaded: u32,
    phase: Phase,
    reload: Option<Reload>,
    /// A count has been written since the control word.
    armed: bool,
    /// `count` has not been loaded yet.
    null_count: bool,
    gate: bool,
    low_byte: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

const fn high_half(count: u32) -> u64 {
    count.div_ceil(2) as u64
}

impl Channel {
    pub(super) const fn new() -> Self {
        Self {
            mode: Mode::SquareWave,
            access: Access::LowThenHigh,
            binary_coded_decimal: false,
            count: 0x1_0000,
            loaded: 0x1_0000,
            phase: Phase::Waiting,
            reload: None,
            armed: false,
            null_count: true,
            gate: true,
            low_byte: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// A control word for this channel, not a read-back command.
    pub(super) fn write_control(&mut self, value: u8, tick: u64) {
        self.settle(tick);
        self.access = match value >> 4 & 3 {
            0 => return self.latch_count(tick),
            1 => Access::LowByte,
            2 => Access::HighByte,
            _ => Access::LowThenHigh,
        };
        *self = Self {
            mode: Mode::from_bits(value >> 1),
            access: self.access,
            binary_coded_decimal: value & 1 != 0,
            count: self.count,
            loaded: self.loaded,
            gate: self.gate,
            ..Self::new()
        };
    }

    /// A read-back command that names this channel. Bits 5 and 4 are clear for what is to be latched.
    pub(super) fn read_back(&mut self, value: u8, tick: u64) {
        self.settle(tick);
        if value & 1 << 5 == 0 {
            self.latch_count(tick);
        }
        if value & 1 << 4 == 0 && self.latched_status.is_none() {
            self.latched_status = Some(self.status(tick));
        }
    }

    fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.counter(tick));
        }
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        self.settle(tick);
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.counter(tick)).to_le_bytes();
        let (byte, last) = match self.access {
            Access::LowByte => (low, true),
            Access::HighByte => (high, true),
            Access::LowThenHigh => {
                self.read_high_next = !self.read_high_next;
                if self.read_high_next { (low, false) } else { (high, true) }
            }
        };
        if last {
            self.latched_count = None;
        }
        byte
    }

    pub(super) fn write(&mut self, value: u8, tick: u64) {
        self.settle(tick);
        match (self.access, self.low_byte.take()) {
            (Access::LowByte, _) => self.write_count(u16::from(value), tick),
            (Access::HighByte, _) => self.write_count(u16::from_le_bytes([0, value]), tick),
            (Access::LowThenHigh, Some(low)) => self.write_count(u16::from_le_bytes([low, value]), tick),
            (Access::LowThenHigh, None) => {
                self.low_byte = Some(value);
                if self.mode == Mode::InterruptOnTerminalCount {
                    // Half a count stops counting, and the output goes low.
                    self.phase = Phase::Waiting;
                }
            }
        }
    }

    fn write_count(&mut self, value: u16, tick: u64) {
        self.count = self.decode(value);
        self.armed = true;
        self.null_count = true;
        match self.phase {
            _ if self.mode.is_triggered() => {}
            // A count of 1, which is not allowed, has no period whose end could be waited for.
            Phase::Counting { origin } if self.mode.is_periodic() && self.loaded > 1 => {
                self.reload.get_or_insert(self.end_of_part(origin, tick));
            }
            Phase::Paused { .. } if self.mode.is_periodic() => {}
            _ => self.load(tick),
        }
    }

    /// Where the period (or half of a square wave) that runs at `tick` ends.
    fn end_of_part(&self, origin: u64, tick: u64) -> Reload {
        let (length, elapsed) = (u64::from(self.loaded), self.elapsed(tick));
        let (start, within) = (elapsed - elapsed % length, elapsed % length);
        let high = high_half(self.loaded);
        let low_half = self.mode == Mode::SquareWave && within < high && high < length;
        let end = start + if low_half { high } else { length };
        Reload { at: origin.wrapping_add(end), low_half }
    }

    fn load(&mut self, tick: u64) {
        self.loaded = self.count;
        self.null_count = false;
        self.reload = None;
        let counts = self.gate || self.mode.is_triggered();
        self.phase = if counts { Phase::Counting { origin: tick + 1 } } else { Phase::Paused { elapsed: 0 } };
    }

    /// Loads the count that was waiting for the end of a period, if that has come.
    pub(super) fn settle(&mut self, tick: u64) {
        if let Some(Reload { at, low_half }) = self.reload.filter(|reload| reload.at <= tick) {
            let passed = if low_half { high_half(self.count) } else { 0 };
            self.phase = Phase::Counting { origin: at.wrapping_sub(passed) };
            self.loaded = self.count;
            self.null_count = false;
            self.reload = None;
        }
    }

    pub(super) fn set_gate(&mut self, gate: bool, tick: u64) {
        self.settle(tick);
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        if self.mode.is_triggered() {
            if gate && self.armed {
                self.load(tick);
            }
            return;
        }
        match self.phase {
            Phase::Counting { .. } if !gate => {
                self.reload = None;
                self.phase = Phase::Paused { elapsed: self.elapsed(tick) };
            }
            Phase::Paused { .. } if gate && self.mode.is_periodic() => self.load(tick),
            Phase::Paused { elapsed } if gate => self.phase = Phase::Counting { origin: tick.wrapping_sub(elapsed) },
            _ => {}
        }
    }

    /// Ticks since the count was loaded.
    fn elapsed(&self, tick: u64) -> u64 {
        match self.phase {
            Phase::Waiting => 0,
            Phase::Counting { origin } => tick.wrapping_sub(origin).cast_signed().max(0).cast_unsigned(),
            Phase::Paused { elapsed } => elapsed,
        }
    }

    /// The OUT pin.
    pub(super) fn output(&mut self, tick: u64) -> bool {
        self.settle(tick);
        let (count, elapsed) = (u64::from(self.loaded), self.elapsed(tick));
        match (self.mode, self.phase) {
            (mode, Phase::Waiting) => mode != Mode::InterruptOnTerminalCount,
            (Mode::InterruptOnTerminalCount | Mode::OneShot, _) => elapsed >= count,
            (Mode::SoftwareStrobe | Mode::HardwareStrobe, _) => elapsed != count,
            (_, Phase::Paused { .. }) => true,
            // A count of 1 is not allowed in the periodic modes; the output then stays high.
            (Mode::RateGenerator, _) => count < 2 || elapsed % count != count - 1,
            (Mode::SquareWave, _) => elapsed % count < high_half(self.loaded),
        }
    }

    /// The first tick after `tick` at which the output rises if nothing is written and the gate stays.
    pub(super) fn next_edge_after(&self, tick: u64) -> Option<u64> {
        let Phase::Counting { origin } = self.phase else {
            return None;
        };
        let (count, elapsed) = (u64::from(self.loaded), self.elapsed(tick));
        let edge = match (self.mode, self.reload) {
            (Mode::InterruptOnTerminalCount | Mode::OneShot, _) => origin.wrapping_add(count),
            (Mode::SoftwareStrobe | Mode::HardwareStrobe, _) => origin.wrapping_add(count + 1),
            (_, Some(Reload { at, low_half: false })) => at,
            (_, Some(Reload { low_half: true, .. })) if self.count < 2 => return None,
            (_, Some(Reload { at, low_half: true })) => at + u64::from(self.count / 2),
            _ if count < 2 => return None,
            _ => origin.wrapping_add((elapsed / count + 1) * count),
        };
        (edge > tick).then_some(edge)
    }

    /// The counting element as it is read.
    fn counter(&self, tick: u64) -> u16 {
        let (count, elapsed) = (u64::from(self.loaded), self.elapsed(tick));
        let modulus = if self.binary_coded_decimal { 10_000 } else { 0x1_0000 };
        let value = match self.mode {
            Mode::RateGenerator => count - elapsed % count,
            Mode::SquareWave => {
                let (within, high) = (elapsed % count, high_half(self.loaded));
                // Both halves count from the even part of the count down in steps of two.
                (count & !1) - 2 * if within < high { within } else { within - high }
            }
            // After the terminal count it goes on from the top.
            _ => (count % modulus + modulus - elapsed % modulus) % modulus,
        };
        self.encode((value % modulus) as u16)
    }

    fn status(&mut self, tick: u64) -> u8 {
        let before_load = matches!(self.phase, Phase::Counting { origin } if tick.wrapping_sub(origin).cast_signed() < 0);
        u8::from(self.output(tick)) << 7
            | u8::from(self.null_count || before_load) << 6
            | (self.access as u8) << 4
            | (self.mode as u8) << 1
            | u8::from(self.binary_coded_decimal)
    }

    /// The number that a written count means; 0 is the largest there is.
    fn decode(&self, value: u16) -> u32 {
        let number = u32::from(value);
        match self.binary_coded_decimal {
            false if number == 0 => 0x1_0000,
            false => number,
            true if number == 0 => 10_000,
            true => (number >> 12) * 1000 + (number >> 8 & 15) * 100 + (number >> 4 & 15) * 10 + (number & 15),
        }
    }

    fn encode(&self, value: u16) -> u16 {
        if self.binary_coded_decimal {
            (value / 1000 % 10) << 12 | (value / 100 % 10) << 8 | (value / 10 % 10) << 4 | (value % 10)
        } else {
            value
        }
    }
}
