//! The random numbers of a case.

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014): small, without state beyond one word,
/// and good enough that neighbouring cases have nothing in common.
#[derive(Debug, Clone)]
pub struct Random(u64);

/// The odd number that SplitMix64 steps by.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The numbers of one case.
    #[must_use]
    pub const fn new(seed: u64, case: u64) -> Self {
        let mut numbers = Self(seed ^ case.wrapping_mul(0xd1b5_4a32_d192_ed03));
        // The first number of neighbouring cases would be a function of neighbouring words.
        numbers.0 = numbers.next();
        numbers
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub const fn below(&mut self, limit: u64) -> u64 {
        // The bias of the remainder is of no matter for limits this small.
        (self.next() >> 8) % limit
    }

    /// True in `chances` of 100 cases.
    pub const fn percent(&mut self, chances: u64) -> bool {
        self.below(100) < chances
    }

    /// One of `choices`, which are not none.
    pub const fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// One bit among those from `low` to `high`, both included.
    pub const fn bit(&mut self, low: u32, high: u32) -> u64 {
        1 << (low as u64 + self.below((high - low) as u64 + 1))
    }

    /// One of the bits that are 1 in `mask`, or 0 if there is none.
    pub fn bit_of(&mut self, mask: u64) -> u64 {
        let mut rest = mask;
        for _ in 0..self.below(u64::from(mask.count_ones().max(1))) {
            rest &= rest.wrapping_sub(1);
        }
        rest & rest.wrapping_neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_range_and_every_bit_of_a_mask_comes() {
        let mut random = Random::new(1, 2);
        let mut seen = 0;
        for _ in 0..1000 {
            assert!(random.below(7) < 7);
            assert!(random.bit(30, 38).trailing_zeros().abs_diff(34) <= 4);
            seen |= random.bit_of(0x8000_0000_0001_0110);
        }
        assert_eq!(seen, 0x8000_0000_0001_0110);
        assert_eq!(random.bit_of(0), 0);
    }

    #[test]
    fn cases_and_seeds_differ_and_repeat() {
        let first = |seed, case| Random::new(seed, case).next();
        assert_eq!(first(1, 1), first(1, 1));
        assert_ne!(first(1, 1), first(1, 2));
        assert_ne!(first(1, 1), first(2, 1));
    }
}
