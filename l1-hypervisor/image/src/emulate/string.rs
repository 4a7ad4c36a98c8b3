//! String instructions: MOVS, STOS, LODS, CMPS and SCAS, repeated or not (SDM 2B "REP/REPE/REPZ/REPNE/REPNZ").
//!
//! What always holds: after every iteration the registers are those of an interrupt there; the flags change only when
//! the instruction ends, so that one that is continued finds those it began with. INS and OUTS exit as I/O
//! instructions and are handled there.

use super::access::{LastPage, Machine, Place};
use super::arithmetic::{Binary, ZERO, binary};
use super::instruction::accumulator;
use super::registers::{InstructionState, Pointer};
use super::{AccessKind, EmulationError, PhysicalMemory};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The most bytes one call moves or compares, so that interrupts are not kept waiting.
pub(super) const BYTES_PER_CALL: usize = 4096;
/// RFLAGS.DF: addresses go down.
const DIRECTION: u64 = 1 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Move,
    Store,
    Load,
    Compare,
    Scan,
}

impl Operation {
    pub(super) fn of(mnemonic: Mnemonic) -> Option<(Self, usize)> {
        Some(match mnemonic {
            Mnemonic::Movsb => (Self::Move, 1),
            Mnemonic::Movsw => (Self::Move, 2),
            Mnemonic::Movsd => (Self::Move, 4),
            Mnemonic::Movsq => (Self::Move, 8),
            Mnemonic::Stosb => (Self::Store, 1),
            Mnemonic::Stosw => (Self::Store, 2),
            Mnemonic::Stosd => (Self::Store, 4),
            Mnemonic::Stosq => (Self::Store, 8),
            Mnemonic::Lodsb => (Self::Load, 1),
            Mnemonic::Lodsw => (Self::Load, 2),
            Mnemonic::Lodsd => (Self::Load, 4),
            Mnemonic::Lodsq => (Self::Load, 8),
            Mnemonic::Cmpsb => (Self::Compare, 1),
            Mnemonic::Cmpsw => (Self::Compare, 2),
            Mnemonic::Cmpsd => (Self::Compare, 4),
            Mnemonic::Cmpsq => (Self::Compare, 8),
            Mnemonic::Scasb => (Self::Scan, 1),
            Mnemonic::Scasw => (Self::Scan, 2),
            Mnemonic::Scasd => (Self::Scan, 4),
            Mnemonic::Scasq => (Self::Scan, 8),
            _ => return None,
        })
    }
}

/// When a repeated instruction ends before its count does.
#[derive(Clone, Copy)]
enum Repetition {
    Once,
    ByCount,
    WhileEqual,
    WhileNotEqual,
}

/// A string instruction under way.
struct Iteration {
    operation: Operation,
    /// Bytes of an element.
    size: usize,
    /// Bytes of SI, DI and CX.
    address_size: usize,
    source_segment: Register,
    source_page: LastPage,
    destination_page: LastPage,
}

/// Executes `instruction`, or as much of it as one call may; says whether it is finished.
///
/// # Errors
/// Those of [`super::emulate`]; the iterations before the fault have happened.
pub(super) fn execute(
    instruction: &Instruction,
    state: &mut InstructionState<'_>,
    machine: &mut Machine<'_, impl PhysicalMemory>,
) -> Result<bool, EmulationError> {
    let unsupported = EmulationError::Unsupported { mnemonic: instruction.mnemonic() };
    let (operation, size) = Operation::of(instruction.mnemonic()).ok_or(unsupported)?;
    let address_size = address_size(instruction).ok_or(unsupported)?;
    let source_segment = instruction.memory_segment();
    let mut iteration = Iteration { operation, size, address_size, source_segment, source_page: None, destination_page: None };
    let repetition = repetition(instruction, operation);
    if !matches!(repetition, Repetition::Once) && state.count(address_size) == 0 {
        return Ok(true);
    }
    for _ in 0..BYTES_PER_CALL / size {
        let rflags = iteration.step(state, machine)?;
        let condition = match repetition {
            Repetition::Once => false,
            Repetition::ByCount => true,
            Repetition::WhileEqual => rflags & ZERO != 0,
            Repetition::WhileNotEqual => rflags & ZERO == 0,
        };
        let count = match repetition {
            Repetition::Once => 0,
            _ => {
                let count = state.count(address_size).wrapping_sub(1);
                state.set_count(address_size, count);
                count
            }
        };
        if count == 0 || !condition {
            *state.rflags = rflags;
            return Ok(true);
        }
    }
    Ok(false)
}

