//! What CPUID shows the guest: the machine's answer, without what L1 does not give.
//!
//! What always holds: a feature is shown only if the guest can use it as the manual says, and everything else that
//! depends on the feature (MSRs, CR4 bits, XCR0) follows from the same table. Rows that hide give the reason.

use shadow::capability::{self, Profile};
use vmcs::capability::Capabilities;

use crate::platform::{CpuidResult, Platform};
use crate::vmcs12::CR4_VMXE;

/// Signature of the hypervisor leaf, in EBX, ECX, EDX.
pub const SIGNATURE: [u8; 12] = *b"L1Hypervisor";
/// First leaf of the hypervisor range.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// Highest basic leaf shown: everything above describes features that are hidden (Processor Trace, SGX, …).
const HIGHEST_BASIC_LEAF: u32 = 0xd;

/// A register of a CPUID result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Bits of a leaf that L1 hides.
struct Hidden {
    leaf: u32,
    subleaf: u32,
    register: Register,
    bits: u32,
}

const fn hidden(leaf: u32, subleaf: u32, register: Register, bits: u32) -> Hidden {
    Hidden { leaf, subleaf, register, bits }
}

const fn bit(number: u32) -> u32 {
    1 << number
}

/// In the order of SDM 2A table 3-17 "Information Returned by CPUID Instruction".
const HIDDEN: &[Hidden] = &[
    // DTES64, MONITOR, DS-CPL: no debug store; MONITOR and MWAIT would let the guest sleep past L1.
    hidden(1, 0, Register::Ecx, bit(2) | bit(3) | bit(4)),
    // SMX: nothing of the kind is given. VMX, bit 5, is hidden where `Features::offered` is `None`.
    hidden(1, 0, Register::Ecx, bit(6)),
    // Enhanced SpeedStep, TM2, SDBG, xTPR, PDCM: their MSRs are not given.
    hidden(1, 0, Register::Ecx, bit(7) | bit(8) | bit(11) | bit(14) | bit(15)),
    // DCA: there are no devices that could use it.
    hidden(1, 0, Register::Ecx, bit(18)),
    // MCE and MCA, MTRR: their MSRs are not given.
    hidden(1, 0, Register::Edx, bit(7) | bit(12) | bit(14)),
    // PSN, DS, ACPI (thermal MSRs), HTT, TM, PBE.
    hidden(1, 0, Register::Edx, bit(18) | bit(21) | bit(22) | bit(28) | bit(29) | bit(31)),
    // Digital temperature sensor, HWP and the like: all of leaf 6.
    hidden(6, 0, Register::Eax, !0),
    hidden(6, 0, Register::Ebx, !0),
    hidden(6, 0, Register::Ecx, !0),
    hidden(6, 0, Register::Edx, !0),
    // TSC_ADJUST, SGX, HLE, PQM, RTM, MPX, PQE, PT: their MSRs are not given, or transactions would be aborted by exits.
    hidden(7, 0, Register::Ebx, bit(1) | bit(2) | bit(4) | bit(11) | bit(12) | bit(14) | bit(15) | bit(25)),
    // WAITPKG, CET, TME, 57-bit addresses, key locker, bus-lock detection, ENQCMD, SGX_LC, PKS.
    hidden(7, 0, Register::Ecx, bit(5) | bit(7) | bit(13) | bit(16) | bit(23) | bit(24) | bit(29) | bit(30) | bit(31)),
    // UINTR, L1D flush and speculation control MSRs, PCONFIG, LBR, CET-IBT, hybrid, IA32_CORE_CAPABILITIES.
    hidden(7, 0, Register::Edx, bit(5) | bit(15) | bit(18) | bit(19) | bit(20)),
    hidden(7, 0, Register::Edx, bit(26) | bit(27) | bit(28) | bit(29) | bit(30) | bit(31)),
    // Sub-leaves of leaf 7: none of their features is examined yet.
    hidden(7, 0, Register::Eax, !0),
    // Architectural performance monitoring.
    hidden(0xa, 0, Register::Eax, !0),
    hidden(0xa, 0, Register::Ebx, !0),
    hidden(0xa, 0, Register::Ecx, !0),
    hidden(0xa, 0, Register::Edx, !0),
    // XSAVES with its MSR IA32_XSS, and extended feature disable.
    hidden(0xd, 1, Register::Eax, bit(3) | bit(4)),
    hidden(0xd, 1, Register::Ebx, !0),
    hidden(0xd, 1, Register::Ecx, !0),
    hidden(0xd, 1, Register::Edx, !0),
    // Address bits for MPX and CET states in the XCR0 map are hidden by `USABLE_EXTENDED_STATE`.
];

