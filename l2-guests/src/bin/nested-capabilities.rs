//! What VMX the guest has: capability MSRs that agree with one another, with CPUID, IA32_FEATURE_CONTROL and CR4.VMXE.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "MSRs and control registers are written to")]

use l2_guests::control::{cr4, read_cr0, read_cr4, write_cr4};
use l2_guests::exception::vector::GENERAL_PROTECTION;
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::{Failure, Outcome, cpuid, ensure, fail, msr, println};

l2_guests::guest!(run);

const FEATURE_CONTROL: u32 = 0x3a;
const BASIC: u32 = 0x480;
const PIN_BASED: u32 = 0x481;
const PRIMARY: u32 = 0x482;
const EXIT: u32 = 0x483;
const ENTRY: u32 = 0x484;
const MISC: u32 = 0x485;
const CR0_FIXED0: u32 = 0x486;
const CR0_FIXED1: u32 = 0x487;
const CR4_FIXED0: u32 = 0x488;
const CR4_FIXED1: u32 = 0x489;
const VMCS_ENUM: u32 = 0x48a;
const SECONDARY: u32 = 0x48b;
const EPT_VPID: u32 = 0x48c;
const TRUE_PIN_BASED: u32 = 0x48d;
const TRUE_PRIMARY: u32 = 0x48e;
const TRUE_EXIT: u32 = 0x48f;
const TRUE_ENTRY: u32 = 0x490;
const VM_FUNCTIONS: u32 = 0x491;
const TERTIARY: u32 = 0x492;
const SECONDARY_EXIT: u32 = 0x493;

/// The words of controls: name, plain MSR, TRUE MSR, default1 class (SDM 3D A.3 to A.5).
const WORDS: [(&str, u32, u32, u32); 4] = [
    ("pin-based controls", PIN_BASED, TRUE_PIN_BASED, 0x16),
    ("primary processor-based controls", PRIMARY, TRUE_PRIMARY, 0x0401_e172),
    ("VM-exit controls", EXIT, TRUE_EXIT, 0x0003_6dff),
    ("VM-entry controls", ENTRY, TRUE_ENTRY, 0x11ff),
];

/// "Enable EPT" and "enable VPID" among the secondary controls, and "unrestricted guest", which needs EPT.
const ENABLE_EPT: u32 = 1 << 1;
const ENABLE_VPID: u32 = 1 << 5;
const UNRESTRICTED_GUEST: u32 = 1 << 7;
const ENABLE_VM_FUNCTIONS: u32 = 1 << 13;

fn run(_arguments: &str) -> Outcome {
    feature_control()?;
    if cpuid::VMX.is_shown() {
        basic()?;
        controls()?;
        optional()?;
        fixed_bits()?;
    } else {
        for index in BASIC..=SECONDARY_EXIT {
            must_raise("RDMSR of a capability MSR", msr::read(index).map(|_| ()), GENERAL_PROTECTION, 0)?;
        }
        println!("there is no VMX and no capability MSR");
    }
    vmx_enable()
}

fn read(index: u32) -> Result<u64, Failure> {
    match msr::read(index) {
        Ok(value) => Ok(value),
        Err(raised) => fail!("reading MSR {index:#x} raised {raised}"),
    }
}

/// What must be 1 and what may be 1.
fn settings(index: u32) -> Result<(u32, u32), Failure> {
    let value = read(index)?;
    Ok((value as u32, (value >> 32) as u32))
}

/// Locked, as firmware leaves it, and VMXON allowed outside SMX operation exactly where there is VMX.
fn feature_control() -> Outcome {
    let value = read(FEATURE_CONTROL)?;
    ensure!(value & 1 == 1, "IA32_FEATURE_CONTROL is not locked");
    ensure!((value >> 2 & 1 == 1) == cpuid::VMX.is_shown(), "IA32_FEATURE_CONTROL and CPUID do not agree about VMX");
    ensure!(value & 2 == 0, "VMXON is allowed in SMX operation, which there is not");
    // SAFETY: it is refused, or else the guest ends as failed.
    must_raise("writing the locked IA32_FEATURE_CONTROL", unsafe { msr::write(FEATURE_CONTROL, 0) }, GENERAL_PROTECTION, 0)?;
    ensure!(read(FEATURE_CONTROL)? == value, "IA32_FEATURE_CONTROL changed by a write that raised #GP");
    println!("IA32_FEATURE_CONTROL is locked and agrees with CPUID");
    Ok(())
}

fn basic() -> Outcome {
    let basic = read(BASIC)?;
    ensure!(basic & 1 << 31 == 0, "bit 31 of IA32_VMX_BASIC is 1");
    ensure!((1..=4096).contains(&(basic >> 32 & 0x1fff)), "a VMCS region has no possible size");
    ensure!(matches!(basic >> 50 & 0xf, 0 | 6), "a VMCS is in memory of an impossible type");
    ensure!(basic & 1 << 48 == 0, "a processor with 64-bit mode limits addresses of a VMCS to 32 bits");
    // SAFETY: it is refused, or else the guest ends as failed.
    must_raise("WRMSR of IA32_VMX_BASIC", unsafe { msr::write(BASIC, basic) }, GENERAL_PROTECTION, 0)?;
    println!("IA32_VMX_BASIC is possible and read-only");
    Ok(())
}

