//! The part of the processor's state that an instruction reads and changes, and the addresses of its operands.
//!
//! What always holds: a write to a register of 32 bits clears the upper half of the 64, one of 8 or 16 bits keeps the
//! rest (SDM 1 3.4.1.1 "General-Purpose Registers in 64-Bit Mode").

use super::EmulationError;
use super::access::low_bytes;
use crate::context::register::{RCX, RDI, RSI, RSP};
use crate::guest_paging::is_canonical;
use iced_x86::{Instruction, Register};

/// Size of code, from the descriptor of CS: L and D (SDM 3A 3.4.5 "Segment Descriptors").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bitness {
    /// 16-bit code, real mode included.
    Bits16,
    /// 32-bit code.
    Bits32,
    /// 64-bit code; [`crate::guest_paging::PagingState::long_mode`] is set then, and only then.
    Bits64,
}

impl Bitness {
    pub(super) const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }

    /// Wraps a linear address, or RIP, as the mode does.
    pub(super) const fn linear(self, address: u64) -> u64 {
        match self {
            Self::Bits16 | Self::Bits32 => address & 0xffff_ffff,
            Self::Bits64 => address,
        }
    }
}

/// The registers of an instruction.
#[derive(Debug)]
pub struct InstructionState<'a> {
    /// General registers by number. Slot 4 is not used.
    pub general: &'a mut [u64; 16],
    /// RSP.
    pub rsp: &'a mut u64,
    /// RIP of the instruction. It is not changed.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: &'a mut u64,
    /// Segment bases in the order of their encoding: ES, CS, SS, DS, FS, GS. In 64-bit mode only the last two count.
    pub segment_bases: [u64; 6],
    /// Size of the code.
    pub mode: Bitness,
}

impl InstructionState<'_> {
    /// The linear address of the instruction.
    pub(super) fn code_address(&self) -> u64 {
        self.mode.linear(self.segment_base(Register::CS).wrapping_add(self.rip))
    }

    /// The linear address of `size` bytes at `offset` in `segment`.
    pub(super) fn linear(&self, segment: Register, offset: u64, size: usize) -> Result<u64, EmulationError> {
        let linear = self.mode.linear(self.segment_base(segment).wrapping_add(offset));
        if self.mode == Bitness::Bits64 && !(is_canonical(linear) && is_canonical(linear.wrapping_add(size as u64 - 1))) {
            let stack = segment == Register::SS;
            return Err(if stack { EmulationError::StackFault } else { EmulationError::GeneralProtection });
        }
        Ok(linear)
    }

    fn segment_base(&self, segment: Register) -> u64 {
        match segment {
            Register::FS => self.segment_bases[4],
            Register::GS => self.segment_bases[5],
            _ if self.mode == Bitness::Bits64 => 0,
            Register::ES => self.segment_bases[0],
            Register::CS => self.segment_bases[1],
            Register::SS => self.segment_bases[2],
            _ => self.segment_bases[3],
        }
    }

    /// The offset in its segment of a memory operand.
    pub(super) fn offset(&self, instruction: &Instruction, operand: u32) -> Option<u64> {
        instruction.try_virtual_address(
            operand,
            0,
            |register, _, _| {
                if register.is_segment_register() { Some(0) } else { self.read(register) }
            },
        )
    }

    /// The value of a general register, `None` if it is of another kind.
    pub(super) fn read(&self, register: Register) -> Option<u64> {
        let (number, size, shift) = general(register)?;
        Some((self.slot(number) >> shift) & low_bytes(size))
    }

    /// Writes the low bits of `value` to a general register. Nothing happens if it is of another kind.
    pub(super) fn write(&mut self, register: Register, value: u64) {
        if let Some((number, size, shift)) = general(register) {
            self.write_number(number, size, shift, value);
        }
    }

    fn write_number(&mut self, number: usize, size: usize, shift: u32, value: u64) {
        let kept = if size >= 4 { 0 } else { !(low_bytes(size) << shift) };
        let slot = if number == RSP { &mut *self.rsp } else { &mut self.general[number] };
        *slot = *slot & kept | (value & low_bytes(size)) << shift;
    }

    fn slot(&self, number: usize) -> u64 {
        if number == RSP { *self.rsp } else { self.general[number] }
    }

    /// CX, ECX or RCX, the count of a repeated instruction with addresses of `size` bytes.
    pub(super) fn count(&self, size: usize) -> u64 {
        self.slot(RCX) & low_bytes(size)
    }

    /// Sets the count of [`Self::count`].
    pub(super) fn set_count(&mut self, size: usize, count: u64) {
        self.write_number(RCX, size, 0, count);
    }

    /// The pointer of a string instruction with addresses of `size` bytes.
    pub(super) fn pointer(&self, pointer: Pointer, size: usize) -> u64 {
        self.slot(pointer.number()) & low_bytes(size)
    }

    /// Moves a pointer by `step`, which is negative in two's complement if it goes down.
    pub(super) fn advance(&mut self, pointer: Pointer, size: usize, step: u64) {
        let moved = self.pointer(pointer, size).wrapping_add(step);
        self.write_number(pointer.number(), size, 0, moved);
    }
}

/// A pointer register of string instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pointer {
    Source,
    Destination,
}

impl Pointer {
    const fn number(self) -> usize {
        match self {
            Self::Source => RSI,
            Self::Destination => RDI,
        }
    }
}

/// Number, size in bytes and lowest bit of a general register.
fn general(register: Register) -> Option<(usize, usize, u32)> {
    if !register.is_gpr() {
        return None;
    }
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    Some((register.full_register().number() & 15, register.size(), if high { 8 } else { 0 }))
}
