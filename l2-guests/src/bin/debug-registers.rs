//! Debug registers: values survive exits, breakpoints fire in the guest, TF steps over instructions that exit.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "debug registers are written to, and TF is set")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use l2_guests::control::{self, cr4, read_cr4, write_cr4};
use l2_guests::exception::vector::{DEBUG, GENERAL_PROTECTION, INVALID_OPCODE};
use l2_guests::idt::{self, Frame};
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::{Exception, Outcome, attempt, cpuid, ensure, fail, msr, port, println};

l2_guests::guest!(run);

/// DR7 with every breakpoint off: bit 10 is always 1.
const DR7_OFF: u64 = 0x400;
/// DR6: a single step.
const SINGLE_STEP: u64 = 1 << 14;
/// DR6: the breakpoint of DR0; those of DR1 to DR3 follow.
const BREAKPOINT_0: u64 = 1 << 0;
/// A port that no device has.
const UNCLAIMED: u16 = 0xd00;

fn run(_arguments: &str) -> Outcome {
    values()?;
    aliases()?;
    refused()?;
    instruction_breakpoint()?;
    resume_flag()?;
    data_breakpoint()?;
    single_steps()
}

fn values() -> Outcome {
    ensure!(control::read_dr7() == DR7_OFF, "DR7 is {:#x} at start", control::read_dr7());
    let expected = [0x1234_5678, 0x7fff_ffff_fff0, 0xffff_8000_0000_0000, 0x1000];
    let [dr0, dr1, dr2, dr3] = expected;
    // SAFETY: no breakpoint is enabled.
    unsafe {
        must_succeed("DR0", control::write_dr0(dr0))?;
        must_succeed("DR1", control::write_dr1(dr1))?;
        must_succeed("DR2", control::write_dr2(dr2))?;
        must_succeed("DR3", control::write_dr3(dr3))?;
        // Conditions and lengths, none enabled.
        must_succeed("DR7", control::write_dr7(0xfff0_0400))?;
    }
    let _ = cpuid::cpuid(0, 0);
    port::write_u8(UNCLAIMED, 0);
    let _ = msr::read(msr::UNKNOWN);
    let read = [control::read_dr0(), control::read_dr1(), control::read_dr2(), control::read_dr3()];
    ensure!(read == expected, "DR0 to DR3 are {read:x?} after exits, not {expected:x?}");
    ensure!(control::read_dr7() == 0xfff0_0400, "DR7 is {:#x} after exits", control::read_dr7());
    disable()?;
    println!("DR0 to DR3 and DR7 keep their values over exits");
    Ok(())
}

/// Every breakpoint off.
fn disable() -> Outcome {
    // SAFETY: no breakpoint is enabled by it.
    must_succeed("DR7", unsafe { control::write_dr7(DR7_OFF) })
}

/// DR4 and DR5 are DR6 and DR7 while CR4.DE is 0, and do not exist while it is 1.
fn aliases() -> Outcome {
    let before = read_cr4();
    let dr5: u64;
    // SAFETY: MOV RAX, DR5 reads.
    must_succeed("MOV from DR5", unsafe { attempt!(".byte 0x0f, 0x21, 0xe8"; out("rax") dr5) })?;
    ensure!(dr5 == control::read_dr7(), "DR5 is {dr5:#x}, DR7 {:#x}", control::read_dr7());
    // SAFETY: changes debug registers and I/O breakpoints only.
    must_succeed("CR4.DE", unsafe { write_cr4(before | cr4::DE) })?;
    // SAFETY: MOV RAX, DR5 reads.
    let attempted = unsafe { attempt!(".byte 0x0f, 0x21, 0xe8"; out("rax") _) };
    // SAFETY: the value it had.
    must_succeed("CR4 as it was", unsafe { write_cr4(before) })?;
    must_raise("MOV from DR5 while CR4.DE is 1", attempted, INVALID_OPCODE, 0)?;
    println!("DR5 is DR7, or raises #UD while CR4.DE is 1");
    Ok(())
}

fn refused() -> Outcome {
    // SAFETY: it is refused, or else the guest ends as failed.
    unsafe {
        must_raise("DR6 bit 32", control::write_dr6(1 << 32), GENERAL_PROTECTION, 0)?;
        must_raise("DR7 bit 32", control::write_dr7(1 << 32 | DR7_OFF), GENERAL_PROTECTION, 0)?;
    }
    println!("the upper halves of DR6 and DR7 raise #GP");
    Ok(())
}

/// The exception must be #DB with this RIP and these bits of DR6 among B0 to B3 and BS.
fn must_break(what: &str, attempted: Result<(), Exception>, rip: u64, status: u64) -> Outcome {
    must_raise(what, attempted, DEBUG, 0)?;
    let Err(raised) = attempted else { return Ok(()) };
    let bits = raised.debug_status & (SINGLE_STEP | 0xf);
    ensure!(raised.rip == rip, "{what} saved RIP {:#x}, not {rip:#x}", raised.rip);
    ensure!(bits == status, "{what} left {bits:#x} in DR6, not {status:#x}");
    Ok(())
}

