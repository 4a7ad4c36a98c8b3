//! The VM-exit instruction-information field: the operands of the instruction that caused the VM exit.
//!
//! The formats differ in which bits are defined but not in where a part stands, so [`InstructionInformation`] has one method a part;
//! [`InstructionInformation::decode`] gives exactly the parts that the instruction's format defines.
//!
//! Source: SDM 3C 27.2.5 "Information for VM Exits Due to Instruction Execution", tables 27-8 to 27-15.

mod operand;

pub use operand::{AddressSize, MemoryOperand, OperandSize, RegisterOrMemory};

use core::fmt;

use crate::exit_reason::{BasicExitReason, InstructionFormat};
use crate::register::{GeneralRegister, SegmentRegister};

/// The raw field.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct InstructionInformation(pub u32);

/// The instruction that accesses GDTR or IDTR, bits 29:28.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DescriptorTableInstruction {
    /// SGDT.
    Sgdt,
    /// SIDT.
    Sidt,
    /// LGDT.
    Lgdt,
    /// LIDT.
    Lidt,
}

/// The instruction that accesses LDTR or TR, bits 29:28.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemSegmentInstruction {
    /// SLDT.
    Sldt,
    /// STR.
    Str,
    /// LLDT.
    Lldt,
    /// LTR.
    Ltr,
}

/// The decoded operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// INS (where the segment is undefined) and OUTS.
    StringIo {
        /// Size of the address in RSI or RDI.
        address_size: AddressSize,
        /// The segment of OUTS.
        segment: SegmentRegister,
    },
    /// INVEPT, INVPCID, INVVPID.
    Invalidation {
        /// The descriptor.
        memory: MemoryOperand,
        /// Holds the type of invalidation.
        register: GeneralRegister,
    },
    /// LGDT, LIDT, SGDT, SIDT.
    DescriptorTable {
        /// Which of them.
        instruction: DescriptorTableInstruction,
        /// The pseudo-descriptor.
        memory: MemoryOperand,
        /// Undefined in 64-bit mode.
        operand_size: OperandSize,
    },
    /// LLDT, LTR, SLDT, STR.
    SystemSegment {
        /// Which of them.
        instruction: SystemSegmentInstruction,
        /// The selector.
        operand: RegisterOrMemory,
    },
    /// RDRAND, RDSEED, TPAUSE, UMWAIT.
    RegisterOperand {
        /// The operand.
        register: GeneralRegister,
        /// How much of it.
        operand_size: OperandSize,
    },
    /// VMCLEAR, VMPTRLD, VMPTRST, VMXON, XRSTORS, XSAVES.
    Memory(MemoryOperand),
    /// VMREAD, VMWRITE.
    VmreadVmwrite {
        /// Holds the encoding of the VMCS field.
        field: GeneralRegister,
        /// Destination of VMREAD, source of VMWRITE.
        value: RegisterOrMemory,
    },
    /// LOADIWKEY.
    RegisterPair {
        /// Bits 6:3.
        first: GeneralRegister,
        /// Bits 31:28.
        second: GeneralRegister,
    },
    /// URDMSR, UWRMSR, and RDMSR and WRMSRNS with an immediate: holds the value.
    Register(GeneralRegister),
}

impl InstructionInformation {
    /// The operands, if the field is defined for `reason`.
    #[must_use]
    pub fn decode(self, reason: BasicExitReason) -> Option<Operands> {
        let first = GeneralRegister::at(self.0.into(), 3);
        let second = GeneralRegister::at(self.0.into(), 28);
        Some(match reason.information()?.instruction_information {
            InstructionFormat::Undefined => return None,
            InstructionFormat::StringIo => {
                let memory = self.memory();
                Operands::StringIo { address_size: memory.address_size, segment: memory.segment }
            }
            InstructionFormat::Invalidation => Operands::Invalidation { memory: self.memory(), register: second },
            InstructionFormat::DescriptorTable => Operands::DescriptorTable {
                instruction: match (self.0 >> 28) & 3 {
                    0 => DescriptorTableInstruction::Sgdt,
                    1 => DescriptorTableInstruction::Sidt,
                    2 => DescriptorTableInstruction::Lgdt,
                    _ => DescriptorTableInstruction::Lidt,
                },
                memory: self.memory(),
                operand_size: OperandSize::new((self.0 >> 11) & 1),
            },
            InstructionFormat::SystemSegment => Operands::SystemSegment {
                instruction: match (self.0 >> 28) & 3 {
                    0 => SystemSegmentInstruction::Sldt,
                    1 => SystemSegmentInstruction::Str,
                    2 => SystemSegmentInstruction::Lldt,
                    _ => SystemSegmentInstruction::Ltr,
                },
                operand: self.register_or_memory(),
            },
            InstructionFormat::RegisterOperand => {
                Operands::RegisterOperand { register: first, operand_size: OperandSize::new((self.0 >> 11) & 3) }
            }
            InstructionFormat::Memory => Operands::Memory(self.memory()),
            InstructionFormat::VmreadVmwrite => Operands::VmreadVmwrite { field: second, value: self.register_or_memory() },
            InstructionFormat::RegisterPair => Operands::RegisterPair { first, second },
            InstructionFormat::Register => Operands::Register(first),
        })
    }

