//! Instructions that a hypervisor may intercept: they work as CPUID says, or raise what they raise without it.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "each instruction has no other form than assembly")]

use core::arch::asm;

use l1_protocol::guest::LOADER_GDT;
use l2_guests::exception::vector::{GENERAL_PROTECTION, INVALID_OPCODE};
use l2_guests::idt::{self, TableRegister};
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::{Outcome, attempt, cpuid, ensure, println, tsc};

l2_guests::guest!(run);

fn run(_arguments: &str) -> Outcome {
    caches()?;
    monitor()?;
    time()?;
    performance_counter()?;
    translations()?;
    descriptor_tables()?;
    vmx()
}

fn caches() -> Outcome {
    let mut word = 0x1234_5678_u32;
    // SAFETY: PAUSE waits a little. WBINVD writes caches back, INVD after it finds nothing that memory lacks; only
    // then does INVD lose nothing on a processor that is not virtual.
    let attempted = unsafe { attempt!("pause", "wbinvd", "invd") };
    must_succeed("PAUSE, WBINVD and INVD", attempted)?;
    // SAFETY: reads and writes the word.
    unsafe {
        asm!("mov dword ptr [{word}], 0x5678", "pause", "wbinvd", word = in(reg) &raw mut word);
    }
    ensure!(word == 0x5678, "WBINVD lost a store: {word:#x}");
    println!("PAUSE, WBINVD and INVD work");
    Ok(())
}

/// MONITOR and MWAIT, or #UD. A store between the two lets MWAIT end at once, if it waits at all.
fn monitor() -> Outcome {
    let mut line = [0_u64; 8];
    if cpuid::MONITOR.is_shown() {
        // SAFETY: the line is the guest's.
        let attempted = unsafe {
            attempt!("monitor", "mov qword ptr [rax], 1", "xor eax, eax", "mwait";
                inout("rax") &raw mut line => _, in("rcx") 0_u64, in("rdx") 0_u64)
        };
        must_succeed("MONITOR and MWAIT", attempted)?;
    } else {
        // SAFETY: both raise #UD.
        unsafe {
            must_raise(
                "MONITOR",
                attempt!("monitor"; in("rax") &raw mut line, in("rcx") 0_u64, in("rdx") 0_u64),
                INVALID_OPCODE,
                0,
            )?;
            must_raise("MWAIT", attempt!("mwait"; in("rax") 0_u64, in("rcx") 0_u64), INVALID_OPCODE, 0)?;
        }
    }
    println!("MONITOR and MWAIT are as CPUID says");
    Ok(())
}

/// RDTSC and RDTSCP count upwards, together.
fn time() -> Outcome {
    let mut last = tsc::read();
    for _ in 0..100 {
        let now = tsc::read();
        ensure!(now > last, "RDTSC went from {last} to {now}");
        last = now;
    }
    println!("RDTSC counts upwards");
    let (low, high): (u64, u64);
    // SAFETY: reads the counter.
    let attempted = unsafe { attempt!("rdtscp"; out("rax") low, out("rcx") _, out("rdx") high) };
    if cpuid::RDTSCP.is_shown() {
        must_succeed("RDTSCP", attempted)?;
        let (between, after) = (high << 32 | low, tsc::read());
        ensure!(last < between && between < after, "RDTSC, RDTSCP and RDTSC give {last}, {between}, {after}");
    } else {
        must_raise("RDTSCP", attempted, INVALID_OPCODE, 0)?;
    }
    println!("RDTSCP is as CPUID says");
    Ok(())
}

/// RDPMC of counter 0 gives a value if there is such a counter; there is none with this number.
fn performance_counter() -> Outcome {
    // SAFETY: reads a counter, if anything.
    let first = unsafe { attempt!("rdpmc"; in("ecx") 0, out("eax") _, out("edx") _) };
    if first.is_err() {
        must_raise("RDPMC", first, GENERAL_PROTECTION, 0)?;
    }
    // SAFETY: as above.
    let absent = unsafe { attempt!("rdpmc"; in("ecx") 0x3fff_ffff, out("eax") _, out("edx") _) };
    must_raise("RDPMC of a counter that does not exist", absent, GENERAL_PROTECTION, 0)?;
    println!("RDPMC gives a value or raises #GP");
    Ok(())
}

