//! An IDT for L3 whose handlers say by VMCALL what was delivered, and then return.
//!
//! A handler leaves in R8 the vector, in R9 the error code (0 where there is none), in R10 the saved RIP and in R11 the
//! saved RFLAGS; L3 code that events reach must not use these.
#![expect(unsafe_code, reason = "the entries are symbols defined in assembly")]

use core::arch::global_asm;

use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;

use super::l3::L3;
use super::region;
use crate::{Failure, ensure};

/// Number of vectors that have a handler.
pub const VECTORS: u64 = 64;
/// A present 64-bit interrupt gate, DPL 0, in bits 47:40 of a gate.
const INTERRUPT_GATE: u64 = 0x8e << 40;
/// L3's code segment.
const CODE_SELECTOR: u64 = 0x10 << 16;

global_asm!(
    ".pushsection .text.l3_event_entries, \"ax\", @progbits",
    ".balign 16",
    ".global l3_event_entries",
    ".type l3_event_entries, @function",
    "l3_event_entries:",
    ".set .Ll3_vector, 0",
    ".rept 64",
    ".balign 16",
    // Vectors with an error code: 8, 10 to 14, 17, 21, 29, 30.
    ".if (.Ll3_vector < 32) && ((0x60227d00 >> .Ll3_vector) & 1)",
    ".else",
    "pushq $0",
    ".endif",
    "pushq $.Ll3_vector",
    "jmp l3_event_common",
    ".set .Ll3_vector, .Ll3_vector + 1",
    ".endr",
    ".balign 16",
    "l3_event_common:",
    "popq %r8",
    "popq %r9",
    "movq (%rsp), %r10",
    "movq 16(%rsp), %r11",
    "vmcall",
    "iretq",
    ".size l3_event_entries, . - l3_event_entries",
    ".popsection",
    options(att_syntax),
);

unsafe extern "C" {
    static l3_event_entries: [u8; 16 * VECTORS as usize];
}

/// Length of the handlers' VMCALL.
const VMCALL_LENGTH: u64 = 3;

/// What a handler met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Delivered {
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// Makes the IDT in a page of its own and returns where that is.
#[must_use]
pub fn table() -> u64 {
    let table = region::allocate(1);
    for vector in 0..VECTORS {
        let entry = (&raw const l3_event_entries).addr() as u64 + vector * 16;
        region::write(table + vector * 16, entry & 0xffff | CODE_SELECTOR | INTERRUPT_GATE | (entry >> 16 & 0xffff) << 48);
        region::write(table + vector * 16 + 8, entry >> 32);
    }
    table
}

/// Lets L3 use an IDT that [`table`] made.
pub fn use_table(l3: &L3, table: u64) {
    l3.write(Field::GUEST_IDTR_BASE, table);
    l3.write(Field::GUEST_IDTR_LIMIT, VECTORS * 16 - 1);
}

/// Runs L3, whose next exit must be a handler's VMCALL, and lets the handler return at the entry after this.
///
/// # Errors
/// If it exits for something else; it has been printed.
pub fn delivered(l3: &mut L3) -> Result<Delivered, Failure> {
    l3.run_to(BasicExitReason::VMCALL)?;
    let (rip, first) = (l3.read(Field::GUEST_RIP), (&raw const l3_event_entries).addr() as u64);
    let after_entries = first + VECTORS * 16;
    ensure!((after_entries..after_entries + 32).contains(&rip), "L3 went on to {rip:#x}, no event was delivered");
    l3.write(Field::GUEST_RIP, rip + VMCALL_LENGTH);
    let registers = l3.registers();
    Ok(Delivered { vector: registers.r8, error_code: registers.r9, rip: registers.r10, rflags: registers.r11 })
}
