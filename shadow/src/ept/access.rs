//! Accesses to L3's physical memory, what EPT23 allows, and what L2 is told when it doesn't.

use vmcs::exit_reason::BasicExitReason;
use vmcs::qualification::EptViolation;

bitflags::bitflags! {
    /// Bits 2:0 of an EPT entry. An access is described by the same bits in the qualification of its EPT violation.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Permissions: u64 {
        /// Data reads.
        const READ = 1 << 0;
        /// Data writes.
        const WRITE = 1 << 1;
        /// Instruction fetches.
        const EXECUTE = 1 << 2;
    }
}

/// One access to a physical address of L3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// L3's physical address.
    pub address: u64,
    /// The exit qualification of the EPT violation that the access met in EPT13, or one made up for an access that L1 emulates:
    /// its bits 2:0 are the kind of access, bits 8:7 say whether L3's own page tables were accessed.
    pub qualification: EptViolation,
    /// L2 uses page-modification logging, and the PML index isn't within 0 to 511. Then nothing may be marked as accessed or
    /// dirty (SDM 3C 28.3.6 "Page-Modification Logging").
    pub log_is_full: bool,
}

impl Access {
    /// An access that met an EPT violation with this exit qualification, with no full page-modification log in the way.
    #[must_use]
    pub const fn new(address: u64, qualification: u64) -> Self {
        Self { address, qualification: EptViolation(qualification), log_is_full: false }
    }

    /// What EPT must allow for the access. With accessed and dirty flags an access to a paging-structure entry counts as a write
    /// (SDM 3C 28.3.3.2 "EPT Violations"). The processor says so itself as long as EPT13 has the flags too; this holds for
    /// accesses that L1 emulates as well.
    pub(super) fn needed(&self, flags: bool) -> Permissions {
        let needed = Permissions::from_bits_truncate(self.qualification.0);
        let of_paging_structure = self.qualification.0 & (EptViolation::LINEAR_ADDRESS_VALID | EptViolation::FINAL_TRANSLATION);
        if flags && of_paging_structure == EptViolation::LINEAR_ADDRESS_VALID { needed | Permissions::WRITE } else { needed }
    }
}

/// Why EPT23 doesn't translate an access: a VM exit that is L2's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EPT23 doesn't allow the access.
    Violation {
        /// The exit qualification for L2.
        qualification: u64,
    },
    /// An entry of EPT23 is misconfigured.
    Misconfiguration,
    /// A flag is to be set and the page-modification log is full. No flag was set.
    PageModificationLogFull {
        /// The exit qualification for L2.
        qualification: u64,
    },
}

impl Fault {
    /// The reason of L2's VM exit.
    #[must_use]
    pub const fn exit_reason(self) -> BasicExitReason {
        match self {
            Self::Violation { .. } => BasicExitReason::EPT_VIOLATION,
            Self::Misconfiguration => BasicExitReason::EPT_MISCONFIGURATION,
            Self::PageModificationLogFull { .. } => BasicExitReason::PAGE_MODIFICATION_LOG_FULL,
        }
    }

    /// The exit qualification of L2's VM exit; an EPT misconfiguration has none, so it is 0.
    #[must_use]
    pub const fn qualification(self) -> u64 {
        match self {
            Self::Violation { qualification } | Self::PageModificationLogFull { qualification } => qualification,
            Self::Misconfiguration => 0,
        }
    }
}
