//! The way from protected mode to long mode, for guests that start below it.
//!
//! Such a guest jumps to `enter_long_mode` in 32-bit code, with paging off, flat segments and any stack. It ends at
//! `_start`, with everything as the loader leaves it: page tables at [`PAGE_TABLES`] that map the first 4 GiB one
//! address to one, 64-bit code in CS, RDI at the command line.
#![cfg_attr(bare_metal, expect(unsafe_code, reason = "there is no other way than assembly"))]

use l1_protocol::guest::LOADER_PAGE_TABLES;

/// Where the page tables are made: 6 pages.
pub const PAGE_TABLES: u32 = LOADER_PAGE_TABLES as u32;

// In a section that the linker drops where nobody jumps there.
#[cfg(bare_metal)]
core::arch::global_asm!(
    ".pushsection .text.enter_long_mode, \"ax\", @progbits",
    ".code32",
    ".global enter_long_mode",
    ".type enter_long_mode, @function",
    "enter_long_mode:",
    // PML4, PDPT and four page directories of 2 MiB pages.
    "cld",
    "movl ${tables}, %edi",
    "movl $0x1800, %ecx",
    "xorl %eax, %eax",
    "rep stosl",
    "movl ${tables} + 0x1003, {tables}",
    "movl ${tables} + 0x2003, {tables} + 0x1000",
    "movl ${tables} + 0x3003, {tables} + 0x1008",
    "movl ${tables} + 0x4003, {tables} + 0x1010",
    "movl ${tables} + 0x5003, {tables} + 0x1018",
    "movl ${tables} + 0x2000, %edi",
    "movl $0x83, %eax",
    "2:",
    "movl %eax, (%edi)",
    "addl $8, %edi",
    "addl $0x200000, %eax",
    "cmpl ${tables} + 0x6000, %edi",
    "jb 2b",

    // SDM 3A 10.8.5 "Initializing IA-32e Mode": PAE, CR3, LME, PG, and a jump to 64-bit code.
    "movl %cr4, %eax",
    "orl $0x20, %eax",
    "movl %eax, %cr4",
    "movl ${tables}, %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl $0x100, %eax",
    "wrmsr",
    "movl %cr0, %eax",
    "orl $0x80000000, %eax",
    "movl %eax, %cr0",
    "lgdtl long_mode_gdt_register",
    "ljmpl $0x10, $long_mode_start",

    ".code64",
    "long_mode_start:",
    "movl $0x18, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "movl ${arguments}, %edi",
    "movl $_start, %eax",
    "jmpq *%rax",

    // Code and data are where the loader's GDT has them.
    ".balign 8",
    "long_mode_gdt:",
    ".quad 0",
    ".quad 0",
    ".quad 0x00af9b000000ffff",
    ".quad 0x00cf93000000ffff",
    "long_mode_gdt_register:",
    ".word . - long_mode_gdt - 1",
    ".long long_mode_gdt",
    ".size enter_long_mode, . - enter_long_mode",
    ".popsection",
    tables = const PAGE_TABLES,
    arguments = const l1_protocol::guest::ARGUMENTS,
    options(att_syntax),
);
