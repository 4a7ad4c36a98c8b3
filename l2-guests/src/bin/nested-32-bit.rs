//! A guest hypervisor in 32-bit protected mode: VMX instructions with 32-bit operands, and a 32-bit L3 guest.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "32-bit code is assembly, and works on raw memory")]

use l2_guests::control::{cr0, cr4, read_cr0, read_cr3, read_cr4};
use l2_guests::vmx::operation::{allow, capabilities, check_offered, prepare_control_registers, region_with_revision};
use l2_guests::vmx::region;
use l2_guests::{Outcome, ensure, exception, fail, println};
use vmcs::capability::{AllowedSettings, Capabilities};
use vmcs::exit_reason::ExitReason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// Selectors of the GDT that [`Program`] makes.
const DATA: u64 = 0x18;
const CODE_32: u64 = 0x20;
const TASK: u64 = 0x28;
/// A page directory's entry: present, writable, 4 MiB.
const LARGE_PAGE: u64 = 0x83;
/// CR4.PSE: pages of 4 MiB.
const PAGE_SIZE_EXTENSIONS: u64 = 1 << 4;

/// What the 32-bit code does, one after the other; VMLAUNCH and VMRESUME go up to the exit, with the
/// second operand as L3's EAX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Operation {
    End,
    Vmxon,
    Vmclear,
    Vmptrld,
    Vmptrst,
    VmwriteRegister,
    VmwriteMemory,
    VmreadRegister,
    VmreadMemory,
    Vmlaunch,
    Vmresume,
    Invept,
    Vmxoff,
}

/// A step as the 32-bit code has it: operation, two operands (the second is also the result), flags afterwards.
const STEP: u64 = 16;
/// CF and ZF.
const CARRY: u64 = 1;
const ZERO: u64 = 1 << 6;
/// What the flags hold after a VM exit: a mark, as no flags tell of success there.
const EXITED: u64 = 0x8000_0000;

