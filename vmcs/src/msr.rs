//! MSR numbers that VMX touches, with their SDM names.
//!
//! Source: SDM 4 chapter 2 "Model-Specific Registers (MSRs)" and SDM 3D appendix A "VMX Capability Reporting Facility".

macro_rules! msrs {
    ($($number:literal $name:ident $what:literal;)*) => {
        $(#[doc = $what] pub const $name: u32 = $number;)*

        /// Every MSR of this module, in ascending order of its number.
        pub const MSRS: &[(u32, &str)] = &[$(($number, stringify!($name)),)*];
    };
}

msrs! {
    0x0000_0010 IA32_TIME_STAMP_COUNTER "Time-stamp counter.";
    0x0000_001b IA32_APIC_BASE "Base address and mode of the local APIC.";
    0x0000_003a IA32_FEATURE_CONTROL "Lock, and VMXON inside and outside SMX. SDM 3C 23.7 \"Enabling and Entering VMX Operation\".";
    0x0000_003b IA32_TSC_ADJUST "Per-processor addition to the time-stamp counter.";
    0x0000_0048 IA32_SPEC_CTRL "Speculation control.";
    0x0000_0079 IA32_BIOS_UPDT_TRIG "Trigger of a microcode update; may not be in a VM-entry MSR-load area.";
    0x0000_009b IA32_SMM_MONITOR_CTL "SMM monitor; may not be in a VM-exit MSR-load area.";
    0x0000_009e IA32_SMBASE "SMRAM base; may not be in a VM-exit MSR-store area.";
    0x0000_0174 IA32_SYSENTER_CS "Code selector of SYSENTER.";
    0x0000_0175 IA32_SYSENTER_ESP "Stack pointer of SYSENTER.";
    0x0000_0176 IA32_SYSENTER_EIP "Instruction pointer of SYSENTER.";
    0x0000_01a0 IA32_MISC_ENABLE "Miscellaneous processor features.";
    0x0000_01d9 IA32_DEBUGCTL "Debug control.";
    0x0000_0277 IA32_PAT "Page attribute table.";
    0x0000_038f IA32_PERF_GLOBAL_CTRL "Global enable of the performance counters.";
    0x0000_0480 IA32_VMX_BASIC "SDM 3D A.1 \"Basic VMX Information\".";
    0x0000_0481 IA32_VMX_PINBASED_CTLS "SDM 3D A.3.1 \"Pin-Based VM-Execution Controls\".";
    0x0000_0482 IA32_VMX_PROCBASED_CTLS "SDM 3D A.3.2 \"Primary Processor-Based VM-Execution Controls\".";
    0x0000_0483 IA32_VMX_EXIT_CTLS "SDM 3D A.4.1 \"Primary VM-Exit Controls\".";
    0x0000_0484 IA32_VMX_ENTRY_CTLS "SDM 3D A.5 \"VM-Entry Controls\".";
    0x0000_0485 IA32_VMX_MISC "SDM 3D A.6 \"Miscellaneous Data\".";
    0x0000_0486 IA32_VMX_CR0_FIXED0 "Bits of CR0 that must be 1 in VMX operation. SDM 3D A.7 \"VMX-Fixed Bits in CR0\".";
    0x0000_0487 IA32_VMX_CR0_FIXED1 "Bits of CR0 that may be 1 in VMX operation.";
    0x0000_0488 IA32_VMX_CR4_FIXED0 "Bits of CR4 that must be 1 in VMX operation. SDM 3D A.8 \"VMX-Fixed Bits in CR4\".";
    0x0000_0489 IA32_VMX_CR4_FIXED1 "Bits of CR4 that may be 1 in VMX operation.";
    0x0000_048a IA32_VMX_VMCS_ENUM "SDM 3D A.9 \"VMCS Enumeration\".";
    0x0000_048b IA32_VMX_PROCBASED_CTLS2 "SDM 3D A.3.3 \"Secondary Processor-Based VM-Execution Controls\".";
    0x0000_048c IA32_VMX_EPT_VPID_CAP "SDM 3D A.10 \"VPID and EPT Capabilities\".";
    0x0000_048d IA32_VMX_TRUE_PINBASED_CTLS "As IA32_VMX_PINBASED_CTLS, with the default1 bits that may be 0.";
    0x0000_048e IA32_VMX_TRUE_PROCBASED_CTLS "As IA32_VMX_PROCBASED_CTLS, with the default1 bits that may be 0.";
    0x0000_048f IA32_VMX_TRUE_EXIT_CTLS "As IA32_VMX_EXIT_CTLS, with the default1 bits that may be 0.";
    0x0000_0490 IA32_VMX_TRUE_ENTRY_CTLS "As IA32_VMX_ENTRY_CTLS, with the default1 bits that may be 0.";
    0x0000_0491 IA32_VMX_VMFUNC "SDM 3D A.11 \"VM Functions\".";
    0x0000_0492 IA32_VMX_PROCBASED_CTLS3 "SDM 3D A.3.4 \"Tertiary Processor-Based VM-Execution Controls\".";
    0x0000_0493 IA32_VMX_EXIT_CTLS2 "SDM 3D A.4.2 \"Secondary VM-Exit Controls\".";
    0x0000_0570 IA32_RTIT_CTL "Intel Processor Trace control.";
    0x0000_06a2 IA32_S_CET "Supervisor control-flow enforcement.";
    0x0000_06a8 IA32_INTERRUPT_SSP_TABLE_ADDR "Linear address of the interrupt shadow-stack table.";
    0x0000_06e0 IA32_TSC_DEADLINE "Deadline of the local APIC timer.";
    0x0000_06e1 IA32_PKRS "Protection-key rights of supervisor pages.";
    0x0000_0800 IA32_X2APIC_BASE "First MSR of the x2APIC range, 0x800 to 0x8ff.";
    0x0000_0985 IA32_UINTR_MISC "User-interrupt notification vector and more.";
    0x0000_0d90 IA32_BNDCFGS "Supervisor state of MPX configuration.";
    0x0000_0da0 IA32_XSS "Extended supervisor state mask.";
    0x0000_14ce IA32_LBR_CTL "Last-branch-record control.";
    0xc000_0080 IA32_EFER "Extended feature enables.";
    0xc000_0081 IA32_STAR "Target selectors of SYSCALL.";
    0xc000_0082 IA32_LSTAR "Target address of SYSCALL in 64-bit mode.";
    0xc000_0083 IA32_CSTAR "Target address of SYSCALL in compatibility mode.";
    0xc000_0084 IA32_FMASK "Flags that SYSCALL clears.";
    0xc000_0100 IA32_FS_BASE "Base address of FS.";
    0xc000_0101 IA32_GS_BASE "Base address of GS.";
    0xc000_0102 IA32_KERNEL_GS_BASE "What SWAPGS exchanges with the base address of GS.";
    0xc000_0103 IA32_TSC_AUX "What RDTSCP and RDPID give.";
}

/// The SDM name of MSR `number`, if it is one of this module's.
#[must_use]
pub fn name(number: u32) -> Option<&'static str> {
    let row = MSRS.binary_search_by_key(&number, |(number, _)| *number).ok()?;
    MSRS.get(row).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_names_are_found() {
        assert!(MSRS.is_sorted_by(|a, b| a.0 < b.0));
        for (number, text) in MSRS {
            assert_eq!(name(*number), Some(*text));
        }
        assert_eq!(name(0x494), None);
    }
}
