//! A real processor for tests, those of other crates too: the values are what a machine gave, and no test has them anew.

use crate::msr;

/// The capability MSRs of Bochs 2.7's model corei7_haswell_4770, as RDMSR gave them there.
#[must_use]
pub const fn haswell(number: u32) -> Option<u64> {
    Some(match number {
        msr::IA32_VMX_BASIC => 0x00d8_1000_0000_002b,
        msr::IA32_VMX_PINBASED_CTLS | msr::IA32_VMX_TRUE_PINBASED_CTLS => 0x0000_007f_0000_0016,
        msr::IA32_VMX_PROCBASED_CTLS => 0xf7f9_fffe_0401_e172,
        msr::IA32_VMX_EXIT_CTLS => 0x007f_ffff_0003_6dff,
        msr::IA32_VMX_ENTRY_CTLS => 0x0000_ffff_0000_11ff,
        msr::IA32_VMX_MISC => 0x2004_01e0,
        msr::IA32_VMX_CR0_FIXED0 => 0x8000_0021,
        msr::IA32_VMX_CR0_FIXED1 => 0xffff_ffff,
        msr::IA32_VMX_CR4_FIXED0 => 0x2000,
        msr::IA32_VMX_CR4_FIXED1 => 0x0017_27ff,
        msr::IA32_VMX_VMCS_ENUM => 0x34,
        msr::IA32_VMX_PROCBASED_CTLS2 => 0x0004_7fff_0000_0000,
        msr::IA32_VMX_EPT_VPID_CAP => 0x0f01_0633_4141,
        msr::IA32_VMX_TRUE_PROCBASED_CTLS => 0xf7f9_fffe_0400_6172,
        msr::IA32_VMX_TRUE_EXIT_CTLS => 0x007f_ffff_0003_6dfb,
        msr::IA32_VMX_TRUE_ENTRY_CTLS => 0x0000_ffff_0000_11fb,
        msr::IA32_VMX_VMFUNC => 1,
        _ => return None,
    })
}
