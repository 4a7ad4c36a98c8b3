//! Executes an ordinary instruction of 64-bit code for its own sake, not because it has exited.
//!
//! What always holds: an instruction is executed as a whole or not at all; one that would fault, touch anything but registers
//! and RAM, or is not known here changes nothing, and is the processor's. Flags that matter elsewhere (TF, IF, AC, RF) are
//! changed by none.
//!
//! The caller answers for what no instruction here looks at: CPL 0, no breakpoints, no single step, no protection keys.

use alloc::vec;
use alloc::vec::Vec;

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

use super::access::{Machine, Pages, Place, Reach, Unclaimed};
use super::arithmetic::{CARRY, OVERFLOW, PARITY, SIGN, ZERO, binary, sign_extend, unary};
use super::instruction::{self, Operation};
use super::registers::{Bitness, InstructionState};
use super::{AccessKind, LONGEST_INSTRUCTION, PagingState, PhysicalMemory, decode, is_canonical};
use crate::context::register::RSP;
use crate::guest_paging::linear::within_page;

/// What [`step`] has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The instruction was executed.
    Done {
        /// RIP of the next one.
        next_rip: u64,
    },
    /// VMREAD or VMWRITE of 64-bit registers that are not RSP, which the caller executes.
    FieldAccess {
        /// Whether it is VMWRITE.
        write: bool,
        /// Number of the register with the encoding.
        field: usize,
        /// Number of the other register.
        value: usize,
        /// RIP of the next instruction.
        next_rip: u64,
    },
}

/// Decoded instructions, so that code that is executed again need not be decoded again. What counts is in memory: an
/// instruction whose bytes have changed is decoded anew.
#[derive(Debug)]
pub struct Decoded(Vec<Entry>);

#[derive(Debug, Clone, Default)]
struct Entry {
    rip: u64,
    /// As they lie in memory, as far as the page goes, and then zeros.
    bytes: u128,
    instruction: Instruction,
}

/// How many instructions are kept.
const ENTRIES: usize = 512;

impl Default for Decoded {
    fn default() -> Self {
        Self(vec![Entry::default(); ENTRIES])
    }
}

impl Decoded {
    #[inline(always)]
    fn get(&mut self, rip: u64, bytes: &[u8; 16], length: usize) -> Option<&Instruction> {
        let entry = self.0.get_mut(rip as usize % ENTRIES)?;
        let key = u128::from_le_bytes(*bytes);
        if entry.rip != rip || entry.bytes != key {
            let instruction = decode(Bitness::Bits64, rip, bytes.get(..length)?).ok()?;
            *entry = Entry { rip, bytes: key, instruction };
        }
        Some(&entry.instruction)
    }
}

/// Executes the instruction at `state`'s RIP; `None`: that is left to the processor. `pages` are those that the instructions
/// before have used.
pub fn step(
    state: &mut InstructionState<'_>,
    memory: &mut impl PhysicalMemory,
    paging: &PagingState,
    pages: &mut Pages,
    decoded: &mut Decoded,
) -> Option<Step> {
    let mut machine = Machine { memory, paging, bus: &mut Unclaimed, reach: Reach::Ram(pages) };
    let (bytes, length) = fetch(state, &mut machine)?;
    let instruction = decoded.get(state.rip, &bytes, length)?;
    let unusual = instruction.has_lock_prefix()
        || instruction.has_rep_prefix()
        || instruction.has_repne_prefix()
        || matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    if unusual {
        return None;
    }
    let next_rip = instruction.next_ip();
    match instruction.mnemonic() {
        Mnemonic::Vmread => field_access(instruction, false, (1, 0), next_rip),
        Mnemonic::Vmwrite => field_access(instruction, true, (0, 1), next_rip),
        _ => {
            let next_rip = execute(instruction, state, &mut machine)?;
            is_canonical(next_rip).then_some(Step::Done { next_rip })
        }
    }
}

