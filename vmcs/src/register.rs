//! General-purpose and segment registers, numbered as exit qualifications and instruction information number them.

use core::fmt;

/// A general-purpose register, 0 to 15.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GeneralRegister(u8);

#[allow(missing_docs, reason = "the names are the registers'")]
impl GeneralRegister {
    pub const RAX: GeneralRegister = GeneralRegister(0);
    pub const RCX: GeneralRegister = GeneralRegister(1);
    pub const RDX: GeneralRegister = GeneralRegister(2);
    pub const RBX: GeneralRegister = GeneralRegister(3);
    pub const RSP: GeneralRegister = GeneralRegister(4);
    pub const RBP: GeneralRegister = GeneralRegister(5);
    pub const RSI: GeneralRegister = GeneralRegister(6);
    pub const RDI: GeneralRegister = GeneralRegister(7);
}

const GENERAL: [&str; 16] =
    ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

impl GeneralRegister {
    /// The register with this number, of which the low four bits count.
    #[must_use]
    pub const fn new(number: u8) -> Self {
        Self(number & 15)
    }

    /// The register that bits `lowest + 3:lowest` of `value` name.
    pub(crate) const fn at(value: u64, lowest: u32) -> Self {
        Self((value >> lowest) as u8 & 15)
    }

    /// The number, 0 to 15.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The name of the 64-bit register.
    #[must_use]
    pub const fn name(self) -> &'static str {
        GENERAL[self.0 as usize & 15]
    }
}

impl fmt::Display for GeneralRegister {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl fmt::Debug for GeneralRegister {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A segment register of an operand. Open: 6 and 7 are reserved.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentRegister(u8);

#[allow(missing_docs, reason = "the names are the registers'")]
impl SegmentRegister {
    pub const ES: SegmentRegister = SegmentRegister(0);
    pub const CS: SegmentRegister = SegmentRegister(1);
    pub const SS: SegmentRegister = SegmentRegister(2);
    pub const DS: SegmentRegister = SegmentRegister(3);
    pub const FS: SegmentRegister = SegmentRegister(4);
    pub const GS: SegmentRegister = SegmentRegister(5);
}

impl SegmentRegister {
    /// The register with this number, of which the low three bits count.
    #[must_use]
    pub const fn new(number: u8) -> Self {
        Self(number & 7)
    }

    /// The number, 0 to 7.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for SegmentRegister {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ["ES", "CS", "SS", "DS", "FS", "GS"].get(usize::from(self.0)) {
            Some(name) => formatter.pad(name),
            None => write!(formatter, "RESERVED({})", self.0),
        }
    }
}

impl fmt::Debug for SegmentRegister {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
