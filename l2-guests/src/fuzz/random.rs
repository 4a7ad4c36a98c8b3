//! Pseudo-random numbers: SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).

/// A sequence that its start decides.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of program `index` of `seed`.
    #[must_use]
    pub fn new(seed: u64, index: u64) -> Self {
        let mut first = Self(seed);
        let start = first.bits();
        let mut second = Self(start ^ index);
        Self(second.bits())
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// Whether something that happens `percent` times in 100 happens.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of a list that is not empty.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        let index = self.below(list.len() as u64);
        list[index as usize]
    }

    /// One bit from `first` to `last`.
    pub fn bit(&mut self, first: u64, last: u64) -> u64 {
        1 << (first + self.below(last - first + 1))
    }

    /// One of the bits that are set in `mask`, which is not 0.
    pub fn bit_of(&mut self, mask: u64) -> u64 {
        let mut rest = mask;
        for _ in 0..self.below(mask.count_ones().into()) {
            rest &= rest - 1;
        }
        rest & rest.wrapping_neg()
    }
}