/// Features of L1's own devices, shown whatever the machine has: x2APIC and TSC-deadline timer, local APIC (which
/// `exit::cpuid` takes away while it is disabled), and that its timer runs in every C-state (ARAT).
const LOCAL_APIC: [(u32, Register, u32); 3] =
    [(1, Register::Ecx, bit(21) | bit(24)), (1, Register::Edx, bit(9)), (6, Register::Eax, bit(2))];

/// State components that XCR0 may enable: x87, SSE, AVX, AVX-512 (three), PKRU. SDM 1 13.1 "XSAVE-Supported Features
/// and State-Component Bitmaps".
const USABLE_EXTENDED_STATE: u64 = 0b10_1110_0111;

/// CR4 bits that depend on a CPUID bit (SDM 3A 2.5 "Control Registers").
struct ControlBit {
    bit: u64,
    leaf: u32,
    register: Register,
    feature: u32,
}

const fn control(cr4_bit: u32, leaf: u32, register: Register, feature: u32) -> ControlBit {
    ControlBit { bit: 1 << cr4_bit, leaf, register, feature: bit(feature) }
}

const CONTROL_BITS: &[ControlBit] = &[
    control(0, 1, Register::Edx, 1),   // VME
    control(1, 1, Register::Edx, 1),   // PVI
    control(2, 1, Register::Edx, 4),   // TSD
    control(3, 1, Register::Edx, 2),   // DE
    control(4, 1, Register::Edx, 3),   // PSE
    control(5, 1, Register::Edx, 6),   // PAE
    control(6, 1, Register::Edx, 0),   // MCE: without MCA the bit does nothing; every guest kernel may set it
    control(7, 1, Register::Edx, 13),  // PGE
    control(8, 1, Register::Edx, 0),   // PCE
    control(9, 1, Register::Edx, 24),  // OSFXSR
    control(10, 1, Register::Edx, 25), // OSXMMEXCPT
    control(11, 7, Register::Ecx, 2),  // UMIP
    control(16, 7, Register::Ebx, 0),  // FSGSBASE
    control(17, 1, Register::Ecx, 17), // PCIDE
    control(18, 1, Register::Ecx, 26), // OSXSAVE
    control(20, 7, Register::Ebx, 7),  // SMEP
    control(21, 7, Register::Ebx, 20), // SMAP
    control(22, 7, Register::Ecx, 3),  // PKE
];

/// Bit 18 of CR4, shown in CPUID.1:ECX[27].
const CR4_OSXSAVE: u64 = 1 << 18;
const OSXSAVE_SHOWN: u32 = bit(27);
const HYPERVISOR_PRESENT: u32 = bit(31);
/// CPUID.1:ECX[5].
const VMX_SHOWN: u32 = bit(5);

/// What the guest is given, worked out once.
#[derive(Debug, Clone, Copy)]
pub struct Features {
    basic_leaves: u32,
    extended_leaves: u32,
    invpcid: bool,
    rdtscp: bool,
    /// CR4 bits the guest may set and owns: a write of them does not exit. See [`Self::settable_cr4`].
    pub cr4: u64,
    /// XCR0 bits the guest may set; 0 without XSAVE.
    pub extended_control: u64,
    /// EFER bits the guest may set.
    pub efer: u64,
    /// Whether a PDPTE of the guest may map a 1 GiB page.
    pub gigabyte_pages: bool,
    /// Width of a physical address in bits.
    pub physical_address_width: u32,
    /// The capability MSRs that the guest reads; `None` if it has no VMX.
    pub offered: Option<Capabilities>,
}

