//! L2's memory as the composition of EPT sees it.

use l1_protocol::memory_map::{GUEST_HOLE_END, GUEST_HOLE_START};
use shadow::ept::{MemoryType, Outer, OuterMemory, Permissions};
use vmcs::capability::EptVpid;

use crate::guest_memory::{GuestMemory, GuestPhysical};

const LARGE_PAGE: u64 = 2 << 20;
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
        let large = address & !(LARGE_PAGE - 1);
        let beside_hole = large >= GUEST_HOLE_END || large + LARGE_PAGE <= GUEST_HOLE_START;
        let whole = beside_hole && self.memory.is_ram(GuestPhysical(large), LARGE_PAGE as usize);
        Some(Outer {
            address: self.base + address,
            block_size: if whole { LARGE_PAGE } else { SMALL_PAGE },
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
