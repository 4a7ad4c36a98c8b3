//! What the library's checks are told about the machine beside the VMCS.

use l1_oracle::Machine;
use l1_oracle::memory::{self, MSR_ENTRIES};
use vmcs::capability::Capabilities;
use vmcs::entry_check::{Environment, Platform};
use vmcs::software::SoftwareVmcs;

/// Bits of IA32_EFER that every processor here has: SCE, LME, LMA and NXE.
const EFER: u64 = 0xd01;
/// Bits of IA32_DEBUGCTL that any processor before bus-lock detection has, SDM 3B 17.4.1 "IA32_DEBUGCTL MSR".
const DEBUGCTL: u64 = 0xffc3;
/// Bits of IA32_PERF_GLOBAL_CTRL with eight general and three fixed counters.
const PERF_GLOBAL_CTRL: u64 = 0x7_0000_00ff;

/// The scratch pages, and which of the MSR values in them WRMSR takes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    machine: Machine,
    revision: u32,
}

impl Memory {
    /// The memory of `machine`.
    #[must_use]
    pub fn new(machine: &Machine, capabilities: &Capabilities) -> Self {
        Self { machine: *machine, revision: capabilities.basic().vmcs_revision_identifier() }
    }
}

impl Platform for Memory {
    fn read_memory(&self, physical_address: u64) -> Option<u64> {
        memory::read(&self.machine, self.revision, physical_address)
    }

    /// Values that no list names are never loaded.
    fn accepts_msr(&self, number: u32, value: u64) -> bool {
        MSR_ENTRIES.iter().find(|entry| entry.0 == u64::from(number) && entry.1 == value).is_none_or(|entry| entry.2)
    }
}

/// The environment of every case.
#[must_use]
pub fn environment<'a>(machine: &Machine, memory: &'a Memory) -> Environment<'a> {
    Environment {
        current_vmcs: machine.vmcs,
        vmxon_pointer: machine.vmxon,
        linear_address_width: machine.linear_address_width.clamp(32, 57) as u32,
        efer: EFER,
        debugctl: DEBUGCTL,
        perf_global_ctrl: PERF_GLOBAL_CTRL,
        // No model of Bochs 2.7 has any of these.
        linear_address_masking: false,
        restricted_transactional_memory: false,
        bus_lock_detection: false,
        software_guard_extensions: false,
        platform: memory,
        ..Environment::new(machine.width())
    }
}

/// What an exception may look at.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The state that was tried.
    pub state: &'a SoftwareVmcs,
    /// The machine it was tried on.
    pub machine: &'a Machine,
    /// What its processor offers.
    pub capabilities: &'a Capabilities,
    /// What the checks were told.
    pub environment: &'a Environment<'a>,
}
