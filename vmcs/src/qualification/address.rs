//! Qualifications of VM exits that a memory access causes.

use core::fmt;

use super::{bit, write_flags};

/// APIC-access VM exits, SDM 3C table 27-6 "Exit Qualification for APIC-Access VM Exits from Linear Accesses and Guest-Physical
/// Accesses".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApicAccess(pub u64);

/// The access that caused an APIC-access VM exit, bits 15:12. Open: other values are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AccessType(pub u8);

impl AccessType {
    /// Linear access: data read during instruction execution.
    pub const LINEAR_READ: AccessType = AccessType(0);
    /// Linear access: data write during instruction execution.
    pub const LINEAR_WRITE: AccessType = AccessType(1);
    /// Linear access: instruction fetch.
    pub const LINEAR_FETCH: AccessType = AccessType(2);
    /// Linear access during event delivery.
    pub const LINEAR_EVENT_DELIVERY: AccessType = AccessType(3);
    /// Guest-physical access during event delivery.
    pub const GUEST_PHYSICAL_EVENT_DELIVERY: AccessType = AccessType(10);
    /// Guest-physical access for an instruction fetch or during instruction execution.
    pub const GUEST_PHYSICAL_INSTRUCTION: AccessType = AccessType(15);
}

impl ApicAccess {
    /// Offset in the APIC page. Undefined for guest-physical accesses.
    #[must_use]
    pub const fn offset(self) -> u16 {
        self.0 as u16 & 0xfff
    }

    /// What kind of access.
    #[must_use]
    pub const fn access_type(self) -> AccessType {
        AccessType((self.0 >> 12) as u8 & 15)
    }

    /// Whether the access was asynchronous to instruction execution and not part of event delivery.
    #[must_use]
    pub const fn is_asynchronous(self) -> bool {
        bit(self.0, 16)
    }
}

impl fmt::Display for ApicAccess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access_type() {
            AccessType::LINEAR_READ => "read",
            AccessType::LINEAR_WRITE => "write",
            AccessType::LINEAR_FETCH => "fetch",
            AccessType::LINEAR_EVENT_DELIVERY => "event delivery",
            AccessType::GUEST_PHYSICAL_EVENT_DELIVERY => return formatter.write_str("guest-physical event delivery"),
            AccessType::GUEST_PHYSICAL_INSTRUCTION => return formatter.write_str("guest-physical access"),
            AccessType(other) => return write!(formatter, "access type {other}"),
        };
        write!(formatter, "{access} offset {:#05x}", self.offset())
    }
}

/// EPT violations, SDM 3C table 27-7 "Exit Qualification for EPT Violations".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EptViolation(pub u64);

impl EptViolation {
    /// The access was a data read. Also set for updates of accessed and dirty flags.
    pub const READ: u64 = 1 << 0;
    /// The access was a data write.
    pub const WRITE: u64 = 1 << 1;
    /// The access was an instruction fetch.
    pub const FETCH: u64 = 1 << 2;
    /// The EPT entries together allow reads.
    pub const READABLE: u64 = 1 << 3;
    /// The EPT entries together allow writes.
    pub const WRITABLE: u64 = 1 << 4;
    /// The EPT entries together allow execution; with mode-based execute control in supervisor mode.
    pub const EXECUTABLE: u64 = 1 << 5;
    /// With mode-based execute control: the EPT entries together allow execution in user mode.
    pub const USER_EXECUTABLE: u64 = 1 << 6;
    /// The guest-linear address field is valid.
    pub const LINEAR_ADDRESS_VALID: u64 = 1 << 7;
    /// The access was to the translation of the linear address; if 0, to a paging-structure entry on the way. Needs bit 7.
    pub const FINAL_TRANSLATION: u64 = 1 << 8;
    /// Advanced information: the linear address is a user-mode one.
    pub const USER_MODE_ADDRESS: u64 = 1 << 9;
    /// Advanced information: the guest's page tables allow writes.
    pub const GUEST_WRITABLE: u64 = 1 << 10;
    /// Advanced information: the guest's page tables forbid execution.
    pub const GUEST_EXECUTE_DISABLE: u64 = 1 << 11;
    /// IRET had unblocked NMIs.
    pub const NMI_UNBLOCKING_DUE_TO_IRET: u64 = 1 << 12;
    /// The access was a shadow-stack access.
    pub const SHADOW_STACK_ACCESS: u64 = 1 << 13;
    /// The EPT entry is marked for supervisor shadow stacks.
    pub const SUPERVISOR_SHADOW_STACK: u64 = 1 << 14;
    /// Guest-paging verification caused the violation.
    pub const GUEST_PAGING_VERIFICATION: u64 = 1 << 15;
    /// The access was asynchronous to instruction execution and not part of event delivery.
    pub const ASYNCHRONOUS: u64 = 1 << 16;