const EFER_SYSCALL: u64 = 1 << 0;
const EFER_LONG_MODE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
const EFER_NO_EXECUTE: u64 = 1 << 11;

impl Features {
    /// Works it out. `invpcid` and `rdtscp` say whether the VM-execution controls make these instructions usable.
    pub fn new(platform: &mut impl Platform, invpcid: bool, rdtscp: bool) -> Self {
        let mut features = Self {
            basic_leaves: platform.cpuid(0, 0).eax.min(HIGHEST_BASIC_LEAF),
            extended_leaves: platform.cpuid(0x8000_0000, 0).eax.min(0x8000_0008),
            invpcid,
            rdtscp,
            cr4: 0,
            extended_control: 0,
            efer: EFER_SYSCALL | EFER_LONG_MODE | EFER_LONG_MODE_ACTIVE,
            gigabyte_pages: false,
            physical_address_width: 36,
            offered: None,
        };
        for control in CONTROL_BITS {
            if select(features.answer(platform, control.leaf, 0, 0), control.register) & control.feature != 0 {
                features.cr4 |= control.bit;
            }
        }
        if features.cr4 & CR4_OSXSAVE != 0 && features.basic_leaves >= 0xd {
            let answer = platform.cpuid(0xd, 0);
            features.extended_control = (u64::from(answer.edx) << 32 | u64::from(answer.eax)) & USABLE_EXTENDED_STATE;
        }
        let extended = features.answer(platform, 0x8000_0001, 0, 0);
        if extended.edx & bit(20) != 0 {
            features.efer |= EFER_NO_EXECUTE;
        }
        features.gigabyte_pages = extended.edx & bit(26) != 0;
        if features.extended_leaves >= 0x8000_0008 {
            features.physical_address_width = platform.cpuid(0x8000_0008, 0).eax & 0xff;
        }
        features
    }

    /// Gives the guest the VMX of `profile`, as far as the processor has it.
    pub fn offer_vmx(&mut self, real: &Capabilities, profile: Profile) {
        self.offered = capability::offered(real, profile, self.cr4);
    }

    /// CR4 bits the guest may set: those it owns, and VMXE with VMX. VMXE is always 1 in the real CR4, so it stays L1's.
    #[must_use]
    pub const fn settable_cr4(&self) -> u64 {
        if self.offered.is_some() { self.cr4 | CR4_VMXE } else { self.cr4 }
    }

    /// What the guest gets for a leaf. `cr4` is the CR4 it has set, which shows in leaf 1 only.
    #[inline(always)]
    pub fn answer(&self, platform: &mut impl Platform, leaf: u32, subleaf: u32, cr4: u64) -> CpuidResult {
        if leaf & 0xf000_0000 == HYPERVISOR_LEAF {
            return hypervisor_leaf(leaf);
        }
        // A leaf above the highest gives what the highest basic leaf gives (SDM 2A "CPUID").
        let highest = if leaf & 0x8000_0000 == 0 { self.basic_leaves } else { self.extended_leaves };
        let (leaf, subleaf) = if leaf <= highest { (leaf, subleaf) } else { (self.basic_leaves, subleaf) };
        let mut answer = platform.cpuid(leaf, subleaf);
        match leaf {
            0 => answer.eax = self.basic_leaves,
            1 | 6 | 7 | 0xa | 0xd => self.hide(&mut answer, leaf, subleaf, cr4),
            0xb => answer = topology(subleaf),
            0x8000_0000 => answer.eax = self.extended_leaves,
            0x8000_0001 if !self.rdtscp => answer.edx &= !bit(27),
            _ => {}
        }
        answer
    }

