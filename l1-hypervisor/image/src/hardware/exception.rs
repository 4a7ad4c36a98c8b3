//! Exceptions, NMIs and interrupts that arrive while L1 itself runs. None is expected: each one is reported as a bug
//! in L1 and ends the run.
#![expect(unsafe_code, reason = "exception entry points")]

use core::arch::{global_asm, naked_asm};

/// Distance between two entry points, in bytes.
const STUB_SIZE: usize = 16;

// One entry point a vector, at a fixed distance: pushes a zero where the processor pushes no error code, pushes the
// vector, and goes to the common part.
global_asm!(
    ".section .text.l1_exception_stubs, \"ax\"",
    ".balign 16",
    "l1_exception_stubs:",
    ".set l1_vector, 0",
    ".rept 256",
    ".balign 16",
    ".if l1_vector != 8 && (l1_vector < 10 || l1_vector > 14) && l1_vector != 17 && l1_vector != 21 && l1_vector != 29 && l1_vector != 30",
    "push 0",
    ".endif",
    "push l1_vector",
    "jmp {common}",
    ".set l1_vector, l1_vector + 1",
    ".endr",
    ".text",
    common = sym common,
);

unsafe extern "C" {
    #[link_name = "l1_exception_stubs"]
    static STUBS: [u8; STUB_SIZE * 256];
}

/// Address of the entry point of `vector`.
#[must_use]
pub fn stub_address(vector: usize) -> u64 {
    (&raw const STUBS).addr() as u64 + (vector * STUB_SIZE) as u64
}

/// What the processor and the entry code pushed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
#[allow(missing_docs, reason = "each field is the register it is named after")]
pub struct ExceptionFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

#[unsafe(naked)]
unsafe extern "sysv64" fn common() {
    naked_asm!(
        "push rax", "push rcx", "push rdx", "push rbx", "push rbp", "push rsi", "push rdi",
        "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
        "cld",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {report}",
        "ud2",
        report = sym crate::failure::unexpected_exception,
    )
}
