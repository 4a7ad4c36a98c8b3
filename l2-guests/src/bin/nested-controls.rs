//! L3 instructions that exit: each with its control off and on; what the exit says, and that L3 goes on behind it.
//!
//! The argument no-single-step leaves that exception out.
#![cfg_attr(bare_metal, no_std, no_main)]

use core::fmt;

use l2_guests::control::cr4;
use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::setup::Controls;
use l2_guests::vmx::{Exit, L3, enable, region};
use l2_guests::{Failure, Outcome, ensure, fail, l3_code, println, tsc};
use vmcs::controls::{PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// Bits of the instruction information that the SDM defines (3C 27.2.5 "Information for VM Exits Due to Instruction
/// Execution", Tables 27-8 to 27-14), in 64-bit mode, for an operand with base and index or, where said, a register.
const INFORMATION: &[(Reason, u32)] = &[
    (Reason::VMCLEAR, 0x0fff_8383),
    (Reason::VMPTRLD, 0x0fff_8383),
    (Reason::VMPTRST, 0x0fff_8383),
    (Reason::VMREAD, 0xffff_8783),
    (Reason::VMWRITE, 0xffff_8783),
    (Reason::VMXON, 0x0fff_8383),
    (Reason::ACCESS_TO_GDTR_OR_IDTR, 0x3fff_8383),
    (Reason::ACCESS_TO_LDTR_OR_TR, 0x3fff_8783),
    (Reason::INVEPT, 0xffff_8383),
    (Reason::INVVPID, 0xffff_8383),
    (Reason::INVPCID, 0xffff_8383),
    (Reason::RDRAND, 0x1878),
];
/// The same for the register forms of VMREAD, VMWRITE and the accesses to LDTR and TR: bit 10 is set.
const REGISTER_FORM: u32 = 0xf000_0478;
/// Bit 10: the operand is a register.
const IS_REGISTER: u32 = 1 << 10;
/// A port that nothing listens on.
const PORT: u64 = 0x80;
/// A port of the upper half, likewise.
const UPPER_PORT: u64 = 0x8f00;
/// An MSR below 0x2000, IA32_SYSENTER_CS, and one from 0xc000_0000 up, IA32_KERNEL_GS_BASE.
const LOW_MSR: u64 = 0x174;
const HIGH_MSR: u64 = 0x102;

/// What the rows work with.
struct Scene {
    io_bitmaps: u64,
    msr_bitmap: u64,
}

/// An instruction: its L3 code, the controls that make it exit, more that does, and whether it can run without.
struct Row {
    name: &'static str,
    code: unsafe extern "C" fn(),
    controls: fn(&mut Controls),
    prepare: fn(&L3, &Scene),
    without: bool,
}

macro_rules! row {
    ($name:literal, $code:ident, $without:ident, $field:ident = $control:expr) => {
        Row { name: $name, code: $code, controls: |controls| controls.$field |= $control, prepare: |_, _| {}, without: $without }
    };
    ($name:literal, $code:ident, $without:ident, $field:ident = $control:expr, |$l3:ident, $scene:ident| $prepare:expr) => {
        Row {
            name: $name,
            code: $code,
            controls: |controls| controls.$field |= $control,
            prepare: |$l3, $scene| $prepare,
            without: $without,
        }
    };
    ($name:literal, $code:ident) => {
        Row { name: $name, code: $code, controls: |_| {}, prepare: |_, _| {}, without: false }
    };
}

// RDI: a page of L3's own. RCX is zero.
l3_code! {
    hlt { "hlt", "vmcall" }
    invlpg { "mov eax, 0x12345", "invlpg [rax]", "vmcall" }
    mwait { "xor eax, eax", "mwait", "vmcall" }
    monitor { "mov rax, rdi", "xor edx, edx", "monitor", "vmcall" }
    rdpmc { "rdpmc", "vmcall" }
    rdtsc { "rdtsc", "vmcall" }
    rdtscp { "rdtscp", "vmcall" }
    pause { "pause", "vmcall" }
    load_cr3 { "mov rdx, cr3", "mov cr3, rdx", "vmcall" }
    store_cr3 { "mov r9, cr3", "vmcall" }
    load_cr8 { "mov r10, cr8", "mov cr8, r10", "vmcall" }
    store_cr8 { "mov rbx, cr8", "vmcall" }
    load_dr0 { "mov dr0, rcx", "vmcall" }
    store_dr7 { "mov r11, dr7", "vmcall" }
    sgdt { "sgdt [rdi + rcx * 2 + 0x20]", "vmcall" }
    sidt { "sidt [rdi + rcx + 0x40]", "vmcall" }
    lgdt { "sgdt [rdi + rcx * 8]", "lgdt [rdi + rcx * 8]", "vmcall" }
    only_lgdt { "lgdt [rdi + rcx * 8 + 0x80]", "vmcall" }
    sldt_register { "sldt edx", "vmcall" }
    lldt_memory { "lldt word ptr [rdi + rcx + 0x100]", "vmcall" }
    str_memory { "str word ptr [rdi + rcx * 4]", "vmcall" }
    wbinvd { "wbinvd", "vmcall" }
    invd { "invd", "vmcall" }
    invpcid { "xor eax, eax", "invpcid rax, [rdi + rcx * 2 + 0x800]", "vmcall" }
    rdrand { "rdrand r12d", "vmcall" }
    xsetbv { "xor eax, eax", "xor edx, edx", "xsetbv", "vmcall" }
    cpuid { "cpuid", "vmcall" }
    in_immediate { "in al, 0x80", "vmcall" }
    in_32 { "mov edx, 0x80", "in eax, dx", "vmcall" }
    out_16 { "mov edx, 0x8f00", "out dx, ax", "vmcall" }
    out_8 { "out 0x80, al", "vmcall" }
    outs { "mov edx, 0x80", "mov rsi, rdi", "mov ecx, 3", "rep outsb", "vmcall" }
    ins { "mov edx, 0x80", "insd", "vmcall" }
    read_low { "mov ecx, 0x174", "rdmsr", "vmcall" }
    write_low { "mov ecx, 0x174", "xor eax, eax", "xor edx, edx", "wrmsr", "vmcall" }
    read_high { "mov ecx, 0xc0000102", "rdmsr", "vmcall" }
    write_high { "mov ecx, 0xc0000102", "xor eax, eax", "xor edx, edx", "wrmsr", "vmcall" }
    read_neither { "mov ecx, 0x40000000", "rdmsr", "vmcall" }
    write_neither { "mov ecx, 0x40000000", "wrmsr", "vmcall" }
    vmxon { "vmxon [rdi + rcx * 8 + 8]", "vmcall" }
    vmxoff { "vmxoff", "vmcall" }
    vmclear { "vmclear [rdi + rcx * 4 + 16]", "vmcall" }
    vmptrld { "vmptrld [rdi + rcx * 2 - 8]", "vmcall" }
    vmptrst { "vmptrst [rdi + rcx]", "vmcall" }
    vmread_memory { "vmread [rdi + rcx + 0x12345], rdx", "vmcall" }
    vmread_register { "vmread r15, r14", "vmcall" }
    vmwrite_memory { "vmwrite rdx, [rdi + rcx * 8 - 0x10]", "vmcall" }
    vmwrite_register { "vmwrite r8, rsp", "vmcall" }
    vmlaunch { "vmlaunch", "vmcall" }
    vmresume { "vmresume", "vmcall" }
    invept { "invept rax, [rdi + rcx * 2 + 0x30]", "vmcall" }
    invvpid { "invvpid r13, [rdi + rcx]", "vmcall" }
    load_cr0 { "mov rax, cr0", "btc rax, 3", "mov cr0, rax", "vmcall" }
    same_cr0 { "mov rax, cr0", "mov cr0, rax", "vmcall" }
    clts { "clts", "vmcall" }
    lmsw_register { "smsw eax", "xor eax, 8", "lmsw ax", "vmcall" }
    lmsw_memory { "mov word ptr [rdi + 0x200], 9", "lmsw word ptr [rdi + rcx + 0x200]", "vmcall" }
    load_cr4 { "mov rdx, cr4", "btc rdx, 2", "mov cr4, rdx", "vmcall" }
    read_cr0 { "mov rax, cr0", "smsw rbx", "mov rdx, cr4", "vmcall" }
    ud2 { "ud2", "vmcall" }
    int3 { "int3", "vmcall" }
    icebp { ".byte 0xf1", "vmcall" }
    divide { "xor edx, edx", "mov eax, 1", "div ecx", "vmcall" }
    bad_selector { "mov eax, 0x1238", "mov es, eax", "vmcall" }
    write_without_page { "mov rax, 0x123456789000", "mov [rax + 8], rcx", "vmcall" }
    read_without_page { "mov rax, 0x123456789000", "mov rax, [rax + 8]", "vmcall" }
    single_step { "pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop", "vmcall" }
}

const INSTRUCTIONS: &[Row] = &[
    row!("HLT", hlt, false, primary = Primary::HLT_EXITING),
    row!("INVLPG", invlpg, true, primary = Primary::INVLPG_EXITING),
    row!("MWAIT", mwait, false, primary = Primary::MWAIT_EXITING),
    row!("MONITOR", monitor, false, primary = Primary::MONITOR_EXITING),
    row!("RDPMC", rdpmc, false, primary = Primary::RDPMC_EXITING),
    row!("RDTSC", rdtsc, true, primary = Primary::RDTSC_EXITING),
    row!("RDTSCP", rdtscp, false, primary = Primary::RDTSC_EXITING),
    row!("PAUSE", pause, true, primary = Primary::PAUSE_EXITING),
    row!("MOV to CR3", load_cr3, true, primary = Primary::CR3_LOAD_EXITING),
    row!("MOV from CR3", store_cr3, true, primary = Primary::CR3_STORE_EXITING),
    row!("MOV to CR8", load_cr8, true, primary = Primary::CR8_LOAD_EXITING),
    row!("MOV from CR8", store_cr8, true, primary = Primary::CR8_STORE_EXITING),
    row!("MOV to DR0", load_dr0, true, primary = Primary::MOV_DR_EXITING),
    row!("MOV from DR7", store_dr7, true, primary = Primary::MOV_DR_EXITING),
    row!("SGDT", sgdt, true, secondary = Secondary::DESCRIPTOR_TABLE_EXITING),
    row!("SIDT", sidt, true, secondary = Secondary::DESCRIPTOR_TABLE_EXITING),
    row!("LGDT", only_lgdt, false, secondary = Secondary::DESCRIPTOR_TABLE_EXITING),
    row!("SGDT and LGDT", lgdt, true, secondary = Secondary::DESCRIPTOR_TABLE_EXITING),
    row!("SLDT, register", sldt_register, true, secondary = Secondary::DESCRIPTOR_TABLE_EXITING),
    row!("LLDT, memory", lldt_memory, true, secondary = Secondary::DESCRIPTOR_TABLE_EXITING),
    row!("STR, memory", str_memory, true, secondary = Secondary::DESCRIPTOR_TABLE_EXITING),
    row!("WBINVD", wbinvd, true, secondary = Secondary::WBINVD_EXITING),
    row!("RDRAND", rdrand, true, secondary = Secondary::RDRAND_EXITING),
];

const ALWAYS: &[Row] = &[
    row!("CPUID", cpuid),
    row!("INVD", invd),
    row!("XSETBV", xsetbv, false, primary = Primary::empty(), |l3, _s| {
        l3.write(Field::GUEST_CR4, l3.read(Field::GUEST_CR4) | cr4::OSXSAVE);
    }),
    row!("VMXON", vmxon),
    row!("VMXOFF", vmxoff),
    row!("VMCLEAR", vmclear),
    row!("VMPTRLD", vmptrld),
    row!("VMPTRST", vmptrst),
    row!("VMREAD, memory", vmread_memory),
    row!("VMREAD, register", vmread_register),
    row!("VMWRITE, memory", vmwrite_memory),
    row!("VMWRITE, register", vmwrite_register),
    row!("VMLAUNCH", vmlaunch),
    row!("VMRESUME", vmresume),
    row!("INVEPT", invept),
    row!("INVVPID", invvpid),
];

const PORTS: &[Row] = &[
    row!("IN AL, immediate", in_immediate, true, primary = Primary::UNCONDITIONAL_IO_EXITING),
    row!("IN EAX, DX", in_32, true, primary = Primary::UNCONDITIONAL_IO_EXITING),
    row!("OUT DX, AX", out_16, true, primary = Primary::UNCONDITIONAL_IO_EXITING),
    row!("REP OUTSB", outs, true, primary = Primary::UNCONDITIONAL_IO_EXITING),
    row!("INSD", ins, true, primary = Primary::UNCONDITIONAL_IO_EXITING),
    row!("OUT immediate, AL, bitmap A", out_8, true, primary = Primary::USE_IO_BITMAPS, |_l3, scene| {
        region::set_bit(scene.io_bitmaps, PORT, true);
    }),
    row!("OUT DX, AX, bitmap B", out_16, true, primary = Primary::USE_IO_BITMAPS, |_l3, scene| {
        region::set_bit(scene.io_bitmaps, UPPER_PORT, true);
    }),
    row!("OUT DX, AX, bitmap B, upper byte's bit", out_16, true, primary = Primary::USE_IO_BITMAPS, |_l3, scene| {
        region::set_bit(scene.io_bitmaps, UPPER_PORT + 1, true);
    }),
    row!(
        "IN EAX, DX, bitmap A without its bits but unconditional",
        in_32,
        true,
        primary = Primary::USE_IO_BITMAPS | Primary::UNCONDITIONAL_IO_EXITING
    ),
    row!("IN EAX, DX, bitmap A without its bits", in_32, true, primary = Primary::USE_IO_BITMAPS),
];

const MSRS: &[Row] = &[
    row!("RDMSR below 0x2000", read_low, true, primary = Primary::USE_MSR_BITMAPS, |_l3, scene| {
        region::set_bit(scene.msr_bitmap, LOW_MSR, true);
    }),
    row!("RDMSR from 0xc0000000", read_high, true, primary = Primary::USE_MSR_BITMAPS, |_l3, scene| {
        region::set_bit(scene.msr_bitmap + 0x400, HIGH_MSR, true);
    }),
    row!("WRMSR below 0x2000", write_low, true, primary = Primary::USE_MSR_BITMAPS, |_l3, scene| {
        region::set_bit(scene.msr_bitmap + 0x800, LOW_MSR, true);
    }),
    row!("WRMSR from 0xc0000000", write_high, true, primary = Primary::USE_MSR_BITMAPS, |_l3, scene| {
        region::set_bit(scene.msr_bitmap + 0xc00, HIGH_MSR, true);
    }),
    row!("RDMSR of another one, bitmap", read_neither, false, primary = Primary::USE_MSR_BITMAPS),
    row!("WRMSR of another one, bitmap", write_neither, false, primary = Primary::USE_MSR_BITMAPS),
    row!("RDMSR below 0x2000, only WRMSR's bit", read_low, true, primary = Primary::USE_MSR_BITMAPS, |_l3, scene| {
        region::set_bit(scene.msr_bitmap + 0x800, LOW_MSR, true);
    }),
];

const CONTROL_REGISTERS: &[Row] = &[
    row!("CR0.TS changed", load_cr0, true, primary = Primary::empty(), |l3, _s| own_cr0(l3, 8)),
    row!("CR0.TS changed, another bit owned", load_cr0, true, primary = Primary::empty(), |l3, _s| own_cr0(l3, 4)),
    row!("CR0 not changed", same_cr0, true, primary = Primary::empty(), |l3, _s| own_cr0(l3, u64::MAX)),
    row!("CLTS, CR0.TS owned, shadow 0", clts, true, primary = Primary::empty(), |l3, _s| own_cr0(l3, 8)),
    row!("CLTS, CR0.TS owned, shadow 1", clts, true, primary = Primary::empty(), |l3, _s| {
        own_cr0(l3, 8);
        l3.write(Field::CR0_READ_SHADOW, l3.read(Field::CR0_READ_SHADOW) | 8);
    }),
    row!("LMSW, register", lmsw_register, true, primary = Primary::empty(), |l3, _s| own_cr0(l3, 8)),
    row!("LMSW, memory", lmsw_memory, true, primary = Primary::empty(), |l3, _s| own_cr0(l3, 8)),
    row!("CR4.TSD changed", load_cr4, true, primary = Primary::empty(), |l3, _s| l3.write(Field::CR4_GUEST_HOST_MASK, 4)),
];

/// Name of the row below that the argument leaves out.
const SINGLE_STEP_ROW: &str = "#DB, single step";

const EXCEPTIONS: &[Row] = &[
    row!("#UD", ud2, false, primary = Primary::empty(), |l3, _s| l3.write(Field::EXCEPTION_BITMAP, 1 << 6)),
    row!("#BP, INT3", int3, false, primary = Primary::empty(), |l3, _s| l3.write(Field::EXCEPTION_BITMAP, 1 << 3)),
    row!("#DB, INT1", icebp, false, primary = Primary::empty(), |l3, _s| l3.write(Field::EXCEPTION_BITMAP, 1 << 1)),
    row!("#DE", divide, false, primary = Primary::empty(), |l3, _s| l3.write(Field::EXCEPTION_BITMAP, 1)),
    row!("#GP", bad_selector, false, primary = Primary::empty(), |l3, _s| l3.write(Field::EXCEPTION_BITMAP, 1 << 13)),
    row!("#DB, single step", single_step, false, primary = Primary::empty(), |l3, _s| l3.write(Field::EXCEPTION_BITMAP, 2)),
    row!("#PF", write_without_page, false, primary = Primary::empty(), |l3, _s| page_faults(l3, 1 << 14, 0, 0)),
    row!("#PF, a write, mask 2, match 2", write_without_page, false, primary = Primary::empty(), |l3, _s| {
        page_faults(l3, 1 << 14, 2, 2);
    }),
    row!("#PF, a read, mask 2, match 2, bit clear", read_without_page, false, primary = Primary::empty(), |l3, _s| {
        page_faults(l3, 0, 2, 2);
    }),
];

fn own_cr0(l3: &L3, mask: u64) {
    l3.write(Field::CR0_GUEST_HOST_MASK, mask);
}

fn page_faults(l3: &L3, bitmap: u64, mask: u64, matching: u64) {
    l3.write(Field::EXCEPTION_BITMAP, bitmap);
    l3.write(Field::PAGE_FAULT_ERROR_CODE_MASK, mask);
    l3.write(Field::PAGE_FAULT_ERROR_CODE_MATCH, matching);
}

fn run(arguments: &str) -> Outcome {
    let left_out = match arguments {
        "" => None,
        "no-single-step" => Some(SINGLE_STEP_ROW),
        other => fail!("{other:?} is no argument: there is only \"no-single-step\""),
    };
    let vmx = enable()?;
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(cpuid), Some(Ept::identity()))?;
    l3.set_controls(|controls| controls.secondary |= Secondary::ENABLE_RDTSCP)?;
    let scene = Scene { io_bitmaps: region::allocate(2), msr_bitmap: region::allocate(1) };
    l3.write(Field::IO_BITMAP_A, scene.io_bitmaps);
    l3.write(Field::IO_BITMAP_B, scene.io_bitmaps + region::PAGE);
    l3.write(Field::MSR_BITMAP, scene.msr_bitmap);
    let page = region::allocate(1);
    // MSR accesses exit without bitmaps, so "off" means bitmaps without bits.
    for (title, rows, always) in [
        ("instructions", INSTRUCTIONS, Primary::empty()),
        ("instructions that always exit", ALWAYS, Primary::empty()),
        ("ports", PORTS, Primary::empty()),
        ("MSRs", MSRS, Primary::USE_MSR_BITMAPS),
        ("MSRs without bitmaps", &MSRS_WITHOUT_BITMAPS[..], Primary::empty()),
        ("control registers", CONTROL_REGISTERS, Primary::empty()),
        ("exceptions", EXCEPTIONS, Primary::empty()),
    ] {
        println!("{title}:");
        l3.set_controls(|controls| controls.primary |= always)?;
        let rows = rows.iter().filter(|row| Some(row.name) != left_out);
        rows.into_iter().try_for_each(|row| try_row(&mut l3, &scene, page, row))?;
        l3.set_controls(|controls| controls.primary.remove(always))?;
    }
    shadows(&mut l3, page)?;
    tsc_offset(&mut l3, page)?;
    targets(&mut l3, page)?;
    invpcid_exits(&mut l3, page)?;
    vmx.disable()
}