#[cfg(bare_metal)]
core::arch::global_asm!(
    ".pushsection .text.nested_32_bit, \"ax\", @progbits",
    ".code64",
    // RDI: operand of LGDT, RSI: first step, RDX: page directory, RCX: CR3 to come back to, R8: CR4 for 32 bits.
    ".global nested_32_bit",
    "nested_32_bit:",
    "pushq %rbx",
    "pushq %rbp",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "movq %rsp, nested_stack(%rip)",
    "movl %ecx, nested_cr3(%rip)",
    "movl %esi, nested_step(%rip)",
    "movq %cr4, %rax",
    "movl %eax, nested_cr4(%rip)",
    "movl %edx, %ebp",
    "movl %r8d, %ebx",
    "lgdt (%rdi)",
    "pushq $0x20",
    "leaq nested_compatibility(%rip), %rax",
    "pushq %rax",
    "lretq",

    ".code32",
    // Compatibility mode: VMX instructions raise #UD. The runtime goes on at the label.
    "nested_compatibility:",
    "movl $2f, {recovery}",
    "vmptrst nested_scratch",
    "2:",
    // Out of long mode: paging off, LME off; then 32-bit paging.
    "movl %cr0, %eax",
    "andl $0x7fffffff, %eax",
    "movl %eax, %cr0",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "andl $0xfffffeff, %eax",
    "wrmsr",
    "movl %ebx, %cr4",
    "movl %ebp, %cr3",
    "movl %cr0, %eax",
    "orl $0x80000000, %eax",
    "movl %eax, %cr0",
    "jmp 3f",
    "3:",
    "movl nested_step, %esi",

    "nested_next:",
    "movl (%esi), %eax",
    "movl 4(%esi), %ecx",
    "movl 8(%esi), %edx",
    "movl nested_operations(, %eax, 4), %eax",
    // CF and ZF are 1 before, so that what an instruction clears shows.
    "cmpl %eax, %eax",
    "stc",
    "jmp *%eax",
    "nested_vmxon: vmxon 4(%esi); jmp nested_done",
    "nested_vmclear: vmclear 4(%esi); jmp nested_done",
    "nested_vmptrld: vmptrld 4(%esi); jmp nested_done",
    "nested_vmptrst: vmptrst 4(%esi); jmp nested_done",
    "nested_vmwrite_register: vmwrite %edx, %ecx; jmp nested_done",
    "nested_vmwrite_memory: vmwrite 8(%esi), %ecx; jmp nested_done",
    "nested_vmread_register: movl $0xffffffff, %edx; vmread %ecx, %edx; movl %edx, 8(%esi); jmp nested_done",
    "nested_vmread_memory: vmread %ecx, 8(%esi); jmp nested_done",
    "nested_invept: invept nested_descriptor, %ecx; jmp nested_done",
    "nested_vmxoff: vmxoff; jmp nested_done",
    "nested_vmlaunch: movl %esi, nested_step; movl %edx, %eax; vmlaunch; jmp nested_done",
    "nested_vmresume: movl %esi, nested_step; movl %edx, %eax; vmresume",
    "nested_done:",
    "movl $nested_stack_32, %esp",
    "pushfl",
    "popl 12(%esi)",
    "addl $16, %esi",
    "jmp nested_next",

    ".global nested_exit",
    "nested_exit:",
    "movl nested_step, %esi",
    // What L3 had in EAX.
    "movl %eax, 8(%esi)",
    "movl $0x80000000, 12(%esi)",
    "addl $16, %esi",
    "jmp nested_next",

    // Back to long mode.
    "nested_end:",
    "movl %cr0, %eax",
    "andl $0x7fffffff, %eax",
    "movl %eax, %cr0",
    "movl nested_cr4, %eax",
    "movl %eax, %cr4",
    "movl nested_cr3, %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl $0x100, %eax",
    "wrmsr",
    "movl %cr0, %eax",
    "orl $0x80000000, %eax",
    "movl %eax, %cr0",
    "ljmpl $0x10, $nested_back",
    ".code64",
    "nested_back:",
    "movq nested_stack(%rip), %rsp",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %rbp",
    "popq %rbx",
    "ret",

    // L3.
    ".code32",
    ".global nested_guest",
    "nested_guest:",
    "movl $0x33333333, %eax",
    "cpuid",
    "incl %eax",
    "vmcall",
    "hlt",
    ".balign 8",
    "nested_operations:",
    ".long nested_end, nested_vmxon, nested_vmclear, nested_vmptrld, nested_vmptrst, nested_vmwrite_register",
    ".long nested_vmwrite_memory, nested_vmread_register, nested_vmread_memory, nested_vmlaunch, nested_vmresume",
    ".long nested_invept, nested_vmxoff",
    ".code64",
    ".popsection",
    ".pushsection .data.nested_32_bit, \"aw\", @progbits",
    ".balign 16",
    "nested_descriptor: .quad 0, 0",
    "nested_stack: .quad 0",
    "nested_scratch: .quad 0",
    "nested_cr3: .long 0",
    "nested_cr4: .long 0",
    "nested_step: .long 0, 0",
    ".skip 256",
    "nested_stack_32:",
    ".popsection",
    recovery = sym l2_guests::exception::RECOVERY,
    options(att_syntax),
);

#[cfg(bare_metal)]
unsafe extern "C" {
    fn nested_32_bit(gdt: u64, steps: u64, page_directory: u64, cr3: u64, cr4: u64);
    fn nested_exit();
    fn nested_guest();
}

/// Built as a host program, nothing of it runs.
#[cfg(not(bare_metal))]
mod host {
    pub unsafe extern "C" fn nested_32_bit(_gdt: u64, _steps: u64, _page_directory: u64, _cr3: u64, _cr4: u64) {}
    pub unsafe extern "C" fn nested_exit() {}
    pub unsafe extern "C" fn nested_guest() {}
}
#[cfg(not(bare_metal))]
use host::{nested_32_bit, nested_exit, nested_guest};

