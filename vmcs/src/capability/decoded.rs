//! The capability MSRs that aren't allowed settings, decoded.

use core::fmt;

/// IA32_VMX_BASIC, SDM 3D A.1 "Basic VMX Information".
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Basic(pub u64);

impl Basic {
    /// The VMCS revision identifier, 31 bits: the first word of a VMXON region and of a VMCS region.
    #[must_use]
    pub const fn vmcs_revision_identifier(self) -> u32 {
        self.0 as u32 & 0x7fff_ffff
    }

    /// Bytes to allocate for a VMXON region or VMCS region, at most 4096.
    #[must_use]
    pub const fn region_size(self) -> u32 {
        (self.0 >> 32) as u32 & 0x1fff
    }

    /// Whether the regions and everything that a VMCS points to must lie below 4 GBytes. Never on processors with Intel 64.
    #[must_use]
    pub const fn addresses_limited_to_32_bits(self) -> bool {
        self.bit(48)
    }

    /// Whether the processor supports the dual-monitor treatment of SMIs and SMM.
    #[must_use]
    pub const fn dual_monitor_treatment(self) -> bool {
        self.bit(49)
    }

    /// Memory type the processor uses for a VMCS and what it points to: 0 uncacheable, 6 write-back.
    #[must_use]
    pub const fn memory_type(self) -> u8 {
        (self.0 >> 50) as u8 & 0xf
    }

    /// Whether a VM exit due to INS or OUTS fills the VM-exit instruction-information field.
    #[must_use]
    pub const fn reports_ins_outs_information(self) -> bool {
        self.bit(54)
    }

    /// Whether default1 controls may be 0, told by the IA32_VMX_TRUE_* MSRs.
    #[must_use]
    pub const fn has_true_controls(self) -> bool {
        self.bit(55)
    }

    /// Whether a hardware exception may be injected with or without an error code whatever its vector.
    #[must_use]
    pub const fn any_exception_may_omit_error_code(self) -> bool {
        self.bit(56)
    }

    /// Whether nested-exception bits are supported: bit 13 of the interruption-information fields, with FRED.
    #[must_use]
    pub const fn nested_exception_support(self) -> bool {
        self.bit(58)
    }

    const fn bit(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Basic")
            .field("vmcs_revision_identifier", &self.vmcs_revision_identifier())
            .field("region_size", &self.region_size())
            .field("memory_type", &self.memory_type())
            .field("raw", &format_args!("{:#x}", self.0))
            .finish()
    }
}

/// IA32_VMX_MISC, SDM 3D A.6 "Miscellaneous Data".
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Misc(pub u64);

impl Misc {
    /// The VMX-preemption timer counts down by 1 every time this bit of the TSC changes.
    #[must_use]
    pub const fn preemption_timer_rate(self) -> u32 {
        self.0 as u32 & 0x1f
    }

    /// Whether a VM exit stores IA32_EFER.LMA into the "IA-32e mode guest" control. 1 wherever unrestricted guest is supported.
    #[must_use]
    pub const fn exit_stores_long_mode_active(self) -> bool {
        self.bit(5)
    }

    /// Whether activity state HLT may be entered.
    #[must_use]
    pub const fn activity_state_hlt(self) -> bool {
        self.bit(6)
    }

    /// Whether activity state shutdown may be entered.
    #[must_use]
    pub const fn activity_state_shutdown(self) -> bool {
        self.bit(7)
    }

    /// Whether activity state wait-for-SIPI may be entered.
    #[must_use]
    pub const fn activity_state_wait_for_sipi(self) -> bool {
        self.bit(8)
    }

    /// Whether Intel Processor Trace may be used in VMX operation.
    #[must_use]
    pub const fn processor_trace_in_vmx(self) -> bool {
        self.bit(14)
    }

    /// Whether RDMSR of IA32_SMBASE works in SMM.
    #[must_use]
    pub const fn smbase_readable_in_smm(self) -> bool {
        self.bit(15)
    }