fn controls() -> Outcome {
    let has_true = read(BASIC)? & 1 << 55 != 0;
    for (name, plain, with_free, default1) in WORDS {
        let (required, allowed) = settings(plain)?;
        ensure!(required & !allowed == 0, "{name}: a bit must be 1 and may not be");
        ensure!(required & default1 == default1, "{name}: a bit of the default1 class may be 0 by the plain MSR");
        if has_true {
            let (free_required, free_allowed) = settings(with_free)?;
            ensure!(free_allowed == allowed, "{name}: the TRUE MSR allows other bits than the plain one");
            ensure!(free_required & !required == 0, "{name}: the TRUE MSR requires a bit that the plain one does not");
            ensure!((required & !free_required) & !default1 == 0, "{name}: the TRUE MSR frees a bit outside the default1 class");
        } else {
            must_raise(name, msr::read(with_free).map(|_| ()), GENERAL_PROTECTION, 0)?;
        }
        println!("{name}: what must be 1 may be 1");
    }
    Ok(())
}

/// MSRs that exist only with certain controls, and what they say.
fn optional() -> Outcome {
    let (_, primary) = settings(PRIMARY)?;
    let (_, exit) = settings(EXIT)?;
    let has_secondary = primary >> 31 == 1;
    let (required, secondary) = if has_secondary { settings(SECONDARY)? } else { (0, 0) };
    ensure!(required & !secondary == 0, "secondary controls: a bit must be 1 and may not be");
    let rows = [
        ("IA32_VMX_PROCBASED_CTLS2", SECONDARY, has_secondary),
        ("IA32_VMX_EPT_VPID_CAP", EPT_VPID, secondary & (ENABLE_EPT | ENABLE_VPID) != 0),
        ("IA32_VMX_VMFUNC", VM_FUNCTIONS, secondary & ENABLE_VM_FUNCTIONS != 0),
        ("IA32_VMX_PROCBASED_CTLS3", TERTIARY, primary & 1 << 17 != 0),
        ("IA32_VMX_EXIT_CTLS2", SECONDARY_EXIT, exit >> 31 == 1),
    ];
    for (name, index, exists) in rows {
        let attempted = msr::read(index).map(|_| ());
        if exists { must_succeed(name, attempted)? } else { must_raise(name, attempted, GENERAL_PROTECTION, 0)? }
    }
    ensure!(secondary & UNRESTRICTED_GUEST == 0 || secondary & ENABLE_EPT != 0, "unrestricted guest without EPT");
    if secondary & (ENABLE_EPT | ENABLE_VPID) != 0 {
        let capabilities = read(EPT_VPID)?;
        let has = |bit: u32| capabilities >> bit & 1 == 1;
        let ept = secondary & ENABLE_EPT != 0;
        ensure!(!ept || has(6) || has(7), "EPT without a page-walk length");
        ensure!(!ept || has(8) || has(14), "EPT without a memory type of its structures");
        ensure!(has(20) || !(has(25) || has(26)), "types of INVEPT without INVEPT");
        ensure!(has(32) || !(40..=43).any(has), "types of INVVPID without INVVPID");
        ensure!(has(20) == ept, "INVEPT and EPT do not go together");
        ensure!(has(32) == (secondary & ENABLE_VPID != 0), "INVVPID and VPIDs do not go together");
    }
    let misc = read(MISC)?;
    ensure!(misc >> 16 & 0x1ff <= 256, "more CR3-target values than there can be");
    ensure!(secondary & UNRESTRICTED_GUEST == 0 || misc & 1 << 5 != 0, "unrestricted guest, but exits do not store EFER.LMA");
    // The fields that are always there go up to index 0x14: HOST_IA32_SYSENTER_EIP and more.
    ensure!(read(VMCS_ENUM)? >> 1 & 0x1ff >= 0x14, "the highest index of a VMCS field is too small");
    println!("optional MSRs exist where controls say so");
    Ok(())
}

fn fixed_bits() -> Outcome {
    for (name, fixed0, fixed1) in [("CR0", CR0_FIXED0, CR0_FIXED1), ("CR4", CR4_FIXED0, CR4_FIXED1)] {
        let (fixed0, fixed1) = (read(fixed0)?, read(fixed1)?);
        ensure!(fixed0 & !fixed1 == 0, "{name}: a bit is fixed to 1 and to 0");
    }
    ensure!(read_cr0() & !read(CR0_FIXED1)? == 0, "CR0 has bits that are 0 in VMX operation");
    ensure!(read_cr4() & !read(CR4_FIXED1)? == 0, "CR4 has bits that are 0 in VMX operation");
    ensure!(read(CR4_FIXED0)? & cr4::VMXE != 0, "VMX operation does without CR4.VMXE");
    println!("fixed bits of CR0 and CR4 are possible");
    Ok(())
}

fn vmx_enable() -> Outcome {
    let before = read_cr4();
    ensure!(before & cr4::VMXE == 0, "CR4.VMXE is 1 at the start");
    // SAFETY: allows VMXON, which is not used.
    let attempted = unsafe { write_cr4(before | cr4::VMXE) };
    if cpuid::VMX.is_shown() {
        must_succeed("CR4.VMXE", attempted)?;
        ensure!(read_cr4() == before | cr4::VMXE, "CR4.VMXE does not stay");
        // SAFETY: the value it had.
        must_succeed("CR4 as it was", unsafe { write_cr4(before) })?;
    } else {
        must_raise("CR4.VMXE without VMX", attempted, GENERAL_PROTECTION, 0)?;
    }
    ensure!(read_cr4() == before, "CR4.VMXE stays after it was cleared");
    println!("CR4.VMXE goes on and off where there is VMX");
    Ok(())
}
