//! The interrupt descriptor table: all 256 vectors, each with an entry that saves what Rust code may change.
//!
//! What always holds:
//! - A handler runs with interrupts off on the interrupted code's stack. General registers and the x87 and SSE state
//!   are saved and restored around it.
//! - Handlers are Rust code, which uses SSE. If the guest has set CR0.TS or CR0.EM, the entry clears both, and they
//!   stay clear.
//! - An exception goes to the [`attempt!`](crate::attempt) that waits for it, else to the handler set for the vector;
//!   else it is printed and ends the run as a failure, as does an interrupt without a handler.
#![expect(unsafe_code, reason = "the table is read by the processor, the entries are assembly")]

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use crate::exception::{self, Exception, vector};
use crate::{Failure, exit, println};

/// Code segment of the loader's GDT.
const CODE_SELECTOR: u64 = 0x10;
/// Bytes between the entries of two vectors.
const ENTRY_SIZE: u64 = 16;
/// SDM 3A 6.14.1 "64-Bit Mode IDT": a 64-bit interrupt gate, DPL 0.
const INTERRUPT_GATE: u64 = 0x0e00;
/// The gate is present.
const PRESENT: u64 = 0x8000;

// 256 entries of 16 bytes: each pushes a zero where the processor pushes no error code, and its vector.
// Then the general registers, in the order of `Frame`; the x87 and SSE state below them, on a 16-byte boundary.
global_asm!(
    ".pushsection .text.exception_entries, \"ax\", @progbits",
    ".balign 16",
    ".global exception_entries",
    ".type exception_entries, @function",
    "exception_entries:",
    ".set .Lvector, 0",
    ".rept 256",
    ".balign 16",
    // Vectors with an error code: 8, 10 to 14, 17, 21, 29, 30.
    ".if (.Lvector < 32) && ((0x60227d00 >> .Lvector) & 1)",
    ".else",
    "pushq $0",
    ".endif",
    "pushq $.Lvector",
    "jmp exception_common",
    ".set .Lvector, .Lvector + 1",
    ".endr",
    ".balign 16",
    ".size exception_entries, . - exception_entries",
    ".type exception_common, @function",
    "exception_common:",
    "pushq %rax",
    "pushq %rcx",
    "pushq %rdx",
    "pushq %rbx",
    "pushq %rbp",
    "pushq %rsi",
    "pushq %rdi",
    "pushq %r8",
    "pushq %r9",
    "pushq %r10",
    "pushq %r11",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "cld",
    "movq %cr0, %rax",
    "testb $0xc, %al",
    "jz 2f",
    "andb $0xf3, %al",
    "movq %rax, %cr0",
    "2:",
    "movq %rsp, %rdi",
    "movq %rsp, %rbx",
    "subq $512, %rsp",
    "andq $-16, %rsp",
    "fxsave64 (%rsp)",
    "call {handle}",
    "fxrstor64 (%rsp)",
    "movq %rbx, %rsp",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %r11",
    "popq %r10",
    "popq %r9",
    "popq %r8",
    "popq %rdi",
    "popq %rsi",
    "popq %rbp",
    "popq %rbx",
    "popq %rdx",
    "popq %rcx",
    "popq %rax",
    "addq $16, %rsp",
    "iretq",
    ".size exception_common, . - exception_common",
    ".popsection",
    handle = sym handle,
    options(att_syntax),
);

unsafe extern "C" {
    static exception_entries: [u8; 256 * ENTRY_SIZE as usize];
}

/// What the entry leaves on the stack, lowest address first.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// R15 to R8, RDI, RSI, RBP, RBX, RDX, RCX, RAX.
    registers: [u64; 15],
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl Frame {
    /// The saved RFLAGS.
    #[must_use]
    pub fn rflags(&self) -> u64 {
        self.rflags
    }

    /// Whether the interrupted code ran at CPL 3.
    pub(crate) fn is_from_user_mode(&self) -> bool {
        self.cs & 3 == 3
    }

    /// Goes on at CPL 0, with interrupts off, at `rip` with the stack pointer `rsp`.
    pub(crate) fn go_on_in_kernel(&mut self, rip: u64, rsp: u64) {
        (self.rip, self.rsp, self.rflags) = (rip, rsp, 2);
        (self.cs, self.ss) = (CODE_SELECTOR, CODE_SELECTOR + 8);
    }

    /// The interrupted code goes on with RF set: the instruction breakpoint it stands on does not fire again.
    pub fn set_resume_flag(&mut self) {
        self.rflags |= 1 << 16;
    }

    /// The interrupted code goes on with TF clear: no more single steps.
    pub fn clear_trap_flag(&mut self) {
        self.rflags &= !(1 << 8);
    }
}

