//! A built-in guest on Bochs itself, in the place of the L1 image, so that the emulated processor judges what it does.
//!
//! What always holds: the guest finds what it finds under L1 (memory, registers, GDT and page tables as the loader made
//! them) and one word more, [`SURROUNDINGS`], which tells the guests' runtime to speak to the host program as L1 would.
//!
//! The RAM image begins at 1 MiB, because below lies memory that Bochs does not fill from one. What the guest has below
//! comes along at [`PAGE_TABLES`] and up, beside a few instructions that put it where it belongs.
#![expect(unsafe_code, reason = "the first instructions are a symbol defined in assembly")]

use core::arch::global_asm;

use l1_protocol::guest::{START_LONG_MODE, SURROUNDINGS, SURROUNDINGS_BARE_BOCHS};
use l1_protocol::memory_map::{BOOT_PAGE_TABLE_PAGES, PAGE_SIZE, RAM_IMAGE_BASE};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use thiserror::Error;
use zerocopy::IntoBytes;

use crate::handover;
use crate::loader::{GuestFormat, LoadedGuest};
use crate::machine::MemoryImage;

/// Where the page tables for the start lie. The guest's memory, .bss included, ends below.
pub(super) const PAGE_TABLES: u64 = 16 << 20;
/// Where the first instructions lie.
const CODE: u64 = PAGE_TABLES + BOOT_PAGE_TABLE_PAGES * PAGE_SIZE;
/// Where the first instructions find what to do: [`handover_words`].
pub(super) const HANDOVER: u64 = CODE + PAGE_SIZE;
/// Where the guest's low memory is copied from.
const LOW_MEMORY: u64 = HANDOVER + PAGE_SIZE;
/// What Bochs says in its log when a triple fault ends it.
pub const TRIPLE_FAULT: &str = "exception with no resolution";
/// The least memory a machine can have, in bytes.
const MEMORY_MINIMUM: u64 = 32 << 20;

