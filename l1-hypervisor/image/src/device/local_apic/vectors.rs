//! A set of interrupt vectors: ISR, TMR and IRR, 256 bits in eight registers of 32 (SDM 3A 11.8.4 "Interrupt Acceptance
//! for Fixed Interrupts").

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    /// The register with this number, 0 to 7.
    pub(super) const fn register(&self, number: usize) -> u32 {
        self.0[number & 7]
    }

    pub(super) const fn contains(&self, vector: u8) -> bool {
        self.0[vector as usize / 32] >> (vector % 32) & 1 != 0
    }

    pub(super) const fn insert(&mut self, vector: u8) {
        self.0[vector as usize / 32] |= 1 << (vector % 32);
    }

    pub(super) const fn remove(&mut self, vector: u8) {
        self.0[vector as usize / 32] &= !(1 << (vector % 32));
    }

    pub(super) const fn set(&mut self, vector: u8, is_in: bool) {
        if is_in { self.insert(vector) } else { self.remove(vector) }
    }

    /// The vector with the highest priority.
    pub(super) fn highest(&self) -> Option<u8> {
        let (number, bits) = self.0.iter().enumerate().rev().find(|(_, bits)| **bits != 0)?;
        Some((number as u32 * 32 + bits.ilog2()) as u8)
    }
}
