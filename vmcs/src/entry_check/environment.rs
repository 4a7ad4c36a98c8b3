//! What VM entry looks at outside the VMCS.

/// Memory and MSRs, as VM entry would meet them.
pub trait Platform {
    /// Eight bytes at a physical address that is a multiple of 8, or `None` if it isn't known what stands there: rules about it are then
    /// not judged. Where no memory answers a processor reads all ones.
    fn read_memory(&self, physical_address: u64) -> Option<u64>;

    /// Whether WRMSR at CPL 0 would take this value: a VM entry that loads it from the MSR-load area then succeeds too.
    fn accepts_msr(&self, number: u32, value: u64) -> bool;
}

/// A platform without memory, whose MSRs take every value: for a VMCS dump, where nothing else is known.
///
/// Rules that look into memory are then not judged.
#[derive(Debug, Clone, Copy)]
pub struct NoPlatform;

impl Platform for NoPlatform {
    fn read_memory(&self, _physical_address: u64) -> Option<u64> {
        None
    }

    fn accepts_msr(&self, _number: u32, _value: u64) -> bool {
        true
    }
}

/// The instruction that enters the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryInstruction {
    /// VMLAUNCH.
    Vmlaunch,
    /// VMRESUME.
    Vmresume,
}

/// The launch state of a VMCS, SDM 3C 24.1 "Overview".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchState {
    /// VMLAUNCH is needed.
    Clear,
    /// VMRESUME is needed.
    Launched,
}

/// The state of the logical processor and what it supports beyond its capability MSRs.
///
/// Masks name the bits that may be 1. [`Environment::new`] sets what isn't known to the most permissive value, so that a rule about it
/// is never reported broken without cause.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// The instruction executed.
    pub instruction: EntryInstruction,
    /// The launch state of the current VMCS.
    pub launch_state: LaunchState,
    /// Whether the instruction follows MOV SS or POP SS.
    pub blocking_by_mov_ss: bool,
    /// The current-VMCS pointer, all ones if there is none.
    pub current_vmcs: u64,
    /// Whether the current VMCS is a shadow VMCS.
    pub current_vmcs_is_shadow: bool,
    /// The VMXON pointer.
    pub vmxon_pointer: u64,
    /// Whether the processor is in SMM.
    pub in_smm: bool,
    /// IA32_EFER.LMA of the host.
    pub long_mode: bool,
    /// Whether the local APIC is in x2APIC mode.
    pub x2apic_mode: bool,
    /// IA32_RTIT_CTL.TraceEn of the host.
    pub processor_trace_enabled: bool,
    /// CPUID.80000008H:`EAX[7:0]`, at most 52.
    pub physical_address_width: u32,
    /// CPUID.80000008H:`EAX[15:8]`: 48, or 57 with 5-level paging.
    pub linear_address_width: u32,
    /// Bits of IA32_EFER.
    pub efer: u64,
    /// Bits of IA32_DEBUGCTL.
    pub debugctl: u64,
    /// Bits of IA32_PERF_GLOBAL_CTRL.
    pub perf_global_ctrl: u64,
    /// Bits of IA32_RTIT_CTL.
    pub rtit_ctl: u64,
    /// Bits of IA32_LBR_CTL.
    pub lbr_ctl: u64,
    /// Bits of IA32_SPEC_CTRL.
    pub spec_ctrl: u64,
    /// Whether `CR3[62:61]` may be 1: linear-address masking.
    pub linear_address_masking: bool,
    /// Whether RTM is supported, with it bit 16 of the pending debug exceptions.
    pub restricted_transactional_memory: bool,
    /// Whether bus-lock detection is supported, with it bit 11 of the pending debug exceptions.
    pub bus_lock_detection: bool,
    /// Whether SGX is supported, with it bit 4 of the interruptibility state.
    pub software_guard_extensions: bool,
    /// Memory and MSRs.
    pub platform: &'a dyn Platform,
}

impl Environment<'static> {
    /// A 64-bit host outside SMM that executes VMLAUNCH on a clear VMCS, of which nothing is known but the physical-address width.
    #[must_use]
    pub const fn new(physical_address_width: u32) -> Self {
        Self {
            instruction: EntryInstruction::Vmlaunch,
            launch_state: LaunchState::Clear,
            blocking_by_mov_ss: false,
            current_vmcs: 0,
            current_vmcs_is_shadow: false,
            vmxon_pointer: u64::MAX,
            in_smm: false,
            long_mode: true,
            x2apic_mode: false,
            processor_trace_enabled: false,
            physical_address_width,
            linear_address_width: 48,
            efer: u64::MAX,
            debugctl: u64::MAX,
            perf_global_ctrl: u64::MAX,
            rtit_ctl: u64::MAX,
            lbr_ctl: u64::MAX,
            spec_ctrl: u64::MAX,
            linear_address_masking: true,
            restricted_transactional_memory: true,
            bus_lock_detection: true,
            software_guard_extensions: true,
            platform: &NoPlatform,
        }
    }
}

impl core::fmt::Debug for Environment<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("Environment")
            .field("instruction", &self.instruction)
            .field("launch_state", &self.launch_state)
            .field("physical_address_width", &self.physical_address_width)
            .field("linear_address_width", &self.linear_address_width)
            .field("long_mode", &self.long_mode)
            .finish_non_exhaustive()
    }
}
