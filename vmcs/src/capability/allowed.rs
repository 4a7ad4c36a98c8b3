//! Which bits of a control word must be 1, which may be 1, and how a wish is fitted to that.

/// The allowed-0 and allowed-1 settings of a control word, or the fixed bits of CR0 or CR4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedSettings {
    /// Bits that must be 1 (the allowed-0 settings: a 0 here allows a 0 there).
    pub required: u64,
    /// Bits that may be 1 (the allowed-1 settings).
    pub allowed: u64,
}

/// What became of a wished-for control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adjusted {
    /// The word that the processor accepts and that is nearest to the wish.
    pub value: u64,
    /// Bits that were wished for and may not be 1.
    pub missing: u64,
    /// Bits that were not wished for and must be 1.
    pub forced: u64,
}

impl AllowedSettings {
    /// Whether all of `bits` may be 1.
    #[must_use]
    pub const fn may_be_one(self, bits: u64) -> bool {
        bits & !self.allowed == 0
    }

    /// Whether the processor accepts `value`: every required bit is 1 and every other 1 is allowed.
    #[must_use]
    pub const fn accepts(self, value: u64) -> bool {
        self.broken(value) == 0
    }

    /// The bits of `value` that the processor does not accept: required ones that are 0 and forbidden ones that are 1.
    #[must_use]
    pub const fn broken(self, value: u64) -> u64 {
        (self.required & !value) | (value & !self.allowed)
    }

    /// Fits `wanted` to what is allowed, SDM 3D A.2 "Reserved Controls and Default Settings". A bit that the MSR says must be 1
    /// wins over one that says it may not be, so that hostile capabilities give some value and not a panic.
    #[must_use]
    pub const fn adjust(self, wanted: u64) -> Adjusted {
        Adjusted {
            value: (wanted & self.allowed) | self.required,
            missing: wanted & !self.allowed & !self.required,
            forced: self.required & !wanted,
        }
    }
}
