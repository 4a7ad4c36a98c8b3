//! A VMCS that lives in an array, for emulation and for tests.
//!
//! It holds every field of the table whether or not some CPU has it, starts with all fields zero, and truncates a write to the
//! width of the field as VMWRITE does. Fields that the table doesn't know read as zero and ignore writes.

use crate::access::VmcsAccess;
use crate::field::{FIELDS, Field, Width};

/// One 64-bit slot for every row of [`FIELDS`], in its order.
#[derive(Clone, PartialEq, Eq)]
pub struct SoftwareVmcs {
    values: [u64; FIELDS.len()],
}

impl SoftwareVmcs {
    /// A VMCS with every field zero.
    #[must_use]
    pub const fn new() -> Self {
        Self { values: [0; FIELDS.len()] }
    }

    /// The value of `field` without the need of a mutable borrow.
    #[must_use]
    #[inline]
    pub fn get(&self, field: Field) -> u64 {
        let Some(value) = field.row().and_then(|row| self.values.get(row)) else { return 0 };
        if field.is_high() { *value >> 32 } else { *value }
    }

    /// The value of the field whose row in the table is `row`; zero if there is no such row.
    #[must_use]
    #[inline(always)]
    pub fn row(&self, row: usize) -> u64 {
        self.values.get(row).copied().unwrap_or(0)
    }

    /// Sets the field whose row in the table is `row` to a value that the caller knows to fit it.
    #[inline(always)]
    pub fn set_row(&mut self, row: usize, value: u64) {
        if let Some(slot) = self.values.get_mut(row) {
            *slot = value;
        }
    }

    /// Sets `field`; says whether the table knows it.
    pub fn set(&mut self, field: Field, value: u64) -> bool {
        let Some(slot) = field.row().and_then(|row| self.values.get_mut(row)) else { return false };
        *slot = match (field.width(), field.is_high()) {
            (Width::Bits64, true) => (*slot & 0xffff_ffff) | (value << 32),
            (width, _) => value & width.mask(),
        };
        true
    }
}

impl Default for SoftwareVmcs {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for SoftwareVmcs {
    /// Only the fields that aren't zero: a full dump of some 200 fields hides what matters.
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let set = FIELDS.iter().zip(&self.values).filter(|(_, value)| **value != 0);
        formatter.debug_map().entries(set.map(|(row, value)| (row.field, value))).finish()
    }
}

impl VmcsAccess for SoftwareVmcs {
    fn read(&mut self, field: Field) -> u64 {
        self.get(field)
    }

    fn write(&mut self, field: Field, value: u64) {
        self.set(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_keeps_as_much_as_its_width() {
        for row in FIELDS {
            let mut vmcs = SoftwareVmcs::new();
            vmcs.write(row.field, u64::MAX);
            assert_eq!(vmcs.read(row.field), row.width.mask(), "{}", row.field);
            let others = FIELDS.iter().filter(|other| other.field != row.field && vmcs.get(other.field) != 0).count();
            assert_eq!(others, 0, "{} shares its slot", row.field);
        }
    }

    #[test]
    fn the_high_half_is_the_upper_32_bits() {
        let mut vmcs = SoftwareVmcs::new();
        vmcs.write(Field::EPT_POINTER, 0x1_2345_601e);
        assert_eq!(vmcs.read(Field::EPT_POINTER.high()), 1);
        vmcs.write(Field::EPT_POINTER.high(), 0xffff_ffff_0000_0002);
        assert_eq!(vmcs.read(Field::EPT_POINTER), 0x2_2345_601e);
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let mut vmcs = SoftwareVmcs::new();
        for encoding in [0x7ffe, 0x0801, 0xffff_ffff, 0x1_0000, 0x8000] {
            assert!(!vmcs.set(Field(encoding), 1), "{encoding:#x}");
            assert_eq!(vmcs.get(Field(encoding)), 0);
        }
        assert_eq!(vmcs, SoftwareVmcs::default());
    }
}
