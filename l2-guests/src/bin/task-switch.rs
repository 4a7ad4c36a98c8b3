//! Switches tasks in protected mode: CALL, JMP, IRET, task gates, error codes, #DF, page tables, LDT, a 16-bit TSS.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "protected-mode code is assembly, and leaves its findings in raw memory")]

#[cfg(bare_metal)]
use core::mem::offset_of;
use core::ptr;

use l2_guests::long_mode::PAGE_TABLES;
use l2_guests::{Outcome, ensure, println};

l2_guests::guest!(run, START_REAL_MODE);

/// Where the code below leaves [`Findings`]: above its stacks, which are above the page tables.
const FINDINGS: u32 = 0x7800;
/// Tops of the stacks, 512 bytes each: of the tasks that call, are called, handle faults, and are small.
const MAIN_STACK: u32 = 0x7800;
#[cfg(bare_metal)]
const CALLED_STACK: u32 = 0x7600;
#[cfg(bare_metal)]
const FAULT_STACK: u32 = 0x7400;
const SMALL_STACK: u32 = 0x7200;
/// Two page directories: the second 4 MiB are themselves in one, and the first 4 MiB in the other.
const DIRECTORY_OF_MAIN: u32 = PAGE_TABLES;
#[cfg(bare_metal)]
const DIRECTORY_OF_CALLED: u32 = PAGE_TABLES + 0x1000;
/// What lies in the second 4 MiB.
const UPPER: u32 = 0xaaaa_aaaa;

/// What the tasks found.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Findings {
    /// How often the called task ran.
    calls: u32,
    /// Its EFLAGS.
    called_flags: u32,
    /// The link in its TSS.
    link: u32,
    /// EBX, which its TSS held.
    called_register: u32,
    /// CR0 when it began.
    called_control: u32,
    /// What its LDT leads to.
    local: u32,
    /// The mark in the second 4 MiB, as it sees it.
    called_mark: u32,
    /// EBP of the main task after it was called.
    main_register: u32,
    /// ESP of the main task after everything.
    main_stack: u32,
    /// How often the task that JMP leads to ran.
    jumps: u32,
    /// Its EFLAGS.
    jumped_flags: u32,
    /// Access byte of the main task's descriptor meanwhile.
    main_access_meanwhile: u32,
    /// The same afterwards.
    main_access: u32,
    /// Access byte of the other one's descriptor afterwards.
    jumped_access: u32,
    /// How often the task that handles faults ran.
    faults: u32,
    /// The error codes it found on its stack.
    error_codes: [u32; 2],
    /// EIP in the TSS of the main task, minus that of the instruction at fault.
    fault_distances: [u32; 2],
    /// How often the 16-bit task ran.
    small_calls: u32,
    /// Its BX and SP.
    small_register: u32,
    small_stack: u32,
    /// DR7 after a task switch.
    debug_control: u32,
    /// How often #DB was raised because of the T flag.
    traps: u32,
    /// DR6 then.
    trap_status: u32,
    /// EIP then, minus that of the first instruction of the task.
    trap_distance: u32,
    /// The mark as the main task sees it, after a call into other page tables.
    main_mark: u32,
    /// CR3 of the main task then.
    main_tables: u32,
    /// What both page directories have in the first 4 MiB.
    mark: u32,
}

const FINDING_COUNT: usize = size_of::<Findings>() / 4;

/// The address of a finding.
#[cfg(bare_metal)]
macro_rules! finding {
    ($field:ident) => {
        FINDINGS + offset_of!(Findings, $field) as u32
    };
}

