//! From L1 to the guest and back.
//!
//! HOST_RSP holds the address of a [`Context`], which never moves, so it is written once and not at every entry: the
//! exit code finds the place for the guest's registers at RSP itself and only then switches to L1's stack.
//!
//! The guest's x87, MMX and SSE state is saved at every exit, as L1's own code uses SSE registers. L1 uses no AVX: the
//! upper halves of vector registers, XCR0 and debug registers stay the guest's while L1 runs.
#![expect(unsafe_code, reason = "VM entry and exit")]

use core::arch::naked_asm;

use crate::context::{Context, FLOATING_POINT, HOST_STACK_POINTER, INITIAL_MXCSR};

/// L1's own MXCSR: all exceptions masked, whatever the guest has unmasked.
static HOST_MXCSR: u32 = INITIAL_MXCSR;

/// Enters the guest, with VMRESUME where `launched`, else with VMLAUNCH, and returns after the next VM exit with zero,
/// or after a failed entry instruction with RFLAGS (CF or ZF set).
///
/// # Safety
/// The current VMCS must have HOST_RSP = address of `context`, HOST_RIP = [`exit_address`], and a host state and EPT
/// under which L1 keeps running undisturbed.
#[inline]
#[must_use]
pub unsafe fn enter_guest(context: &mut Context, launched: bool) -> u64 {
    // SAFETY: by this function's contract.
    unsafe { enter(context, launched) }
}

/// The value for HOST_RIP.
#[must_use]
pub fn exit_address() -> u64 {
    (exit as *const ()).addr() as u64
}

#[unsafe(naked)]
unsafe extern "sysv64" fn enter(context: *mut Context, launched: bool) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi + {host_stack_pointer}], rsp",
        "fxrstor64 [rdi + {floating_point}]",
        "test sil, sil",
        "mov rax, [rdi + 0x00]",
        "mov rcx, [rdi + 0x08]",
        "mov rdx, [rdi + 0x10]",
        "mov rbx, [rdi + 0x18]",
        "mov rbp, [rdi + 0x28]",
        "mov rsi, [rdi + 0x30]",
        "mov r8, [rdi + 0x40]",
        "mov r9, [rdi + 0x48]",
        "mov r10, [rdi + 0x50]",
        "mov r11, [rdi + 0x58]",
        "mov r12, [rdi + 0x60]",
        "mov r13, [rdi + 0x68]",
        "mov r14, [rdi + 0x70]",
        "mov r15, [rdi + 0x78]",
        "mov rdi, [rdi + 0x38]",
        "jz 2f",
        "vmresume",
        "jmp 3f",
        "2:",
        "vmlaunch",
        "3:",
        // Only a failed instruction comes here; RSP is still L1's.
        "pushfq",
        "pop rax",
        "ldmxcsr [rip + {host_mxcsr}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        host_stack_pointer = const HOST_STACK_POINTER,
        floating_point = const FLOATING_POINT,
        host_mxcsr = sym HOST_MXCSR,
    )
}

/// Where VM exits arrive: RSP is the address of the [`Context`].
#[unsafe(naked)]
unsafe extern "sysv64" fn exit() {
    naked_asm!(
        "mov [rsp + 0x00], rax",
        "mov [rsp + 0x08], rcx",
        "mov [rsp + 0x10], rdx",
        "mov [rsp + 0x18], rbx",
        "mov [rsp + 0x28], rbp",
        "mov [rsp + 0x30], rsi",
        "mov [rsp + 0x38], rdi",
        "mov [rsp + 0x40], r8",
        "mov [rsp + 0x48], r9",
        "mov [rsp + 0x50], r10",
        "mov [rsp + 0x58], r11",
        "mov [rsp + 0x60], r12",
        "mov [rsp + 0x68], r13",
        "mov [rsp + 0x70], r14",
        "mov [rsp + 0x78], r15",
        "fxsave64 [rsp + {floating_point}]",
        "ldmxcsr [rip + {host_mxcsr}]",
        "mov rsp, [rsp + {host_stack_pointer}]",
        "xor eax, eax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        host_stack_pointer = const HOST_STACK_POINTER,
        floating_point = const FLOATING_POINT,
        host_mxcsr = sym HOST_MXCSR,
    )
}
