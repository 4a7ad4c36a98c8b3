//! Control registers: the guest sees what it wrote, also in the bits that L1 owns, and impossible values raise #GP.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "control registers are written to")]

use core::arch::asm;

use l2_guests::control::{
    cr0, cr4, read_cr0, read_cr2, read_cr3, read_cr4, read_cr8, write_cr0, write_cr2, write_cr3, write_cr4, write_cr8,
};
use l2_guests::exception::vector::{DEVICE_NOT_AVAILABLE, GENERAL_PROTECTION, INVALID_OPCODE};
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::{Outcome, attempt, cpuid, ensure, println};

l2_guests::guest!(run);

fn run(_arguments: &str) -> Outcome {
    cr0_bits()?;
    cr0_refused()?;
    cr0_effects()?;
    machine_status_word()?;
    cr2()?;
    cr3()?;
    cr4_bits()?;
    cr4_refused()?;
    cr8()?;
    registers_that_do_not_exist()
}

/// Bits of CR0 that may be on or off as one likes.
const CR0_BITS: [(&str, u64); 6] =
    [("MP", cr0::MP), ("TS", cr0::TS), ("NE", cr0::NE), ("WP", cr0::WP), ("AM", cr0::AM), ("CD", cr0::CD)];

fn cr0_bits() -> Outcome {
    let before = read_cr0();
    // NW without CD is not allowed, so both are off to begin with.
    let caching = before & !(cr0::CD | cr0::NW);
    for (name, bit) in CR0_BITS {
        for value in [caching | bit, caching & !bit] {
            let read: u64;
            // SAFETY: no code uses SSE, a read-only page or the cache's state before the old value is back.
            let attempted = unsafe {
                attempt!("mov cr0, {value}", "mov {read}, cr0", "mov cr0, {before}";
                    value = in(reg) value, read = out(reg) read, before = in(reg) before)
            };
            must_succeed(name, attempted)?;
            ensure!(read == value, "CR0 reads {read:#x} after {value:#x} was written for {name}");
        }
        println!("CR0.{name} goes on and off");
    }
    ensure!(read_cr0() == before, "CR0 is {:#x} in the end, was {before:#x}", read_cr0());
    Ok(())
}

fn cr0_refused() -> Outcome {
    let before = read_cr0();
    let values = [
        ("CR0.NW without CD", before & !cr0::CD | cr0::NW),
        ("CR0.PG without PE", before & !cr0::PE),
        ("CR0.PG off in 64-bit mode", before & !cr0::PG),
        ("CR0 bit 32", before | 1 << 32),
        ("CR0 bit 63", before | 1 << 63),
    ];
    for (what, value) in values {
        // SAFETY: it is refused, or else the guest ends as failed.
        must_raise(what, unsafe { write_cr0(value) }, GENERAL_PROTECTION, 0)?;
        ensure!(read_cr0() == before, "CR0 is {:#x} after a write that raised #GP, was {before:#x}", read_cr0());
    }
    println!("impossible values of CR0 raise #GP");
    Ok(())
}

/// TS and EM do what they are for.
fn cr0_effects() -> Outcome {
    let before = read_cr0();
    for (name, bit, vector) in [("TS", cr0::TS, DEVICE_NOT_AVAILABLE), ("EM", cr0::EM, INVALID_OPCODE)] {
        // SAFETY: the fault is recovered from, and the exception entry clears both bits.
        let attempted = unsafe { attempt!("mov cr0, {value}", "xorps xmm0, xmm0"; value = in(reg) before | bit, out("xmm0") _) };
        // SAFETY: the value it had.
        must_succeed("CR0 as it was", unsafe { write_cr0(before) })?;
        must_raise(name, attempted, vector, 0)?;
        println!("CR0.{name} keeps SSE instructions from running");
    }
    Ok(())
}

/// CLTS, LMSW and SMSW.
fn machine_status_word() -> Outcome {
    let before = read_cr0();
    let (set, cleared, loaded, stored, end): (u64, u64, u64, u64, u64);
    // SAFETY: no SSE before TS and EM are off again.
    unsafe {
        asm!(
            "mov cr0, {with_ts}",
            "mov {set}, cr0",
            "clts",
            "mov {cleared}, cr0",
            // MP, EM and TS on; PE cannot be cleared by LMSW.
            "mov {loaded:e}, 0xe",
            "lmsw {loaded:x}",
            "mov {loaded}, cr0",
            "smsw {stored}",
            "mov cr0, {before}",
            "mov {end}, cr0",
            with_ts = in(reg) before | cr0::TS,
            before = in(reg) before,
            set = out(reg) set,
            cleared = out(reg) cleared,
            loaded = out(reg) loaded,
            stored = out(reg) stored,
            end = out(reg) end,
            options(nostack),
        );
    }
    ensure!(set == before | cr0::TS, "CR0 reads {set:#x} with TS written");
    ensure!(cleared == before & !cr0::TS, "CR0 reads {cleared:#x} after CLTS");
    let expected = before | cr0::PE | cr0::MP | cr0::EM | cr0::TS;
    ensure!(loaded == expected, "CR0 reads {loaded:#x} after LMSW, not {expected:#x}");
    // SMSW with a 64-bit register gives all of CR0 (SDM 2B, "SMSW—Store Machine Status Word").
    ensure!(stored == expected, "SMSW gives {stored:#x}, not {expected:#x}");
    ensure!(end == before, "CR0 reads {end:#x} in the end, was {before:#x}");
    println!("CLTS, LMSW and SMSW work on what CR0 shows");
    Ok(())
}