// The linker script puts section `.low` at 0x10000, which is segment 0x1000 of real mode: addresses of what lies there
// are 0x10000 and the distance from its start.
#[cfg(bare_metal)]
core::arch::global_asm!(
    // Entries of the GDT and the IDT whose addresses are in `.low`, and a TSS. SDM 3A 8.2.
    ".macro task_descriptor limit, symbol, access",
    ".word \\limit, \\symbol - real_mode_entry",
    ".byte 1, \\access, 0, 0",
    ".endm",
    ".macro task_gate selector",
    ".word 0, \\selector, 0x8500, 0",
    ".endm",
    ".macro task_state instruction, stack, fs, ldt",
    ".fill 7, 4, 0",
    ".long 0, \\instruction, 2",
    // EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI; ES, CS, SS, DS, FS, GS.
    ".long 0, 0, 0, 0x12345678, \\stack, 0, 0, 0",
    ".long 0x10, 0x08, 0x10, 0x10, \\fs, 0",
    ".long \\ldt, 0x680000",
    ".endm",

    ".pushsection .low, \"awx\", @progbits",
    ".code16",
    ".global real_mode_entry",
    ".type real_mode_entry, @function",
    "real_mode_entry:",
    "cli",
    "cld",
    "ljmpw $0x1000, $(tasks_real_mode - real_mode_entry)",
    "tasks_real_mode:",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "lgdtl tasks_gdt_register - real_mode_entry",
    "movl %cr0, %eax",
    "orl $1, %eax",
    "movl %eax, %cr0",
    "ljmpl $0x08, $main_task_start",
    ".size real_mode_entry, . - real_mode_entry",

    ".code32",
    ".type main_task_start, @function",
    "main_task_start:",
    "movl $0x10, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "movl ${main_stack}, %esp",
    "lidtl tasks_idt_register",
    "movl $0x18, %eax",
    "ltr %ax",
    "movl ${findings}, %edi",
    "movl ${finding_count}, %ecx",
    "xorl %eax, %eax",
    "rep stosl",
    "movl ${upper}, {mark} + 0x400000",
    "movl $0x55555555, {mark}",

    // CALL to a TSS, through a task gate in the GDT, and INT through one in the IDT.
    "movl $0xb0b0b0b0, %ebp",
    "lcall $0x20, $0",
    "movl %ebp, {main_register}",
    "lcall $0x38, $0",
    "int $0x40",

    // JMP there and back.
    "ljmp $0x28, $0",
    "movzbl tasks_gdt + 0x18 + 5, %eax",
    "movl %eax, {main_access}",
    "movzbl tasks_gdt + 0x28 + 5, %eax",
    "movl %eax, {jumped_access}",

    // #GP: a selector beyond the end of the GDT. #DF: a segment that is not present, and no handler for that. The
    // handler goes on at ESI.
    "movl $general_protection_at, %edi",
    "movl $general_protection_after, %esi",
    "movl $0x78, %eax",
    "general_protection_at:",
    "movl %eax, %gs",
    "general_protection_after:",
    "movl $double_fault_at, %edi",
    "movl $double_fault_after, %esi",
    "movl $0x40, %eax",
    "double_fault_at:",
    "movl %eax, %gs",
    "double_fault_after:",

    // A 16-bit TSS, and DR7 with L0 and G1.
    "movl $9, %eax",
    "movl %eax, %dr7",
    "lcall $0x48, $0",
    "movl %dr7, %eax",
    "movl %eax, {debug_control}",
    "xorl %eax, %eax",
    "movl %eax, %dr7",

    // The T flag.
    "movl %eax, %dr6",
    "orb $1, called_task + 0x64",
    "lcall $0x20, $0",
    "andb $0xfe, called_task + 0x64",

    // Page tables of their own: 4 MiB pages.
    "movl $0x83, {directory_of_main}",
    "movl $0x400083, {directory_of_main} + 4",
    "movl $0x83, {directory_of_called}",
    "movl $0x83, {directory_of_called} + 4",
    "movl ${directory_of_main}, main_task + 0x1c",
    "movl ${directory_of_called}, called_task + 0x1c",
    "movl ${directory_of_main}, %eax",
    "movl %eax, %cr3",
    "movl %cr4, %eax",
    "orl $0x10, %eax",
    "movl %eax, %cr4",
    "movl %cr0, %eax",
    "orl $0x80000000, %eax",
    "movl %eax, %cr0",
    "lcall $0x20, $0",
    "movl {mark} + 0x400000, %eax",
    "movl %eax, {main_mark}",
    "movl %cr3, %eax",
    "movl %eax, {main_tables}",
    "movl %cr0, %eax",
    "andl $0x7fffffff, %eax",
    "movl %eax, %cr0",

    "movl %esp, {main_stack_after}",
    "jmp enter_long_mode",
    ".size main_task_start, . - main_task_start",

    // A task that returns goes on behind its IRET when it is called again.
    ".type called_task_start, @function",
    "called_task_start:",
    "movl %cr0, %eax",
    "movl %eax, {called_control}",
    "clts",
    "incl {calls}",
    "pushfl",
    "popl {called_flags}",
    "movzwl called_task, %eax",
    "movl %eax, {link}",
    "movl %ebx, {called_register}",
    "movl %fs:0, %eax",
    "movl %eax, {local}",
    "movl {mark} + 0x400000, %eax",
    "movl %eax, {called_mark}",
    "iretl",
    "called_task_again:",
    "jmp called_task_start",
    ".size called_task_start, . - called_task_start",

    ".type jumped_task_start, @function",
    "jumped_task_start:",
    "incl {jumps}",
    "pushfl",
    "popl {jumped_flags}",
    "movzbl tasks_gdt + 0x18 + 5, %eax",
    "movl %eax, {main_access_meanwhile}",
    "ljmp $0x18, $0",
    "jmp jumped_task_start",
    ".size jumped_task_start, . - jumped_task_start",

    ".type fault_task_start, @function",
    "fault_task_start:",
    "movl {faults}, %ecx",
    "popl {error_codes}(,%ecx,4)",
    "movl main_task + 0x20, %eax",
    "subl main_task + 0x44, %eax",
    "movl %eax, {fault_distances}(,%ecx,4)",
    "incl {faults}",
    "movl main_task + 0x40, %eax",
    "movl %eax, main_task + 0x20",
    "iretl",
    "jmp fault_task_start",
    ".size fault_task_start, . - fault_task_start",

    // #DB, in whichever task it comes.
    ".type debug_exception, @function",
    "debug_exception:",
    "pushl %eax",
    "incl {traps}",
    "movl %dr6, %eax",
    "movl %eax, {trap_status}",
    "xorl %eax, %eax",
    "movl %eax, %dr6",
    "movl 4(%esp), %eax",
    "subl $called_task_again, %eax",
    "movl %eax, {trap_distance}",
    "popl %eax",
    "iretl",
    ".size debug_exception, . - debug_exception",

    ".code16",
    ".type small_task_start, @function",
    "small_task_start:",
    "incl {small_calls}",
    "movw %bx, {small_register}",
    "movw %sp, {small_stack}",
    "iretw",
    "jmp small_task_start",
    ".size small_task_start, . - small_task_start",
    ".code32",

    ".balign 8",
    "tasks_gdt:",
    ".quad 0",
    // 0x08 and 0x10: code and data, 4 GiB.
    ".quad 0x00cf9a000000ffff",
    ".quad 0x00cf92000000ffff",
    // 0x18, 0x20, 0x28, 0x30: the tasks, 0x38: a gate to the second one.
    "task_descriptor 0x67, main_task, 0x89",
    "task_descriptor 0x67, called_task, 0x89",
    "task_descriptor 0x67, jumped_task, 0x89",
    "task_descriptor 0x67, fault_task, 0x89",
    "task_gate 0x20",
    // 0x40: data that is not present, 0x48: the 16-bit task, 0x50: its code, 0x58: the LDT.
    ".quad 0x00cf12000000ffff",
    "task_descriptor 0x2b, small_task, 0x81",
    ".quad 0x00009a010000ffff",
    "task_descriptor 7, tasks_ldt, 0x82",
    "tasks_gdt_register:",
    ".word . - tasks_gdt - 1",
    ".long tasks_gdt",

    ".balign 8",
    "tasks_ldt:",
    "task_descriptor 3, tasks_local, 0x92",
    "tasks_local:",
    ".long 0x10ca1000",

    ".balign 8",
    "tasks_idt:",
    ".quad 0",
    // Vector 1: an interrupt gate; 8, 13 and 0x40: task gates.
    ".word debug_exception - real_mode_entry, 0x08, 0x8e00, 1",
    ".fill 6, 8, 0",
    "task_gate 0x30",
    ".fill 4, 8, 0",
    "task_gate 0x30",
    ".fill 0x40 - 14, 8, 0",
    "task_gate 0x20",
    "tasks_idt_register:",
    ".word . - tasks_idt - 1",
    ".long tasks_idt",

    ".balign 128",
    "main_task: task_state 0, 0, 0, 0",
    ".balign 128",
    "called_task: task_state called_task_start, {called_stack}, 4, 0x58",
    ".balign 128",
    "jumped_task: task_state jumped_task_start, {called_stack}, 0, 0",
    ".balign 128",
    "fault_task: task_state fault_task_start, {fault_stack}, 0, 0",
    ".balign 128",
    // IP, FLAGS, AX, CX, DX, BX, SP, BP, SI, DI; ES, CS, SS, DS; LDT.
    "small_task: .fill 7, 2, 0",
    ".word small_task_start - real_mode_entry, 2",
    ".word 0, 0, 0, 0x5678, {small_stack_top}, 0, 0, 0",
    ".word 0x10, 0x50, 0x10, 0x10, 0",
    ".code64",
    ".popsection",
    main_stack = const MAIN_STACK,
    called_stack = const CALLED_STACK,
    fault_stack = const FAULT_STACK,
    small_stack_top = const SMALL_STACK,
    directory_of_main = const DIRECTORY_OF_MAIN,
    directory_of_called = const DIRECTORY_OF_CALLED,
    upper = const UPPER,
    findings = const FINDINGS,
    finding_count = const FINDING_COUNT,
    calls = const finding!(calls),
    called_flags = const finding!(called_flags),
    link = const finding!(link),
    called_register = const finding!(called_register),
    called_control = const finding!(called_control),
    local = const finding!(local),
    called_mark = const finding!(called_mark),
    main_register = const finding!(main_register),
    main_stack_after = const finding!(main_stack),
    jumps = const finding!(jumps),
    jumped_flags = const finding!(jumped_flags),
    main_access_meanwhile = const finding!(main_access_meanwhile),
    main_access = const finding!(main_access),
    jumped_access = const finding!(jumped_access),
    faults = const finding!(faults),
    error_codes = const finding!(error_codes),
    fault_distances = const finding!(fault_distances),
    small_calls = const finding!(small_calls),
    small_register = const finding!(small_register),
    small_stack = const finding!(small_stack),
    debug_control = const finding!(debug_control),
    traps = const finding!(traps),
    trap_status = const finding!(trap_status),
    trap_distance = const finding!(trap_distance),
    main_mark = const finding!(main_mark),
    main_tables = const finding!(main_tables),
    mark = const finding!(mark),
    options(att_syntax),
);

