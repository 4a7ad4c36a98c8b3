//! Tests of the instruction information: one word a format.

use super::*;
use std::string::ToString;

/// DS:[displacement + RBX + RCX * 4] with a 64-bit address, second register RDX.
const MEMORY: u32 = 2 | (2 << 7) | (3 << 15) | (1 << 18) | (3 << 23) | (2 << 28);

fn memory_operand() -> MemoryOperand {
    MemoryOperand {
        segment: SegmentRegister::DS,
        base: Some(GeneralRegister::RBX),
        index: Some(GeneralRegister::RCX),
        scale: 4,
        address_size: AddressSize::Bits64,
    }
}

#[test]
fn each_format_gives_its_operands() {
    let memory = memory_operand();
    let register_form = MEMORY | 1 << 10 | 9 << 3;
    let rows = [
        (BasicExitReason::VMCLEAR, MEMORY, Operands::Memory(memory)),
        (BasicExitReason::XSAVES, MEMORY, Operands::Memory(memory)),
        (BasicExitReason::INVVPID, MEMORY, Operands::Invalidation { memory, register: GeneralRegister::RDX }),
        (
            BasicExitReason::VMREAD,
            MEMORY,
            Operands::VmreadVmwrite { field: GeneralRegister::RDX, value: RegisterOrMemory::Memory(memory) },
        ),
        (
            BasicExitReason::VMWRITE,
            register_form,
            Operands::VmreadVmwrite { field: GeneralRegister::RDX, value: RegisterOrMemory::Register(GeneralRegister::new(9)) },
        ),
        (
            BasicExitReason::ACCESS_TO_GDTR_OR_IDTR,
            MEMORY | 1 << 11,
            Operands::DescriptorTable {
                instruction: DescriptorTableInstruction::Lgdt,
                memory,
                operand_size: OperandSize::Bits32,
            },
        ),
        (
            BasicExitReason::ACCESS_TO_LDTR_OR_TR,
            register_form,
            Operands::SystemSegment {
                instruction: SystemSegmentInstruction::Lldt,
                operand: RegisterOrMemory::Register(GeneralRegister::new(9)),
            },
        ),
        (
            BasicExitReason::RDRAND,
            2 << 11 | 7 << 3,
            Operands::RegisterOperand { register: GeneralRegister::RDI, operand_size: OperandSize::Bits64 },
        ),
        (
            BasicExitReason::LOADIWKEY,
            1 << 3 | 2 << 28,
            Operands::RegisterPair { first: GeneralRegister::RCX, second: GeneralRegister::RDX },
        ),
        (BasicExitReason::URDMSR, 6 << 3 | 0xffff_ff80, Operands::Register(GeneralRegister::RSI)),
        (BasicExitReason::RDMSR_IMMEDIATE, 6 << 3, Operands::Register(GeneralRegister::RSI)),
        (
            BasicExitReason::IO_INSTRUCTION,
            1 << 7 | 4 << 15,
            Operands::StringIo { address_size: AddressSize::Bits32, segment: SegmentRegister::FS },
        ),
    ];
    for (reason, raw, expected) in rows {
        assert_eq!(InstructionInformation(raw).decode(reason), Some(expected), "{reason}");
    }
    assert_eq!(InstructionInformation(MEMORY).decode(BasicExitReason::CPUID), None);
    assert_eq!(InstructionInformation(MEMORY).decode(BasicExitReason(35)), None);
}

#[test]
fn the_displacement_of_a_register_form_is_masked() {
    let junk = 0x7f1e_b5ee;
    let register_form = InstructionInformation(MEMORY | 1 << 10);
    assert_eq!(register_form.displacement(BasicExitReason::VMREAD, junk), None);
    assert_eq!(register_form.displacement(BasicExitReason::ACCESS_TO_LDTR_OR_TR, junk), None);
    assert_eq!(InstructionInformation(MEMORY).displacement(BasicExitReason::VMREAD, junk), Some(junk));
    // VMPTRLD has no register form: bit 10 says nothing there.
    assert_eq!(register_form.displacement(BasicExitReason::VMPTRLD, junk), Some(junk));
    let address_of_16_bits = InstructionInformation(MEMORY & !(7 << 7));
    assert_eq!(address_of_16_bits.displacement(BasicExitReason::VMCLEAR, u64::MAX), Some(0xffff));
    assert_eq!(InstructionInformation(0).displacement(BasicExitReason::RDRAND, 5), None);
}

#[test]
fn effective_addresses_wrap_at_their_size() {
    let register = |register: GeneralRegister| 0x1_0000_0000 + u64::from(register.number());
    let mut operand = memory_operand();
    assert_eq!(operand.effective_address(0x10, register), 0x5_0000_0017);
    assert_eq!(operand.effective_address(u64::MAX, register), 0x5_0000_0006);
    operand.address_size = AddressSize::Bits32;
    assert_eq!(operand.effective_address(0x10, register), 0x17);
    operand.index = None;
    operand.base = None;
    operand.address_size = AddressSize::Bits16;
    assert_eq!(operand.effective_address(0x1_2345, register), 0x2345);
}

#[test]
fn text() {
    let text = |reason, raw| InstructionInformation(raw).decode(reason).map(|operands| operands.to_string());
    assert_eq!(text(BasicExitReason::INVEPT, MEMORY).as_deref(), Some("RDX, DS:[displacement + RBX + RCX * 4]"));
    let none = 1 << 22 | 1 << 27;
    assert_eq!(text(BasicExitReason::VMXON, none | 6 << 15).as_deref(), Some("RESERVED(6):[displacement]"));
    let register_form = 1 << 10 | 5 << 3;
    assert_eq!(text(BasicExitReason::VMREAD, register_form).as_deref(), Some("field in RAX, value in RBP"));
}