/// Why a guest cannot run so.
#[derive(Debug, Error)]
pub enum BareError {
    /// It starts in another mode.
    #[error("--bare is for guests that start in long mode at the runtime's start; this one starts elsewhere")]
    Start,
    /// It would overwrite what starts it.
    #[error("with --bare a guest's memory must end below {PAGE_TABLES:#x}, this one's ends at {0:#x}")]
    Size(u64),
    /// There is too little memory.
    #[error("with --bare a guest has at least {minimum} MiB of memory, not {0} bytes", minimum = MEMORY_MINIMUM >> 20)]
    Memory(u64),
    /// The ELF file is damaged.
    #[error("the guest is damaged: {0}")]
    Elf(#[from] object::Error),
}

// RDI: the words of `handover_words`. Copies until a length of zero, then GDT, CR3, segments, stack, and the jump.
global_asm!(
    ".section .rodata.l1_bare_start, \"a\"",
    ".balign 16",
    ".globl l1_bare_start",
    "l1_bare_start:",
    "cld",
    "mov %rdi, %rbx",
    "lea 48(%rbx), %rdx",
    "2:",
    "mov 0(%rdx), %rsi",
    "mov 8(%rdx), %rdi",
    "mov 16(%rdx), %rcx",
    "test %rcx, %rcx",
    "jz 3f",
    "rep movsb",
    "add $24, %rdx",
    "jmp 2b",
    "3:",
    // The caches are on, as L1 has them: CD and NW are 1 after reset.
    "mov %cr0, %rax",
    "and $0x9fffffff, %eax",
    "mov %rax, %cr0",
    "lgdt 6(%rbx)",
    "mov 16(%rbx), %rax",
    "mov %rax, %cr3",
    "mov $0x18, %eax",
    "mov %eax, %ds",
    "mov %eax, %es",
    "mov %eax, %fs",
    "mov %eax, %gs",
    "mov %eax, %ss",
    "mov 24(%rbx), %rsp",
    "mov 32(%rbx), %rdi",
    "mov %rdi, %rsi",
    "pushq $0x10",
    "pushq 40(%rbx)",
    "lretq",
    ".balign 128",
    ".org l1_bare_start + 128",
    ".text",
    options(att_syntax)
);

unsafe extern "C" {
    #[link_name = "l1_bare_start"]
    static FIRST_INSTRUCTIONS: [u8; 128];
}

/// What the first instructions read: GDT register (limit in the upper two bytes of the first word), CR3, RSP, RDI, RIP,
/// and copies of (from, to, bytes).
fn handover_words(guest: &LoadedGuest<'_>, copies: &[[u64; 3]]) -> Vec<u64> {
    let start = &guest.start;
    let registers = [start.gdt_limit << 48, start.gdt_base, start.cr3, start.rsp, start.rdi, start.rip];
    registers.into_iter().chain(copies.iter().flatten().copied()).chain([0; 3]).collect()
}

/// Puts together what a machine of `memory_size` bytes starts with. `elf_file` is what `guest` was loaded from.
///
/// # Errors
/// [`BareError`].
pub fn prepare(guest: &LoadedGuest<'_>, elf_file: &[u8], memory_size: u64) -> Result<MemoryImage, BareError> {
    if guest.format != GuestFormat::Elf64 || guest.start.mode != START_LONG_MODE {
        return Err(BareError::Start);
    }
    if memory_size < MEMORY_MINIMUM {
        return Err(BareError::Memory(memory_size));
    }
    let end = memory_end(elf_file)?;
    if end > PAGE_TABLES {
        return Err(BareError::Size(end));
    }
    let (mut pieces, mut low, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    let surroundings = SURROUNDINGS_BARE_BOCHS.to_le_bytes();
    let segments = guest.segments.iter().map(|segment| (segment.guest_address, &*segment.bytes));
    // The surroundings come last: they lie in the gap between two parts of the loader's, which may have become one.
    for (address, bytes) in segments.chain([(SURROUNDINGS, &surroundings[..])]) {
        if address >= RAM_IMAGE_BASE {
            pieces.push((address, bytes.to_vec()));
        } else {
            copies.push([LOW_MEMORY + low.len() as u64, address, bytes.len() as u64]);
            low.extend_from_slice(bytes);
        }
    }
    // SAFETY: the symbol is that many bytes of constant data, defined above, and never written.
    let code = unsafe { FIRST_INSTRUCTIONS }.to_vec();
    pieces.push((PAGE_TABLES, handover::page_tables_at(PAGE_TABLES)));
    pieces.push((CODE, code));
    pieces.push((HANDOVER, handover_words(guest, &copies).as_bytes().to_vec()));
    pieces.push((LOW_MEMORY, low));
    Ok(MemoryImage { pieces, memory_size, entry: CODE })
}

/// First address after everything that the file wants in memory.
fn memory_end(elf_file: &[u8]) -> Result<u64, BareError> {
    let header = elf::FileHeader64::<Endianness>::parse(elf_file)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, elf_file)?.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD);
    Ok(segments.map(|segment| segment.p_paddr(endian).saturating_add(segment.p_memsz(endian))).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::built_in;
    use crate::loader::{LoadOptions, load};

    fn prepare_guest(name: &str, memory_size: u64) -> Result<MemoryImage, BareError> {
        let elf_file = built_in::find(name).expect("a built-in guest").elf;
        let options = LoadOptions { file_name: name, memory_size: 64 << 20, command_line: "", initrd: None, load_at: None };
        prepare(&load(elf_file, &options).expect("valid"), elf_file, memory_size)
    }

    #[test]
    fn everything_lies_above_1_mib_in_ascending_order() {
        let image = prepare_guest("hello", 64 << 20).expect("it runs bare");
        let mut end = RAM_IMAGE_BASE;
        for (address, bytes) in &image.pieces {
            assert!(*address >= end, "{address:#x} overlaps what ends at {end:#x}");
            end = address + bytes.len() as u64;
        }
        assert!(end <= image.memory_size);
    }

    #[test]
    fn what_cannot_run_so_is_refused() {
        assert!(matches!(prepare_guest("real-mode", 64 << 20), Err(BareError::Start)));
        assert!(matches!(prepare_guest("hello", 16 << 20), Err(BareError::Memory(_))));
    }
}