const MSRS_WITHOUT_BITMAPS: [Row; 3] =
    [row!("RDMSR below 0x2000", read_low), row!("WRMSR from 0xc0000000", write_high), row!("RDMSR of another one", read_neither)];

/// Interruption information of a valid hardware exception #DB.
const SINGLE_STEP: u64 = 0x8000_0301;

fn start(l3: &mut L3, page: u64, code: unsafe extern "C" fn()) {
    l3.reset(code_address(code));
    l3.registers().rdi = page;
}

/// Runs the row's code without its control, if it can, then with it.
fn try_row(l3: &mut L3, scene: &Scene, page: u64, row: &Row) -> Outcome {
    if row.without {
        start(l3, page, row.code);
        if let Err(failure) = l3.run_to(Reason::VMCALL) {
            println!("  ({} without its control)", row.name);
            return Err(failure);
        }
    }
    let before = l3.controls;
    start(l3, page, row.code);
    l3.set_controls(row.controls)?;
    (row.prepare)(l3, scene);
    let exit = l3.run()?;
    let off = if row.without { "no exit, then " } else { "" };
    println!("  {}: {off}{}", row.name, Said(l3, exit));
    while !exit.is(Reason::VMCALL) {
        // A single step traps behind its instruction; the length is undefined then.
        if l3.read(Field::VM_EXIT_INTERRUPTION_INFORMATION) != SINGLE_STEP {
            l3.skip_instruction();
        }
        let next = l3.run()?;
        if next.is(Reason::VMCALL) {
            break;
        }
        ensure!(next.reason == exit.reason, "{next} after {exit}");
        println!("    then {}", Said(l3, next));
    }
    l3.set_controls(|controls| *controls = before)?;
    l3.write(Field::CR0_GUEST_HOST_MASK, 0);
    l3.write(Field::CR4_GUEST_HOST_MASK, 0);
    page_faults(l3, 0, 0, 0);
    region::fill(scene.io_bitmaps, 2, 0);
    region::fill(scene.msr_bitmap, 1, 0);
    Ok(())
}