fn run(_arguments: &str) -> Outcome {
    const NESTED_TASK: u32 = 1 << 14;
    const TASK_SWITCHED: u32 = 1 << 3;
    // SAFETY: the code above wrote it, and nothing else is there.
    let found = unsafe { ptr::with_exposed_provenance::<Findings>(FINDINGS as usize).read_volatile() };

    ensure!(found.calls == 5, "the task was called {} times, not five times", found.calls);
    ensure!(found.called_flags & NESTED_TASK != 0, "EFLAGS of a nested task are {:#x}", found.called_flags);
    ensure!(found.link == 0x18, "the link leads to {:#x}", found.link);
    ensure!(found.called_register == 0x1234_5678, "EBX of the task was {:#x}", found.called_register);
    ensure!(found.called_control & TASK_SWITCHED != 0, "CR0 was {:#x} after a task switch", found.called_control);
    ensure!(found.local == 0x10ca_1000, "the LDT led to {:#x}", found.local);
    ensure!(found.main_register == 0xb0b0_b0b0, "EBP of the caller was {:#x}", found.main_register);
    println!("CALL, IRET, task gates and INT work, with an LDT");

    ensure!(found.jumps == 1, "JMP led to its task {} times", found.jumps);
    ensure!(found.jumped_flags & NESTED_TASK == 0, "EFLAGS after JMP are {:#x}", found.jumped_flags);
    let accesses = (found.main_access_meanwhile, found.main_access, found.jumped_access);
    ensure!(accesses == (0x89, 0x8b, 0x89), "busy bits: {accesses:x?}");
    println!("JMP works and moves the busy bit");

    ensure!(found.faults == 2, "faults were handled {} times, not twice", found.faults);
    ensure!(found.error_codes == [0x78, 0], "error codes: {:x?}", found.error_codes);
    ensure!(found.fault_distances == [0, 0], "EIP of the faults: {:x?}", found.fault_distances);
    println!("#GP and #DF work through task gates");

    let small = (found.small_calls, found.small_register, found.small_stack);
    ensure!(small == (1, 0x5678, SMALL_STACK), "the 16-bit task: {small:x?}");
    ensure!(found.debug_control == 0x408, "DR7 is {:#x} after a task switch", found.debug_control);
    println!("a 16-bit TSS works, and DR7 forgets local breakpoints");

    ensure!(found.traps == 1, "the T flag raised #DB {} times", found.traps);
    ensure!(found.trap_status & 1 << 15 != 0, "DR6 is {:#x} after a task switch with the T flag", found.trap_status);
    ensure!(found.trap_distance == 0, "EIP was off by {:#x} then", found.trap_distance);
    println!("the T flag works");

    let marks = (found.mark, found.main_mark, found.called_mark);
    ensure!(marks == (0x5555_5555, UPPER, 0x5555_5555), "memory through page tables: {marks:x?}");
    ensure!(found.main_tables == DIRECTORY_OF_MAIN, "CR3 is {:#x} afterwards", found.main_tables);
    ensure!(found.main_stack == MAIN_STACK, "ESP is {:#x} in the end", found.main_stack);
    println!("page tables change with the task");
    const { assert!(PAGE_TABLES + 0x6000 <= SMALL_STACK - 0x200 && FINDINGS + 4 * FINDING_COUNT as u32 <= 0x8000) };
    Ok(())
}
