//! What the exit handlers need of the processor, as a trait: the hardware in the image, plain data in tests.

use vmcs::access::VmcsAccess;

use crate::context::Context;

/// Result of CPUID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the register it is named after")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// A VM entry that the processor refused (SDM 3C 27.1 "Basic VM-Entry Checks").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFailure {
    /// VMfailInvalid.
    Invalid,
    /// VMfailValid with this VM-instruction error.
    Valid(u32),
}

/// A VMCS of L1's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// With which L2 runs.
    Vmcs12,
    /// With which L3 runs, merged from vmcs12 and the VMCS of L2 in this place of the cache.
    Vmcs13(u8),
    /// From which the processor answers L2's VMREADs and VMWRITEs of the VMCS in this place of the cache.
    Shadow(u8),
}

/// The processor, with the VMCS of the guest current.
pub trait Platform: VmcsAccess {
    /// Runs the guest until its next exit.
    ///
    /// # Errors
    /// [`EntryFailure`]; the guest did not run.
    fn enter(&mut self, context: &mut Context) -> Result<(), EntryFailure>;

    /// Makes a VMCS current. It is one that nothing was written to yet, or one that holds what was written before.
    fn make_current(&mut self, region: Region);
    /// VMCLEAR: the VMCS keeps its fields, is no longer launched and may be linked elsewhere. It must not be current.
    fn clear(&mut self, region: Region);
    /// Physical address of a VMCS, for the VMCS link pointer.
    fn address(&self, region: Region) -> u64;
    /// INVEPT of all contexts.
    fn invalidate_ept(&mut self);
    /// CPUID of the machine.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult;
    /// The machine's time-stamp counter.
    fn time_stamp_counter(&mut self) -> u64;
    /// Sets XCR0, which L1 leaves to the guest. The value is one that the processor takes.
    fn set_extended_control(&mut self, value: u64);
    /// Reads CR2, which L1 leaves to the guest.
    fn cr2(&mut self) -> u64;
    /// Sets CR2.
    fn set_cr2(&mut self, value: u64);
    /// Reads DR0 to DR3 or DR6, which L1 leaves to the guest.
    fn debug_register(&mut self, number: DebugRegister) -> u64;
    /// Writes DR0 to DR3 or DR6.
    fn set_debug_register(&mut self, number: DebugRegister, value: u64);
    /// IA32_TSC_AUX, which L1 leaves to the guest.
    fn tsc_auxiliary(&mut self) -> u64;
    /// Forgets the translations of the guest's linear addresses that the processor holds.
    fn invalidate_translations(&mut self);
    /// Writes back and invalidates the caches.
    fn write_back_caches(&mut self);
    /// A random number from RDRAND or RDSEED, if the processor gives one.
    fn random(&mut self, source: RandomSource) -> Option<u64>;
}

/// A debug register that is not in the VMCS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the register it is named after")]
pub enum DebugRegister {
    Dr0,
    Dr1,
    Dr2,
    Dr3,
    Dr6,
}

/// An instruction that gives random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the instruction it is named after")]
pub enum RandomSource {
    Rdrand,
    Rdseed,
}