fn translations() -> Outcome {
    // SAFETY: forgets a translation that the page tables still give.
    must_succeed("INVLPG", unsafe { attempt!("invlpg [{address}]"; address = in(reg) 0x1000_u64) })?;
    // All contexts, global translations included.
    let descriptor = [0_u64; 2];
    // SAFETY: as above.
    let attempted =
        unsafe { attempt!("invpcid {kind}, [{descriptor}]"; kind = in(reg) 2_u64, descriptor = in(reg) &raw const descriptor) };
    if cpuid::INVPCID.is_shown() {
        must_succeed("INVPCID", attempted)?;
        // SAFETY: a type that does not exist.
        let attempted = unsafe {
            attempt!("invpcid {kind}, [{descriptor}]"; kind = in(reg) 4_u64, descriptor = in(reg) &raw const descriptor)
        };
        must_raise("INVPCID of a type that does not exist", attempted, GENERAL_PROTECTION, 0)?;
    } else {
        must_raise("INVPCID", attempted, INVALID_OPCODE, 0)?;
    }
    println!("INVLPG works, INVPCID is as CPUID says");
    Ok(())
}

fn descriptor_tables() -> Outcome {
    let (mut gdt, mut idt) = (TableRegister::default(), TableRegister::default());
    let (ldt, task, code): (u64, u64, u64);
    // SAFETY: stores registers into the variables given.
    unsafe {
        asm!(
            "sgdt [{gdt}]",
            "sidt [{idt}]",
            "sldt {ldt}",
            "str {task}",
            "mov {code}, cs",
            gdt = in(reg) &raw mut gdt,
            idt = in(reg) &raw mut idt,
            ldt = out(reg) ldt,
            task = out(reg) task,
            code = out(reg) code,
            options(nostack, preserves_flags),
        );
    }
    let (base, limit) = (gdt.base, gdt.limit);
    ensure!(base == LOADER_GDT, "SGDT gives base {base:#x}, the loader's GDT is at {LOADER_GDT:#x}");
    ensure!(limit >= 0x1f, "SGDT gives limit {limit:#x}, which leaves out segments in use");
    let (base, expected) = (idt.base, idt::register().base);
    ensure!(idt == idt::register(), "SIDT gives base {base:#x}, {expected:#x} was loaded");
    // SLDT and STR to a 64-bit register zero its upper part.
    ensure!(ldt == 0, "SLDT gives {ldt:#x}, nothing was loaded");
    ensure!(task <= 0xffff, "STR gives {task:#x}, which is no selector");
    ensure!(code == 0x10, "CS is {code:#x}, the loader's is 0x10");
    // SAFETY: loads what is loaded already, and a null LDT.
    unsafe {
        asm!("lgdt [{gdt}]", "lidt [{idt}]", "lldt {null:x}", gdt = in(reg) &raw const gdt, idt = in(reg) &raw const idt, null = in(reg) 0_u64);
    }
    println!("SGDT, SIDT, SLDT and STR give what was loaded");
    Ok(())
}

/// CR4.VMXE is 0: every VMX instruction but VMCALL, which is L1's, raises #UD, and so does GETSEC without CR4.SMXE.
fn vmx() -> Outcome {
    let mut operand = [0_u64; 2];
    let memory = &raw mut operand;
    // SAFETY: every one raises #UD, or else the guest ends as failed.
    let attempts = unsafe {
        [
            ("VMXON", attempt!("vmxon qword ptr [{memory}]"; memory = in(reg) memory)),
            ("VMXOFF", attempt!("vmxoff")),
            ("VMCLEAR", attempt!("vmclear qword ptr [{memory}]"; memory = in(reg) memory)),
            ("VMPTRLD", attempt!("vmptrld qword ptr [{memory}]"; memory = in(reg) memory)),
            ("VMPTRST", attempt!("vmptrst qword ptr [{memory}]"; memory = in(reg) memory)),
            ("VMREAD", attempt!("vmread {value}, {field}"; value = out(reg) _, field = in(reg) 0x4402_u64)),
            ("VMWRITE", attempt!("vmwrite {field}, {value}"; value = in(reg) 0_u64, field = in(reg) 0x681e_u64)),
            ("VMLAUNCH", attempt!("vmlaunch")),
            ("VMRESUME", attempt!("vmresume")),
            ("INVEPT", attempt!("invept {kind}, [{memory}]"; kind = in(reg) 2_u64, memory = in(reg) memory)),
            ("INVVPID", attempt!("invvpid {kind}, [{memory}]"; kind = in(reg) 2_u64, memory = in(reg) memory)),
            ("VMFUNC", attempt!("vmfunc"; in("eax") 0, in("ecx") 0)),
            ("GETSEC", attempt!(".byte 0x0f, 0x37"; inout("eax") 0 => _)),
        ]
    };
    for (name, attempted) in attempts {
        must_raise(name, attempted, INVALID_OPCODE, 0)?;
    }
    println!("VMX instructions and GETSEC raise #UD while CR4 has them off");
    Ok(())
}
