//! Clocks of fixed frequency, converted to and from nanoseconds without drift or overflow.

use super::bus::{NANOSECONDS_PER_SECOND, Nanoseconds};

/// A clock that starts at tick 0 at time 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frequency {
    hertz: u64,
}

impl Frequency {
    /// A clock with `hertz` ticks a second.
    ///
    /// # Panics
    /// At compile time, as it is used for constants: if the clock stands still or ticks more often than once a
    /// nanosecond.
    #[must_use]
    pub const fn from_hertz(hertz: u32) -> Self {
        assert!(hertz > 0 && hertz as u64 <= NANOSECONDS_PER_SECOND);
        Self { hertz: hertz as u64 }
    }

    /// Ticks that have passed at `now`.
    #[must_use]
    pub const fn ticks_at(self, now: Nanoseconds) -> u64 {
        // Neither product exceeds `now` or 10^18.
        let (seconds, rest) = (now / NANOSECONDS_PER_SECOND, now % NANOSECONDS_PER_SECOND);
        seconds * self.hertz + rest * self.hertz / NANOSECONDS_PER_SECOND
    }

    /// The first nanosecond at which `tick` ticks have passed, if time goes that far (584 years).
    #[must_use]
    pub const fn time_of(self, tick: u64) -> Option<Nanoseconds> {
        let (seconds, rest) = (tick / self.hertz, tick % self.hertz);
        let part = (rest * NANOSECONDS_PER_SECOND).div_ceil(self.hertz);
        match seconds.checked_mul(NANOSECONDS_PER_SECOND) {
            Some(whole) => whole.checked_add(part),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMER: Frequency = Frequency::from_hertz(1_193_182);

    #[test]
    fn a_century_does_not_drift() {
        let seconds = 100 * 365 * 86_400;
        assert_eq!(TIMER.ticks_at(seconds * NANOSECONDS_PER_SECOND), seconds * 1_193_182);
        assert_eq!(TIMER.time_of(seconds * 1_193_182), Some(seconds * NANOSECONDS_PER_SECOND));
    }

    proptest! {
        #[test]
        fn time_of_is_the_first_nanosecond_of_its_tick(tick in 0..u64::MAX / 1000) {
            let time = TIMER.time_of(tick).expect("less than 584 years");
            prop_assert_eq!(TIMER.ticks_at(time), tick);
            prop_assert!(time == 0 || TIMER.ticks_at(time - 1) == tick - 1);
        }

        #[test]
        fn no_time_overflows(now: u64, tick: u64) {
            prop_assert!(TIMER.ticks_at(now) <= now);
            prop_assert!(TIMER.time_of(tick).is_none_or(|time| time >= tick));
        }
    }
}