/// What the exit-information fields say, as far as the SDM defines it.
struct Said<'a>(&'a L3, Exit);

impl fmt::Display for Said<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(l3, exit) = self;
        let reason = exit.reason.basic();
        write!(formatter, "{exit}")?;
        if reason == Reason::VMCALL {
            return Ok(());
        }
        let information = l3.read(Field::VM_EXIT_INSTRUCTION_INFORMATION) as u32;
        let is_register =
            [Reason::VMREAD, Reason::VMWRITE, Reason::ACCESS_TO_LDTR_OR_TR].contains(&reason) && information & IS_REGISTER != 0;
        // Undefined for a register form, which has no displacement.
        if !is_register {
            // Of a displacement that depends on where the code lies, nothing is told; none here does.
            write!(formatter, ", qualification {:#x}", l3.read(Field::EXIT_QUALIFICATION))?;
        }
        if reason == Reason::EXCEPTION_OR_NMI {
            let event = l3.read(Field::VM_EXIT_INTERRUPTION_INFORMATION);
            write!(formatter, ", interruption {event:#x}")?;
            if event >> 11 & 1 != 0 {
                write!(formatter, ", error code {:#x}", l3.read(Field::VM_EXIT_INTERRUPTION_ERROR_CODE))?;
            }
            // The length is defined for software exceptions only.
            if ![5, 6].contains(&(event >> 8 & 7)) {
                return Ok(());
            }
        }
        write!(formatter, ", length {}", l3.read(Field::VM_EXIT_INSTRUCTION_LENGTH))?;
        if let Some((_, mask)) = INFORMATION.iter().find(|(of, _)| *of == reason) {
            let mask = if is_register { REGISTER_FORM } else { *mask };
            // Bits 31:30 do not belong to the accesses to LDTR and TR.
            let mask = if reason == Reason::ACCESS_TO_LDTR_OR_TR { mask & 0x3fff_ffff } else { mask };
            write!(formatter, ", information {:#x}", information & mask)?;
        }
        if reason == Reason::IO_INSTRUCTION && l3.read(Field::EXIT_QUALIFICATION) & 0x10 != 0 {
            let output = l3.read(Field::EXIT_QUALIFICATION) & 8 == 0;
            let mask = if output { 0x3_8380 } else { 0x380 };
            write!(formatter, ", information {:#x}", information & mask)?;
        }
        Ok(())
    }
}