    /// How many CR3-target values there are, 0 to 256.
    #[must_use]
    pub const fn cr3_target_values(self) -> u32 {
        (self.0 >> 16) as u32 & 0x1ff
    }

    /// The recommended maximum of entries in an MSR-store or MSR-load list: 512 to 4096.
    #[must_use]
    pub const fn recommended_msr_list_maximum(self) -> u32 {
        ((self.0 >> 25) as u32 & 7) * 512 + 512
    }

    /// Whether `IA32_SMM_MONITOR_CTL[2]` may be 1 (VMXOFF unblocks SMIs).
    #[must_use]
    pub const fn smm_monitor_control_bit_2(self) -> bool {
        self.bit(28)
    }

    /// Whether VMWRITE may write every supported field, VM-exit information fields included.
    #[must_use]
    pub const fn vmwrite_any_field(self) -> bool {
        self.bit(29)
    }

    /// Whether an event may be injected with instruction length 0.
    #[must_use]
    pub const fn zero_length_injection(self) -> bool {
        self.bit(30)
    }

    /// The MSEG revision identifier.
    #[must_use]
    pub const fn mseg_revision_identifier(self) -> u32 {
        (self.0 >> 32) as u32
    }

    const fn bit(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }
}

impl fmt::Debug for Misc {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Misc")
            .field("preemption_timer_rate", &self.preemption_timer_rate())
            .field("cr3_target_values", &self.cr3_target_values())
            .field("recommended_msr_list_maximum", &self.recommended_msr_list_maximum())
            .field("raw", &format_args!("{:#x}", self.0))
            .finish()
    }
}

bitflags::bitflags! {
    /// IA32_VMX_EPT_VPID_CAP, SDM 3D A.10 "VPID and EPT Capabilities".
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct EptVpid: u64 {
        /// EPT may map pages that can only be executed.
        const EXECUTE_ONLY_TRANSLATIONS = 1 << 0;
        /// Page-walk length 4.
        const PAGE_WALK_LENGTH_4 = 1 << 6;
        /// Page-walk length 5.
        const PAGE_WALK_LENGTH_5 = 1 << 7;
        /// The EPT structures may be uncacheable.
        const MEMORY_TYPE_UNCACHEABLE = 1 << 8;
        /// The EPT structures may be write-back.
        const MEMORY_TYPE_WRITE_BACK = 1 << 14;
        /// An EPT PDE may map a 2-MByte page.
        const PAGES_2_MBYTE = 1 << 16;
        /// An EPT PDPTE may map a 1-GByte page.
        const PAGES_1_GBYTE = 1 << 17;
        /// INVEPT.
        const INVEPT = 1 << 20;
        /// Accessed and dirty flags for EPT.
        const ACCESSED_AND_DIRTY_FLAGS = 1 << 21;
        /// EPT violations report advanced information.
        const ADVANCED_EPT_VIOLATION_INFORMATION = 1 << 22;
        /// Supervisor shadow-stack control in EPT.
        const SUPERVISOR_SHADOW_STACK_CONTROL = 1 << 23;
        /// INVEPT type 1.
        const SINGLE_CONTEXT_INVEPT = 1 << 25;
        /// INVEPT type 2.
        const ALL_CONTEXT_INVEPT = 1 << 26;
        /// INVVPID.
        const INVVPID = 1 << 32;
        /// INVVPID type 0.
        const INDIVIDUAL_ADDRESS_INVVPID = 1 << 40;
        /// INVVPID type 1.
        const SINGLE_CONTEXT_INVVPID = 1 << 41;
        /// INVVPID type 2.
        const ALL_CONTEXT_INVVPID = 1 << 42;
        /// INVVPID type 3.
        const SINGLE_CONTEXT_RETAINING_GLOBALS_INVVPID = 1 << 43;
        // Bits without a name are part of the set too.
        const _ = !0;
    }
}

impl EptVpid {
    /// The largest HLAT prefix size, bits 53:48.
    #[must_use]
    pub const fn hlat_prefix_size_maximum(self) -> u32 {
        (self.bits() >> 48) as u32 & 0x3f
    }
}