    #[inline(never)]
    fn hide(&self, answer: &mut CpuidResult, leaf: u32, subleaf: u32, cr4: u64) {
        // Of these leaves the two have sub-leaves; in the others ECX means nothing and may hold anything.
        let subleaf = if matches!(leaf, 7 | 0xd) { subleaf } else { 0 };
        // Leaf 7 has hidden sub-leaves, leaf 0xd sub-leaves for states that XCR0 cannot enable.
        if leaf == 7 && subleaf != 0 || leaf == 0xd && subleaf > 1 && self.extended_control >> subleaf.min(63) & 1 == 0 {
            *answer = CpuidResult::default();
            return;
        }
        for row in HIDDEN.iter().filter(|row| row.leaf == leaf && row.subleaf == subleaf) {
            *select_mut(answer, row.register) &= !row.bits;
        }
        for &(_, register, bits) in LOCAL_APIC.iter().filter(|row| row.0 == leaf) {
            *select_mut(answer, register) |= bits;
        }
        match (leaf, subleaf) {
            (1, _) => {
                let shown = if cr4 & CR4_OSXSAVE != 0 { OSXSAVE_SHOWN } else { 0 };
                answer.ecx = answer.ecx & !OSXSAVE_SHOWN | shown | HYPERVISOR_PRESENT;
                if self.offered.is_none() {
                    answer.ecx &= !VMX_SHOWN;
                }
                // One logical processor with the initial APIC identifier 0.
                answer.ebx = answer.ebx & 0xffff | 1 << 16;
            }
            (7, 0) if !self.invpcid => answer.ebx &= !bit(10),
            (0xd, 0) => {
                answer.eax = self.extended_control as u32;
                answer.edx = (self.extended_control >> 32) as u32;
            }
            _ => {}
        }
    }

    /// Whether the guest may set XCR0 to `value` (SDM 3A 2.6 "Extended Control Registers").
    #[must_use]
    pub const fn accepts_extended_control(&self, value: u64) -> bool {
        const X87: u64 = 1 << 0;
        const SSE: u64 = 1 << 1;
        const AVX: u64 = 1 << 2;
        const AVX_512: u64 = 0b111 << 5;
        let avx_without_sse = value & AVX != 0 && value & SSE == 0;
        let avx_512_incomplete = value & AVX_512 != 0 && value & (AVX_512 | AVX | SSE) != AVX_512 | AVX | SSE;
        value & !self.extended_control == 0 && value & X87 != 0 && !avx_without_sse && !avx_512_incomplete
    }
}

/// Topology by x2APIC identifiers: one thread in one core, whose identifier, in EDX, is 0 (SDM 2A "CPUID", leaf 0BH).
fn topology(subleaf: u32) -> CpuidResult {
    // The kind of level, in ECX 15:8, and how many processors it has.
    let (kind, processors) = match subleaf {
        0 => (1, 1),
        1 => (2, 1),
        _ => (0, 0),
    };
    CpuidResult { ebx: processors, ecx: subleaf & 0xff | kind << 8, ..CpuidResult::default() }
}

fn hypervisor_leaf(leaf: u32) -> CpuidResult {
    if leaf != HYPERVISOR_LEAF {
        return CpuidResult::default();
    }
    let [b, c, d] =
        [0, 4, 8].map(|at| u32::from_le_bytes([SIGNATURE[at], SIGNATURE[at + 1], SIGNATURE[at + 2], SIGNATURE[at + 3]]));
    CpuidResult { eax: HYPERVISOR_LEAF, ebx: b, ecx: c, edx: d }
}

const fn select(answer: CpuidResult, register: Register) -> u32 {
    match register {
        Register::Eax => answer.eax,
        Register::Ebx => answer.ebx,
        Register::Ecx => answer.ecx,
        Register::Edx => answer.edx,
    }
}

const fn select_mut(answer: &mut CpuidResult, register: Register) -> &mut u32 {
    match register {
        Register::Eax => &mut answer.eax,
        Register::Ebx => &mut answer.ebx,
        Register::Ecx => &mut answer.ecx,
        Register::Edx => &mut answer.edx,
    }
}