/// What L3 reads of CR0 and CR4: its own where the mask is 0, the shadow where it is 1.
fn shadows(l3: &mut L3, page: u64) -> Outcome {
    start(l3, page, read_cr0);
    let (real_cr0, real_cr4) = (l3.read(Field::GUEST_CR0), l3.read(Field::GUEST_CR4));
    l3.write(Field::CR0_GUEST_HOST_MASK, 0xc);
    l3.write(Field::CR0_READ_SHADOW, !real_cr0);
    l3.write(Field::CR4_GUEST_HOST_MASK, 0x2004);
    l3.write(Field::CR4_READ_SHADOW, !real_cr4);
    l3.run_to(Reason::VMCALL)?;
    let expected = (real_cr0 ^ 0xc, real_cr0 ^ 0xc, real_cr4 ^ 0x2004);
    let registers = l3.registers();
    let seen = (registers.rax, registers.rbx, registers.rdx);
    ensure!(seen == expected, "L3 read CR0, its status word and CR4 as {seen:x?}, not {expected:x?}");
    println!("MOV from CR0, SMSW and MOV from CR4 give the shadows of owned bits, and the others as they are");
    l3.write(Field::CR0_GUEST_HOST_MASK, 0);
    l3.write(Field::CR4_GUEST_HOST_MASK, 0);
    Ok(())
}

