//! Translates a guest's linear addresses by the guest's own page tables.
//!
//! What always holds: the tables are the guest's and prove nothing; every entry is read once, checked, and what was read
//! is used. A translation that fails changes nothing in the guest. Not covered, because L2 is not offered them:
//! 5-level paging, protection keys of supervisor pages and shadow stacks.

pub(crate) mod linear;
mod physical;
#[cfg(test)]
mod tests;
mod walk;

pub use linear::{read_linear, write_linear};
pub use physical::{PhysicalAccess, PhysicalMemory};

use crate::guest_memory::GuestPhysical;
use thiserror::Error;

/// What of the guest's state decides how a linear address is translated.
#[derive(Debug, Clone, Copy, Default)]
pub struct PagingState {
    /// CR0 as the guest sees it: PG and WP count.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4 as the guest sees it: PSE, PAE, SMEP, SMAP and PKE count.
    pub cr4: u64,
    /// `IA32_EFER`: LMA and NXE count.
    pub efer: u64,
    /// RFLAGS: AC counts, for SMAP.
    pub rflags: u64,
    /// Current privilege level; 3 makes every access a user-mode access.
    pub cpl: u8,
    /// Whether 64-bit code runs. Otherwise linear addresses wrap at 32 bits.
    pub long_mode: bool,
    /// PKRU, which counts if CR4.PKE is set; 0 forbids nothing.
    pub pkru: u32,
    /// The four PDPTEs of PAE paging, which the processor keeps in the VMCS.
    pub pdptes: [u64; 4],
    /// Width of a physical address in bits, as CPUID reports it to the guest.
    pub physical_address_width: u32,
    /// Whether CPUID offers the guest 1 GiB pages. Without them bit 7 of a PDPTE is reserved.
    pub gigabyte_pages: bool,
}

/// What an access does with the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data, or reads and writes it in one instruction.
    Write,
    /// Fetches instructions.
    Execute,
}

/// A page-fault exception (#PF) that the guest is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("page fault at {address:#x}, error code {error_code:#x}")]
pub struct PageFault {
    /// The linear address, for CR2.
    pub address: u64,
    /// The error code (SDM 3A 4.7 "Page-Fault Exceptions").
    pub error_code: u32,
}

/// Translates `linear` to where it lies in L2's memory and sets the accessed and dirty flags of the entries used, as the processor does (SDM 3A 4.8
/// "Accessed and Dirty Flags").
///
/// In 64-bit mode the caller has checked [`is_canonical`]; bits 63:48 are not looked at here.
///
/// # Errors
/// The [`PageFault`] that the processor would raise. No flag is set then.
pub fn translate(
    memory: &mut impl PhysicalMemory,
    state: &PagingState,
    linear: u64,
    kind: AccessKind,
) -> Result<GuestPhysical, PageFault> {
    let walk = walk::walk(memory, state, linear, kind)?;
    walk.set_flags(memory, linear)?;
    Ok(walk.address)
}

/// Like [`translate`], for `size` bytes in one page that have to be RAM; `None`, and no flag is set, if they are not.
///
/// # Errors
/// Those of [`translate`].
pub fn translate_to_ram(
    memory: &mut impl PhysicalMemory,
    state: &PagingState,
    linear: u64,
    size: usize,
    kind: AccessKind,
) -> Result<Option<GuestPhysical>, PageFault> {
    let walk = walk::walk(memory, state, linear, kind)?;
    if !memory.is_ram(walk.address, size) {
        return Ok(None);
    }
    walk.set_flags(memory, linear)?;
    Ok(Some(walk.address))
}

/// Like [`translate`], but sets no flags: for the check that comes before an access of several pages.
///
/// # Errors
/// Those of [`translate`].
pub fn check(
    memory: &mut impl PhysicalMemory,
    state: &PagingState,
    linear: u64,
    kind: AccessKind,
) -> Result<GuestPhysical, PageFault> {
    walk::walk(memory, state, linear, kind).map(|walk| walk.address)
}

/// Whether bits 63:47 are all equal, as 64-bit mode with 4-level paging demands (SDM 1 3.3.7.1 "Canonical Addressing").
#[must_use]
pub const fn is_canonical(linear: u64) -> bool {
    let high = linear >> 47;
    high == 0 || high == 0x1_ffff
}