impl Iteration {
    /// One element: all places are checked first, then it is moved or compared, then the pointers advance. Returns
    /// RFLAGS as the instruction leaves them if it ends here.
    fn step(
        &mut self,
        state: &mut InstructionState<'_>,
        machine: &mut Machine<'_, impl PhysicalMemory>,
    ) -> Result<u64, EmulationError> {
        let size = self.size;
        let rflags = *state.rflags;
        let flags = match self.operation {
            Operation::Move => {
                let source = self.source(state, machine)?;
                let destination = self.destination(state, machine, AccessKind::Write)?;
                let value = machine.read(&source);
                machine.write(&destination, value);
                rflags
            }
            Operation::Store => {
                let destination = self.destination(state, machine, AccessKind::Write)?;
                machine.write(&destination, state.read(accumulator(size)).unwrap_or_default());
                rflags
            }
            Operation::Load => {
                let source = self.source(state, machine)?;
                state.write(accumulator(size), machine.read(&source));
                rflags
            }
            Operation::Compare => {
                let source = self.source(state, machine)?;
                let destination = self.destination(state, machine, AccessKind::Read)?;
                let (first, second) = (machine.read(&source), machine.read(&destination));
                binary(Binary::Sub, size, first, second, rflags).1
            }
            Operation::Scan => {
                let destination = self.destination(state, machine, AccessKind::Read)?;
                let first = state.read(accumulator(size)).unwrap_or_default();
                binary(Binary::Sub, size, first, machine.read(&destination), rflags).1
            }
        };
        let step = if rflags & DIRECTION == 0 { size as u64 } else { (size as u64).wrapping_neg() };
        if matches!(self.operation, Operation::Move | Operation::Load | Operation::Compare) {
            state.advance(Pointer::Source, self.address_size, step);
        }
        if self.operation != Operation::Load {
            state.advance(Pointer::Destination, self.address_size, step);
        }
        Ok(flags)
    }

    fn source(
        &mut self,
        state: &InstructionState<'_>,
        machine: &mut Machine<'_, impl PhysicalMemory>,
    ) -> Result<Place, EmulationError> {
        let offset = state.pointer(Pointer::Source, self.address_size);
        let linear = state.linear(self.source_segment, offset, self.size)?;
        machine.place_near(&mut self.source_page, linear, self.size, AccessKind::Read)
    }

    /// The destination is in ES, whatever prefix there is.
    fn destination(
        &mut self,
        state: &InstructionState<'_>,
        machine: &mut Machine<'_, impl PhysicalMemory>,
        kind: AccessKind,
    ) -> Result<Place, EmulationError> {
        let offset = state.pointer(Pointer::Destination, self.address_size);
        let linear = state.linear(Register::ES, offset, self.size)?;
        machine.place_near(&mut self.destination_page, linear, self.size, kind)
    }
}

/// Only CMPS and SCAS tell the two prefixes apart.
fn repetition(instruction: &Instruction, operation: Operation) -> Repetition {
    let compares = matches!(operation, Operation::Compare | Operation::Scan);
    match (instruction.has_repe_prefix(), instruction.has_repne_prefix()) {
        (false, false) => Repetition::Once,
        (true, _) if compares => Repetition::WhileEqual,
        (_, true) if compares => Repetition::WhileNotEqual,
        _ => Repetition::ByCount,
    }
}

/// Size in bytes of the pointers and the count.
fn address_size(instruction: &Instruction) -> Option<usize> {
    [instruction.op0_kind(), instruction.op1_kind()].into_iter().find_map(|kind| match kind {
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(8),
        _ => None,
    })
}
