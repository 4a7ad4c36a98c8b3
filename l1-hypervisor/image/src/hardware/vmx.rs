//! The VMX instructions. Each takes the flags in the same `asm!` block as the instruction: between two blocks the
//! compiler may change them.
#![expect(unsafe_code, reason = "VMX instructions")]

use core::arch::{asm, naked_asm};

use vmcs::field::Field;

/// How a VMX instruction failed (SDM 3C 31.2 "Conventions").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmxFailure {
    /// VMfailInvalid: there is no current VMCS, or the operand is bad.
    Invalid,
    /// VMfailValid: the VM-instruction error field of the current VMCS says why.
    Valid,
    /// VMREAD or VMWRITE failed in one of these ways: no current VMCS, no such field, or a read-only field.
    Access,
}

/// What the flags after a VMX instruction say.
fn outcome(carry: u8, zero: u8) -> Result<(), VmxFailure> {
    if carry != 0 {
        Err(VmxFailure::Invalid)
    } else if zero != 0 {
        Err(VmxFailure::Valid)
    } else {
        Ok(())
    }
}

macro_rules! with_memory_operand {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The processor must allow the instruction, and `region` must be the physical address of a page that is
        /// used for nothing else.
        ///
        /// # Errors
        /// As the flags say.
        pub unsafe fn $name(region: u64) -> Result<(), VmxFailure> {
            let (carry, zero): (u8, u8);
            // SAFETY: by this function's contract; the operand is a readable 64-bit value.
            unsafe {
                asm!(concat!($mnemonic, " qword ptr [{0}]"), "setc {1}", "setz {2}",
                     in(reg) &raw const region, out(reg_byte) carry, out(reg_byte) zero, options(nostack));
            }
            outcome(carry, zero)
        }
    };
}

with_memory_operand! {
    /// VMXON: enters VMX operation.
    vmxon, "vmxon"
}
with_memory_operand! {
    /// VMCLEAR: writes a VMCS back to memory and makes it inactive.
    vmclear, "vmclear"
}
with_memory_operand! {
    /// VMPTRLD: makes a VMCS current.
    vmptrld, "vmptrld"
}

/// VMREAD.
///
/// # Safety
/// The processor must be in VMX operation.
///
/// # Errors
/// As the flags say: no current VMCS, or no such field.
#[inline(always)]
pub unsafe fn vmread(field: Field) -> Result<u64, VmxFailure> {
    let value: u64;
    let failed: u8;
    // SAFETY: by this function's contract; the instruction writes a register. The flag is taken as one, as success is
    // what matters on the exit path.
    unsafe {
        asm!("vmread {0}, {1}", "setbe {2}", out(reg) value, in(reg) u64::from(field.0), out(reg_byte) failed,
             options(nomem, nostack));
    }
    if failed == 0 { Ok(value) } else { Err(VmxFailure::Access) }
}

/// VMWRITE.
///
/// # Safety
/// The processor must be in VMX operation, and the value must not make a later VM entry or exit break L1: host-state
/// fields, and fields that hold addresses, are the caller's responsibility.
///
/// # Errors
/// As the flags say: no current VMCS, no such field, or a read-only field.
#[inline(always)]
pub unsafe fn vmwrite(field: Field, value: u64) -> Result<(), VmxFailure> {
    let failed: u8;
    // SAFETY: by this function's contract.
    unsafe {
        asm!("vmwrite {0}, {1}", "setbe {2}", in(reg) u64::from(field.0), in(reg) value, out(reg_byte) failed,
             options(nostack));
    }
    if failed == 0 { Ok(()) } else { Err(VmxFailure::Access) }
}

/// VMREAD of a field that must be there: a failure is a bug of L1's and ends the run. One conditional jump is all that a
/// success costs.
///
/// # Safety
/// The processor must be in VMX operation.
#[inline(always)]
#[must_use]
pub unsafe fn vmread_existing(field: Field) -> u64 {
    let value: u64;
    // SAFETY: by this function's contract. The jump is taken only on failure, and from there execution never comes back.
    unsafe {
        asm!("vmread {0}, rdi", "jbe {failed}", lateout(reg) value, in("rdi") u64::from(field.0), failed = sym vmread_failed,
             options(nomem));
    }
    value
}

/// VMWRITE of a field that must be there.
///
/// # Safety
/// That of [`vmwrite`].
#[inline(always)]
pub unsafe fn vmwrite_existing(field: Field, value: u64) {
    // SAFETY: as in `vmread_existing`.
    unsafe {
        asm!("vmwrite rdi, {0}", "jbe {failed}", in(reg) value, in("rdi") u64::from(field.0), failed = sym vmwrite_failed);
    }
}

/// RDI is the field. The stack is wherever it was, and nobody needs it any more.
#[unsafe(naked)]
unsafe extern "sysv64" fn vmread_failed() -> ! {
    naked_asm!("and rsp, -16", "xor esi, esi", "call {access_failed}", access_failed = sym access_failed)
}

/// See [`vmread_failed`].
#[unsafe(naked)]
unsafe extern "sysv64" fn vmwrite_failed() -> ! {
    naked_asm!("and rsp, -16", "mov esi, 1", "call {access_failed}", access_failed = sym access_failed)
}

/// L1 asks only for fields that the capabilities promise.
#[cold]
extern "sysv64" fn access_failed(field: u64, writes: u64) -> ! {
    let field = Field(field as u32);
    panic!("{} of {field} ({:#x}) failed", if writes == 0 { "VMREAD" } else { "VMWRITE" }, field.0)
}

/// INVEPT, all contexts (type 2).
///
/// # Safety
/// The processor must be in VMX operation and must offer INVEPT with this type.
///
/// # Errors
/// As the flags say.
pub unsafe fn invept_all() -> Result<(), VmxFailure> {
    let descriptor = [0_u64; 2];
    let (carry, zero): (u8, u8);
    // SAFETY: by this function's contract; the descriptor is 16 readable bytes.
    unsafe {
        asm!("invept {0}, xmmword ptr [{1}]", "setc {2}", "setz {3}", in(reg) 2_u64, in(reg) descriptor.as_ptr(),
             out(reg_byte) carry, out(reg_byte) zero, options(nostack));
    }
    outcome(carry, zero)
}

/// INVVPID, all contexts (type 2).
///
/// # Safety
/// The processor must be in VMX operation and must offer INVVPID with this type.
///
/// # Errors
/// As the flags say.
pub unsafe fn invvpid_all() -> Result<(), VmxFailure> {
    let descriptor = [0_u64; 2];
    let (carry, zero): (u8, u8);
    // SAFETY: by this function's contract; the descriptor is 16 readable bytes.
    unsafe {
        asm!("invvpid {0}, xmmword ptr [{1}]", "setc {2}", "setz {3}", in(reg) 2_u64, in(reg) descriptor.as_ptr(),
             out(reg_byte) carry, out(reg_byte) zero, options(nostack));
    }
    outcome(carry, zero)
}