    /// Whether all of `bits` are set.
    #[must_use]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// Whether the EPT entries allow nothing: the page isn't there.
    #[must_use]
    pub const fn is_not_present(self) -> bool {
        self.0 & (Self::READABLE | Self::WRITABLE | Self::EXECUTABLE | Self::USER_EXECUTABLE) == 0
    }
}

impl fmt::Display for EptViolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_flags(
            formatter,
            &[
                (self.has(Self::READ), "read"),
                (self.has(Self::WRITE), "write"),
                (self.has(Self::FETCH), "fetch"),
                (self.has(Self::LINEAR_ADDRESS_VALID) && !self.has(Self::FINAL_TRANSLATION), "of a paging structure"),
                (self.is_not_present(), "not-present"),
                (self.has(Self::READABLE), "readable"),
                (self.has(Self::WRITABLE), "writable"),
                (self.has(Self::EXECUTABLE), "executable"),
                (self.has(Self::USER_EXECUTABLE), "user-executable"),
                (self.has(Self::NMI_UNBLOCKING_DUE_TO_IRET), "NMI-unblocking-due-to-IRET"),
                (self.has(Self::SHADOW_STACK_ACCESS), "shadow-stack"),
                (self.has(Self::GUEST_PAGING_VERIFICATION), "guest-paging-verification"),
                (self.has(Self::ASYNCHRONOUS), "asynchronous"),
            ],
        )
    }
}

/// Page-modification-log-full events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageModificationLogFull(pub u64);

impl PageModificationLogFull {
    /// Whether IRET had unblocked NMIs.
    #[must_use]
    pub const fn is_nmi_unblocking_due_to_iret(self) -> bool {
        bit(self.0, 12)
    }

    /// Whether the access was asynchronous to instruction execution and not part of event delivery.
    #[must_use]
    pub const fn is_asynchronous(self) -> bool {
        bit(self.0, 16)
    }
}

impl fmt::Display for PageModificationLogFull {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags =
            [(self.is_nmi_unblocking_due_to_iret(), "NMI-unblocking-due-to-IRET"), (self.is_asynchronous(), "asynchronous")];
        write_flags(formatter, &flags)
    }
}

/// SPP-related events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubPagePermission(pub u64);

impl SubPagePermission {
    /// Whether the sub-page permission table has no entry; if not, it has an invalid one.
    #[must_use]
    pub const fn is_miss(self) -> bool {
        bit(self.0, 11)
    }

    /// Whether IRET had unblocked NMIs.
    #[must_use]
    pub const fn is_nmi_unblocking_due_to_iret(self) -> bool {
        bit(self.0, 12)
    }
}

impl fmt::Display for SubPagePermission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [
            (self.is_miss(), "SPP-miss"),
            (!self.is_miss(), "SPP-misconfiguration"),
            (self.is_nmi_unblocking_due_to_iret(), "NMI-unblocking-due-to-IRET"),
        ];
        write_flags(formatter, &flags)
    }
}
