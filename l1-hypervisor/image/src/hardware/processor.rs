//! Registers and small instructions of the processor L1 runs on.
#![expect(unsafe_code, reason = "privileged registers")]

use core::arch::asm;
use core::arch::x86_64::{_rdtsc, _xsetbv};

use crate::platform::{CpuidResult, RandomSource};
use crate::vmcs12::CR4_OSXSAVE;

/// CPUID of the machine.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidResult { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
}

/// The time-stamp counter.
#[inline]
#[must_use]
pub fn time_stamp_counter() -> u64 {
    // SAFETY: L1 runs at CPL 0, where RDTSC is always allowed.
    unsafe { _rdtsc() }
}

/// Reads a model-specific register.
///
/// # Safety
/// The register must exist: L1 has no way to go on after #GP.
#[must_use]
pub unsafe fn read_msr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by this function's contract.
    unsafe { asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register must exist, take the value, and L1 must be able to live with it.
pub unsafe fn write_msr(index: u32, value: u64) {
    // SAFETY: by this function's contract.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}

macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[must_use]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: L1 runs at CPL 0.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// L1's code, stack and data must stay reachable and its instructions usable.
        pub unsafe fn $write(value: u64) {
            // SAFETY: by this function's contract.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}

control_register!(read_cr0, write_cr0, "cr0");
control_register!(read_cr3, write_cr3, "cr3");
control_register!(read_cr4, write_cr4, "cr4");

/// Reads CR2: the address of the last page fault, of whatever level.
#[must_use]
pub fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: L1 runs at CPL 0.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes CR2: the address an injected page fault reports. L1 itself never takes a page fault it returns from.
pub fn write_cr2(value: u64) {
    // SAFETY: L1 runs at CPL 0, and CR2 changes nothing in how L1 runs.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// Sets XCR0, the extended state that is enabled, and CR4.OSXSAVE, without which that is not possible.
///
/// # Safety
/// The processor must have XSAVE, and must take the value.
pub unsafe fn set_extended_control(value: u64) {
    // SAFETY: by this function's contract; OSXSAVE changes nothing in how L1 runs. The target feature is not enabled for this
    // crate, so the intrinsic cannot be called from safe code; the instruction itself needs only CR4.OSXSAVE.
    unsafe {
        write_cr4(read_cr4() | CR4_OSXSAVE);
        xsetbv_0(value);
    }
}

#[target_feature(enable = "xsave")]
unsafe fn xsetbv_0(value: u64) {
    // SAFETY: by the contract of `set_extended_control`.
    unsafe { _xsetbv(0, value) };
}

macro_rules! debug_register {
    ($($number:literal => $read:ident, $write:ident;)*) => {$(
        #[doc = concat!("Reads DR", $number, ".")]
        #[must_use]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: L1 runs at CPL 0 and DR7.GD is clear, as every VM exit sets DR7 to 400H.
            unsafe { asm!(concat!("mov {}, dr", $number), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes DR", $number, ".")]
        pub fn $write(value: u64) {
            // SAFETY: as for reading; no breakpoint is armed while L1 runs, because DR7 is 400H.
            unsafe { asm!(concat!("mov dr", $number, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) };
        }
    )*};
}

debug_register! {
    "0" => read_dr0, write_dr0;
    "1" => read_dr1, write_dr1;
    "2" => read_dr2, write_dr2;
    "3" => read_dr3, write_dr3;
    "6" => read_dr6, write_dr6;
}

/// Writes back and invalidates the caches.
pub fn write_back_caches() {
    // SAFETY: L1 runs at CPL 0, and WBINVD changes no data.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// A random number, if the instruction gives one. RDRAND and RDSEED may find their source exhausted.
///
/// # Safety
/// The processor must have the instruction.
#[must_use]
pub unsafe fn random(source: RandomSource) -> Option<u64> {
    let value: u64;
    let carry: u8;
    // SAFETY: by this function's contract.
    unsafe {
        match source {
            RandomSource::Rdrand => asm!("rdrand {0}", "setc {1}", out(reg) value, out(reg_byte) carry, options(nomem, nostack)),
            RandomSource::Rdseed => asm!("rdseed {0}", "setc {1}", out(reg) value, out(reg_byte) carry, options(nomem, nostack)),
        }
    }
    (carry != 0).then_some(value)
}

/// Stops for good. Used after the end of the run was reported and the machine did not end.
pub fn stop() -> ! {
    loop {
        // SAFETY: interrupts are off; nothing can wake the processor but an NMI, and then the loop goes on.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
