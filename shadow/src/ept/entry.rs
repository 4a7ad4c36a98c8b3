//! What one entry of EPT23 says.
//!
//! Levels count from 1 (EPT PTE) over 2 (PDE), 3 (PDPTE) and 4 (PML4E) to 5 (PML5E).

use vmcs::capability::EptVpid;
use vmcs::qualification::EptViolation;

use super::access::Permissions;

/// Bits 51:12: the address of a table or page, before the physical-address width is looked at.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7 above level 1: the entry maps a page.
pub(super) const LARGE_PAGE: u64 = 1 << 7;
/// Bit 8.
pub(super) const ACCESSED: u64 = 1 << 8;
/// Bit 9 of an entry that maps a page.
pub(super) const DIRTY: u64 = 1 << 9;
/// Bit 6 of an EPT pointer: accessed and dirty flags are used.
pub(super) const POINTER_FLAGS: u64 = 1 << 6;
/// Bits 6:3 are reserved in an entry that points to a table.
const TABLE_RESERVED: u64 = 0b1111 << 3;

/// Bytes that an entry of `level` maps or covers.
pub(super) const fn page_size(level: u32) -> u64 {
    4096 << (9 * (level - 1))
}

/// Which entry of a table of `level` translates `address`.
pub(super) const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * (level - 1))) as usize & 511
}

/// Levels of the structure an EPT pointer points to. VM entry has refused lengths other than 4 and 5.
pub(super) const fn levels(pointer: u64) -> u32 {
    if pointer >> 3 & 7 == 4 { 5 } else { 4 }
}

/// What the processor that L2 sees makes of EPT entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    offered: EptVpid,
    beyond_physical_width: u64,
}

/// What one entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    NotPresent,
    Misconfigured,
    Table { address: u64, permissions: Permissions },
    Page { address: u64, permissions: Permissions },
}

impl Rules {
    /// The rules of a processor with this IA32_VMX_EPT_VPID_CAP and this physical-address width (CPUID 80000008H), both as L2 sees them.
    ///
    /// What is offered here must be what the real processor has, as far as EPT13 has to have it too: execute-only translations,
    /// accessed and dirty flags, and a page-walk length of 5. Page sizes are free.
    #[must_use]
    pub const fn new(offered: EptVpid, physical_address_width: u32) -> Self {
        let width = if physical_address_width < 52 { physical_address_width } else { 52 };
        Self { offered, beyond_physical_width: ADDRESS & (u64::MAX << width) }
    }

    /// Bits of a real exit qualification that L2 gets unchanged: the access, whether and what the linear address was translated to,
    /// NMI unblocking, and the advanced information if it is offered. It is about L3's own page tables, which EPT13 doesn't change.
    pub(super) const fn qualification_kept(&self) -> u64 {
        const ALWAYS: u64 = EptViolation::READ
            | EptViolation::WRITE
            | EptViolation::FETCH
            | EptViolation::LINEAR_ADDRESS_VALID
            | EptViolation::FINAL_TRANSLATION
            | EptViolation::NMI_UNBLOCKING_DUE_TO_IRET;
        const ADVANCED: u64 =
            EptViolation::USER_MODE_ADDRESS | EptViolation::GUEST_WRITABLE | EptViolation::GUEST_EXECUTE_DISABLE;
        if self.offered.contains(EptVpid::ADVANCED_EPT_VIOLATION_INFORMATION) { ALWAYS | ADVANCED } else { ALWAYS }
    }

    /// Reads an entry of a table of `level`, SDM 3C 28.3.2 "EPT Translation Mechanism" and 28.3.3.1 "EPT Misconfigurations".
    pub(super) fn decode(&self, level: u32, entry: u64) -> Entry {
        let permissions = Permissions::from_bits_truncate(entry);
        if permissions.is_empty() {
            return Entry::NotPresent;
        }
        let executable_only = permissions == Permissions::EXECUTE;
        let unreadable = !permissions.contains(Permissions::READ);
        if unreadable && !(executable_only && self.offered.contains(EptVpid::EXECUTE_ONLY_TRANSLATIONS)) {
            return Entry::Misconfigured;
        }
        if entry & self.beyond_physical_width != 0 {
            return Entry::Misconfigured;
        }
        let address = entry & ADDRESS;
        if level > 1 && entry & LARGE_PAGE == 0 {
            return if entry & TABLE_RESERVED == 0 { Entry::Table { address, permissions } } else { Entry::Misconfigured };
        }
        let size_offered = match level {
            1 => true,
            2 => self.offered.contains(EptVpid::PAGES_2_MBYTE),
            3 => self.offered.contains(EptVpid::PAGES_1_GBYTE),
            _ => false,
        };
        let reserved_memory_type = matches!(entry >> 3 & 7, 2 | 3 | 7);
        if !size_offered || reserved_memory_type || address & (page_size(level) - 1) != 0 {
            return Entry::Misconfigured;
        }
        Entry::Page { address, permissions }
    }
}
