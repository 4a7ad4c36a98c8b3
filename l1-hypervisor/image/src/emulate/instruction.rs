//! Instructions with one memory operand.
//!
//! What always holds: the operand is checked, for writing if the instruction may write, before the first read of it;
//! nothing after that check can fail.

use super::access::{Machine, Place, low_bytes};
use super::arithmetic::{Binary, BitAction, Unary, ZERO, binary, bit_test, sign_extend, unary};
use super::registers::InstructionState;
use super::{AccessKind, EmulationError, PhysicalMemory};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// What an instruction does with its operands; the destination is the first.
pub(super) enum Operation {
    /// Stores the second, zero-extended.
    Move,
    /// Stores the second, sign-extended.
    MoveSigned,
    /// Stores the second with its bytes in reverse order.
    MoveSwapped,
    /// Stores the result of both.
    Binary(Binary),
    /// Only the flags of the result of both.
    Compare(Binary),
    Unary(Unary),
    BitTest(BitAction),
    Exchange,
    ExchangeAdd,
    CompareExchange,
}

impl Operation {
    pub(super) fn of(mnemonic: Mnemonic) -> Option<Self> {
        Some(match mnemonic {
            Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movnti => Self::Move,
            Mnemonic::Movsx | Mnemonic::Movsxd => Self::MoveSigned,
            Mnemonic::Movbe => Self::MoveSwapped,
            Mnemonic::Add => Self::Binary(Binary::Add),
            Mnemonic::Or => Self::Binary(Binary::Or),
            Mnemonic::Adc => Self::Binary(Binary::Adc),
            Mnemonic::Sbb => Self::Binary(Binary::Sbb),
            Mnemonic::And => Self::Binary(Binary::And),
            Mnemonic::Sub => Self::Binary(Binary::Sub),
            Mnemonic::Xor => Self::Binary(Binary::Xor),
            Mnemonic::Cmp => Self::Compare(Binary::Sub),
            Mnemonic::Test => Self::Compare(Binary::And),
            Mnemonic::Inc => Self::Unary(Unary::Inc),
            Mnemonic::Dec => Self::Unary(Unary::Dec),
            Mnemonic::Not => Self::Unary(Unary::Not),
            Mnemonic::Neg => Self::Unary(Unary::Neg),
            Mnemonic::Bt => Self::BitTest(BitAction::Keep),
            Mnemonic::Bts => Self::BitTest(BitAction::Set),
            Mnemonic::Btr => Self::BitTest(BitAction::Reset),
            Mnemonic::Btc => Self::BitTest(BitAction::Complement),
            Mnemonic::Xchg => Self::Exchange,
            Mnemonic::Xadd => Self::ExchangeAdd,
            Mnemonic::Cmpxchg => Self::CompareExchange,
            _ => return None,
        })
    }

    /// Whether the first operand is written.
    fn writes(&self) -> bool {
        !matches!(self, Self::Compare(_) | Self::BitTest(BitAction::Keep))
    }
}

/// The operand that is not in memory.
#[derive(Clone, Copy)]
enum Other {
    Register(Register),
    Immediate(u64),
    /// The instruction has one operand only.
    Absent,
}

/// An instruction whose operands are known and checked.
struct Ready {
    operation: Operation,
    /// The operand in memory.
    place: Place,
    /// Its size in bytes.
    size: usize,
    other: Other,
    /// The value of the other operand.
    value: u64,
}

/// Executes `instruction`.
///
/// # Errors
/// Those of [`super::emulate`]; nothing has changed then.
pub(super) fn execute(
    instruction: &Instruction,
    state: &mut InstructionState<'_>,
    machine: &mut Machine<'_, impl PhysicalMemory>,
) -> Result<(), EmulationError> {
    let unsupported = EmulationError::Unsupported { mnemonic: instruction.mnemonic() };
    let operation = Operation::of(instruction.mnemonic()).ok_or(unsupported)?;
    let memory_operand = match (instruction.op0_kind(), instruction.op1_kind()) {
        (OpKind::Memory, _) => 0,
        (_, OpKind::Memory) => 1,
        _ => return Err(unsupported),
    };
    let size = instruction.memory_size().size();
    if !matches!(size, 1 | 2 | 4 | 8) {
        return Err(unsupported);
    }
    let other = other(instruction, 1 - memory_operand).ok_or(unsupported)?;
    let mut offset = state.offset(instruction, memory_operand).ok_or(unsupported)?;
    let value = value(other, state);
    if let (Operation::BitTest(_), Other::Register(_)) = (&operation, other) {
        offset = displaced_by_bits(instruction, offset, sign_extend(value, size), size);
    }
    let kind = if memory_operand == 0 && operation.writes() { AccessKind::Write } else { AccessKind::Read };
    let linear = state.linear(instruction.memory_segment(), offset, size)?;
    let place = machine.place(linear, size, kind)?;
    let ready = Ready { operation, place, size, other, value };
    if memory_operand == 0 {
        ready.to_memory(state, machine);
    } else {
        ready.to_register(state, machine);
    }
    Ok(())
}

