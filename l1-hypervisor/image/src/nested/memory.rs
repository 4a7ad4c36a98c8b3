//! L2's memory as the composition of EPT sees it.

use l1_protocol::memory_map::{GUEST_HOLE_END, GUEST_HOLE_START};
use shadow::ept::{MemoryType, Outer, OuterMemory, Permissions};
use vmcs::capability::EptVpid;

use crate::guest_memory::{GuestMemory, GuestPhysical};

/// Sizes of pages, the largest first.
const LARGE_PAGES: [u64; 2] = [1 << 30, 2 << 20];
const SMALL_PAGE: u64 = 4096;

/// L2's memory, and where it begins in the machine's.
#[derive(Debug)]
pub struct Outside<'a, 'm> {
    /// The memory.
    pub memory: &'a mut GuestMemory<'m>,
    /// Physical address of its first byte.
    pub base: u64,
}

impl OuterMemory for Outside<'_, '_> {
    fn read_u64(&mut self, address: u64) -> Option<u64> {
        let address = GuestPhysical(address);
        self.memory.is_ram(address, 8).then(|| self.memory.read_u64(address))
    }

    fn set_bits(&mut self, address: u64, bits: u64) {
        let address = GuestPhysical(address);
        let value = self.memory.read_u64(address);
        self.memory.write(address, &(value | bits).to_le_bytes());
    }

    /// EPT12 maps RAM one to one from `base` on, with every permission and write-back (see [`crate::ept`]).
    fn translate(&mut self, address: u64) -> Option<Outer> {
        let page = address & !(SMALL_PAGE - 1);
        if !self.memory.is_ram(GuestPhysical(page), SMALL_PAGE as usize) {
            return None;
        }
        let is_whole = |size: &u64| {
            let start = address & !(size - 1);
            let beside_hole = start >= GUEST_HOLE_END || start + size <= GUEST_HOLE_START;
            beside_hole && self.memory.is_ram(GuestPhysical(start), *size as usize)
        };
        let block_size = LARGE_PAGES.into_iter().find(is_whole).unwrap_or(SMALL_PAGE);
        Some(Outer {
            address: self.base + address,
            block_size,
            permissions: Permissions::all(),
            memory_type: MemoryType::WriteBack,
        })
    }
}

/// Whether VM entry would take this EPT pointer (SDM 3C 26.2.1.1 "VM-Execution Control Fields"), which INVEPT asks, too.
#[must_use]
pub fn is_ept_pointer(pointer: u64, offered: EptVpid, physical_address_width: u32) -> bool {
    let memory_type = match pointer & 7 {
        0 => offered.contains(EptVpid::MEMORY_TYPE_UNCACHEABLE),
        6 => offered.contains(EptVpid::MEMORY_TYPE_WRITE_BACK),
        _ => false,
    };
    let length = match pointer >> 3 & 7 {
        3 => offered.contains(EptVpid::PAGE_WALK_LENGTH_4),
        4 => offered.contains(EptVpid::PAGE_WALK_LENGTH_5),
        _ => false,
    };
    let flags = pointer & 1 << 6 == 0 || offered.contains(EptVpid::ACCESSED_AND_DIRTY_FLAGS);
    memory_type && length && flags && pointer & 0xf80 == 0 && pointer >> physical_address_width == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_large_as_the_memory_around_an_address() {
        const GIB: u64 = 1 << 30;
        const MIB: u64 = 1 << 20;
        // Nobody touches it, so most of it never exists.
        let mut ram = vec![0; (2 * GIB + 6 * MIB) as usize];
        let mut memory = GuestMemory::new(&mut ram);
        let mut outside = Outside { memory: &mut memory, base: GIB };
        let rows = [
            (0, Some(SMALL_PAGE)),
            (MIB + 0x1234, Some(SMALL_PAGE)),
            (2 * MIB, Some(2 * MIB)),
            (GIB - 1, Some(2 * MIB)),
            (GIB, Some(GIB)),
            (2 * GIB - 1, Some(GIB)),
            (2 * GIB, Some(2 * MIB)),
            (2 * GIB + 6 * MIB - 1, Some(2 * MIB)),
            (2 * GIB + 6 * MIB, None),
            (GUEST_HOLE_START, None),
            (u64::MAX, None),
        ];
        for (address, size) in rows {
            let outer = outside.translate(address);
            assert_eq!(outer.map(|outer| outer.block_size), size, "{address:#x}");
            assert!(outer.is_none_or(|outer| outer.address == GIB + address));
        }
    }
}