/// The steps, and what must be in memory for them.
struct Program {
    steps: u64,
    count: u64,
    gdt: u64,
    page_directory: u64,
    cr4: u64,
}

impl Program {
    fn new(cr4: u64) -> Self {
        let (steps, gdt, page_directory) = (region::allocate(2), region::allocate(1), region::allocate(1));
        // The loader's code and data, and 32-bit code; the operand of LGDT behind them.
        for (number, descriptor) in (0..).zip([0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff, 0]) {
            region::write(gdt + number * 8, descriptor);
        }
        region::write(gdt + 0x40, (gdt << 16) | 0x2f);
        region::write(gdt + 0x48, gdt >> 48);
        // 1024 entries of 32 bits, two at a time.
        (0..512).for_each(|pair| {
            let entry = (pair << 23) | LARGE_PAGE;
            region::write(page_directory + pair * 8, entry | (entry + (1 << 22)) << 32);
        });
        Self { steps, count: 0, gdt, page_directory, cr4 }
    }

    /// Adds a step and returns its number.
    fn add(&mut self, operation: Operation, first: u64, second: u64) -> u64 {
        let step = self.steps + self.count * STEP;
        region::write(step, operation as u64 | first << 32);
        region::write(step + 8, second & 0xffff_ffff);
        self.count += 1;
        self.count - 1
    }

    /// VMWRITE, with both halves where the field has two; register and memory forms in turn.
    fn write(&mut self, field: Field, value: u64) {
        let form = if self.count.is_multiple_of(2) { Operation::VmwriteRegister } else { Operation::VmwriteMemory };
        self.add(form, field.0.into(), value);
        if field.0 >> 13 & 3 == 1 {
            self.add(form, u64::from(field.0) | 1, value >> 32);
        }
    }

    fn run(&mut self) {
        self.add(Operation::End, 0, 0);
        // SAFETY: everything in use lies below 4 GiB and stays where it is; the code comes back as it was called.
        unsafe { nested_32_bit(self.gdt + 0x40, self.steps, self.page_directory, read_cr3(), self.cr4) };
    }

    /// Second operand and flags after the run.
    fn result(&self, number: u64) -> (u64, u64) {
        let value = region::read(self.steps + number * STEP + 8);
        (value & 0xffff_ffff, value >> 32)
    }

    fn flags(&self, number: u64) -> &'static str {
        match self.result(number).1 {
            EXITED => "VM exit",
            flags => match (flags & CARRY, flags & ZERO) {
                (0, 0) => "VMsucceed",
                (_, 0) => "VMfailInvalid",
                (0, _) => "VMfailValid",
                _ => "untouched flags",
            },
        }
    }
}

