//! Emulates the instruction that accessed memory where the guest has no RAM, after its EPT violation.
//!
//! What always holds: the instruction's bytes are fetched once and only that copy is decoded; every memory operand is
//! translated and checked before anything changes, so an instruction that faults leaves registers and memory as they
//! were (a repeated string instruction: as they were at the iteration that faulted); work per call is bounded.
//!
//! Not checked, because the processor did before the EPT violation: segment limits and types, alignment (#AC),
//! whether CPUID offers the instruction. The caller sees to what else follows an instruction: a trap for RFLAGS.TF and
//! the end of blocking by STI and MOV SS.

mod access;
pub mod ahead;
mod arithmetic;
mod instruction;
mod registers;
mod string;
#[cfg(test)]
mod tests;

pub use access::{MmioBus, Pages, Unclaimed};
pub use registers::{Bitness, InstructionState};

use crate::guest_paging::linear::within_page;
use crate::guest_paging::{AccessKind, PageFault, PagingState, PhysicalMemory, is_canonical, translate};
use access::{Machine, Reach};
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic};
use thiserror::Error;

/// The longest instruction, in bytes (SDM 2A 2.3.11).
const LONGEST_INSTRUCTION: usize = 15;
/// RFLAGS.RF, which an instruction that completes clears (SDM 3B 18.3.1.1 "Instruction-Breakpoint Exception Condition").
const RESUME_FLAG: u64 = 1 << 16;

/// How an emulation ended that was not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The instruction was executed.
    Completed {
        /// RIP of the next one.
        next_rip: u64,
    },
    /// A repeated string instruction has iterations left. The registers are those of an interrupt between two
    /// iterations: RIP stays, and entering the guest again continues.
    Repeat,
}

/// Why an instruction was not executed. Nothing has changed then, but see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EmulationError {
    /// #PF is due.
    #[error(transparent)]
    PageFault(#[from] PageFault),
    /// #GP(0) is due: an address is not canonical.
    #[error("address is not canonical")]
    GeneralProtection,
    /// #SS(0) is due: an address in the stack segment is not canonical.
    #[error("address in the stack segment is not canonical")]
    StackFault,
    /// The instruction is not emulated: the guest cannot go on.
    #[error("{mnemonic:?} to memory without RAM is not emulated")]
    Unsupported {
        /// Which one.
        mnemonic: Mnemonic,
    },
    /// An operand lies outside RAM, where the caller does not want it.
    #[error("memory operand outside RAM")]
    OutsideRam,
    /// #UD is due: no instruction has these bytes.
    #[error("no valid instruction")]
    Undecodable,
}

/// Executes the instruction at `state`'s RIP against the guest's memory and `bus`.
///
/// # Errors
/// [`EmulationError`]: the exception that the guest is due, or that the instruction is not supported.
pub fn emulate(
    state: &mut InstructionState<'_>,
    memory: &mut impl PhysicalMemory,
    paging: &PagingState,
    bus: &mut dyn MmioBus,
) -> Result<Outcome, EmulationError> {
    let instruction = fetch(state, memory, paging)?;
    let mut machine = Machine { memory, paging, bus, reach: Reach::Devices };
    let finished = if instruction.is_string_instruction() {
        string::execute(&instruction, state, &mut machine)?
    } else {
        instruction::execute(&instruction, state, &mut machine)?;
        true
    };
    if !finished {
        return Ok(Outcome::Repeat);
    }
    *state.rflags &= !RESUME_FLAG;
    let next_rip = state.mode.linear(state.rip.wrapping_add(instruction.len() as u64));
    Ok(Outcome::Completed { next_rip })
}

/// Fetches and decodes the instruction. The second page is read only if the instruction reaches into it.
fn fetch(
    state: &InstructionState<'_>,
    memory: &mut impl PhysicalMemory,
    paging: &PagingState,
) -> Result<Instruction, EmulationError> {
    let mut bytes = [0; LONGEST_INSTRUCTION];
    let start = state.code_address();
    if state.mode == Bitness::Bits64 && !is_canonical(start) {
        return Err(EmulationError::GeneralProtection);
    }
    let first = within_page(start, LONGEST_INSTRUCTION);
    let address = translate(memory, paging, start, AccessKind::Execute)?;
    if first == LONGEST_INSTRUCTION {
        bytes = memory.read_array(address);
    } else {
        memory.read(address, &mut bytes[..first]);
    }
    match decode(state.mode, state.rip, &bytes[..first]) {
        Err(DecoderError::NoMoreBytes) if first < LONGEST_INSTRUCTION => {
            let address = translate(memory, paging, start.wrapping_add(first as u64), AccessKind::Execute)?;
            memory.read(address, &mut bytes[first..]);
            decode(state.mode, state.rip, &bytes)
        }
        result => result,
    }
    .map_err(|_| EmulationError::Undecodable)
}

fn decode(mode: Bitness, rip: u64, bytes: &[u8]) -> Result<Instruction, DecoderError> {
    let mut decoder = Decoder::with_ip(mode.bits(), bytes, rip, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    decoder.decode_out(&mut instruction);
    match decoder.last_error() {
        DecoderError::None => Ok(instruction),
        error => Err(error),
    }
}
