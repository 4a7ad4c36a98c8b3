//! EPT12: what L2's physical addresses mean.
//!
//! What always holds: only L2's own memory is mapped, with the largest pages; everything else is an EPT violation.

use l1_protocol::boot::BootInformation;
use l1_protocol::memory_map::{GUEST_HOLE_END, GUEST_HOLE_START};
use vmcs::capability::{Capabilities, EptVpid};

use crate::page_table::{Format, MapError, TableBuilder};

/// Read, write and execute (SDM 3C 29.3.2 "EPT Translation Mechanism").
const ALL_ACCESS: u64 = 0b111;
/// Memory type of a last entry: write-back (6), in bits 5:3.
const WRITE_BACK: u64 = 6 << 3;
/// EPTP: structures in write-back memory (bits 2:0), page-walk length 4 (bits 5:3 hold the length less one).
const POINTER_BITS: u64 = 6 | 3 << 3;

/// Pages that the tables of the largest guest need: root, PDPT, three page directories, and last-level tables for the
/// 2 MiB around the hole.
pub const TABLES: usize = 8;

/// Builds the tables in `pages`, whose physical address is `address`, and returns the EPT pointer.
///
/// # Errors
/// [`MapError`], if the layout is not what this code was written for.
pub fn build(
    pages: &mut [[u64; 512]],
    address: u64,
    capabilities: &Capabilities,
    information: &BootInformation,
) -> Result<u64, MapError> {
    let offered = capabilities.ept_vpid();
    let format = Format {
        table_bits: ALL_ACCESS,
        gigabyte_pages: offered.contains(EptVpid::PAGES_1_GBYTE),
        large_pages: offered.contains(EptVpid::PAGES_2_MBYTE),
    };
    let mut builder = TableBuilder::new(pages, address, format)?;
    let base = information.guest_memory_base;
    let bits = ALL_ACCESS | WRITE_BACK;
    builder.map(0, base, GUEST_HOLE_START, bits)?;
    builder.map(GUEST_HOLE_END, base + GUEST_HOLE_END, information.guest_memory_size - GUEST_HOLE_END, bits)?;
    Ok(address | POINTER_BITS)
}
