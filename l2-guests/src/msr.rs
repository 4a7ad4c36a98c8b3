//! Model-specific registers, with the #GP of those that are not there.
#![expect(unsafe_code, reason = "RDMSR and WRMSR have no other form than assembly")]

use crate::{Exception, attempt};

/// IA32_TIME_STAMP_COUNTER.
pub const TIME_STAMP_COUNTER: u32 = 0x10;
/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// IA32_SYSENTER_CS.
pub const SYSENTER_CS: u32 = 0x174;
/// IA32_SYSENTER_ESP.
pub const SYSENTER_ESP: u32 = 0x175;
/// IA32_SYSENTER_EIP.
pub const SYSENTER_EIP: u32 = 0x176;
/// IA32_PAT.
pub const PAT: u32 = 0x277;
/// IA32_X2APIC_APICID.
pub const X2APIC_APICID: u32 = 0x802;
/// IA32_EFER.
pub const EFER: u32 = 0xc000_0080;
/// IA32_STAR.
pub const STAR: u32 = 0xc000_0081;
/// IA32_LSTAR.
pub const LSTAR: u32 = 0xc000_0082;
/// IA32_CSTAR.
pub const CSTAR: u32 = 0xc000_0083;
/// IA32_FMASK.
pub const FMASK: u32 = 0xc000_0084;
/// IA32_FS_BASE.
pub const FS_BASE: u32 = 0xc000_0100;
/// IA32_GS_BASE.
pub const GS_BASE: u32 = 0xc000_0101;
/// IA32_KERNEL_GS_BASE.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// IA32_TSC_AUX.
pub const TSC_AUX: u32 = 0xc000_0103;
/// An index that no processor has an MSR at.
pub const UNKNOWN: u32 = 0x4f0;

/// Bits of IA32_EFER (SDM 3A 2.2.1 "Extended Feature Enable Register").
pub mod efer {
    #![expect(missing_docs, reason = "the names of the SDM")]
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// Reads an MSR.
///
/// # Errors
/// The #GP, if there is no such MSR.
///
/// # Panics
/// If RDMSR leaves anything in the upper halves of RAX and RDX, which it must clear.
pub fn read(index: u32) -> Result<u64, Exception> {
    let (low, high): (u64, u64);
    // SAFETY: reading changes nothing but the registers named, a fault is recovered from.
    unsafe { attempt!("rdmsr"; in("ecx") index, inout("rax") u64::MAX => low, inout("rdx") u64::MAX => high) }?;
    assert!(low >> 32 == 0 && high >> 32 == 0, "RDMSR of {index:#x} left RAX {low:#x}, RDX {high:#x}");
    Ok(high << 32 | low)
}

/// Writes an MSR.
///
/// # Errors
/// The #GP, if there is no such MSR or it cannot hold the value.
///
/// # Safety
/// What the MSR does must leave code, stack and data of the guest reachable.
pub unsafe fn write(index: u32, value: u64) -> Result<(), Exception> {
    // SAFETY: the caller's promise; a fault is recovered from.
    unsafe { attempt!("wrmsr"; in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32) }
}
