//! A set of VMCS fields, one bit a row of the field table.
//!
//! What always holds: both halves of a 64-bit field are one member, and a field that the table does not know is never one.

use core::fmt;

use vmcs::capability::Capabilities;
use vmcs::field::{FIELDS, Field};

const WORDS: usize = FIELDS.len().div_ceil(64);

/// A set of fields. Iterates in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct FieldSet([u64; WORDS]);

impl FieldSet {
    /// No field.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// Every field of the table.
    pub const ALL: Self = {
        let mut words = [0; WORDS];
        let mut row = 0;
        while row < FIELDS.len() {
            words[row / 64] |= 1 << (row % 64);
            row += 1;
        }
        Self(words)
    };

    /// These fields.
    ///
    /// # Panics
    /// If the table does not know one of them, which in a constant does not compile.
    #[must_use]
    pub const fn of(fields: &[Field]) -> Self {
        let mut set = Self::EMPTY;
        let mut number = 0;
        while number < fields.len() {
            let mut row = 0;
            while FIELDS[row].field.0 != fields[number].0 {
                row += 1;
            }
            set.0[row / 64] |= 1 << (row % 64);
            number += 1;
        }
        set
    }

    /// The fields that a processor with these capabilities has.
    #[must_use]
    pub fn existing(capabilities: &Capabilities) -> Self {
        let mut set = Self::EMPTY;
        for row in FIELDS.iter().filter(|row| row.existence.holds(capabilities)) {
            set.insert(row.field);
        }
        set
    }

    /// Adds the field.
    #[inline]
    pub fn insert(&mut self, field: Field) {
        if let Some(row) = field.row() {
            self.insert_row(row);
        }
    }

    /// Whether the field with this row of the table is in the set.
    #[must_use]
    #[inline(always)]
    pub fn contains_row(&self, row: usize) -> bool {
        self.0.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 != 0)
    }

    #[inline(always)]
    pub(crate) fn insert_row(&mut self, row: usize) {
        if let Some(word) = self.0.get_mut(row / 64) {
            *word |= 1 << (row % 64);
        }
    }

    /// Takes the field out.
    #[inline]
    pub fn remove(&mut self, field: Field) {
        if let Some(row) = field.row() {
            self.remove_row(row);
        }
    }

    #[inline(always)]
    pub(crate) fn remove_row(&mut self, row: usize) {
        if let Some(word) = self.0.get_mut(row / 64) {
            *word &= !(1 << (row % 64));
        }
    }

    /// Whether the field is in the set.
    #[must_use]
    #[inline]
    pub fn contains(&self, field: Field) -> bool {
        field.row().is_some_and(|row| self.0.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 != 0))
    }

    /// Whether no field is in the set.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether the two sets have a field in common.
    #[must_use]
    #[inline]
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    /// The fields that are in both.
    #[must_use]
    #[inline]
    pub const fn intersection(&self, other: &Self) -> Self {
        let mut words = self.0;
        let mut number = 0;
        while number < WORDS {
            words[number] &= other.0[number];
            number += 1;
        }
        Self(words)
    }

    /// The fields that are in one or the other.
    #[must_use]
    #[inline]
    pub const fn union(&self, other: &Self) -> Self {
        let mut words = self.0;
        let mut number = 0;
        while number < WORDS {
            words[number] |= other.0[number];
            number += 1;
        }
        Self(words)
    }

    /// The fields that are in this set and not in the other.
    #[must_use]
    #[inline]
    pub const fn difference(&self, other: &Self) -> Self {
        let mut words = self.0;
        let mut number = 0;
        while number < WORDS {
            words[number] &= !other.0[number];
            number += 1;
        }
        Self(words)
    }

    /// How many fields are in the set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Calls `visit` with the row of each field, in the order of the table: a loop that the exit path can afford.
    #[inline(always)]
    pub fn for_each_row(&self, mut visit: impl FnMut(usize)) {
        for (number, word) in self.0.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                visit(number * 64 + rest.trailing_zeros() as usize);
                rest &= rest - 1;
            }
        }
    }

    /// The fields, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = Field> + use<> {
        self.rows().map(|row| FIELDS[row].field)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let words = self.0;
        (0..WORDS).flat_map(move |number| {
            let mut rest = words[number];
            core::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    number * 64 + bit
                })
            })
        })
    }
}

impl fmt::Debug for FieldSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: FieldSet = FieldSet::of(&[Field::GUEST_RIP, Field::EPT_POINTER]);

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = TWO;
        assert!(set.contains(Field::GUEST_RIP) && set.contains(Field::EPT_POINTER.high()) && !set.contains(Field::GUEST_RSP));
        assert_eq!(set.iter().collect::<std::vec::Vec<_>>(), [Field::EPT_POINTER, Field::GUEST_RIP]);
        set.insert(Field(0x7ffe));
        set.remove(Field::GUEST_RIP);
        assert_eq!((set.len(), set.is_empty()), (1, false));
        assert!(set.intersects(&TWO) && !set.difference(&TWO).intersects(&TWO));
        assert_eq!(FieldSet::ALL.iter().count(), FIELDS.len());
        assert_eq!(FieldSet::ALL.difference(&TWO).union(&TWO), FieldSet::ALL);
    }
}
