//! The guests' code, which runs at address 0x1000 with its stack below and ends by HLT.
//!
//! Absolute addresses are offsets from the guest's own start, to which 0x1000 is added. The assembler takes such a
//! difference as data only, so instructions with one are written as their bytes.
#![expect(unsafe_code, reason = "the code is assembly in this program's read-only data")]

use std::arch::global_asm;

macro_rules! guest_code {
    ($name:ident, $start:ident, $end:ident, $($line:literal),+ $(,)?) => {
        global_asm!(
            ".pushsection .rodata.guest_code, \"a\", @progbits",
            concat!(stringify!($start), ":"),
            $($line,)+
            concat!(stringify!($end), ":"),
            ".code64",
            ".popsection",
        );

        /// Its bytes.
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                static $start: u8;
                static $end: u8;
            }
            let (start, end) = (&raw const $start, &raw const $end);
            // SAFETY: both labels are in one section, and what lies between them is never written.
            unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
        }
    };
}

guest_code!(
    real_mode,
    kvm_guest_real_mode,
    kvm_guest_real_mode_end,
    ".code16",
    "mov al, 3",
    "mov bl, 4",
    "add al, bl",
    "out 0x80, al",
    "in al, 0x10",
    "out 0x80, al",
    "mov word ptr ds:[0x800], 0x1234",
    "push word ptr ds:[0x800]",
    "pop ax",
    "out 0x80, ax",
    "hlt",
);

guest_code!(
    real_mode_memory,
    kvm_guest_real_mode_memory,
    kvm_guest_real_mode_memory_end,
    ".code16",
    "mov ax, 0xd000",
    "mov ds, ax",
    "mov byte ptr ds:[4], 0x5a",
    "mov ax, ds:[0]",
    "out 0x80, ax",
    "mov ds:[8], ax",
    "hlt",
);

guest_code!(
    protected_mode,
    kvm_guest_protected_mode,
    kvm_guest_protected_mode_end,
    ".code16",
    // LGDT [7f].
    ".byte 0x0f, 0x01, 0x16",
    ".word 0x1000 + 7f - kvm_guest_protected_mode",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    // JMP FAR 8:2f, with a 32-bit offset.
    ".byte 0x66, 0xea",
    ".long 0x1000 + 2f - kvm_guest_protected_mode",
    ".word 8",
    ".code32",
    "2:",
    "mov ax, 16",
    "mov ds, ax",
    "mov eax, 0x87654321",
    "out 0x80, eax",
    // JMP FAR 24:3f into 16-bit code.
    ".byte 0xea",
    ".long 0x1000 + 3f - kvm_guest_protected_mode",
    ".word 24",
    ".code16",
    "3:",
    "mov eax, cr0",
    "and al, 0xfe",
    "mov cr0, eax",
    // JMP FAR 0:4f.
    ".byte 0xea",
    ".word 0x1000 + 4f - kvm_guest_protected_mode",
    ".word 0",
    "4:",
    "mov al, 0x16",
    "out 0x80, al",
    "hlt",
    ".balign 8",
    "6:",
    ".quad 0",
    ".quad 0x00cf9b000000ffff",
    ".quad 0x00cf93000000ffff",
    ".quad 0x00009b000000ffff",
    "7:",
    ".word 31",
    ".long 0x1000 + 6b - kvm_guest_protected_mode",
);

guest_code!(
    long_mode,
    kvm_guest_long_mode,
    kvm_guest_long_mode_end,
    ".code64",
    "mov rax, 0xfedcba9876543210",
    "mov [0x800], rax",
    "push qword ptr [0x800]",
    "pop r9",
    "mov rax, r9",
    "shr rax, 32",
    "out 0x80, eax",
    "mov eax, r9d",
    "out 0x80, eax",
    "xor eax, eax",
    "xor ecx, ecx",
    "cpuid",
    "test eax, eax",
    "setnz al",
    "out 0x80, al",
    "hlt",
);

guest_code!(
    long_mode_memory,
    kvm_guest_long_mode_memory,
    kvm_guest_long_mode_memory_end,
    ".code64",
    "mov ebx, 0x40000000",
    "mov rax, 0x0123456789abcdef",
    "mov [rbx], rax",
    "mov rcx, [rbx]",
    "mov eax, ecx",
    "out 0x80, eax",
    "shr rcx, 32",
    "mov eax, ecx",
    "out 0x80, eax",
    "hlt",
);

