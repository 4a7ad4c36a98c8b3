//! An L3 guest that goes from real mode over protected mode to 64-bit mode, with exits in each; one that starts in 32 bits.
#![cfg_attr(bare_metal, no_std, no_main)]
#![cfg_attr(bare_metal, expect(unsafe_code, reason = "L3's code below 1 MiB is a symbol defined in assembly"))]

use l2_guests::control::read_cr3;
use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::{Exit, L3, Vmx, enable, region};
use l2_guests::{Failure, Outcome, ensure, println};
use vmcs::controls::{Entry, PrimaryProcessorBased as Primary};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// Where the linker script puts L3's code, so that real mode reaches it as 0x1000:0.
const CODE: u64 = 0x1_0000;

// Two starts: real mode at `nested_real_mode`, and protected mode at `nested_protected_mode`, 0x100 behind it. EDI: CR3 for
// 64-bit mode. L3 sees CR0.NE and CR4.VMXE as they are and keeps them.
#[cfg(bare_metal)]
core::arch::global_asm!(
    ".pushsection .low, \"awx\", @progbits",
    ".code16",
    "nested_real_mode:",
    "movl $0x11, %eax",
    "cpuid",
    "inb $0x80, %al",
    "movw %cs, %ax",
    "vmcall",
    // The real-mode vector table is at 0.
    "movw $(nested_interrupt - nested_real_mode), %ds:0x100",
    "movw %cs, %ax",
    "movw %ax, %ds:0x102",
    "int $0x40",
    "hlt",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "lgdtl nested_gdt_register - nested_real_mode",
    "movl %cr0, %eax",
    "orl $1, %eax",
    "movl %eax, %cr0",
    "ljmpl $0x8, $nested_segments",
    "nested_interrupt:",
    "movw $0x4040, %bx",
    "vmcall",
    "iretw",
    ".org nested_real_mode + 0x100",
    ".code32",
    "nested_protected_mode:",
    "lgdtl nested_gdt_register",
    "nested_segments:",
    "movw $0x10, %ax",
    "movw %ax, %ds",
    "movw %ax, %es",
    "movw %ax, %ss",
    "vmcall",
    "movl %cs, %eax",
    "cpuid",
    "inb $0x80, %al",
    // SDM 3A 9.8.5 "Initializing IA-32e Mode".
    "movl %cr4, %eax",
    "orl $0x20, %eax",
    "movl %eax, %cr4",
    "movl %edi, %cr3",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl $0x100, %eax",
    "wrmsr",
    "vmcall",
    "movl %cr0, %eax",
    "orl $0x80000000, %eax",
    "movl %eax, %cr0",
    "vmcall",
    "lgdtl nested_gdt_register",
    "ljmpl $0x18, $nested_long_mode",
    ".code64",
    "nested_long_mode:",
    "movabs $0x123456789abcdef0, %rax",
    "vmcall",
    "cpuid",
    "vmcall",
    "hlt",
    ".balign 8",
    "nested_gdt:",
    ".quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff",
    "nested_gdt_register:",
    ".word . - nested_gdt - 1",
    ".long nested_gdt",
    ".popsection",
    options(att_syntax),
);

/// Exits from real mode on, and from protected mode on; each ends with HLT in 64-bit mode.
const FROM_REAL_MODE: usize = 14;
const FROM_PROTECTED_MODE: usize = 9;

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let real = guest(&vmx, Mode::Real, CODE)?;
    println!("from real mode:");
    follow(real, FROM_REAL_MODE)?;
    let protected = guest(&vmx, Mode::Protected, CODE + 0x100)?;
    println!("from protected mode:");
    follow(protected, FROM_PROTECTED_MODE)?;
    vmx.disable()
}

fn guest(vmx: &Vmx, mode: Mode, start: u64) -> Result<L3, Failure> {
    let mut l3 = L3::new(vmx, mode, start, Some(Ept::identity()))?;
    l3.set_controls(|controls| {
        controls.primary |= Primary::HLT_EXITING | Primary::UNCONDITIONAL_IO_EXITING | Primary::USE_MSR_BITMAPS
    })?;
    l3.write(Field::MSR_BITMAP, region::allocate(1));
    // Within the first 64 KiB; between the loader's command line and L3's code.
    l3.write(Field::GUEST_RSP, 0xfff0);
    l3.registers().rdi = read_cr3();
    Ok(l3)
}

/// Prints each exit and what mode L3 is in; the last is for HLT.
fn follow(mut l3: L3, exits: usize) -> Outcome {
    for number in 1..=exits {
        let exit = l3.run()?;
        print(&mut l3, exit);
        let halted_for_good = exit.is(Reason::HLT) && number == exits;
        let known =
            [Reason::CPUID, Reason::IO_INSTRUCTION, Reason::VMCALL, Reason::HLT].into_iter().any(|reason| exit.is(reason));
        ensure!(known, "{exit} was not expected");
        ensure!(halted_for_good || number < exits, "the last exit is {exit}");
        l3.skip_instruction();
    }
    Ok(())
}

/// The exit, its length, CS, where, and the registers that make the mode. "IA-32e mode guest" follows L3's mode where the
/// processor says so (SDM 3D A.6, bit 5 of IA32_VMX_MISC), which every one with "unrestricted guest" does.
fn print(l3: &mut L3, exit: Exit) {
    let (rax, rbx) = (l3.registers().rax, l3.registers().rbx & 0xffff);
    // What CPUID gives is nothing of L3's; only what L3 itself puts into the register is told.
    let rax = if exit.is(Reason::VMCALL) && rax >> 32 != 0 { rax } else { 0 };
    println!(
        "  {exit}, length {}, CS {:#x} base {:#x} L and D {:#x}, at {:#x}, PE {} PG {}, EFER {:#x}, IA-32e mode guest {}, RAX {rax:#x}, BX {}",
        l3.read(Field::VM_EXIT_INSTRUCTION_LENGTH),
        l3.read(Field::GUEST_CS_SELECTOR),
        l3.read(Field::GUEST_CS_BASE),
        l3.read(Field::GUEST_CS_ACCESS_RIGHTS) >> 13 & 3,
        l3.read(Field::GUEST_RIP),
        l3.read(Field::GUEST_CR0) & 1,
        l3.read(Field::GUEST_CR0) >> 31 & 1,
        l3.read(Field::GUEST_IA32_EFER),
        l3.read(Field::VM_ENTRY_CONTROLS) & u64::from(Entry::IA_32E_MODE_GUEST.bits()) != 0,
        rbx == 0x4040,
    );
}