/// RDTSC in L3 with an offset lies between what L2 reads before and after, with the offset added.
fn tsc_offset(l3: &mut L3, page: u64) -> Outcome {
    const OFFSET: u64 = 1 << 40;
    l3.set_controls(|controls| controls.primary |= Primary::USE_TSC_OFFSETTING)?;
    for offset in [OFFSET, OFFSET.wrapping_neg()] {
        start(l3, page, rdtsc);
        l3.write(Field::TSC_OFFSET, offset);
        let before = tsc::read().wrapping_add(offset);
        l3.run_to(Reason::VMCALL)?;
        let after = tsc::read().wrapping_add(offset);
        let read = l3.registers().rdx << 32 | l3.registers().rax & 0xffff_ffff;
        ensure!(read.wrapping_sub(before) <= after.wrapping_sub(before), "RDTSC gave {read:#x}, not {before:#x} to {after:#x}");
    }
    l3.set_controls(|controls| controls.primary.remove(Primary::USE_TSC_OFFSETTING))?;
    println!("RDTSC gives the counter with the TSC offset added");
    Ok(())
}

/// A CR3-target value lets MOV to CR3 through. A processor may have none.
fn targets(l3: &mut L3, page: u64) -> Result<(), Failure> {
    if l3.vmx().capabilities.misc().cr3_target_values() > 0 {
        l3.set_controls(|controls| controls.primary |= Primary::CR3_LOAD_EXITING)?;
        start(l3, page, load_cr3);
        let cr3 = l3.read(Field::GUEST_CR3);
        l3.write(Field::CR3_TARGET_COUNT, 1);
        l3.write(Field::CR3_TARGET_VALUE0, cr3);
        l3.run_to(Reason::VMCALL)?;
        start(l3, page, load_cr3);
        l3.write(Field::CR3_TARGET_VALUE0, cr3 + 0x1000);
        l3.run_to(Reason::CONTROL_REGISTER_ACCESS)?;
        l3.write(Field::CR3_TARGET_COUNT, 0);
    }
    println!("CR3-target values work as far as there are any");
    Ok(())
}