/// A fault: before the instruction.
fn instruction_breakpoint() -> Outcome {
    let rip: u64;
    // SAFETY: the exception is recovered from.
    let attempted = unsafe {
        attempt!("lea {rip}, [rip + 3f]", "mov dr0, {rip}", "mov dr7, {enable}", "nop", "3: nop", "ud2";
            rip = out(reg) rip, enable = in(reg) DR7_OFF | 1)
    };
    disable()?;
    must_break("an instruction breakpoint", attempted, rip, BREAKPOINT_0)?;
    println!("an instruction breakpoint fires before the instruction");
    Ok(())
}

static BREAKS: AtomicU64 = AtomicU64::new(0);
static LAST_RIP: AtomicU64 = AtomicU64::new(0);
static LAST_STATUS: AtomicU64 = AtomicU64::new(0);

fn debug_handler(frame: &mut Frame, exception: &Exception) {
    BREAKS.fetch_add(1, Relaxed);
    LAST_RIP.store(exception.rip, Relaxed);
    LAST_STATUS.store(exception.debug_status & (SINGLE_STEP | 0xf), Relaxed);
    frame.set_resume_flag();
    frame.clear_trap_flag();
}

/// With RF in the saved flags a breakpoint on CPUID, which exits, fires once for each time it is come by.
fn resume_flag() -> Outcome {
    idt::set_handler(DEBUG, debug_handler);
    BREAKS.store(0, Relaxed);
    // SAFETY: the handler keeps the registers; RBX is put back.
    unsafe {
        asm!(
            "mov {saved}, rbx",
            "lea {rip}, [rip + 3f]",
            "mov dr0, {rip}",
            "mov dr7, {enable}",
            "mov {rounds:e}, 3",
            "2:",
            "xor eax, eax",
            "3: cpuid",
            "dec {rounds:e}",
            "jnz 2b",
            "mov dr7, {disable}",
            "mov rbx, {saved}",
            saved = out(reg) _,
            rip = out(reg) _,
            rounds = out(reg) _,
            enable = in(reg) DR7_OFF | 1,
            disable = in(reg) DR7_OFF,
            out("eax") _,
            out("ecx") _,
            out("edx") _,
        );
    }
    let breaks = BREAKS.load(Relaxed);
    ensure!(breaks == 3, "a breakpoint on CPUID fired {breaks} times in 3 rounds");
    println!("RF lets the instruction at a breakpoint run once");
    Ok(())
}

/// A trap: after the store, and not after a load.
fn data_breakpoint() -> Outcome {
    // DR1, local; writes (bits 20 and 21), 8 bytes (bits 22 and 23: 2).
    const ENABLE: u64 = DR7_OFF | 1 << 2 | 1 << 20 | 2 << 22;
    let mut word = 0_u64;
    let rip: u64;
    // SAFETY: the exception is recovered from; the word is the guest's.
    let attempted = unsafe {
        attempt!(
            "lea {rip}, [rip + 3f]",
            "mov dr1, {word}",
            "mov dr7, {enable}",
            "mov {value}, [{word}]",
            "mov byte ptr [{word} + 3], 1",
            "3: ud2";
            rip = out(reg) rip, word = in(reg) &raw mut word, enable = in(reg) ENABLE, value = out(reg) _)
    };
    disable()?;
    must_break("a data breakpoint", attempted, rip, BREAKPOINT_0 << 1)?;
    ensure!(word == 0x0100_0000, "the store at a data breakpoint left {word:#x}");
    println!("a data breakpoint fires after the store");
    Ok(())
}

/// Runs one instruction with TF set: #DB must come exactly after it.
macro_rules! single_step {
    ($name:literal, $instruction:literal) => {{
        BREAKS.store(0, Relaxed);
        let rip: u64;
        // SAFETY: the handler keeps the registers and clears TF; RBX is put back.
        unsafe {
            asm!(
                "mov {saved}, rbx",
                "lea {rip}, [rip + 3f]",
                "pushfq",
                "or qword ptr [rsp], 0x100",
                "popfq",
                $instruction,
                "3: nop",
                "mov rbx, {saved}",
                saved = out(reg) _,
                rip = out(reg) rip,
                inout("rax") 0_u64 => _,
                inout("rcx") u64::from(msr::EFER) => _,
                inout("rdx") u64::from(UNCLAIMED) => _,
            );
        }
        let (breaks, last, status) = (BREAKS.load(Relaxed), LAST_RIP.load(Relaxed), LAST_STATUS.load(Relaxed));
        if breaks != 1 || last != rip {
            fail!("{} with TF set: {breaks} debug exceptions, the last at {last:#x}, not one at {rip:#x}", $name);
        }
        ensure!(status == SINGLE_STEP, "{} with TF set left {status:#x} in DR6", $name);
        println!("a single step over {} ends after it", $name);
    }};
}

fn single_steps() -> Outcome {
    idt::set_handler(DEBUG, debug_handler);
    single_step!("NOP", "nop");
    single_step!("CPUID", "cpuid");
    single_step!("RDMSR", "rdmsr");
    single_step!("IN", "in al, dx");
    single_step!("OUT", "out dx, al");
    single_step!("WBINVD", "wbinvd");
    Ok(())
}
