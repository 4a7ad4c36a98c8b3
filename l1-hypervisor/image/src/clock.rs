//! Time for the guest: nanoseconds since its start, from the time-stamp counter.

/// Converts between ticks of the time-stamp counter and nanoseconds, both since the start of the guest.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: u64,
    frequency: u64,
    /// Nanoseconds a tick, as a fixed-point number with 32 fractional bits.
    nanoseconds_per_tick: u64,
}

impl Clock {
    /// A clock that shows 0 when the counter shows `start`. `frequency` is in ticks a second, at least 1,000,000.
    #[must_use]
    pub fn new(start: u64, frequency: u64) -> Self {
        let nanoseconds_per_tick = (u128::from(1_000_000_000_u64) << 32) / u128::from(frequency);
        Self { start, frequency, nanoseconds_per_tick: nanoseconds_per_tick as u64 }
    }

    /// The counter's value when the guest started.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Ticks a second.
    #[must_use]
    pub const fn frequency(&self) -> u64 {
        self.frequency
    }

    /// Nanoseconds since the start when the counter shows `counter`.
    #[must_use]
    pub fn nanoseconds(&self, counter: u64) -> u64 {
        let ticks = u128::from(counter.wrapping_sub(self.start));
        ((ticks * u128::from(self.nanoseconds_per_tick)) >> 32) as u64
    }

    /// The counter's first value at which [`Self::nanoseconds`] is at least `nanoseconds`.
    #[must_use]
    pub fn counter_at(&self, nanoseconds: u64) -> u64 {
        let ticks = ((u128::from(nanoseconds) << 32).div_ceil(u128::from(self.nanoseconds_per_tick))) as u64;
        self.start.saturating_add(ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_agree() {
        for frequency in [1_000_000, 100_000_000, 2_893_000_000] {
            let clock = Clock::new(12345, frequency);
            assert_eq!(clock.nanoseconds(12345), 0);
            for nanoseconds in [1, 999, 1_000_000_007, 86_400_000_000_000] {
                let counter = clock.counter_at(nanoseconds);
                assert!(clock.nanoseconds(counter) >= nanoseconds);
                assert!(clock.nanoseconds(counter - 1) < nanoseconds, "{frequency} {nanoseconds}");
            }
        }
    }

    #[test]
    fn a_second_is_a_second() {
        let clock = Clock::new(0, 100_000_000);
        assert_eq!(clock.nanoseconds(100_000_000), 1_000_000_000);
    }
}
