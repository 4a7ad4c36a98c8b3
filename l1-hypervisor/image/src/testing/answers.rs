//! What the processor says of itself: CPUID and the VMX capability MSRs.

use vmcs::capability::Capabilities;

use crate::platform::CpuidResult;

/// The capability MSRs of Bochs 2.7's model corei7_haswell_4770.
pub(crate) fn capabilities() -> Capabilities {
    Capabilities::read(vmcs::testing::haswell).expect("every MSR that exists is given")
}

/// CPUID of a Haswell (i7-4770), as far as anything here depends on it.
pub(crate) fn haswell(leaf: u32, subleaf: u32) -> CpuidResult {
    let (eax, ebx, ecx, edx) = match (leaf, subleaf) {
        (0, _) => (0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69),
        (1, _) => (0x0003_06c3, 0x0510_0800, 0x7fda_fbff, 0xbfeb_fbff),
        (2, _) => (0x7603_6301, 0x00f0_b5ff, 0, 0x00c1_0000),
        (6, _) => (0x77, 2, 9, 0),
        (7, 0) => (0, 0x0000_27ab, 0, 0x9c00_0600),
        (0xa, _) => (0x0730_0803, 0, 0, 0x603),
        (0xb, 0) => (1, 2, 0x100, 5),
        (0xb, 1) => (4, 8, 0x201, 5),
        (0xb, _) => (0, 0, subleaf, 5),
        (0xd, 0) => (7, 0x340, 0x340, 0),
        (0xd, 1) => (1, 0, 0, 0),
        (0xd, 2) => (0x100, 0x240, 0, 0),
        (0x8000_0000, _) => (0x8000_0008, 0, 0, 0),
        (0x8000_0001, _) => (0, 0, 0x21, 0x2c10_0800),
        (0x8000_0008, _) => (0x3027, 0, 0, 0),
        _ => (0, 0, 0, 0),
    };
    CpuidResult { eax, ebx, ecx, edx }
}

/// CPUID of a processor that has every feature there is and will be.
pub(crate) fn everything(leaf: u32, _subleaf: u32) -> CpuidResult {
    let eax = match leaf {
        0 => 0x21,
        0x8000_0000 => 0x8000_0021,
        0x8000_0008 => 0x3934,
        _ => !0,
    };
    CpuidResult { eax, ebx: !0, ecx: !0, edx: !0 }
}