fn run(_arguments: &str) -> Outcome {
    check_offered()?;
    allow()?;
    let capabilities = capabilities()?;
    prepare_control_registers(&capabilities)?;
    let revision = capabilities.basic().vmcs_revision_identifier();
    let (vmxon_region, vmcs) = (region_with_revision(revision), region_with_revision(revision));

    let mut program = Program::new(read_cr4() & !cr4::PAE | PAGE_SIZE_EXTENSIONS);
    let bad_revision = program.add(Operation::Vmxon, program.gdt, 0);
    let vmxon = program.add(Operation::Vmxon, vmxon_region, 0);
    let without_vmcs = program.add(Operation::VmreadRegister, Field::GUEST_RIP.0.into(), 0);
    let clear = program.add(Operation::Vmclear, vmcs, 0);
    let load = program.add(Operation::Vmptrld, vmcs, 0);
    let store = program.add(Operation::Vmptrst, 0, 0);
    let unsupported = program.add(Operation::VmreadMemory, 0x7ffe, 0x5555);
    let error = program.add(Operation::VmreadRegister, Field::VM_INSTRUCTION_ERROR.0.into(), 0);
    let invept = program.add(Operation::Invept, 2, 0);
    let invept_type = program.add(Operation::Invept, 3, 0);
    program.write(Field::TSC_OFFSET, 0x1122_3344_5566_7788);
    let low = program.add(Operation::VmreadRegister, Field::TSC_OFFSET.0.into(), 0);
    let high = program.add(Operation::VmreadMemory, u64::from(Field::TSC_OFFSET.0) | 1, 0);
    let unlaunched = program.add(Operation::Vmresume, 0, 0);
    write_controls(&mut program, &capabilities);
    write_host_state(&mut program);
    write_guest_state(&mut program);
    let last_write = program.count - 1;
    let mut exits = [[0; 4]; 2];
    for (exit, enter) in exits.iter_mut().zip([Operation::Vmlaunch, Operation::Vmresume]) {
        let entered = program.add(enter, 0, 0x4444_4443);
        let mut read = |field: Field| program.add(Operation::VmreadMemory, field.0.into(), 0);
        *exit = [entered, read(Field::EXIT_REASON), read(Field::VM_EXIT_INSTRUCTION_LENGTH), read(Field::GUEST_RIP)];
        // L3 goes on behind CPUID.
        program.write(Field::GUEST_RIP, address(nested_guest) + 7);
    }
    let launched = program.add(Operation::Vmlaunch, 0, 0);
    let off = program.add(Operation::Vmxoff, 0, 0);
    program.run();

    match exception::attempted() {
        Err(raised) if raised.vector == exception::vector::INVALID_OPCODE => println!("in compatibility mode: #UD"),
        other => fail!("VMPTRST in compatibility mode: {other:?}"),
    }
    for (what, number) in [
        ("VMXON, wrong revision", bad_revision),
        ("VMXON", vmxon),
        ("VMREAD without a current VMCS", without_vmcs),
        ("VMCLEAR", clear),
        ("VMPTRLD", load),
        ("VMPTRST", store),
        ("VMREAD of an unsupported field", unsupported),
        ("VMREAD of the error", error),
        ("INVEPT", invept),
        ("INVEPT, type 3", invept_type),
        ("VMRESUME of a VMCS that is clear", unlaunched),
        ("the last VMWRITE", last_write),
        ("VMLAUNCH of a VMCS that is launched", launched),
        ("VMXOFF", off),
    ] {
        println!("{what}: {}", program.flags(number));
    }
    println!("the error is {}, what was not read is {:#x}", program.result(error).0, program.result(unsupported).0);
    println!("a field of 64 bits in halves: {:#x} and {:#x}", program.result(low).0, program.result(high).0);
    let pointer = region::read(program.steps + store * STEP) >> 32;
    ensure!(pointer == vmcs && program.result(store).0 == 0, "VMPTRST gave {pointer:#x}");
    for [entered, reason, length, rip] in exits {
        println!(
            "{}: {}, length {}, at +{}, EAX {:#x}",
            program.flags(entered),
            ExitReason(program.result(reason).0 as u32),
            program.result(length).0,
            program.result(rip).0.wrapping_sub(address(nested_guest)),
            program.result(entered).0,
        );
    }
    println!("and back in 64-bit mode");
    Ok(())
}

fn address(code: unsafe extern "C" fn()) -> u64 {
    (code as *const ()).addr() as u64
}

fn write_controls(program: &mut Program, can: &Capabilities) {
    let least = |settings: AllowedSettings| settings.adjust(0).value;
    program.write(Field::PIN_BASED_VM_EXECUTION_CONTROLS, least(can.pin_based()));
    program.write(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, least(can.primary()));
    program.write(Field::PRIMARY_VM_EXIT_CONTROLS, least(can.primary_exit()));
    program.write(Field::VM_ENTRY_CONTROLS, least(can.entry()));
    for field in [
        Field::EXCEPTION_BITMAP,
        Field::PAGE_FAULT_ERROR_CODE_MASK,
        Field::PAGE_FAULT_ERROR_CODE_MATCH,
        Field::CR3_TARGET_COUNT,
        Field::VM_EXIT_MSR_STORE_COUNT,
        Field::VM_EXIT_MSR_LOAD_COUNT,
        Field::VM_ENTRY_MSR_LOAD_COUNT,
        Field::VM_ENTRY_INTERRUPTION_INFORMATION,
        Field::TSC_OFFSET,
        Field::CR0_GUEST_HOST_MASK,
        Field::CR4_GUEST_HOST_MASK,
    ] {
        program.write(field, 0);
    }
}

