//! Into L3 and back.
//!
//! HOST_RSP holds the address of [`Registers`], which never moves, so it is written once and not at every entry: the
//! exit code finds the place for L3's registers at RSP itself and only then switches to the hypervisor's stack.
#![expect(unsafe_code, reason = "VM entry and exit")]

use core::arch::naked_asm;

/// L3's general registers while it does not run; RSP is in the VMCS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "each field is the register it is named after")]
pub struct Registers {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    /// The hypervisor's RSP while L3 runs.
    pub host_rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// Runs L3 until its next VM exit, with VMRESUME where `launched`, else with VMLAUNCH. Returns zero, or after a failed
/// instruction RFLAGS (CF or ZF set).
///
/// # Safety
/// The current VMCS must have HOST_RSP = `registers`, HOST_RIP = [`exit_address`], and the rest of the host state such
/// that the hypervisor goes on as before.
pub unsafe fn enter(registers: *mut Registers, launched: bool) -> u64 {
    // SAFETY: by this function's contract.
    unsafe { enter_naked(registers, launched) }
}

/// The value for HOST_RIP.
#[must_use]
pub fn exit_address() -> u64 {
    (exit as *const ()).addr() as u64
}

#[unsafe(naked)]
unsafe extern "sysv64" fn enter_naked(registers: *mut Registers, launched: bool) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi + 0x20], rsp",
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
        // Only a failed instruction comes here; RSP is still the hypervisor's.
        "pushfq",
        "pop rax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Where VM exits arrive: RSP is the address of the [`Registers`], interrupts are off.
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
        "mov rsp, [rsp + 0x20]",
        "xor eax, eax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}