guest_code!(
    exceptions,
    kvm_guest_exceptions,
    kvm_guest_exceptions_end,
    ".code64",
    // LIDT [7f].
    ".byte 0x0f, 0x01, 0x1c, 0x25",
    ".long 0x1000 + 7f - kvm_guest_exceptions",
    // Gates of vectors 3, 6, 13 and 14, at 0x4000, each for an address that MOV EAX (B8) gives.
    "mov edi, 0x4000 + 3 * 16",
    ".byte 0xb8",
    ".long 0x1000 + 3f - kvm_guest_exceptions",
    "call 6f",
    "mov edi, 0x4000 + 6 * 16",
    ".byte 0xb8",
    ".long 0x1000 + 2f - kvm_guest_exceptions",
    "call 6f",
    "mov edi, 0x4000 + 13 * 16",
    ".byte 0xb8",
    ".long 0x1000 + 4f - kvm_guest_exceptions",
    "call 6f",
    "mov edi, 0x4000 + 14 * 16",
    ".byte 0xb8",
    ".long 0x1000 + 5f - kvm_guest_exceptions",
    "call 6f",
    "ud2",
    // Selector 0x18 is beyond the GDT.
    "mov eax, 0x18",
    "mov ds, eax",
    // 2 GiB and a page are not mapped.
    "mov ebx, 0x80001000",
    "mov dword ptr [rbx], 0",
    "int3",
    "hlt",
    // A gate: offset, selector 8, 64-bit interrupt gate.
    "6:",
    "mov [rdi], ax",
    "mov word ptr [rdi + 2], 8",
    "mov word ptr [rdi + 4], 0x8e00",
    "mov dword ptr [rdi + 6], 0",
    "mov dword ptr [rdi + 10], 0",
    "mov word ptr [rdi + 14], 0",
    "ret",
    // #UD: the instruction has two bytes.
    "2:",
    "mov al, 6",
    "out 0x80, al",
    "add qword ptr [rsp], 2",
    "iretq",
    "3:",
    "mov al, 3",
    "out 0x80, al",
    "iretq",
    // #GP: MOV DS has two bytes.
    "4:",
    "mov al, 13",
    "out 0x80, al",
    "pop rax",
    "out 0x80, eax",
    "add qword ptr [rsp], 2",
    "iretq",
    // #PF: MOV has six bytes.
    "5:",
    "mov al, 14",
    "out 0x80, al",
    "pop rax",
    "out 0x80, eax",
    "mov rax, cr2",
    "out 0x80, eax",
    "add qword ptr [rsp], 6",
    "iretq",
    ".balign 8",
    "7:",
    ".word 0xfff",
    ".quad 0x4000",
);

guest_code!(
    long_loop,
    kvm_guest_long_loop,
    kvm_guest_long_loop_end,
    ".code16",
    "mov ecx, 10000000",
    "2:",
    "dec ecx",
    "jnz 2b",
    "mov eax, ecx",
    "out 0x80, eax",
    "hlt",
);

guest_code!(
    timer,
    kvm_guest_timer,
    kvm_guest_timer_end,
    ".code16",
    // The vector table is at 0: vector 0x20 leads to 3f.
    // MOV AX, 3f.
    ".byte 0xb8",
    ".word 0x1000 + 3f - kvm_guest_timer",
    "mov ds:[0x80], ax",
    "mov word ptr ds:[0x82], 0",
    // The first 8259: edge-triggered, vectors from 0x20, IRQ 0 alone.
    "mov al, 0x11",
    "out 0x20, al",
    "mov al, 0x20",
    "out 0x21, al",
    "mov al, 4",
    "out 0x21, al",
    "mov al, 1",
    "out 0x21, al",
    "mov al, 0xfe",
    "out 0x21, al",
    // The 8254's channel 0 as a rate generator, 1 kHz.
    "mov al, 0x34",
    "out 0x43, al",
    "mov al, 0xa9",
    "out 0x40, al",
    "mov al, 0x04",
    "out 0x40, al",
    "xor bx, bx",
    "2:",
    "sti",
    "hlt",
    "cli",
    "cmp bx, 3",
    "jb 2b",
    "mov ax, bx",
    "out 0x80, al",
    // HLT with interrupts off would sleep in KVM: the program ends the guest at its report.
    "hlt",
    "3:",
    "inc bx",
    "mov al, 0x20",
    "out 0x20, al",
    "iret",
);
