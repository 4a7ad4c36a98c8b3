//! MSRs: known ones keep what is written, unknown ones and impossible values raise #GP.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "MSRs are written to")]

use core::arch::asm;

use l2_guests::exception::vector::GENERAL_PROTECTION;
use l2_guests::msr::{self, efer};
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::{Outcome, attempt, cpuid, ensure, fail, println, tsc};

l2_guests::guest!(run);

/// MSRs that keep any of these values. Nothing in a guest uses them.
const KEEPERS: [(&str, u32, [u64; 2]); 11] = [
    ("IA32_SYSENTER_CS", msr::SYSENTER_CS, [0x10, 0]),
    ("IA32_SYSENTER_ESP", msr::SYSENTER_ESP, [0xffff_8000_1234_5678, 0]),
    ("IA32_SYSENTER_EIP", msr::SYSENTER_EIP, [0x7fff_ffff_f000, 0]),
    ("IA32_PAT", msr::PAT, [0x0007_0106_0007_0106, 0x0007_0406_0007_0406]),
    ("IA32_STAR", msr::STAR, [0x0023_0010_0000_0000, 0]),
    ("IA32_LSTAR", msr::LSTAR, [0xffff_8000_1234_5678, 0]),
    ("IA32_CSTAR", msr::CSTAR, [0xffff_8000_8765_4321, 0]),
    ("IA32_FMASK", msr::FMASK, [0x4_7700, 0]),
    ("IA32_FS_BASE", msr::FS_BASE, [0xffff_8000_1234_5678, 0]),
    ("IA32_GS_BASE", msr::GS_BASE, [0x7fff_ffff_f000, 0]),
    ("IA32_KERNEL_GS_BASE", msr::KERNEL_GS_BASE, [0xffff_ffff_ffff_f000, 0]),
];

/// Values that an MSR cannot hold: addresses that are not canonical, memory types that do not exist, reserved bits,
/// and leaving long mode while paging is on.
const REFUSED: [(&str, u32, u64); 10] = [
    ("IA32_SYSENTER_ESP", msr::SYSENTER_ESP, 0x8000_0000_0000_0000),
    ("IA32_SYSENTER_EIP", msr::SYSENTER_EIP, 0x8000_0000_0000_0000),
    ("IA32_PAT", msr::PAT, 0x0007_0406_0007_0402),
    ("IA32_PAT", msr::PAT, 0x0807_0406_0007_0406),
    ("IA32_LSTAR", msr::LSTAR, 0x1000_0000_0000_0000),
    ("IA32_FS_BASE", msr::FS_BASE, 0x8000_0000_0000_0000),
    ("IA32_GS_BASE", msr::GS_BASE, 0x0100_0000_0000_0000),
    ("IA32_KERNEL_GS_BASE", msr::KERNEL_GS_BASE, 0xff00_0000_0000_0000),
    ("IA32_EFER", msr::EFER, efer::LME | efer::LMA | 1 << 1),
    ("IA32_EFER", msr::EFER, 0),
];

fn run(_arguments: &str) -> Outcome {
    for (name, index, values) in KEEPERS {
        for value in values {
            write(name, index, value)?;
            let read = read(name, index)?;
            ensure!(read == value, "{name} reads {read:#x} after {value:#x} was written");
        }
        println!("{name} keeps what is written");
    }
    for (name, index, value) in REFUSED {
        let before = read(name, index)?;
        // SAFETY: it is refused, or else the guest ends as failed.
        must_raise(name, unsafe { msr::write(index, value) }, GENERAL_PROTECTION, 0)?;
        let after = read(name, index)?;
        ensure!(after == before, "{name} went from {before:#x} to {after:#x} by a write that raised #GP");
    }
    println!("impossible values raise #GP");
    efer()?;
    segment_bases()?;
    time_stamp_counter()?;
    unknown()
}

fn read(name: &str, index: u32) -> Result<u64, l2_guests::Failure> {
    match msr::read(index) {
        Ok(value) => Ok(value),
        Err(raised) => fail!("reading {name} raised {raised}"),
    }
}

fn write(name: &str, index: u32, value: u64) -> Outcome {
    // SAFETY: the guest writes to MSRs it does not depend on, and to IA32_EFER what leaves long mode on.
    must_succeed(name, unsafe { msr::write(index, value) })
}

