//! Starts in real mode (interrupt through the IVT, #UD, CPUID, string I/O), goes to protected mode and to long mode.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "real-mode code is assembly, and leaves its findings in raw memory")]

use core::ptr;

use l1_protocol::guest::ARGUMENTS;
use l2_guests::control::{cr0, read_cr0};
use l2_guests::cpuid::{Leaf, cpuid};
use l2_guests::long_mode::PAGE_TABLES;
use l2_guests::msr::{self, efer};
use l2_guests::{Outcome, ensure, fail, println};

l2_guests::guest!(run, START_REAL_MODE);

/// Where the code below leaves [`Findings`]: between the page tables of `long_mode` and the command line.
const FINDINGS: u16 = 0x7800;
/// Top of its stack, below the findings.
const STACK: u16 = 0x7800;

/// What the real-mode code found.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Findings {
    /// EBX, EDX and ECX of CPUID's leaf 0.
    vendor: [u32; 3],
    /// How often the handler of INT 0x40 ran.
    interrupts: u16,
    /// How often the handler of #UD ran.
    invalid_opcodes: u16,
    /// 16 bytes of REP INSB from a port that no device has.
    input: [u8; 16],
    /// SP after all of it.
    stack: u16,
}

// The linker script puts section `.low` at 0x10000, so CS 0x1000 makes offsets of the distances from its start. The
// far jump in the beginning makes that so, whichever CS:IP the loader chose for the address.
#[cfg(bare_metal)]
core::arch::global_asm!(
    ".pushsection .low, \"awx\", @progbits",
    ".code16",
    ".global real_mode_entry",
    ".type real_mode_entry, @function",
    "real_mode_entry:",
    "cli",
    "cld",
    "ljmpw $0x1000, $(real_mode_start - real_mode_entry)",
    "real_mode_start:",
    // DS is this segment, ES and SS are the first 64 KiB.
    "movw %cs, %ax",
    "movw %ax, %ds",
    "xorw %ax, %ax",
    "movw %ax, %es",
    "movw %ax, %ss",
    "movw ${stack}, %sp",
    // The IVT is at 0, where the processor looks for it after reset.
    "lidtw real_mode_idt - real_mode_entry",
    "movw $(real_mode_interrupt - real_mode_entry), %es:0x100",
    "movw $0x1000, %es:0x102",
    "movw $(real_mode_invalid_opcode - real_mode_entry), %es:0x18",
    "movw $0x1000, %es:0x1a",
    // Findings: all zero.
    "movw ${findings}, %di",
    "movw $20, %cx",
    "rep stosw",

    "movw $(real_mode_text - real_mode_entry), %si",
    "movw $(real_mode_text_end - real_mode_text), %cx",
    "movw ${console}, %dx",
    "rep outsb",

    // A character at a time as well, through the form of OUT with an immediate port.
    "movb $'2', %al",
    "outb %al, ${console}",
    "movb $'\\n', %al",
    "outb %al, ${console}",

    "int $0x40",
    "ud2",
    "int $0x40",

    "movw ${findings} + 16, %di",
    "movw $16, %cx",
    "movw $0xd00, %dx",
    "rep insb",

    "xorl %eax, %eax",
    "cpuid",
    "movl %ebx, %es:{findings}",
    "movl %edx, %es:{findings} + 4",
    "movl %ecx, %es:{findings} + 8",
    "movw %sp, %es:{findings} + 32",

    // Protected mode: the GDT below has 32-bit code and data.
    "lgdtl real_mode_gdt_register - real_mode_entry",
    "movl %cr0, %eax",
    "orl $1, %eax",
    "movl %eax, %cr0",
    "ljmpl $0x8, $protected_mode_start",

    // Handlers: AX and the flags are as they were.
    "real_mode_interrupt:",
    "incw %es:{findings} + 12",
    "iretw",
    // A fault: the saved IP is that of UD2, which has two bytes.
    "real_mode_invalid_opcode:",
    "pushw %bp",
    "movw %sp, %bp",
    "addw $2, 2(%bp)",
    "popw %bp",
    "incw %es:{findings} + 14",
    "iretw",
    ".size real_mode_entry, . - real_mode_entry",

    ".code32",
    ".type protected_mode_start, @function",
    "protected_mode_start:",
    "movw $0x10, %ax",
    "movw %ax, %ds",
    "movw %ax, %es",
    "movw %ax, %ss",
    "movw %ax, %fs",
    "movw %ax, %gs",
    "movl ${stack}, %esp",
    "movl $protected_mode_text, %esi",
    "movl $(protected_mode_text_end - protected_mode_text), %ecx",
    "movl ${console}, %edx",
    "rep outsb",

    "jmp enter_long_mode",
    ".size protected_mode_start, . - protected_mode_start",

    ".balign 8",
    "real_mode_gdt:",
    ".quad 0",
    ".quad 0x00cf9a000000ffff",
    ".quad 0x00cf92000000ffff",
    "real_mode_gdt_register:",
    ".word . - real_mode_gdt - 1",
    ".long real_mode_gdt",
    "real_mode_idt:",
    ".word 0x3ff",
    ".long 0",
    "real_mode_text:",
    ".ascii \"real mode, 1 and \"",
    "real_mode_text_end:",
    "protected_mode_text:",
    ".ascii \"protected mode\\n\"",
    "protected_mode_text_end:",
    ".code64",
    ".popsection",
    stack = const STACK,
    findings = const FINDINGS,
    console = const l1_protocol::guest::DEBUG_CONSOLE_PORT,
    options(att_syntax),
);

fn run(arguments: &str) -> Outcome {
    println!("long mode");
    // SAFETY: the code above wrote it, and nothing else is there.
    let findings = unsafe { ptr::with_exposed_provenance::<Findings>(usize::from(FINDINGS)).read_volatile() };
    let Leaf { ebx, edx, ecx, .. } = cpuid(0, 0);
    ensure!(findings.vendor == [ebx, edx, ecx], "CPUID gave {:x?} in real mode, {:x?} now", findings.vendor, [ebx, edx, ecx]);
    ensure!(findings.interrupts == 2, "INT 0x40 ran its handler {} times, not twice", findings.interrupts);
    ensure!(findings.invalid_opcodes == 1, "UD2 ran its handler {} times, not once", findings.invalid_opcodes);
    ensure!(findings.input == [0xff; 16], "REP INSB read {:x?}", findings.input);
    ensure!(findings.stack == STACK, "SP was {:#x} in the end, not {STACK:#x}", findings.stack);
    ensure!(read_cr0() & (cr0::PE | cr0::PG) == cr0::PE | cr0::PG, "CR0 is {:#x}", read_cr0());
    match msr::read(msr::EFER) {
        Ok(value) => ensure!(value & efer::LMA != 0, "IA32_EFER is {value:#x} in long mode"),
        Err(raised) => fail!("reading IA32_EFER raised {raised}"),
    }
    println!("interrupts, #UD, CPUID and string I/O worked in real mode");
    if !arguments.is_empty() {
        println!("arguments: {arguments}");
    }
    // The page tables end below the findings, the findings below the command line.
    const { assert!(PAGE_TABLES as u64 + 0x6000 < FINDINGS as u64 && FINDINGS as u64 + 0x100 < ARGUMENTS) };
    Ok(())
}
