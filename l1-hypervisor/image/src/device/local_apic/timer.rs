//! The APIC timer (SDM 3A 11.5.4 "APIC Timer").
//!
//! Counts are worked out when somebody looks. The counter is described by when it next reaches zero, as nothing else
//! is left of the past once the divisor has changed.

use super::local_vector_table::TimerMode;
use crate::device::bus::Nanoseconds;

/// See the module. A tick of the undivided clock is a nanosecond.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timer {
    initial_count: u32,
    divide_configuration: u32,
    /// When it next expires. `None`: it is stopped, or that is beyond the lifetime of the machine.
    expiry: Option<Nanoseconds>,
    tsc_deadline: u64,
}

impl Timer {
    pub(super) const fn initial_count(&self) -> u32 {
        self.initial_count
    }

    pub(super) const fn divide_configuration(&self) -> u32 {
        self.divide_configuration
    }

    pub(super) const fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    pub(super) const fn expiry(&self) -> Option<Nanoseconds> {
        self.expiry
    }

    /// 1 to 128, by bits 3, 1 and 0 (SDM 3A figure 11-10 "Divide Configuration Register").
    const fn divisor(&self) -> u64 {
        let number = self.divide_configuration & 3 | self.divide_configuration >> 1 & 4;
        1 << ((number + 1) & 7)
    }

    fn ticks(&self, count: u32) -> Nanoseconds {
        u64::from(count) * self.divisor()
    }

    /// Starts to count, or stops with a count of 0. Ignored in TSC-deadline mode.
    pub(super) fn set_initial_count(&mut self, mode: TimerMode, count: u32, now: Nanoseconds) {
        if mode != TimerMode::TscDeadline {
            self.initial_count = count;
            self.expiry = if count == 0 { None } else { now.checked_add(self.ticks(count)) };
        }
    }

    /// Reads 0 in TSC-deadline mode and when a one-shot timer has expired.
    pub(super) fn current_count(&self, mode: TimerMode, now: Nanoseconds) -> u32 {
        match self.expiry {
            Some(expiry) if mode != TimerMode::TscDeadline => expiry.saturating_sub(now).div_ceil(self.divisor()) as u32,
            _ => 0,
        }
    }

    /// The count goes on from where it is, at the new speed.
    pub(super) fn set_divide_configuration(&mut self, mode: TimerMode, value: u32, now: Nanoseconds) {
        let count = self.current_count(mode, now);
        self.divide_configuration = value;
        if mode != TimerMode::TscDeadline && self.expiry.is_some() {
            self.expiry = now.checked_add(self.ticks(count));
        }
    }

    /// Changes to and from TSC-deadline mode disarm the timer (SDM 3A 11.5.4.1 "TSC-Deadline Mode").
    pub(super) fn change_mode(&mut self, old: TimerMode, new: TimerMode) {
        if old != new && (old == TimerMode::TscDeadline || new == TimerMode::TscDeadline) {
            *self = Self { divide_configuration: self.divide_configuration, ..Self::default() };
        }
    }

    /// See `LocalApic::set_tsc_deadline`.
    pub(super) fn set_tsc_deadline(&mut self, mode: TimerMode, deadline: u64, at: Option<Nanoseconds>) {
        if mode == TimerMode::TscDeadline {
            self.tsc_deadline = deadline;
            self.expiry = if deadline == 0 { None } else { at };
        }
    }

    /// Lets time pass; whether the timer expired since the last call. Several expiries are one, as they would be in the
    /// interrupt request register.
    pub(super) fn expire(&mut self, mode: TimerMode, now: Nanoseconds) -> bool {
        let Some(expiry) = self.expiry.filter(|expiry| *expiry <= now) else {
            return false;
        };
        self.tsc_deadline = 0;
        self.expiry = match mode {
            TimerMode::Periodic if self.initial_count != 0 => {
                let period = self.ticks(self.initial_count);
                let missed = (now - expiry) / period;
                missed.checked_add(1).and_then(|periods| periods.checked_mul(period)).and_then(|more| expiry.checked_add(more))
            }
            _ => None,
        };
        true
    }
}
