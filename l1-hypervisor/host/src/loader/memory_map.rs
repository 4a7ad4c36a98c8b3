//! The memory map that guests are told of, as a PC's BIOS would (INT 15h, AX=E820h).

use super::layout::{EXTENDED_MEMORY, LOW_MEMORY_END};
use l1_protocol::memory_map::{GUEST_ACPI_TABLES, GUEST_HOLE_START};
use std::ops::Range;

/// Type of a range that the guest may use, in E820 and in Multiboot.
const USABLE: u32 = 1;
/// Type of a range that the guest must leave alone.
const RESERVED: u32 = 2;

/// A range of the guest's memory and its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRange {
    /// Physical addresses.
    pub range: Range<u64>,
    /// Type as in E820: 1 is usable, 2 is reserved.
    pub kind: u32,
}

/// The map of a guest with `memory` bytes. The ACPI tables that L1 writes are reserved, not reclaimable: their size is
/// L1's affair.
pub fn memory_map(memory: u64) -> Vec<MemoryRange> {
    let ranges = [
        (0..LOW_MEMORY_END, USABLE),
        (LOW_MEMORY_END..GUEST_HOLE_START, RESERVED),
        (GUEST_ACPI_TABLES..EXTENDED_MEMORY, RESERVED),
        (EXTENDED_MEMORY..memory, USABLE),
    ];
    ranges.into_iter().filter(|(range, _)| !range.is_empty()).map(|(range, kind)| MemoryRange { range, kind }).collect()
}
