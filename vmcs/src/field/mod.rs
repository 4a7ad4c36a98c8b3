//! The fields of a VMCS: what they are called, how wide they are, and on which CPU they exist.
//!
//! A [`Field`] is an encoding as VMREAD and VMWRITE take it, known or not. What is known about it stands in one table,
//! [`FIELDS`], from which names, bitmaps, copy lists and dumps are derived. Looking a field up takes constant time.
//!
//! Source: SDM 3C 24.11.2 "VMREAD, VMWRITE, and Encodings of VMCS Fields", SDM 3D appendix B "Field Encoding in VMCS".

mod existence;
mod table;

use core::fmt;

pub use existence::Existence;
pub use table::FIELDS;

/// The encoding of a VMCS field.
///
/// Bit 0 is the access type (1: upper half of a 64-bit field), bits 9:1 the index, bits 11:10 the [`Kind`], bits 14:13 the
/// [`Width`]. Bit 12 and bits 31:15 are reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Field(pub u32);

/// How wide a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Width {
    /// 16 bits.
    Bits16,
    /// 64 bits on every processor; the upper half has an encoding of its own.
    Bits64,
    /// 32 bits.
    Bits32,
    /// 64 bits on processors with Intel 64, 32 bits on others.
    Natural,
}

impl Width {
    /// The bits a field of this width holds on a processor with Intel 64.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            Width::Bits16 => 0xffff,
            Width::Bits32 => 0xffff_ffff,
            Width::Bits64 | Width::Natural => u64::MAX,
        }
    }
}

/// Which area of the VMCS a field belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// VM-execution, VM-exit or VM-entry control.
    Control,
    /// VM-exit information, written by the processor.
    ReadOnly,
    /// Guest state.
    Guest,
    /// Host state.
    Host,
}

/// Whose addresses a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressSpace {
    /// A physical address of the processor that runs this VMCS. Nested: what a guest hypervisor writes here has to be translated.
    Physical,
    /// An address that EPT translates when it is enabled.
    GuestPhysical,
}

/// A field that holds an address of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// Whose address it is.
    pub space: AddressSpace,
    /// The alignment of the address in bytes, a power of two.
    pub alignment: u64,
    /// Whether the bits below the alignment mean something of their own (as in an EPT pointer or CR3). If not, they must be zero.
    pub low_bits_are_flags: bool,
}

/// One row of [`FIELDS`]. It stands for both halves of a 64-bit field.
#[derive(Debug, Clone, Copy)]
pub struct FieldInformation {
    /// The encoding; the one for full access where the field has two.
    pub field: Field,
    /// Name of the constant in [`Field`].
    pub name: &'static str,
    /// Name of the constant with `_HIGH` appended, which is what the upper half is called.
    pub high_name: &'static str,
    /// Name as the SDM prints it in appendix B.
    pub title: &'static str,
    /// Width, as the encoding says.
    pub width: Width,
    /// Area, as the encoding says.
    pub kind: Kind,
    /// On which processors the field exists.
    pub existence: Existence,
    /// The address it holds, if it holds one.
    pub address: Option<Address>,
}

/// Bit 0, "access type".
const HIGH: u32 = 1;
/// Bits that are reserved in an encoding: 12 and 31:15.
const RESERVED: u32 = 0xffff_9000;
/// Indices below this have a slot in [`ROWS`]. The largest in use is 0x29, and `rows` does not compile if a row goes beyond it.
const INDICES: usize = 64;

/// Bits that no encoding in the table has: the reserved ones and those of an index beyond [`ROWS`].
const NEVER: u32 = RESERVED | (0x3ff & !(2 * INDICES as u32 - 1));

/// For (width, kind, index) the row of [`FIELDS`] plus one, or zero.
static ROWS: [u8; 16 * INDICES] = rows();

const fn rows() -> [u8; 16 * INDICES] {
    let mut rows = [0; 16 * INDICES];
    let mut row = 0;
    while row < FIELDS.len() {
        let slot = FIELDS[row].field.slot();
        assert!(rows[slot] == 0, "one encoding has two rows");
        assert!(row < 255, "a row number no longer fits a byte");
        rows[slot] = row as u8 + 1;
        row += 1;
    }
    rows
}

impl Field {
    /// Width of the field, as bits 14:13 say.
    #[must_use]
    pub const fn width(self) -> Width {
        match (self.0 >> 13) & 3 {
            0 => Width::Bits16,
            1 => Width::Bits64,
            2 => Width::Bits32,
            _ => Width::Natural,
        }
    }

    /// Area of the field, as bits 11:10 say.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match (self.0 >> 10) & 3 {
            0 => Kind::Control,
            1 => Kind::ReadOnly,
            2 => Kind::Guest,
            _ => Kind::Host,
        }
    }

    /// Index among the fields of the same width and kind, bits 9:1.
    #[must_use]
    pub const fn index(self) -> u32 {
        (self.0 >> 1) & 0x1ff
    }

    /// Whether this is the encoding for the upper half of a 64-bit field. On a field that isn't 64 bits wide such an encoding
    /// is invalid.
    #[must_use]
    pub const fn is_high(self) -> bool {
        self.0 & HIGH != 0
    }

    /// The encoding for the upper half of a 64-bit field.
    #[must_use]
    pub const fn high(self) -> Self {
        Self(self.0 | HIGH)
    }

    /// The encoding for full access.
    #[must_use]
    pub const fn full(self) -> Self {
        Self(self.0 & !HIGH)
    }

    /// The slot in [`ROWS`] that belongs to a valid encoding; always within bounds.
    #[inline(always)]
    const fn slot(self) -> usize {
        let group = ((self.0 >> 13) & 3) << 2 | ((self.0 >> 10) & 3);
        group as usize * INDICES + self.index() as usize % INDICES
    }

    /// A number below [`Self::SLOTS`] for an encoding that the table may have: no two fields share one, both halves of a field
    /// do. For tables of one's own that are looked up fast.
    #[must_use]
    #[inline(always)]
    pub const fn table_slot(self) -> Option<usize> {
        if self.0 & NEVER == 0 { Some(self.slot()) } else { None }
    }

    /// How many slots there are.
    pub const SLOTS: usize = 16 * INDICES;

    /// The number of this field's row in [`FIELDS`]; the upper half of a field has the row of the field.
    #[must_use]
    #[inline]
    pub const fn row(self) -> Option<usize> {
        let has_halves = matches!(self.width(), Width::Bits64);
        if self.0 & NEVER != 0 || (self.is_high() && !has_halves) {
            return None;
        }
        match ROWS[self.slot()] {
            0 => None,
            row => Some(row as usize - 1),
        }
    }

    /// What the SDM says about the field; the upper half of a field has the row of the field.
    #[must_use]
    pub fn information(self) -> Option<&'static FieldInformation> {
        FIELDS.get(self.row()?)
    }

    /// The name of the constant, or with `_HIGH` appended for an upper half.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let information = self.information()?;
        Some(if self.is_high() { information.high_name } else { information.name })
    }

    /// The field that is called `name`, with or without `_HIGH`. Takes time proportional to the table.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        FIELDS.iter().find_map(|row| match name {
            _ if name == row.name => Some(row.field),
            _ if name == row.high_name && row.width == Width::Bits64 => Some(row.field.high()),
            _ => None,
        })
    }
}

impl fmt::Display for Field {
    /// The name, or the encoding as hexadecimal number.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.pad(name),
            None => write!(formatter, "{:#06x}", self.0),
        }
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests;
