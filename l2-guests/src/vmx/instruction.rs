//! The VMX instructions. Each takes the flags in the same `asm!` block, between two blocks the compiler may change them,
//! and each survives the exception that it may raise.
//!
//! All are unsafe for one reason: VMX operation changes what the processor does beneath the running code, and a VMCS,
//! once written, decides what the next VM entry and exit do with it.
#![expect(unsafe_code, reason = "VMX instructions have no other form than assembly")]

use core::arch::asm;
use core::fmt;

use vmcs::field::Field;

use crate::Exception;

/// What came of a VMX instruction (SDM 3C 30.2 "Conventions").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// VMsucceed.
    Succeed,
    /// VMfailInvalid: CF.
    FailInvalid,
    /// VMfailValid: ZF, and the error that the VM-instruction error field then held.
    FailValid(u64),
    /// It raised an exception.
    Raised(Exception),
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeed => formatter.write_str("VMsucceed"),
            Self::FailInvalid => formatter.write_str("VMfailInvalid"),
            Self::FailValid(error) => write!(formatter, "VMfailValid({error})"),
            Self::Raised(raised) => write!(formatter, "{}({:#x})", crate::exception::name(raised.vector), raised.error_code),
        }
    }
}

/// Flags after an instruction that may have raised an exception: SETC, then SETZ.
#[doc(hidden)]
#[must_use]
pub fn answer(attempted: Result<(), Exception>, carry: u8, zero: u8) -> Answer {
    match attempted {
        Err(raised) => Answer::Raised(raised),
        Ok(()) if carry != 0 => Answer::FailInvalid,
        Ok(()) if zero != 0 => Answer::FailValid(error_of_current_vmcs()),
        Ok(()) => Answer::Succeed,
    }
}

/// The VM-instruction error field, or all ones if it cannot be read.
fn error_of_current_vmcs() -> u64 {
    let (value, failed): (u64, u8);
    // SAFETY: reads a field; only ever done after VMfailValid, in VMX operation with a current VMCS.
    unsafe {
        asm!("vmread {value}, {field}", "setbe {failed}", value = out(reg) value,
             field = in(reg) u64::from(Field::VM_INSTRUCTION_ERROR.0), failed = out(reg_byte) failed, options(nomem, nostack));
    }
    if failed == 0 { value } else { u64::MAX }
}

/// Runs instructions of which the last is a VMX instruction and yields an [`Answer`]: templates as for `asm!`, then a
/// semicolon and operands. To be used in an `unsafe` block.
#[macro_export]
macro_rules! vmx_attempt {
    ($($template:expr),+ $(,)? $(; $($operands:tt)*)?) => {{
        let (carry, zero): (u8, u8);
        let attempted = $crate::attempt!($($template,)+ "setc {carry}", "setz {zero}";
            carry = out(reg_byte) carry, zero = out(reg_byte) zero, $($($operands)*)?);
        $crate::vmx::instruction::answer(attempted, carry, zero)
    }};
}