    /// The displacement that the exit qualification holds for an instruction with a memory operand; `None` if `reason` doesn't report
    /// one or the instruction has a register operand.
    ///
    /// In that last case the qualification is undefined and processors leave junk there (Bochs 2.7 reports what its decoder left
    /// over), so whoever records or compares qualifications takes it from here.
    #[must_use]
    pub fn displacement(self, reason: BasicExitReason, qualification: u64) -> Option<u64> {
        let memory = match self.decode(reason)? {
            Operands::Invalidation { memory, .. } | Operands::DescriptorTable { memory, .. } | Operands::Memory(memory) => memory,
            Operands::SystemSegment { operand, .. } | Operands::VmreadVmwrite { value: operand, .. } => operand.memory()?,
            _ => return None,
        };
        Some(qualification & memory.address_size.mask())
    }

    /// The memory operand, if there is one.
    const fn memory(self) -> MemoryOperand {
        let value = self.0 as u64;
        MemoryOperand {
            segment: SegmentRegister::new((self.0 >> 15) as u8),
            base: if self.bit(27) { None } else { Some(GeneralRegister::at(value, 23)) },
            index: if self.bit(22) { None } else { Some(GeneralRegister::at(value, 18)) },
            scale: 1 << (self.0 & 3),
            address_size: AddressSize::new((self.0 >> 7) & 7),
        }
    }

    const fn register_or_memory(self) -> RegisterOrMemory {
        if self.bit(10) {
            RegisterOrMemory::Register(GeneralRegister::at(self.0 as u64, 3))
        } else {
            RegisterOrMemory::Memory(self.memory())
        }
    }

    const fn bit(self, position: u32) -> bool {
        self.0 >> position & 1 != 0
    }
}

impl fmt::Debug for InstructionInformation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "InstructionInformation({:#010x})", self.0)
    }
}

impl fmt::Display for Operands {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operands::StringIo { address_size, segment } => write!(formatter, "{segment}: {address_size}"),
            Operands::Invalidation { memory, register } => write!(formatter, "{register}, {memory}"),
            Operands::DescriptorTable { instruction, memory, .. } => {
                let mnemonic = match instruction {
                    DescriptorTableInstruction::Sgdt => "SGDT",
                    DescriptorTableInstruction::Sidt => "SIDT",
                    DescriptorTableInstruction::Lgdt => "LGDT",
                    DescriptorTableInstruction::Lidt => "LIDT",
                };
                write!(formatter, "{mnemonic} {memory}")
            }
            Operands::SystemSegment { instruction, operand } => {
                let mnemonic = match instruction {
                    SystemSegmentInstruction::Sldt => "SLDT",
                    SystemSegmentInstruction::Str => "STR",
                    SystemSegmentInstruction::Lldt => "LLDT",
                    SystemSegmentInstruction::Ltr => "LTR",
                };
                write!(formatter, "{mnemonic} {operand}")
            }
            Operands::RegisterOperand { register, operand_size } => write!(formatter, "{register} {operand_size}"),
            Operands::Memory(memory) => memory.fmt(formatter),
            Operands::VmreadVmwrite { field, value } => write!(formatter, "field in {field}, value in {value}"),
            Operands::RegisterPair { first, second } => write!(formatter, "{first}, {second}"),
            Operands::Register(register) => register.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests;