fn write_host_state(program: &mut Program) {
    let rows = [
        (Field::HOST_CR0, read_cr0()),
        (Field::HOST_CR3, program.page_directory),
        (Field::HOST_CR4, program.cr4),
        (Field::HOST_ES_SELECTOR, DATA),
        (Field::HOST_CS_SELECTOR, CODE_32),
        (Field::HOST_SS_SELECTOR, DATA),
        (Field::HOST_DS_SELECTOR, DATA),
        (Field::HOST_FS_SELECTOR, 0),
        (Field::HOST_GS_SELECTOR, 0),
        (Field::HOST_TR_SELECTOR, TASK),
        (Field::HOST_FS_BASE, 0),
        (Field::HOST_GS_BASE, 0),
        (Field::HOST_TR_BASE, 0),
        (Field::HOST_GDTR_BASE, program.gdt),
        (Field::HOST_IDTR_BASE, l2_guests::idt::register().base),
        (Field::HOST_IA32_SYSENTER_CS, 0),
        (Field::HOST_IA32_SYSENTER_ESP, 0),
        (Field::HOST_IA32_SYSENTER_EIP, 0),
        (Field::HOST_RSP, 0x7000),
        (Field::HOST_RIP, address(nested_exit)),
    ];
    rows.into_iter().for_each(|(field, value)| program.write(field, value));
}

fn write_guest_state(program: &mut Program) {
    let (code, data) = ((CODE_32, 0xc09b), (DATA, 0xc093));
    for (offset, (selector, rights)) in (0..).step_by(2).zip([data, code, data, data, data, data, (0, 0x1_0082), (TASK, 0x8b)]) {
        let limit = if offset < 12 { 0xffff_ffff } else { 0xffff };
        program.write(Field(Field::GUEST_ES_SELECTOR.0 + offset), selector);
        program.write(Field(Field::GUEST_ES_BASE.0 + offset), 0);
        program.write(Field(Field::GUEST_ES_LIMIT.0 + offset), limit);
        program.write(Field(Field::GUEST_ES_ACCESS_RIGHTS.0 + offset), rights);
    }
    let rows = [
        (Field::GUEST_CR0, read_cr0() | cr0::PG),
        (Field::GUEST_CR3, program.page_directory),
        (Field::GUEST_CR4, program.cr4),
        (Field::GUEST_DR7, 0x400),
        (Field::GUEST_RIP, address(nested_guest)),
        (Field::GUEST_RSP, 0x7000),
        (Field::GUEST_RFLAGS, 2),
        (Field::GUEST_GDTR_BASE, program.gdt),
        (Field::GUEST_GDTR_LIMIT, 0x2f),
        (Field::GUEST_IDTR_BASE, 0),
        (Field::GUEST_IDTR_LIMIT, 0),
        (Field::GUEST_IA32_DEBUGCTL, 0),
        (Field::GUEST_IA32_SYSENTER_CS, 0),
        (Field::GUEST_IA32_SYSENTER_ESP, 0),
        (Field::GUEST_IA32_SYSENTER_EIP, 0),
        (Field::GUEST_INTERRUPTIBILITY_STATE, 0),
        (Field::GUEST_ACTIVITY_STATE, 0),
        (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
        (Field::VMCS_LINK_POINTER, u64::MAX),
    ];
    rows.into_iter().for_each(|(field, value)| program.write(field, value));
}
