//! What L1 tells the host program about the machine, once.

use vmcs::capability::Capabilities;
use vmcs::field::Field;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::memory::{PAGE_SIZE, Page};

/// The machine, as far as the states depend on it beside the capability MSRs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Machine {
    /// Physical address of the first of the scratch pages ([`crate::memory`]).
    pub scratch: u64,
    /// Physical address of the VMCS region.
    pub vmcs: u64,
    /// Physical address of the VMXON region.
    pub vmxon: u64,
    /// EPT pointer of tables that map the scratch pages one to one, and [`crate::memory::GUEST_CODE`] to the code.
    pub ept_pointer: u64,
    /// CPUID.80000008H:`EAX[7:0]`.
    pub physical_address_width: u64,
    /// CPUID.80000008H:`EAX[15:8]`.
    pub linear_address_width: u64,
    /// CPUID.01H:`ECX[21]`: the local APIC has an x2APIC mode (L1 leaves it off).
    pub has_x2apic: u64,
    /// What L1 runs with.
    pub host: HostState,
}

/// L1's own state, for the host-state area.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "each field is the register it is named after")]
pub struct HostState {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pat: u64,
    pub code_selector: u64,
    pub data_selector: u64,
    pub task_selector: u64,
    pub task_base: u64,
    pub gdtr_base: u64,
    pub idtr_base: u64,
    pub rsp: u64,
    pub rip: u64,
}

impl Machine {
    /// Physical address of a scratch page.
    #[must_use]
    pub const fn page(&self, page: Page) -> u64 {
        self.scratch + page as u64 * PAGE_SIZE
    }

    /// The lowest bit that a physical address cannot have, from 32 to 52 whatever the processor says.
    #[must_use]
    pub const fn width(&self) -> u32 {
        match self.physical_address_width {
            width @ 32..=52 => width as u32,
            _ => 36,
        }
    }
}

/// Whether the processor has `field` and VMWRITE may write it.
#[must_use]
pub fn is_written(field: &vmcs::field::FieldInformation, capabilities: &Capabilities) -> bool {
    field.kind != vmcs::field::Kind::ReadOnly
        && field.existence.holds(capabilities)
        && field.field != Field::EXECUTIVE_VMCS_POINTER
}