fn efer() -> Outcome {
    let start = read("IA32_EFER", msr::EFER)?;
    ensure!(start & (efer::LME | efer::LMA) == efer::LME | efer::LMA, "IA32_EFER is {start:#x} in long mode");
    for bits in [efer::SCE, efer::NXE, efer::SCE | efer::NXE, 0] {
        let value = efer::LME | efer::LMA | bits;
        write("IA32_EFER", msr::EFER, value)?;
        let read = read("IA32_EFER", msr::EFER)?;
        ensure!(read == value, "IA32_EFER reads {read:#x} after {value:#x} was written");
    }
    write("IA32_EFER", msr::EFER, start)?;
    println!("IA32_EFER.SCE and NXE go on and off");
    Ok(())
}

/// What the bases are for: memory at FS and GS, and SWAPGS.
fn segment_bases() -> Outcome {
    let words = [0x0123_4567_89ab_cdef_u64, 0xfedc_ba98_7654_3210];
    write("IA32_FS_BASE", msr::FS_BASE, (&raw const words[0]).addr() as u64)?;
    write("IA32_GS_BASE", msr::GS_BASE, (&raw const words[1]).addr() as u64)?;
    write("IA32_KERNEL_GS_BASE", msr::KERNEL_GS_BASE, (&raw const words[0]).addr() as u64)?;
    let (fs, gs, swapped): (u64, u64, u64);
    // SAFETY: reads the two words.
    unsafe {
        asm!(
            "mov {fs}, fs:[0]",
            "mov {gs}, gs:[0]",
            "swapgs",
            "mov {swapped}, gs:[0]",
            fs = out(reg) fs,
            gs = out(reg) gs,
            swapped = out(reg) swapped,
            options(nostack, readonly),
        );
    }
    ensure!([fs, gs, swapped] == [words[0], words[1], words[0]], "FS, GS and swapped GS give {fs:#x}, {gs:#x}, {swapped:#x}");
    let bases = [read("IA32_GS_BASE", msr::GS_BASE)?, read("IA32_KERNEL_GS_BASE", msr::KERNEL_GS_BASE)?];
    let expected = [(&raw const words[0]).addr() as u64, (&raw const words[1]).addr() as u64];
    ensure!(bases == expected, "after SWAPGS the bases are {bases:x?}, not {expected:x?}");
    for (name, index) in
        [("IA32_FS_BASE", msr::FS_BASE), ("IA32_GS_BASE", msr::GS_BASE), ("IA32_KERNEL_GS_BASE", msr::KERNEL_GS_BASE)]
    {
        write(name, index, 0)?;
    }
    println!("FS, GS and SWAPGS use their bases");
    Ok(())
}

fn time_stamp_counter() -> Outcome {
    let before = tsc::read();
    let between = read("IA32_TIME_STAMP_COUNTER", msr::TIME_STAMP_COUNTER)?;
    let after = tsc::read();
    ensure!(before < between && between < after, "RDTSC, RDMSR and RDTSC give {before}, {between}, {after}");
    println!("RDMSR and RDTSC give the same time");
    if cpuid::RDTSCP.is_shown() {
        write("IA32_TSC_AUX", msr::TSC_AUX, 0x1234_5678)?;
        let auxiliary: u32;
        // SAFETY: reads the counter.
        unsafe { asm!("rdtscp", out("eax") _, out("ecx") auxiliary, out("edx") _, options(nomem, nostack, preserves_flags)) };
        ensure!(auxiliary == 0x1234_5678, "RDTSCP gives {auxiliary:#x} for IA32_TSC_AUX");
        write("IA32_TSC_AUX", msr::TSC_AUX, 0)?;
        println!("RDTSCP gives IA32_TSC_AUX");
    }
    Ok(())
}

fn unknown() -> Outcome {
    must_raise("RDMSR of an unknown MSR", msr::read(msr::UNKNOWN).map(|_| ()), GENERAL_PROTECTION, 0)?;
    // SAFETY: there is no such MSR.
    must_raise("WRMSR of an unknown MSR", unsafe { msr::write(msr::UNKNOWN, 0) }, GENERAL_PROTECTION, 0)?;
    // Only ECX names the MSR.
    let upper = 0xffff_ffff_0000_0000;
    let low: u64;
    // SAFETY: reading changes nothing.
    let attempted = unsafe { attempt!("rdmsr"; in("rcx") upper | u64::from(msr::EFER), out("rax") low, out("rdx") _) };
    must_succeed("RDMSR with the upper half of RCX set", attempted)?;
    ensure!(low & efer::LMA != 0, "RDMSR with the upper half of RCX set gives {low:#x}");
    println!("an unknown MSR raises #GP on RDMSR and WRMSR");
    Ok(())
}
