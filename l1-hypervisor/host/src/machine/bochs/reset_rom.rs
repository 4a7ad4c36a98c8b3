//! The 64 KiB ROM that Bochs starts from: from the reset vector to the first instruction of what was loaded.
//!
//! It replaces BIOS and boot loader. Written as assembly in this program's own read-only data, so that building it
//! needs nothing but the Rust toolchain; the values that differ from run to run are patched into a copy.
//!
//! What it does, in this order and without any use of RAM before step 2 is through (no stack):
//! 1. real mode to 32-bit protected mode, with a GDT in the ROM;
//! 2. reads one byte of every 128 KiB block of the RAM image in ascending order: Bochs hands out host memory block by
//!    block on first touch, but has read the image file into it in one sweep;
//! 3. either jumps to a 32-bit entry point (Linux's 32-bit boot protocol: ESI holds the argument), or goes on to long
//!    mode with the page tables it was given and jumps to a 64-bit entry point (RDI holds the argument).
#![expect(unsafe_code, reason = "the ROM is a symbol defined in assembly")]

use core::arch::global_asm;

/// Bytes of the ROM; Bochs maps it so that it ends at 4 GiB.
pub const SIZE: usize = 0x1_0000;

/// Offset of the patched words in the ROM, in the order of [`Start::words`].
const PARAMETERS: usize = 0xff00;

global_asm!(
    ".section .rodata.l1_reset_rom, \"a\"",
    ".balign 16",
    ".globl l1_reset_rom",
    "l1_reset_rom:",
    ".skip 0xfe00, 0xf4",
    ".code32",
    "l1_reset_protected:",
    "mov $0x18, %eax",
    "mov %eax, %ds",
    "mov %eax, %es",
    "mov %eax, %fs",
    "mov %eax, %gs",
    "mov %eax, %ss",
    "mov $0xffffff00, %ebp",
    "mov 0(%ebp), %esi",
    "mov 4(%ebp), %ecx",
    "2:",
    "mov (%esi), %al",
    "add $0x20000, %esi",
    "cmp %ecx, %esi",
    "jb 2b",
    "mov 12(%ebp), %esi",
    "mov %esi, %edi",
    "mov 16(%ebp), %eax",
    "test %eax, %eax",
    "jnz 3f",
    // Linux's 32-bit boot protocol: EBP, EDI and EBX zero, ESI the zero page.
    "mov 8(%ebp), %eax",
    "xor %ebx, %ebx",
    "xor %edi, %edi",
    "xor %ebp, %ebp",
    "jmp *%eax",
    "3:",
    "mov %eax, %cr3",
    "mov %cr4, %eax",
    "or $0x20, %eax",
    "mov %eax, %cr4",
    "mov $0xc0000080, %ecx",
    "rdmsr",
    "or $0x100, %eax",
    "wrmsr",
    "mov %cr0, %eax",
    "or $0x80000000, %eax",
    "mov %eax, %cr0",
    "ljmp $0x20, $(0xffff0000 + l1_reset_long - l1_reset_rom)",
    ".code64",
    "l1_reset_long:",
    // The upper halves of registers are undefined after the switch (SDM 1 3.4.1.1).
    "mov %edi, %edi",
    "mov $0xffffff00, %ebp",
    "mov 8(%rbp), %eax",
    "jmp *%rax",
    ".balign 8",
    "l1_reset_gdt:",
    // Accessed bits are set, as nothing can set them here. 0x10 and 0x18 are where Linux wants them.
    ".quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff",
    "l1_reset_gdt_pointer:",
    ".word 39",
    ".long 0xffff0000 + l1_reset_gdt - l1_reset_rom",
    ".org l1_reset_rom + 0xff00",
    ".skip 32, 0",
    ".code16",
    "l1_reset_real:",
    "cli",
    "lgdtl %cs:(l1_reset_gdt_pointer - l1_reset_rom)",
    "mov %cr0, %eax",
    "or $1, %eax",
    "mov %eax, %cr0",
    "ljmpl $0x10, $(0xffff0000 + l1_reset_protected - l1_reset_rom)",
    ".org l1_reset_rom + 0xfff0",
    "jmp l1_reset_real",
    ".org l1_reset_rom + 0x10000",
    ".code64",
    ".text",
    options(att_syntax)
);

unsafe extern "C" {
    #[link_name = "l1_reset_rom"]
    static TEMPLATE: [u8; SIZE];
}

/// How the ROM hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// First byte of the RAM image.
    pub image_start: u32,
    /// First byte after it.
    pub image_end: u32,
    /// Physical address of the first instruction.
    pub entry: u32,
    /// Value of RDI (long mode) or ESI (protected mode).
    pub argument: u32,
    /// Root of the page tables for a start in long mode; `None` for a start in 32-bit protected mode.
    pub page_tables: Option<u32>,
}

impl Start {
    fn words(self) -> [u32; 5] {
        [self.image_start, self.image_end, self.entry, self.argument, self.page_tables.unwrap_or(0)]
    }
}

/// The ROM for one run.
#[must_use]
pub fn build(start: Start) -> Vec<u8> {
    // SAFETY: the symbol is SIZE bytes of constant data, defined above, and never written.
    let mut rom = unsafe { TEMPLATE }.to_vec();
    for (slot, word) in rom[PARAMETERS..].chunks_exact_mut(4).zip(start.words()) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_are_patched_and_the_reset_vector_is_a_jump() {
        let start = Start {
            image_start: 0x10_0000,
            image_end: 0x40_0000,
            entry: 0x20_0000,
            argument: 0x1234,
            page_tables: Some(0x10_0000),
        };
        let rom = build(start);
        assert_eq!(rom.len(), SIZE);
        assert_eq!(rom[PARAMETERS + 8..PARAMETERS + 12], 0x20_0000_u32.to_le_bytes());
        assert!([0xe9, 0xeb].contains(&rom[0xfff0]), "a near or short jump");
    }
}