/// The bytes of the instruction and perhaps of others behind it, from one page of RAM; and how many.
#[inline(always)]
fn fetch(state: &InstructionState<'_>, machine: &mut Machine<'_, impl PhysicalMemory>) -> Option<([u8; 16], usize)> {
    debug_assert!(state.mode == Bitness::Bits64);
    if !is_canonical(state.rip) {
        return None;
    }
    let length = within_page(state.rip, LONGEST_INSTRUCTION);
    let place = machine.place(state.rip, length, AccessKind::Execute).ok()?;
    let mut bytes = [0; 16];
    machine.memory.read(place.start(), bytes.get_mut(..length)?);
    Some((bytes, length))
}

fn field_access(instruction: &Instruction, write: bool, (field, value): (u32, u32), next_rip: u64) -> Option<Step> {
    let register = |position| {
        let register = instruction.op_register(position);
        (instruction.op_kind(position) == OpKind::Register && register.is_gpr64()).then(|| register.number() & 15)
    };
    let (field, value) = (register(field)?, register(value)?);
    (field != RSP && value != RSP).then_some(Step::FieldAccess { write, field, value, next_rip })
}

/// Gives RIP of the next instruction.
fn execute(
    instruction: &Instruction,
    state: &mut InstructionState<'_>,
    machine: &mut Machine<'_, impl PhysicalMemory>,
) -> Option<u64> {
    let next = instruction.next_ip();
    match instruction.mnemonic() {
        Mnemonic::Nop | Mnemonic::Endbr64 => {}
        Mnemonic::Lea => {
            let (destination, offset) = (destination(instruction)?, state.offset(instruction, 1)?);
            state.write(destination, offset);
        }
        Mnemonic::Push => {
            let value = state.read(whole_register(instruction)?)?;
            push(state, machine, value)?;
        }
        Mnemonic::Pop => {
            let destination = whole_register(instruction)?;
            let value = top(state, machine)?;
            *state.rsp = state.rsp.wrapping_add(8);
            state.write(destination, value);
        }
        Mnemonic::Call => {
            let target = target(instruction)?;
            push(state, machine, next)?;
            return Some(target);
        }
        Mnemonic::Ret => {
            let returns_near = instruction.op_count() == 0 && instruction.stack_pointer_increment() == 8;
            let target = if returns_near { top(state, machine)? } else { return None };
            if !is_canonical(target) {
                return None;
            }
            *state.rsp = state.rsp.wrapping_add(8);
            return Some(target);
        }
        Mnemonic::Jmp => return target(instruction),
        _ if instruction.is_jcc_short_or_near() => {
            let target = target(instruction)?;
            return Some(if holds(instruction.condition_code(), *state.rflags) { target } else { next });
        }
        _ if instruction.condition_code() != ConditionCode::None => conditionally(instruction, state, machine)?,
        _ if (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory) => {
            instruction::execute(instruction, state, machine).ok()?;
        }
        _ => in_registers(instruction, state)?,
    }
    Some(next)
}

/// SETcc and CMOVcc. CMOVcc reads its source and writes its destination whether the condition holds or not (SDM 2A "CMOVcc").
fn conditionally(
    instruction: &Instruction,
    state: &mut InstructionState<'_>,
    machine: &mut Machine<'_, impl PhysicalMemory>,
) -> Option<()> {
    let holds = holds(instruction.condition_code(), *state.rflags);
    let in_memory = |operand| instruction.op_kind(operand) == OpKind::Memory;
    match instruction.op_count() {
        // SETcc.
        1 if in_memory(0) => {
            let offset = state.offset(instruction, 0)?;
            let place = place(state, machine, instruction.memory_segment(), offset, 1, AccessKind::Write)?;
            machine.write(&place, holds.into());
        }
        1 => state.write(destination(instruction)?, holds.into()),
        // CMOVcc.
        2 => {
            let destination = destination(instruction)?;
            let source = if in_memory(1) {
                let offset = state.offset(instruction, 1)?;
                let place = place(state, machine, instruction.memory_segment(), offset, destination.size(), AccessKind::Read)?;
                machine.read(&place)
            } else {
                state.read(instruction.op_register(1))?
            };
            let value = if holds { source } else { state.read(destination)? };
            state.write(destination, value);
        }
        _ => return None,
    }
    Some(())
}

