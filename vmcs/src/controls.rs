//! The VM-execution, VM-exit and VM-entry controls as typed bit sets.
//!
//! Source: SDM 3C 24.6 "VM-Execution Control Fields", 24.7 "VM-Exit Control Fields", 24.8 "VM-Entry Control Fields".
//! The sets are open: bits without a name here (reserved bits that must be 1, controls newer than this crate) are kept as they are,
//! so `from_bits_retain` and `bits` are exact inverses.

/// One named bit of a control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlBit {
    /// Position of the bit, 0 to 63.
    pub bit: u32,
    /// Name of the constant.
    pub name: &'static str,
    /// Name as the SDM prints it.
    pub title: &'static str,
}

macro_rules! controls {
    ($($(#[$doc:meta])* $set:ident: $bits:ty { $($bit:literal $name:ident $title:literal;)* })*) => {$(
        bitflags::bitflags! {
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
            pub struct $set: $bits {
                $(#[doc = concat!("Bit ", stringify!($bit), ": \"", $title, "\".")] const $name = 1 << $bit;)*
                // Bits without a name are part of the set too.
                const _ = !0;
            }
        }

        impl $set {
            /// Every named bit, in ascending order.
            pub const TABLE: &'static [ControlBit] =
                &[$(ControlBit { bit: $bit, name: stringify!($name), title: $title },)*];
        }
    )*};
}

controls! {
    /// SDM 3C 24.6.1 "Pin-Based VM-Execution Controls".
    PinBased: u32 {
        0 EXTERNAL_INTERRUPT_EXITING "External-interrupt exiting";
        3 NMI_EXITING "NMI exiting";
        5 VIRTUAL_NMIS "Virtual NMIs";
        6 ACTIVATE_VMX_PREEMPTION_TIMER "Activate VMX-preemption timer";
        7 PROCESS_POSTED_INTERRUPTS "Process posted interrupts";
    }

    /// SDM 3C 24.6.2 "Processor-Based VM-Execution Controls", primary.
    PrimaryProcessorBased: u32 {
        2 INTERRUPT_WINDOW_EXITING "Interrupt-window exiting";
        3 USE_TSC_OFFSETTING "Use TSC offsetting";
        7 HLT_EXITING "HLT exiting";
        9 INVLPG_EXITING "INVLPG exiting";
        10 MWAIT_EXITING "MWAIT exiting";
        11 RDPMC_EXITING "RDPMC exiting";
        12 RDTSC_EXITING "RDTSC exiting";
        15 CR3_LOAD_EXITING "CR3-load exiting";
        16 CR3_STORE_EXITING "CR3-store exiting";
        17 ACTIVATE_TERTIARY_CONTROLS "Activate tertiary controls";
        19 CR8_LOAD_EXITING "CR8-load exiting";
        20 CR8_STORE_EXITING "CR8-store exiting";
        21 USE_TPR_SHADOW "Use TPR shadow";
        22 NMI_WINDOW_EXITING "NMI-window exiting";
        23 MOV_DR_EXITING "MOV-DR exiting";
        24 UNCONDITIONAL_IO_EXITING "Unconditional I/O exiting";
        25 USE_IO_BITMAPS "Use I/O bitmaps";
        27 MONITOR_TRAP_FLAG "Monitor trap flag";
        28 USE_MSR_BITMAPS "Use MSR bitmaps";
        29 MONITOR_EXITING "MONITOR exiting";
        30 PAUSE_EXITING "PAUSE exiting";
        31 ACTIVATE_SECONDARY_CONTROLS "Activate secondary controls";
    }

    /// SDM 3C 24.6.2 "Processor-Based VM-Execution Controls", secondary.
    SecondaryProcessorBased: u32 {
        0 VIRTUALIZE_APIC_ACCESSES "Virtualize APIC accesses";
        1 ENABLE_EPT "Enable EPT";
        2 DESCRIPTOR_TABLE_EXITING "Descriptor-table exiting";
        3 ENABLE_RDTSCP "Enable RDTSCP";
        4 VIRTUALIZE_X2APIC_MODE "Virtualize x2APIC mode";
        5 ENABLE_VPID "Enable VPID";
        6 WBINVD_EXITING "WBINVD exiting";
        7 UNRESTRICTED_GUEST "Unrestricted guest";
        8 APIC_REGISTER_VIRTUALIZATION "APIC-register virtualization";
        9 VIRTUAL_INTERRUPT_DELIVERY "Virtual-interrupt delivery";
        10 PAUSE_LOOP_EXITING "PAUSE-loop exiting";
        11 RDRAND_EXITING "RDRAND exiting";
        12 ENABLE_INVPCID "Enable INVPCID";
        13 ENABLE_VM_FUNCTIONS "Enable VM functions";
        14 VMCS_SHADOWING "VMCS shadowing";
        15 ENABLE_ENCLS_EXITING "Enable ENCLS exiting";
        16 RDSEED_EXITING "RDSEED exiting";
        17 ENABLE_PML "Enable PML";
        18 EPT_VIOLATION_VE "EPT-violation #VE";
        19 CONCEAL_VMX_FROM_PT "Conceal VMX from PT";
        20 ENABLE_XSAVES_XRSTORS "Enable XSAVES/XRSTORS";
        21 PASID_TRANSLATION "PASID translation";
        22 MODE_BASED_EXECUTE_CONTROL_FOR_EPT "Mode-based execute control for EPT";
        23 SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT "Sub-page write permissions for EPT";
        24 INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES "Intel PT uses guest physical addresses";
        25 USE_TSC_SCALING "Use TSC scaling";
        26 ENABLE_USER_WAIT_AND_PAUSE "Enable user wait and pause";
        27 ENABLE_PCONFIG "Enable PCONFIG";
        28 ENABLE_ENCLV_EXITING "Enable ENCLV exiting";
        29 ENABLE_EPC_VIRTUALIZATION_EXTENSIONS "Enable EPC virtualization extensions";
        30 VMM_BUS_LOCK_DETECTION "VMM bus-lock detection";
        31 INSTRUCTION_TIMEOUT "Instruction timeout";
    }

    /// SDM 3C 24.6.2 "Processor-Based VM-Execution Controls", tertiary.
    TertiaryProcessorBased: u64 {
        0 LOADIWKEY_EXITING "LOADIWKEY exiting";
        1 ENABLE_HLAT "Enable HLAT";
        2 EPT_PAGING_WRITE_CONTROL "EPT paging-write control";
        3 GUEST_PAGING_VERIFICATION "Guest-paging verification";
        4 IPI_VIRTUALIZATION "IPI virtualization";
        6 ENABLE_MSR_LIST_INSTRUCTIONS "Enable MSR-list instructions";
        7 VIRTUALIZE_IA32_SPEC_CTRL "Virtualize IA32_SPEC_CTRL";
        8 APIC_TIMER_VIRTUALIZATION "APIC-timer virtualization";
    }

    /// SDM 3C 24.7.1 "VM-Exit Controls", primary.
    PrimaryExit: u32 {
        2 SAVE_DEBUG_CONTROLS "Save debug controls";
        9 HOST_ADDRESS_SPACE_SIZE "Host address-space size";
        12 LOAD_IA32_PERF_GLOBAL_CTRL "Load IA32_PERF_GLOBAL_CTRL";
        15 ACKNOWLEDGE_INTERRUPT_ON_EXIT "Acknowledge interrupt on exit";
        18 SAVE_IA32_PAT "Save IA32_PAT";
        19 LOAD_IA32_PAT "Load IA32_PAT";
        20 SAVE_IA32_EFER "Save IA32_EFER";
        21 LOAD_IA32_EFER "Load IA32_EFER";
        22 SAVE_VMX_PREEMPTION_TIMER_VALUE "Save VMX-preemption timer value";
        23 CLEAR_IA32_BNDCFGS "Clear IA32_BNDCFGS";
        24 CONCEAL_VMX_FROM_PT "Conceal VMX from PT";
        25 CLEAR_IA32_RTIT_CTL "Clear IA32_RTIT_CTL";
        26 CLEAR_IA32_LBR_CTL "Clear IA32_LBR_CTL";
        27 CLEAR_UINV "Clear UINV";
        28 LOAD_CET_STATE "Load CET state";
        29 LOAD_PKRS "Load PKRS";
        30 SAVE_IA32_PERF_GLOBAL_CTRL "Save IA32_PERF_GLOBAL_CTRL";
        31 ACTIVATE_SECONDARY_CONTROLS "Activate secondary controls";
    }

    /// SDM 3C 24.7.1 "VM-Exit Controls", secondary.
    SecondaryExit: u64 {
        0 SAVE_IA32_FRED "Save IA32_FRED";
        1 LOAD_IA32_FRED "Load IA32_FRED";
        2 LOAD_IA32_SPEC_CTRL "Load IA32_SPEC_CTRL";
        3 PREMATURELY_BUSY_SHADOW_STACK "Prematurely busy shadow stack";
    }

    /// SDM 3C 24.8.1 "VM-Entry Controls".
    Entry: u32 {
        2 LOAD_DEBUG_CONTROLS "Load debug controls";
        9 IA_32E_MODE_GUEST "IA-32e mode guest";
        10 ENTRY_TO_SMM "Entry to SMM";
        11 DEACTIVATE_DUAL_MONITOR_TREATMENT "Deactivate dual-monitor treatment";
        13 LOAD_IA32_PERF_GLOBAL_CTRL "Load IA32_PERF_GLOBAL_CTRL";
        14 LOAD_IA32_PAT "Load IA32_PAT";
        15 LOAD_IA32_EFER "Load IA32_EFER";
        16 LOAD_IA32_BNDCFGS "Load IA32_BNDCFGS";
        17 CONCEAL_VMX_FROM_PT "Conceal VMX from PT";
        18 LOAD_IA32_RTIT_CTL "Load IA32_RTIT_CTL";
        19 LOAD_UINV "Load UINV";
        20 LOAD_CET_STATE "Load CET state";
        21 LOAD_GUEST_IA32_LBR_CTL "Load guest IA32_LBR_CTL";
        22 LOAD_PKRS "Load PKRS";
        23 LOAD_IA32_FRED "Load IA32_FRED";
        24 LOAD_IA32_SPEC_CTRL "Load IA32_SPEC_CTRL";
    }

    /// SDM 3C 24.6.14 "VM-Function Controls".
    VmFunctions: u64 {
        0 EPTP_SWITCHING "EPTP switching";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unnamed_bits_are_kept() {
        assert_eq!(PinBased::from_bits_retain(0x16).bits(), 0x16);
        assert_eq!(PinBased::from_bits_truncate(0xffff_ffff).bits(), 0xffff_ffff);
        assert_eq!((!Entry::LOAD_IA32_EFER).bits(), !(1 << 15));
    }

    #[test]
    fn tables_ascend_without_a_bit_twice() {
        for table in [
            PinBased::TABLE,
            PrimaryProcessorBased::TABLE,
            SecondaryProcessorBased::TABLE,
            TertiaryProcessorBased::TABLE,
            PrimaryExit::TABLE,
            SecondaryExit::TABLE,
            Entry::TABLE,
            VmFunctions::TABLE,
        ] {
            assert!(table.is_sorted_by(|a, b| a.bit < b.bit), "{table:?}");
        }
    }

    /// Crate `x86` transcribed the bits independently of us.
    #[test]
    fn bits_agree_with_crate_x86() {
        use x86::vmx::vmcs::control::{EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls};
        macro_rules! same {
            ($($ours:ident $theirs:ident { $($our_name:ident $their_name:ident;)* })*) => {$($(
                assert_eq!($ours::$our_name.bits(), $theirs::$their_name.bits(), stringify!($our_name));
            )*)*};
        }
        same! {
            PinBased PinbasedControls {
                EXTERNAL_INTERRUPT_EXITING EXTERNAL_INTERRUPT_EXITING;
                NMI_EXITING NMI_EXITING;
                VIRTUAL_NMIS VIRTUAL_NMIS;
                ACTIVATE_VMX_PREEMPTION_TIMER VMX_PREEMPTION_TIMER;
                PROCESS_POSTED_INTERRUPTS POSTED_INTERRUPTS;
            }
            PrimaryProcessorBased PrimaryControls {
                INTERRUPT_WINDOW_EXITING INTERRUPT_WINDOW_EXITING;
                USE_TSC_OFFSETTING USE_TSC_OFFSETTING;
                HLT_EXITING HLT_EXITING;
                INVLPG_EXITING INVLPG_EXITING;
                MWAIT_EXITING MWAIT_EXITING;
                RDPMC_EXITING RDPMC_EXITING;
                RDTSC_EXITING RDTSC_EXITING;
                CR3_LOAD_EXITING CR3_LOAD_EXITING;
                CR3_STORE_EXITING CR3_STORE_EXITING;
                CR8_LOAD_EXITING CR8_LOAD_EXITING;
                CR8_STORE_EXITING CR8_STORE_EXITING;
                USE_TPR_SHADOW USE_TPR_SHADOW;
                NMI_WINDOW_EXITING NMI_WINDOW_EXITING;
                MOV_DR_EXITING MOV_DR_EXITING;
                UNCONDITIONAL_IO_EXITING UNCOND_IO_EXITING;
                USE_IO_BITMAPS USE_IO_BITMAPS;
                MONITOR_TRAP_FLAG MONITOR_TRAP_FLAG;
                USE_MSR_BITMAPS USE_MSR_BITMAPS;
                MONITOR_EXITING MONITOR_EXITING;
                PAUSE_EXITING PAUSE_EXITING;
                ACTIVATE_SECONDARY_CONTROLS SECONDARY_CONTROLS;
            }
            SecondaryProcessorBased SecondaryControls {
                VIRTUALIZE_APIC_ACCESSES VIRTUALIZE_APIC;
                ENABLE_EPT ENABLE_EPT;
                DESCRIPTOR_TABLE_EXITING DTABLE_EXITING;
                ENABLE_RDTSCP ENABLE_RDTSCP;
                VIRTUALIZE_X2APIC_MODE VIRTUALIZE_X2APIC;
                ENABLE_VPID ENABLE_VPID;
                WBINVD_EXITING WBINVD_EXITING;
                UNRESTRICTED_GUEST UNRESTRICTED_GUEST;
                APIC_REGISTER_VIRTUALIZATION VIRTUALIZE_APIC_REGISTER;
                VIRTUAL_INTERRUPT_DELIVERY VIRTUAL_INTERRUPT_DELIVERY;
                PAUSE_LOOP_EXITING PAUSE_LOOP_EXITING;
                RDRAND_EXITING RDRAND_EXITING;
                ENABLE_INVPCID ENABLE_INVPCID;
                ENABLE_VM_FUNCTIONS ENABLE_VM_FUNCTIONS;
                VMCS_SHADOWING VMCS_SHADOWING;
                ENABLE_ENCLS_EXITING ENCLS_EXITING;
                RDSEED_EXITING RDSEED_EXITING;
                ENABLE_PML ENABLE_PML;
                EPT_VIOLATION_VE EPT_VIOLATION_VE;
                CONCEAL_VMX_FROM_PT CONCEAL_VMX_FROM_PT;
                ENABLE_XSAVES_XRSTORS ENABLE_XSAVES_XRSTORS;
                MODE_BASED_EXECUTE_CONTROL_FOR_EPT MODE_BASED_EPT;
                SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT SUB_PAGE_EPT;
                INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES INTEL_PT_GUEST_PHYSICAL;
                USE_TSC_SCALING USE_TSC_SCALING;
                ENABLE_USER_WAIT_AND_PAUSE ENABLE_USER_WAIT_PAUSE;
                ENABLE_ENCLV_EXITING ENCLV_EXITING;
            }
            PrimaryExit ExitControls {
                SAVE_DEBUG_CONTROLS SAVE_DEBUG_CONTROLS;
                HOST_ADDRESS_SPACE_SIZE HOST_ADDRESS_SPACE_SIZE;
                LOAD_IA32_PERF_GLOBAL_CTRL LOAD_IA32_PERF_GLOBAL_CTRL;
                ACKNOWLEDGE_INTERRUPT_ON_EXIT ACK_INTERRUPT_ON_EXIT;
                SAVE_IA32_PAT SAVE_IA32_PAT;
                LOAD_IA32_PAT LOAD_IA32_PAT;
                SAVE_IA32_EFER SAVE_IA32_EFER;
                LOAD_IA32_EFER LOAD_IA32_EFER;
                SAVE_VMX_PREEMPTION_TIMER_VALUE SAVE_VMX_PREEMPTION_TIMER;
                CLEAR_IA32_BNDCFGS CLEAR_IA32_BNDCFGS;
                CONCEAL_VMX_FROM_PT CONCEAL_VMX_FROM_PT;
                CLEAR_IA32_RTIT_CTL CLEAR_IA32_RTIT_CTL;
            }
            Entry EntryControls {
                LOAD_DEBUG_CONTROLS LOAD_DEBUG_CONTROLS;
                IA_32E_MODE_GUEST IA32E_MODE_GUEST;
                ENTRY_TO_SMM ENTRY_TO_SMM;
                DEACTIVATE_DUAL_MONITOR_TREATMENT DEACTIVATE_DUAL_MONITOR;
                LOAD_IA32_PERF_GLOBAL_CTRL LOAD_IA32_PERF_GLOBAL_CTRL;
                LOAD_IA32_PAT LOAD_IA32_PAT;
                LOAD_IA32_EFER LOAD_IA32_EFER;
                LOAD_IA32_BNDCFGS LOAD_IA32_BNDCFGS;
                CONCEAL_VMX_FROM_PT CONCEAL_VMX_FROM_PT;
                LOAD_IA32_RTIT_CTL LOAD_IA32_RTIT_CTL;
            }
        }
    }
}