/// The operand at `position`; `None` if it is of a kind that no supported instruction has beside memory.
fn other(instruction: &Instruction, position: u32) -> Option<Other> {
    if position >= instruction.op_count() {
        return Some(Other::Absent);
    }
    if instruction.op_kind(position) == OpKind::Register {
        let register = instruction.op_register(position);
        return register.is_gpr().then_some(Other::Register(register));
    }
    instruction.try_immediate(position).ok().map(Other::Immediate)
}

fn value(other: Other, state: &InstructionState<'_>) -> u64 {
    match other {
        Other::Register(register) => state.read(register).unwrap_or_default(),
        Other::Immediate(value) => value,
        Other::Absent => 0,
    }
}

/// The offset of the operand in the bit string at `offset` that holds the bit with the signed number `bit` (SDM 2A
/// "BT-Bit Test"). It wraps like every offset.
fn displaced_by_bits(instruction: &Instruction, offset: u64, bit: u64, size: usize) -> u64 {
    let bytes = ((bit as i64) >> 3) as u64 & !(size as u64 - 1);
    let displaced = offset.wrapping_add(bytes);
    match address_size(instruction) {
        2 => displaced & 0xffff,
        4 => displaced & 0xffff_ffff,
        _ => displaced,
    }
}

/// Size in bytes of the offset of an [`OpKind::Memory`] operand.
fn address_size(instruction: &Instruction) -> usize {
    match (instruction.memory_base(), instruction.memory_index()) {
        (Register::None, Register::None) => instruction.memory_displ_size() as usize,
        (Register::None, index) => index.size(),
        (base, _) => base.size(),
    }
}

impl Ready {
    /// Memory is the first operand.
    fn to_memory(&self, state: &mut InstructionState<'_>, machine: &mut Machine<'_, impl PhysicalMemory>) {
        let &Self { ref operation, ref place, size, other, value } = self;
        let value = value & low_bytes(size);
        let rflags = *state.rflags;
        match *operation {
            Operation::Move | Operation::MoveSigned => machine.write(place, value),
            Operation::MoveSwapped => machine.write(place, swapped(value, size)),
            Operation::Binary(operation) => {
                let (result, flags) = binary(operation, size, machine.read(place), value, rflags);
                machine.write(place, result);
                *state.rflags = flags;
            }
            Operation::Compare(operation) => *state.rflags = binary(operation, size, machine.read(place), value, rflags).1,
            Operation::Unary(operation) => {
                let (result, flags) = unary(operation, size, machine.read(place), rflags);
                machine.write(place, result);
                *state.rflags = flags;
            }
            Operation::BitTest(action) => {
                let bit = value as u32 & (8 * size as u32 - 1);
                let (result, flags) = bit_test(action, machine.read(place), bit, rflags);
                if action != BitAction::Keep {
                    machine.write(place, result);
                }
                *state.rflags = flags;
            }
            Operation::Exchange => {
                let old = machine.read(place);
                machine.write(place, value);
                write_other(other, old, state);
            }
            Operation::ExchangeAdd => {
                let old = machine.read(place);
                let (result, flags) = binary(Binary::Add, size, old, value, rflags);
                machine.write(place, result);
                write_other(other, old, state);
                *state.rflags = flags;
            }
            Operation::CompareExchange => {
                let accumulator = accumulator(size);
                let old = machine.read(place);
                let expected = state.read(accumulator).unwrap_or_default();
                *state.rflags = binary(Binary::Sub, size, expected, old, rflags).1;
                let equal = *state.rflags & ZERO != 0;
                // The destination gets a write cycle whatever the comparison said (SDM 2A "CMPXCHG").
                machine.write(place, if equal { value } else { old });
                if !equal {
                    state.write(accumulator, old);
                }
            }
        }
    }

    /// Memory is the second operand.
    fn to_register(&self, state: &mut InstructionState<'_>, machine: &mut Machine<'_, impl PhysicalMemory>) {
        let &Self { ref operation, ref place, size, other, value } = self;
        let source = machine.read(place);
        let rflags = *state.rflags;
        match *operation {
            Operation::Move => write_other(other, source, state),
            Operation::MoveSigned => write_other(other, sign_extend(source, size), state),
            Operation::MoveSwapped => write_other(other, swapped(source, size), state),
            Operation::Binary(operation) => {
                let (result, flags) = binary(operation, size, value, source, rflags);
                write_other(other, result, state);
                *state.rflags = flags;
            }
            Operation::Compare(operation) => *state.rflags = binary(operation, size, value, source, rflags).1,
            // No encoding of these has memory second.
            Operation::Unary(_)
            | Operation::BitTest(_)
            | Operation::Exchange
            | Operation::ExchangeAdd
            | Operation::CompareExchange => {}
        }
    }
}

fn write_other(other: Other, value: u64, state: &mut InstructionState<'_>) {
    if let Other::Register(register) = other {
        state.write(register, value);
    }
}

fn swapped(value: u64, size: usize) -> u64 {
    value.swap_bytes() >> (64 - 8 * size)
}

/// AL, AX, EAX or RAX.
pub(super) const fn accumulator(size: usize) -> Register {
    match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    }
}
