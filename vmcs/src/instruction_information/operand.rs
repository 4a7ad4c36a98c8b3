//! Memory and register operands.

use core::fmt;

use crate::register::{GeneralRegister, SegmentRegister};

/// Size of an effective address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSize {
    /// 16 bits.
    Bits16,
    /// 32 bits.
    Bits32,
    /// 64 bits; also what a reserved encoding is taken for, so that no address bit is lost.
    Bits64,
}

impl AddressSize {
    pub(super) const fn new(encoding: u32) -> Self {
        match encoding {
            0 => AddressSize::Bits16,
            1 => AddressSize::Bits32,
            _ => AddressSize::Bits64,
        }
    }

    /// The bits that an address of this size has.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            AddressSize::Bits16 => 0xffff,
            AddressSize::Bits32 => 0xffff_ffff,
            AddressSize::Bits64 => u64::MAX,
        }
    }
}

impl fmt::Display for AddressSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            AddressSize::Bits16 => "16-bit address",
            AddressSize::Bits32 => "32-bit address",
            AddressSize::Bits64 => "64-bit address",
        })
    }
}

/// Size of an operand. The one-bit encoding of descriptor-table instructions is a subset of the two-bit one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperandSize {
    /// 16 bits.
    Bits16,
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
    /// The reserved encoding.
    Reserved,
}

impl OperandSize {
    pub(super) const fn new(encoding: u32) -> Self {
        match encoding {
            0 => OperandSize::Bits16,
            1 => OperandSize::Bits32,
            2 => OperandSize::Bits64,
            _ => OperandSize::Reserved,
        }
    }
}

impl fmt::Display for OperandSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            OperandSize::Bits16 => "16-bit",
            OperandSize::Bits32 => "32-bit",
            OperandSize::Bits64 => "64-bit",
            OperandSize::Reserved => "reserved size",
        })
    }
}

/// A memory operand without its displacement, which is the exit qualification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOperand {
    /// The segment, overrides taken into account.
    pub segment: SegmentRegister,
    /// The base register. `None` also for RIP-relative addresses: there the displacement already includes RIP.
    pub base: Option<GeneralRegister>,
    /// The index register.
    pub index: Option<GeneralRegister>,
    /// What the index is multiplied by: 1, 2, 4 or 8.
    pub scale: u8,
    /// Size of the address.
    pub address_size: AddressSize,
}

impl MemoryOperand {
    /// The effective address: displacement plus base plus scaled index, cut to the address size. The segment's base address is not
    /// added and nothing is checked.
    pub fn effective_address(&self, displacement: u64, mut register: impl FnMut(GeneralRegister) -> u64) -> u64 {
        let base = self.base.map_or(0, &mut register);
        let index = self.index.map_or(0, &mut register);
        displacement.wrapping_add(base).wrapping_add(index.wrapping_mul(self.scale.into())) & self.address_size.mask()
    }
}

impl fmt::Display for MemoryOperand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:[displacement", self.segment)?;
        if let Some(base) = self.base {
            write!(formatter, " + {base}")?;
        }
        if let Some(index) = self.index {
            write!(formatter, " + {index} * {}", self.scale)?;
        }
        formatter.write_str("]")
    }
}

/// An operand that is a register or in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterOrMemory {
    /// In a register.
    Register(GeneralRegister),
    /// In memory.
    Memory(MemoryOperand),
}

impl RegisterOrMemory {
    /// The memory operand, if it is one.
    #[must_use]
    pub const fn memory(self) -> Option<MemoryOperand> {
        match self {
            RegisterOrMemory::Register(_) => None,
            RegisterOrMemory::Memory(memory) => Some(memory),
        }
    }
}

impl fmt::Display for RegisterOrMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegisterOrMemory::Register(register) => register.fmt(formatter),
            RegisterOrMemory::Memory(memory) => memory.fmt(formatter),
        }
    }
}