/// A function that serves a vector. The second argument is what [`attempt!`](crate::attempt) would have reported.
pub type Handler = fn(&mut Frame, &Exception);

/// 16-byte gates as pairs of quadwords.
#[repr(C, align(16))]
struct Table {
    gates: UnsafeCell<[[u64; 2]; 256]>,
    handlers: UnsafeCell<[Option<Handler>; 256]>,
}

// SAFETY: there is one processor; each access below is a single one and none hands out a reference.
unsafe impl Sync for Table {}

static TABLE: Table = Table { gates: UnsafeCell::new([[0; 2]; 256]), handlers: UnsafeCell::new([None; 256]) };

/// Operand of LIDT and SIDT, LGDT and SGDT in 64-bit mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, packed)]
pub struct TableRegister {
    /// Size of the table in bytes, less one.
    pub limit: u16,
    /// Linear address.
    pub base: u64,
}

/// What [`install`] gives to the processor.
#[must_use]
pub fn register() -> TableRegister {
    TableRegister { limit: 256 * 16 - 1, base: TABLE.gates.get().addr() as u64 }
}

/// Fills the table and loads it.
pub fn install() {
    for vector in 0..=255 {
        set_present(vector, true);
    }
    // SAFETY: every gate leads to an entry of its own.
    unsafe { load(register()) };
}

/// Loads an IDT.
///
/// # Safety
/// If anything is to go on after the next exception: the table must lead to code that can serve it.
pub unsafe fn load(register: TableRegister) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lidt [{register}]", register = in(reg) &raw const register, options(readonly, nostack, preserves_flags)) };
}

/// Makes a vector's gate present, as it is at start, or not present: its delivery then raises #NP.
pub fn set_present(vector: u8, present: bool) {
    let entry = (&raw const exception_entries).addr() as u64 + u64::from(vector) * ENTRY_SIZE;
    let kind = if present { INTERRUPT_GATE | PRESENT } else { INTERRUPT_GATE };
    let gate = [entry & 0xffff | CODE_SELECTOR << 16 | kind << 32 | (entry >> 16 & 0xffff) << 48, entry >> 32];
    // SAFETY: the index is in range, and no reference to the table exists.
    unsafe { (&raw mut (*TABLE.gates.get())[usize::from(vector)]).write_volatile(gate) };
}

/// Lets `handler` serve `vector` from now on. An exception that an [`attempt!`](crate::attempt) waits for never gets
/// to it.
pub fn set_handler(vector: u8, handler: Handler) {
    // SAFETY: the index is in range, and no reference to the table exists.
    unsafe { (&raw mut (*TABLE.handlers.get())[usize::from(vector)]).write_volatile(Some(handler)) };
}

/// Called by every entry.
extern "C" fn handle(frame: &mut Frame) {
    let vector = frame.vector as u8;
    let exception = Exception {
        vector,
        error_code: frame.error_code,
        rip: frame.rip,
        fault_address: if vector == vector::PAGE_FAULT { crate::control::read_cr2() } else { 0 },
        debug_status: if vector == vector::DEBUG { crate::control::take_dr6() } else { 0 },
    };
    if frame.is_from_user_mode() {
        crate::user_mode::leave(frame, exception);
        return;
    }
    let is_interrupt = exception.vector >= 32 || exception.vector == vector::NMI;
    if !is_interrupt && let Some(recovery) = exception::recover(exception) {
        frame.rip = recovery;
        frame.clear_trap_flag();
        return;
    }
    // SAFETY: the index is in range, and no reference to the table exists.
    match unsafe { (&raw const (*TABLE.handlers.get())[usize::from(exception.vector)]).read_volatile() } {
        Some(handler) => handler(frame, &exception),
        None => {
            println!("FAILED: unexpected vector {}: {exception}", exception.vector);
            exit::exit(Failure::CHECK.value());
        }
    }
}
