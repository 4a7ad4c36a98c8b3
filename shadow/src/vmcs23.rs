//! vmcs23 as L1 keeps it: the canonical copy of what a guest hypervisor has written.
//!
//! What always holds: the copy is L1's own memory; the page in the guest is read once, when the VMCS becomes active, and
//! written once, when it is given up. A value fits the width of its field. Every change since the last merge is noted.
//!
//! The layout of the page is L1's to define; only its first eight bytes are architectural (SDM 3C 24.2 "Format of the
//! VMCS Region").

use vmcs::access::VmcsAccess;
use vmcs::field::{FIELDS, Field};
use vmcs::software::SoftwareVmcs;

use crate::field_set::FieldSet;

/// Bytes of a VMCS region.
pub const REGION_SIZE: usize = 4096;
/// Bit 31 of the first doubleword: the VMCS is a shadow VMCS.
pub const SHADOW_INDICATOR: u32 = 1 << 31;

const ABORT_INDICATOR: usize = 4;
/// Where the launch state lies: 0 clear, everything else launched.
pub const LAUNCH_STATE: usize = 8;
const VALUES: usize = 64;

const _: () = assert!(VALUES + 8 * FIELDS.len() <= REGION_SIZE, "the fields do not fit the region");

/// The canonical copy of one VMCS of a guest hypervisor.
#[derive(Debug, Clone)]
pub struct Vmcs23 {
    fields: SoftwareVmcs,
    /// Whether VMLAUNCH has succeeded since the last VMCLEAR.
    pub launched: bool,
    /// Whether this is a shadow VMCS.
    pub is_shadow: bool,
    /// Fields that have changed since they were last merged into vmcs13.
    pub changed: FieldSet,
    /// Fields that have changed since the last entry check that found nothing.
    pub unchecked: FieldSet,
    /// Fields that have changed since they were last copied to the shadow VMCS.
    pub unsent: FieldSet,
    /// Whether L3 may have changed a register that is loaded at VM entry and not saved at VM exit.
    pub registers_touched: bool,
    /// Guest-state fields whose newest value is in vmcs13 and has not been asked for yet.
    pub in_vmcs13: FieldSet,
}