fn cr2() -> Outcome {
    for value in [0xffff_8000_1234_5678, 0] {
        // SAFETY: nothing depends on CR2.
        must_succeed("CR2", unsafe { write_cr2(value) })?;
        let _ = cpuid::cpuid(0, 0);
        ensure!(read_cr2() == value, "CR2 reads {:#x} after {value:#x} was written", read_cr2());
    }
    println!("CR2 keeps what is written");
    Ok(())
}

/// A root of the page tables at another place.
#[repr(align(4096))]
struct Table([u64; 512]);

fn cr3() -> Outcome {
    const WRITE_THROUGH: u64 = 1 << 3;
    const CACHE_DISABLE: u64 = 1 << 4;
    let before = read_cr3();
    let root = core::ptr::with_exposed_provenance::<[u64; 512]>((before & !0xfff) as usize);
    // SAFETY: the loader's root, below 4 GiB and mapped to itself.
    let mut table = Table(unsafe { root.read_volatile() });
    let copy = (&raw mut table.0).expose_provenance() as u64;
    for value in [before | WRITE_THROUGH | CACHE_DISABLE, copy, copy | CACHE_DISABLE, before] {
        // SAFETY: the copy maps what the original maps.
        must_succeed("CR3", unsafe { write_cr3(value) })?;
        ensure!(read_cr3() == value, "CR3 reads {:#x} after {value:#x} was written", read_cr3());
    }
    for bit in [62, 63] {
        // SAFETY: it is refused, or else the guest ends as failed.
        must_raise("a reserved bit of CR3", unsafe { write_cr3(before | 1 << bit) }, GENERAL_PROTECTION, 0)?;
        ensure!(read_cr3() == before, "CR3 is {:#x} after a write that raised #GP, was {before:#x}", read_cr3());
    }
    println!("CR3 keeps what is written, reserved bits raise #GP");
    Ok(())
}

/// Bits of CR4 that every processor with long mode has.
const CR4_BITS: [(&str, u64); 5] = [("TSD", cr4::TSD), ("DE", cr4::DE), ("MCE", cr4::MCE), ("PGE", cr4::PGE), ("PCE", cr4::PCE)];

fn cr4_bits() -> Outcome {
    let before = read_cr4();
    for (name, bit) in CR4_BITS {
        for value in [before | bit, before & !bit, before] {
            // SAFETY: none of the bits changes what ring 0 can reach.
            must_succeed(name, unsafe { write_cr4(value) })?;
            ensure!(read_cr4() == value, "CR4 reads {:#x} after {value:#x} was written for {name}", read_cr4());
        }
        println!("CR4.{name} goes on and off");
    }
    ensure!(before & cr4::VMXE == 0, "CR4.VMXE is 1 at start, which the guest never wrote");
    // SAFETY: allows VMXON, which is not used.
    let attempted = unsafe { write_cr4(before | cr4::VMXE) };
    if cpuid::VMX.is_shown() {
        must_succeed("CR4.VMXE", attempted)?;
        ensure!(read_cr4() == before | cr4::VMXE, "CR4 reads {:#x} with VMXE written", read_cr4());
        // SAFETY: the value it had.
        must_succeed("CR4 as it was", unsafe { write_cr4(before) })?;
    } else {
        must_raise("CR4.VMXE without VMX", attempted, GENERAL_PROTECTION, 0)?;
    }
    ensure!(read_cr4() == before, "CR4 is {:#x} in the end, was {before:#x}", read_cr4());
    println!("CR4.VMXE is as CPUID says");
    Ok(())
}

fn cr4_refused() -> Outcome {
    let before = read_cr4();
    let values = [
        ("CR4.PAE off in long mode", before & !cr4::PAE),
        ("CR4.LA57 in long mode", before ^ cr4::LA57),
        ("CR4 bit 15", before | 1 << 15),
        ("CR4 bit 31", before | 1 << 31),
        ("CR4 bit 63", before | 1 << 63),
    ];
    for (what, value) in values {
        // SAFETY: it is refused, or else the guest ends as failed.
        must_raise(what, unsafe { write_cr4(value) }, GENERAL_PROTECTION, 0)?;
        ensure!(read_cr4() == before, "CR4 is {:#x} after a write that raised #GP, was {before:#x}", read_cr4());
    }
    println!("impossible values of CR4 raise #GP");
    Ok(())
}

fn cr8() -> Outcome {
    let before = read_cr8();
    for value in [15, 8, 1, 0] {
        // SAFETY: holds back interrupts only, and they are off.
        must_succeed("CR8", unsafe { write_cr8(value) })?;
        ensure!(read_cr8() == value, "CR8 reads {} after {value} was written", read_cr8());
    }
    for value in [16, 1 << 63] {
        // SAFETY: it is refused, or else the guest ends as failed.
        must_raise("a reserved bit of CR8", unsafe { write_cr8(value) }, GENERAL_PROTECTION, 0)?;
    }
    // SAFETY: the value it had.
    must_succeed("CR8 as it was", unsafe { write_cr8(before) })?;
    println!("CR8 keeps what is written, reserved bits raise #GP");
    Ok(())
}

fn registers_that_do_not_exist() -> Outcome {
    // SAFETY: MOV RAX, CR1; MOV RAX, CR5; MOV CR7, RAX.
    let attempts = unsafe {
        [
            ("MOV from CR1", attempt!(".byte 0x0f, 0x20, 0xc8"; out("rax") _)),
            ("MOV from CR5", attempt!(".byte 0x0f, 0x20, 0xe8"; out("rax") _)),
            ("MOV to CR7", attempt!(".byte 0x0f, 0x22, 0xf8"; in("rax") 0_u64)),
        ]
    };
    for (what, attempted) in attempts {
        must_raise(what, attempted, INVALID_OPCODE, 0)?;
    }
    println!("control registers that do not exist raise #UD");
    Ok(())
}