/// Instructions of [`Operation`] without an operand in memory.
fn in_registers(instruction: &Instruction, state: &mut InstructionState<'_>) -> Option<()> {
    let destination = destination(instruction)?;
    let size = destination.size();
    let first = state.read(destination)?;
    let (second, second_size) = match instruction.op_count() {
        1 => (0, size),
        2 if instruction.op_kind(1) == OpKind::Register => {
            let source = instruction.op_register(1);
            (state.read(source)?, source.size())
        }
        2 => (instruction.try_immediate(1).ok()?, size),
        _ => return None,
    };
    match Operation::of(instruction.mnemonic())? {
        Operation::Move => state.write(destination, second),
        Operation::MoveSigned => state.write(destination, sign_extend(second, second_size)),
        Operation::Binary(operation) => {
            let (result, flags) = binary(operation, size, first, second, *state.rflags);
            state.write(destination, result);
            *state.rflags = flags;
        }
        Operation::Compare(operation) => *state.rflags = binary(operation, size, first, second, *state.rflags).1,
        Operation::Unary(operation) => {
            let (result, flags) = unary(operation, size, first, *state.rflags);
            state.write(destination, result);
            *state.rflags = flags;
        }
        _ => return None,
    }
    Some(())
}

/// The first operand, if it is a general register.
fn destination(instruction: &Instruction) -> Option<Register> {
    let register = instruction.op0_register();
    (instruction.op0_kind() == OpKind::Register && register.is_gpr()).then_some(register)
}

/// The same, if it has 64 bits.
fn whole_register(instruction: &Instruction) -> Option<Register> {
    destination(instruction).filter(|register| register.is_gpr64())
}

/// Where a near, direct branch leads.
fn target(instruction: &Instruction) -> Option<u64> {
    let target = instruction.near_branch64();
    (instruction.op0_kind() == OpKind::NearBranch64 && is_canonical(target)).then_some(target)
}

fn push(state: &mut InstructionState<'_>, machine: &mut Machine<'_, impl PhysicalMemory>, value: u64) -> Option<()> {
    let rsp = state.rsp.wrapping_sub(8);
    let place = place(state, machine, Register::SS, rsp, 8, AccessKind::Write)?;
    machine.write(&place, value);
    *state.rsp = rsp;
    Some(())
}

/// What POP would take.
fn top(state: &InstructionState<'_>, machine: &mut Machine<'_, impl PhysicalMemory>) -> Option<u64> {
    let place = place(state, machine, Register::SS, *state.rsp, 8, AccessKind::Read)?;
    Some(machine.read(&place))
}

/// An operand in memory, checked.
fn place(
    state: &InstructionState<'_>,
    machine: &mut Machine<'_, impl PhysicalMemory>,
    segment: Register,
    offset: u64,
    size: usize,
    kind: AccessKind,
) -> Option<Place> {
    let linear = state.linear(segment, offset, size).ok()?;
    machine.place(linear, size, kind).ok()
}

/// SDM 1 table B-1 "EFLAGS Condition Codes".
fn holds(condition: ConditionCode, rflags: u64) -> bool {
    let flag = |flag: u64| rflags & flag != 0;
    let less = flag(SIGN) != flag(OVERFLOW);
    match condition {
        ConditionCode::None => true,
        ConditionCode::o => flag(OVERFLOW),
        ConditionCode::no => !flag(OVERFLOW),
        ConditionCode::b => flag(CARRY),
        ConditionCode::ae => !flag(CARRY),
        ConditionCode::e => flag(ZERO),
        ConditionCode::ne => !flag(ZERO),
        ConditionCode::be => flag(CARRY | ZERO),
        ConditionCode::a => !flag(CARRY | ZERO),
        ConditionCode::s => flag(SIGN),
        ConditionCode::ns => !flag(SIGN),
        ConditionCode::p => flag(PARITY),
        ConditionCode::np => !flag(PARITY),
        ConditionCode::l => less,
        ConditionCode::ge => !less,
        ConditionCode::le => less || flag(ZERO),
        ConditionCode::g => !less && !flag(ZERO),
    }
}