impl Vmcs23 {
    /// A VMCS with every field zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            fields: SoftwareVmcs::new(),
            launched: false,
            is_shadow: false,
            changed: FieldSet::ALL,
            unchecked: FieldSet::ALL,
            unsent: FieldSet::ALL,
            registers_touched: true,
            in_vmcs13: FieldSet::EMPTY,
        }
    }

    /// Takes over what stands in a VMCS region. Any content is accepted: values are cut to the width of their field.
    pub fn load(&mut self, region: &[u8; REGION_SIZE]) {
        for (row, bytes) in FIELDS.iter().zip(region[VALUES..].as_chunks().0) {
            self.fields.set(row.field, u64::from_le_bytes(*bytes));
        }
        self.is_shadow = word(region, 0) & SHADOW_INDICATOR != 0;
        self.launched = word(region, LAUNCH_STATE) != 0;
        self.changed = FieldSet::ALL;
        self.unchecked = FieldSet::ALL;
        self.unsent = FieldSet::ALL;
        self.registers_touched = true;
        self.in_vmcs13 = FieldSet::EMPTY;
    }

    /// What follows the revision identifier and the abort indicator in the region, for writing it back: offset and bytes.
    pub fn store(&self, region: &mut [u8; REGION_SIZE]) -> usize {
        region[LAUNCH_STATE..LAUNCH_STATE + 4].copy_from_slice(&u32::from(self.launched).to_le_bytes());
        for (row, bytes) in FIELDS.iter().zip(region[VALUES..].as_chunks_mut::<8>().0) {
            *bytes = self.fields.get(row.field).to_le_bytes();
        }
        LAUNCH_STATE
    }

    /// The value of a field.
    #[must_use]
    #[inline(always)]
    pub fn get(&self, field: Field) -> u64 {
        self.fields.get(field)
    }

    /// A 32-bit field, as controls are.
    #[must_use]
    #[inline(always)]
    pub fn get_u32(&self, field: Field) -> u32 {
        self.fields.get(field) as u32
    }

    /// VMWRITE of the guest hypervisor, or a change that came through its shadow VMCS: the field is merged and checked
    /// again. Unknown fields are ignored.
    #[inline]
    pub fn write(&mut self, field: Field, value: u64) {
        let Some(row) = field.row() else { return };
        let old = self.fields.row(row);
        self.fields.set(field, value);
        if old != self.fields.row(row) || self.in_vmcs13.contains_row(row) {
            self.changed.insert_row(row);
            self.unchecked.insert_row(row);
            self.unsent.insert_row(row);
            self.in_vmcs13.remove_row(row);
        }
    }

    /// The value of the field with this row of the table.
    #[must_use]
    #[inline(always)]
    pub fn row(&self, row: usize) -> u64 {
        self.fields.row(row)
    }

    /// A change that came through the shadow VMCS: like [`Self::write`] of a value that is known to fit the field.
    #[inline(always)]
    pub(crate) fn write_row(&mut self, row: usize, value: u64) {
        self.fields.set_row(row, value);
        self.changed.insert_row(row);
        self.unchecked.insert_row(row);
        self.in_vmcs13.remove_row(row);
    }

    /// What a VM exit leaves in a field: vmcs13 has the same value, or the field does not go there.
    #[inline(always)]
    pub fn record(&mut self, field: Field, value: u64) {
        if let Some(row) = field.row()
            && self.fields.row(row) != value
        {
            self.fields.set(field, value);
            self.unsent.insert_row(row);
        }
    }

    /// Offset in the region and size of a field's value, for a shadow VMCS that stays in the guest's memory.
    #[must_use]
    pub fn offset(field: Field) -> Option<usize> {
        field.row().map(|row| VALUES + 8 * row)
    }

    /// The abort indicator's place in the region (SDM 3C 27.7 "VMX Aborts").
    #[must_use]
    pub const fn abort_indicator_offset() -> usize {
        ABORT_INDICATOR
    }
}

fn word(region: &[u8; REGION_SIZE], offset: usize) -> u32 {
    region[offset..offset + 4].try_into().map_or(0, u32::from_le_bytes)
}

impl Default for Vmcs23 {
    fn default() -> Self {
        Self::new()
    }
}

/// Reading it as a VMCS, for the entry checks.
impl VmcsAccess for Vmcs23 {
    #[inline(always)]
    fn read(&mut self, field: Field) -> u64 {
        self.get(field)
    }

    fn write(&mut self, field: Field, value: u64) {
        Vmcs23::write(self, field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_region_can_be_loaded_and_comes_back() {
        let mut region = [0xa5; REGION_SIZE];
        let mut vmcs = Vmcs23::new();
        vmcs.load(&region);
        assert!(vmcs.launched && vmcs.is_shadow);
        assert_eq!(vmcs.get(Field::GUEST_ES_SELECTOR), 0xa5a5, "cut to 16 bits");
        vmcs.write(Field::GUEST_RIP, 0x1234);
        let from = vmcs.store(&mut region);
        assert_eq!(from, 8, "the architectural bytes are not ours to write");
        let mut again = Vmcs23::new();
        again.load(&region);
        for row in FIELDS {
            assert_eq!(again.get(row.field), vmcs.get(row.field), "{}", row.field);
        }
        assert!(again.launched);
    }

    #[test]
    fn only_changes_are_noted() {
        let mut vmcs = Vmcs23::new();
        (vmcs.changed, vmcs.unchecked) = (FieldSet::EMPTY, FieldSet::EMPTY);
        vmcs.write(Field::GUEST_RIP, 0);
        assert!(vmcs.changed.is_empty(), "the value is the same");
        vmcs.write(Field::TSC_OFFSET.high(), 1);
        assert_eq!(vmcs.changed, FieldSet::of(&[Field::TSC_OFFSET]));
        vmcs.in_vmcs13.insert(Field::GUEST_ES_BASE);
        vmcs.write(Field::GUEST_ES_BASE, 0);
        assert!(vmcs.changed.contains(Field::GUEST_ES_BASE), "vmcs13 may hold something else");
    }
}