/// INVPCID exits with "INVLPG exiting" where it is enabled. A processor may not have it.
fn invpcid_exits(l3: &mut L3, page: u64) -> Outcome {
    /// Type in RAX; base RDI, index RCX with scale 2; DS; 64-bit addresses.
    const EXPECTED: u32 = 0x0385_8101;
    if l3.vmx().capabilities.supports_secondary(Secondary::ENABLE_INVPCID) {
        l3.set_controls(|controls| controls.secondary |= Secondary::ENABLE_INVPCID)?;
        start(l3, page, invpcid);
        l3.run_to(Reason::VMCALL)?;
        l3.set_controls(|controls| controls.primary |= Primary::INVLPG_EXITING)?;
        start(l3, page, invpcid);
        l3.run_to(Reason::INVPCID)?;
        let mask = INFORMATION.iter().find(|(reason, _)| *reason == Reason::INVPCID).map_or(0, |(_, mask)| *mask);
        let information = l3.read(Field::VM_EXIT_INSTRUCTION_INFORMATION) as u32 & mask;
        let qualification = l3.read(Field::EXIT_QUALIFICATION);
        ensure!(
            (information, qualification) == (EXPECTED, 0x800),
            "information {information:#x}, qualification {qualification:#x}"
        );
        l3.skip_instruction();
        l3.run_to(Reason::VMCALL)?;
    }
    println!("INVPCID exits where it is offered");
    Ok(())
}