macro_rules! with_memory_operand {
    ($($(#[$doc:meta])* $name:ident, $at:ident, $mnemonic:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// See the module.
        pub unsafe fn $name(region: u64) -> Answer {
            // SAFETY: the caller's; the operand is a readable 64-bit value.
            unsafe { $at((&raw const region).expose_provenance() as u64) }
        }

        /// The same, with the operand at the linear address `operand`, readable or not.
        ///
        /// # Safety
        /// See the module.
        pub unsafe fn $at(operand: u64) -> Answer {
            // SAFETY: the caller's; an exception is recovered from.
            unsafe { vmx_attempt!(concat!($mnemonic, " qword ptr [{operand}]"); operand = in(reg) operand) }
        }
    )*};
}

with_memory_operand! {
    /// VMXON.
    vmxon, vmxon_at, "vmxon";
    /// VMCLEAR.
    vmclear, vmclear_at, "vmclear";
    /// VMPTRLD.
    vmptrld, vmptrld_at, "vmptrld";
}

/// VMPTRST, to the linear address `operand`.
///
/// # Safety
/// See the module, and what lies at `operand` must be free to be overwritten.
pub unsafe fn vmptrst_at(operand: u64) -> Answer {
    // SAFETY: the caller's; an exception is recovered from.
    unsafe { vmx_attempt!("vmptrst qword ptr [{operand}]"; operand = in(reg) operand) }
}

/// VMPTRST: the current-VMCS pointer.
///
/// # Safety
/// See the module.
pub unsafe fn vmptrst() -> (Answer, u64) {
    let mut pointer = 0_u64;
    // SAFETY: the operand is a variable of this function.
    let answer = unsafe { vmptrst_at((&raw mut pointer).expose_provenance() as u64) };
    // SAFETY: the variable is initialised; volatile, as the compiler does not see who wrote it.
    (answer, unsafe { (&raw const pointer).read_volatile() })
}

macro_rules! without_operand {
    ($($(#[$doc:meta])* $name:ident, $mnemonic:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// See the module.
        pub unsafe fn $name() -> Answer {
            // SAFETY: the caller's; an exception is recovered from.
            unsafe { vmx_attempt!($mnemonic) }
        }
    )*};
}

without_operand! {
    /// VMXOFF.
    vmxoff, "vmxoff";
    /// VMLAUNCH that is expected to fail: if it succeeds, L3 runs and the way back is lost.
    vmlaunch_that_fails, "vmlaunch";
    /// VMRESUME that is expected to fail: if it succeeds, L3 runs and the way back is lost.
    vmresume_that_fails, "vmresume";
    /// VMCALL in VMX root operation.
    vmcall, "vmcall";
    /// VMFUNC with the function in EAX as it is.
    vmfunc, "vmfunc";
}

/// VMREAD of any encoding, register form.
///
/// # Safety
/// See the module.
pub unsafe fn vmread(encoding: u64) -> (Answer, u64) {
    let mut value = 0;
    // SAFETY: the caller's; an exception is recovered from.
    let answer = unsafe { vmx_attempt!("vmread {value}, {encoding}"; value = inout(reg) value, encoding = in(reg) encoding) };
    (answer, value)
}

/// VMREAD to the linear address `operand`.
///
/// # Safety
/// See the module, and what lies at `operand` must be free to be overwritten.
pub unsafe fn vmread_to(encoding: u64, operand: u64) -> Answer {
    // SAFETY: the caller's; an exception is recovered from.
    unsafe { vmx_attempt!("vmread qword ptr [{operand}], {encoding}"; operand = in(reg) operand, encoding = in(reg) encoding) }
}

/// VMWRITE of any encoding, register form.
///
/// # Safety
/// See the module.
pub unsafe fn vmwrite(encoding: u64, value: u64) -> Answer {
    // SAFETY: the caller's; an exception is recovered from.
    unsafe { vmx_attempt!("vmwrite {encoding}, {value}"; value = in(reg) value, encoding = in(reg) encoding) }
}

/// VMWRITE from the linear address `operand`.
///
/// # Safety
/// See the module.
pub unsafe fn vmwrite_from(encoding: u64, operand: u64) -> Answer {
    // SAFETY: the caller's; an exception is recovered from.
    unsafe { vmx_attempt!("vmwrite {encoding}, qword ptr [{operand}]"; operand = in(reg) operand, encoding = in(reg) encoding) }
}

/// INVEPT with the descriptor at the linear address `operand`.
///
/// # Safety
/// See the module.
pub unsafe fn invept_at(kind: u64, operand: u64) -> Answer {
    // SAFETY: the caller's; an exception is recovered from.
    unsafe { vmx_attempt!("invept {kind}, xmmword ptr [{operand}]"; operand = in(reg) operand, kind = in(reg) kind) }
}

/// INVEPT.
///
/// # Safety
/// See the module.
pub unsafe fn invept(kind: u64, descriptor: [u64; 2]) -> Answer {
    // SAFETY: the descriptor is 16 readable bytes.
    unsafe { invept_at(kind, (&raw const descriptor).expose_provenance() as u64) }
}

/// INVVPID with the descriptor at the linear address `operand`.
///
/// # Safety
/// See the module.
pub unsafe fn invvpid_at(kind: u64, operand: u64) -> Answer {
    // SAFETY: the caller's; an exception is recovered from.
    unsafe { vmx_attempt!("invvpid {kind}, xmmword ptr [{operand}]"; operand = in(reg) operand, kind = in(reg) kind) }
}

/// INVVPID.
///
/// # Safety
/// See the module.
pub unsafe fn invvpid(kind: u64, descriptor: [u64; 2]) -> Answer {
    // SAFETY: the descriptor is 16 readable bytes.
    unsafe { invvpid_at(kind, (&raw const descriptor).expose_provenance() as u64) }
}
