//! Exceptions that the guest raises and handles itself: faults, traps, error codes, CR2, and faults during delivery.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "each exception is provoked by its own instruction")]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use l2_guests::control::{cr0, read_cr0, write_cr0, write_cr2};
use l2_guests::exception::vector;
use l2_guests::idt::{self, Frame};
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::{Exception, Outcome, attempt, ensure, msr, paging, println};

l2_guests::guest!(run);

/// An address that is not canonical.
const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;
/// An address without a page.
const NOT_PRESENT: u64 = paging::END + 0x2345_6789;
/// An address with a page; what it leads to does not matter.
const READ_ONLY: u64 = 0x3000_0040;
/// A vector without a meaning of its own.
const SOFTWARE: u8 = 0x80;
/// Another one.
const ABSENT: u8 = 0x41;

fn run(_arguments: &str) -> Outcome {
    faults()?;
    traps()?;
    page_faults()?;
    floating_point()?;
    software_interrupt()?;
    faults_during_delivery()
}

/// Runs setup and one instruction. `fault`: the saved RIP must be the instruction's; `trap`: the next one's.
macro_rules! raise {
    ($what:literal, $kind:ident, $vector:expr, $error_code:expr, $setup:literal, $instruction:literal $(; $($operands:tt)*)?) => {{
        let (instruction, next): (u64, u64);
        // SAFETY: the exception is recovered from; nothing but the registers named changes.
        let attempted = unsafe {
            attempt!(
                "lea {instruction}, [rip + 3f]",
                "lea {next}, [rip + 4f]",
                $setup,
                "3:",
                $instruction,
                "4:";
                instruction = out(reg) instruction,
                next = out(reg) next,
                $($($operands)*)?
            )
        };
        must_raise($what, attempted, $vector, $error_code)?;
        check_rip($what, attempted, raise!(@$kind instruction, next))?;
        println!("{}: {}", l2_guests::exception::name($vector), $what);
        attempted
    }};
    (@fault $instruction:ident, $next:ident) => { { let _ = $next; $instruction } };
    (@trap $instruction:ident, $next:ident) => { { let _ = $instruction; $next } };
}

fn check_rip(what: &str, attempted: Result<(), Exception>, rip: u64) -> Outcome {
    if let Err(raised) = attempted {
        ensure!(raised.rip == rip, "{what} saved RIP {:#x}, not {rip:#x}", raised.rip);
    }
    Ok(())
}

fn faults() -> Outcome {
    let _ = raise!("UD2", fault, vector::INVALID_OPCODE, 0, "", "ud2");
    let _ = raise!("division by zero", fault, vector::DIVIDE_ERROR, 0, "xor ecx, ecx", "div ecx";
        inout("eax") 1 => _, out("ecx") _, inout("edx") 0 => _);
    let _ = raise!("a load from an address that is not canonical", fault, vector::GENERAL_PROTECTION, 0, "", "mov rax, [rcx]";
        in("rcx") NOT_CANONICAL, out("rax") _);
    // RBP is the frame pointer, which no operand can name. The first label 77 is where `attempt!` goes on, so RBP is
    // put back after the fault.
    let _ = raise!("a load through RBP from such an address", fault, vector::STACK_SEGMENT_FAULT, 0,
        "mov rcx, rbp; mov rbp, rax", "mov rax, [rbp]; 77: mov rbp, rcx";
        inout("rax") NOT_CANONICAL => _, out("rcx") _);
    let _ = raise!("a selector beyond the GDT", fault, vector::GENERAL_PROTECTION, 0x1238, "", "mov es, eax"; in("eax") 0x123a);
    let _ = raise!("WRMSR of an unknown MSR", fault, vector::GENERAL_PROTECTION, 0, "", "wrmsr";
        in("ecx") msr::UNKNOWN, in("eax") 0, in("edx") 0);
    let before = read_cr0();
    let _ = raise!("an SSE instruction while CR0.TS is 1", fault, vector::DEVICE_NOT_AVAILABLE, 0, "mov cr0, rax", "xorps xmm0, xmm0";
        in("rax") before | cr0::TS, out("xmm0") _);
    // SAFETY: the value it had.
    must_succeed("CR0 as it was", unsafe { write_cr0(before) })
}

fn traps() -> Outcome {
    let _ = raise!("INT3", trap, vector::BREAKPOINT, 0, "", "int3");
    let _ = raise!("INT 4", trap, vector::OVERFLOW, 0, "", ".byte 0xcd, 4");
    let _ = raise!("INT1", trap, vector::DEBUG, 0, "", ".byte 0xf1");
    Ok(())
}

