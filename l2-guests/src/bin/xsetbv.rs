//! XSETBV: XCR0 takes the values that CPUID allows and raises #GP for all others.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "XSETBV and XGETBV have no other form than assembly")]

use l2_guests::control::{cr4, read_cr4, write_cr4};
use l2_guests::cpuid::cpuid;
use l2_guests::exception::vector::{GENERAL_PROTECTION, INVALID_OPCODE};
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::{Exception, Outcome, attempt, cpuid, ensure, println};

l2_guests::guest!(run);

/// Bits of XCR0 (SDM 1 13.3 "Enabling the XSAVE Feature Set and XSAVE-Enabled Features").
const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
/// Opmask, upper halves of ZMM0 to ZMM15, ZMM16 to ZMM31: only together.
const AVX512: u64 = 7 << 5;

fn xsetbv(register: u32, value: u64) -> Result<(), Exception> {
    // SAFETY: core uses no register that XCR0 governs but SSE's, and XCR0 does not keep FXSAVE and SSE from working.
    unsafe { attempt!("xsetbv"; in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32) }
}

fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads XCR0, with CR4.OSXSAVE set.
    unsafe { core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

fn run(_arguments: &str) -> Outcome {
    let before = read_cr4();
    must_raise("XSETBV while CR4.OSXSAVE is 0", xsetbv(0, X87), INVALID_OPCODE, 0)?;
    println!("XSETBV raises #UD while CR4.OSXSAVE is 0");
    if !cpuid::XSAVE.is_shown() {
        println!("XSAVE is not offered");
        return Ok(());
    }
    // SAFETY: enables instructions only.
    must_succeed("CR4.OSXSAVE", unsafe { write_cr4(before | cr4::OSXSAVE) })?;

    let leaf = cpuid(0xd, 0);
    let supported = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
    ensure!(supported & (X87 | SSE) == X87 | SSE, "CPUID allows {supported:#x} in XCR0, without x87 or SSE");
    ensure!(xgetbv() == X87, "XCR0 is {:#x} at start, not as after reset", xgetbv());

    allowed(supported)?;
    refused(supported)?;

    must_succeed("XCR0 as it was", xsetbv(0, X87))?;
    // SAFETY: the value it had.
    must_succeed("CR4 as it was", unsafe { write_cr4(before) })
}

fn allowed(supported: u64) -> Outcome {
    for value in [X87, X87 | SSE, X87 | SSE | AVX, X87 | SSE | AVX | AVX512, X87 | SSE] {
        if value & !supported != 0 {
            continue;
        }
        must_succeed("XSETBV", xsetbv(0, value))?;
        ensure!(xgetbv() == value, "XCR0 reads {:#x} after {value:#x} was written", xgetbv());
        // The size of the XSAVE area for what is enabled follows XCR0: legacy region and header, then AVX's 256 bytes.
        if value & AVX512 == 0 {
            let (size, expected) = (cpuid(0xd, 0).ebx, if value & AVX == 0 { 576 } else { 832 });
            ensure!(size == expected, "CPUID.0xd:EBX is {size} with XCR0 {value:#x}, not {expected}");
        }
        println!("XCR0 takes {value:#x}");
    }
    Ok(())
}

fn refused(supported: u64) -> Outcome {
    must_succeed("XSETBV", xsetbv(0, X87 | SSE))?;
    let mut values = [0, SSE, X87 | AVX, X87 | SSE | 1 << 5, X87 | SSE | AVX512, X87 | SSE | 1 << 63, 0];
    // And the lowest bit that CPUID does not allow.
    values[6] = X87 | SSE | 1 << supported.trailing_ones();
    for value in values {
        must_raise("XSETBV of an impossible value", xsetbv(0, value), GENERAL_PROTECTION, 0)?;
        ensure!(xgetbv() == X87 | SSE, "XCR0 is {:#x} after a write of {value:#x} that raised #GP", xgetbv());
    }
    must_raise("XSETBV of XCR1", xsetbv(1, X87), GENERAL_PROTECTION, 0)?;
    println!("XCR0 refuses everything else");
    Ok(())
}
