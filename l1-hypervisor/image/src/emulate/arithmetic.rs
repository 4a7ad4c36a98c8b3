//! Integer arithmetic with its status flags (SDM 1 3.4.3.1 "Status Flags"; SDM 2 for each instruction).
//!
//! What always holds: flags that the SDM leaves undefined get what Intel processors give: AF is cleared by logic.

use super::access::low_bytes;

pub(super) const CARRY: u64 = 1 << 0;
pub(super) const PARITY: u64 = 1 << 2;
pub(super) const AUXILIARY: u64 = 1 << 4;
pub(super) const ZERO: u64 = 1 << 6;
pub(super) const SIGN: u64 = 1 << 7;
pub(super) const OVERFLOW: u64 = 1 << 11;
/// All status flags.
pub(super) const STATUS: u64 = CARRY | PARITY | AUXILIARY | ZERO | SIGN | OVERFLOW;

/// An operation with two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the instruction it is named after")]
pub(super) enum Binary {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
}

/// An operation with one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the instruction it is named after")]
pub(super) enum Unary {
    Inc,
    Dec,
    Not,
    Neg,
}

/// What a bit test does with the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BitAction {
    Keep,
    Set,
    Reset,
    Complement,
}

/// Result and RFLAGS of `first` and `second`, of which the low `size` bytes count.
pub(super) fn binary(operation: Binary, size: usize, first: u64, second: u64, rflags: u64) -> (u64, u64) {
    let carry = rflags & CARRY;
    let (result, flags) = match operation {
        Binary::Add => add(size, first, second, 0),
        Binary::Adc => add(size, first, second, carry),
        Binary::Sub => subtract(size, first, second, 0),
        Binary::Sbb => subtract(size, first, second, carry),
        Binary::And => logic(size, first & second),
        Binary::Or => logic(size, first | second),
        Binary::Xor => logic(size, first ^ second),
    };
    (result, rflags & !STATUS | flags)
}

/// Result and RFLAGS of an operation on the low `size` bytes of `value`.
pub(super) fn unary(operation: Unary, size: usize, value: u64, rflags: u64) -> (u64, u64) {
    let ((result, flags), unchanged) = match operation {
        Unary::Inc => (add(size, value, 1, 0), CARRY),
        Unary::Dec => (subtract(size, value, 1, 0), CARRY),
        Unary::Not => ((!value & low_bytes(size), 0), STATUS),
        Unary::Neg => (subtract(size, 0, value, 0), 0),
    };
    let changed = STATUS & !unchanged;
    (result, rflags & !changed | flags & changed)
}

/// Result and RFLAGS of a bit test. Only CF changes, of the others the SDM says nothing but for ZF.
pub(super) fn bit_test(action: BitAction, value: u64, bit: u32, rflags: u64) -> (u64, u64) {
    let mask = 1 << (bit & 63);
    let result = match action {
        BitAction::Keep => value,
        BitAction::Set => value | mask,
        BitAction::Reset => value & !mask,
        BitAction::Complement => value ^ mask,
    };
    (result, rflags & !CARRY | if value & mask != 0 { CARRY } else { 0 })
}

/// The low `size` bytes of `value`, extended with their sign.
pub(super) const fn sign_extend(value: u64, size: usize) -> u64 {
    let unused = 64 - 8 * size as u32;
    ((value << unused) as i64 >> unused) as u64
}

fn add(size: usize, first: u64, second: u64, carry: u64) -> (u64, u64) {
    let result = first.wrapping_add(second).wrapping_add(carry) & low_bytes(size);
    let carries = (first & second) | ((first | second) & !result);
    let overflows = (first ^ result) & (second ^ result);
    (result, flags(size, result, first ^ second ^ result, carries, overflows))
}

fn subtract(size: usize, first: u64, second: u64, borrow: u64) -> (u64, u64) {
    let result = first.wrapping_sub(second).wrapping_sub(borrow) & low_bytes(size);
    let borrows = (!first & second) | ((!first | second) & result);
    let overflows = (first ^ second) & (first ^ result);
    (result, flags(size, result, first ^ second ^ result, borrows, overflows))
}

fn logic(size: usize, result: u64) -> (u64, u64) {
    let result = result & low_bytes(size);
    (result, flags(size, result, 0, 0, 0))
}

/// The flags of a result. In `halves` bit 4 is AF; of `carries` and `overflows` the operand's top bit counts.
fn flags(size: usize, result: u64, halves: u64, carries: u64, overflows: u64) -> u64 {
    let top = 1 << (8 * size - 1);
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    flag(carries & top != 0, CARRY)
        | flag((result as u8).count_ones().is_multiple_of(2), PARITY)
        | flag(halves & 0x10 != 0, AUXILIARY)
        | flag(result == 0, ZERO)
        | flag(result & top != 0, SIGN)
        | flag(overflows & top != 0, OVERFLOW)
}