fn page_faults() -> Outcome {
    /// SDM 3A 4.7 "Page-Fault Exceptions": the page was present.
    const PROTECTION: u64 = 1 << 0;
    /// The access was a write.
    const WRITE: u64 = 1 << 1;

    let check_address = |attempted: Result<(), Exception>, address: u64| -> Outcome {
        if let Err(raised) = attempted {
            ensure!(raised.fault_address == address, "CR2 is {:#x}, not {address:#x}", raised.fault_address);
        }
        Ok(())
    };
    // SAFETY: nothing depends on CR2.
    must_succeed("CR2", unsafe { write_cr2(0) })?;
    let read =
        raise!("a load without a page", fault, vector::PAGE_FAULT, 0, "", "mov al, [rcx]"; in("rcx") NOT_PRESENT, out("al") _);
    check_address(read, NOT_PRESENT)?;
    let write = raise!("a store without a page", fault, vector::PAGE_FAULT, WRITE, "", "mov [rcx], al";
        in("rcx") NOT_PRESENT + 1, in("al") 0_u8);
    check_address(write, NOT_PRESENT + 1)?;

    let before = read_cr0();
    // SAFETY: no page in use is read-only.
    must_succeed("CR0.WP", unsafe { write_cr0(before | cr0::WP) })?;
    // SAFETY: nothing lies in that page.
    unsafe { paging::change_page(READ_ONLY, 0, paging::WRITABLE) };
    let protected = raise!("a store to a read-only page", fault, vector::PAGE_FAULT, PROTECTION | WRITE, "", "mov [rcx], al";
        in("rcx") READ_ONLY, in("al") 0_u8);
    check_address(protected, READ_ONLY)?;
    // SAFETY: nothing lies in that page.
    unsafe { paging::change_page(READ_ONLY, 0, paging::PRESENT) };
    let absent = raise!("a load from a page just taken away", fault, vector::PAGE_FAULT, 0, "", "mov al, [rcx]";
        in("rcx") READ_ONLY, out("al") _);
    check_address(absent, READ_ONLY)?;
    // SAFETY: as it was.
    unsafe { paging::change_page(READ_ONLY, paging::PRESENT | paging::WRITABLE, 0) };
    // SAFETY: the value it had.
    must_succeed("CR0 as it was", unsafe { write_cr0(before) })
}

fn floating_point() -> Outcome {
    let before = read_cr0();
    // SAFETY: x87 errors raise #MF, as everywhere but on a PC of 1982.
    must_succeed("CR0.NE", unsafe { write_cr0(before | cr0::NE) })?;
    // Control word 0x037b: division by zero is not masked.
    let control_word = 0x037b_u16;
    let _ = raise!("an x87 division by zero, at the next x87 instruction", fault, vector::X87_FLOATING_POINT_ERROR, 0,
        "fninit; fldcw word ptr [rcx]; fld1; fldz; fdivp st(1), st", "fwait"; in("rcx") &raw const control_word);
    // MXCSR 0x1d80: division by zero is not masked.
    let control = 0x1d80_u32;
    let _ = raise!("an SSE division by zero", fault, vector::SIMD_FLOATING_POINT, 0,
        "xorps xmm1, xmm1; cvtsi2ss xmm0, eax; ldmxcsr [rcx]", "divss xmm0, xmm1";
        in("rcx") &raw const control, in("eax") 1, out("xmm0") _, out("xmm1") _);
    let default_control = 0x1f80_u32;
    // SAFETY: the state after start.
    unsafe { asm!("fnclex", "fninit", "ldmxcsr [{}]", in(reg) &raw const default_control) };
    // SAFETY: the value it had.
    must_succeed("CR0 as it was", unsafe { write_cr0(before) })
}

static SOFTWARE_INTERRUPTS: AtomicU32 = AtomicU32::new(0);

fn software_interrupt() -> Outcome {
    fn handler(_frame: &mut Frame, _exception: &Exception) {
        SOFTWARE_INTERRUPTS.fetch_add(1, Relaxed);
    }
    idt::set_handler(SOFTWARE, handler);
    // SAFETY: the handler keeps every register.
    unsafe { asm!("int 0x80", "int 0x80") };
    let count = SOFTWARE_INTERRUPTS.load(Relaxed);
    ensure!(count == 2, "INT 0x80 came {count} times, not twice");
    println!("INT 0x80 goes through its gate and comes back");
    Ok(())
}

/// A gate that is not present: an interrupt through it raises #NP with an error code that names the gate (bit 1: IDT),
/// an exception through it is a double fault (SDM 3A 6.15, "Interrupt 8—Double Fault Exception (#DF)").
fn faults_during_delivery() -> Outcome {
    idt::set_present(ABSENT, false);
    let _ = raise!("INT through an absent gate", fault, vector::SEGMENT_NOT_PRESENT, u64::from(ABSENT) << 3 | 2, "", "int 0x41");
    idt::set_present(ABSENT, true);

    idt::set_present(vector::GENERAL_PROTECTION, false);
    // SAFETY: both faults are recovered from; neither instruction changes anything.
    let (native, injected) = unsafe {
        (
            attempt!("mov rax, [rcx]"; in("rcx") NOT_CANONICAL, out("rax") _),
            attempt!("rdmsr"; in("ecx") msr::UNKNOWN, out("eax") _, out("edx") _),
        )
    };
    idt::set_present(vector::GENERAL_PROTECTION, true);
    must_raise("a #GP through an absent gate", native, vector::DOUBLE_FAULT, 0)?;
    must_raise("the #GP of RDMSR through an absent gate", injected, vector::DOUBLE_FAULT, 0)?;
    println!("#DF: #GP through an absent gate");
    Ok(())
}
