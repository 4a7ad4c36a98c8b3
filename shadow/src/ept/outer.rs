//! L2's physical memory and EPT12, as far as the composition needs them.

use super::access::Permissions;

/// L2's physical address space, as EPT12 defines it.
pub trait OuterMemory {
    /// Reads 8 bytes at an address of L2 that is a multiple of 8; `None` where L2 has no RAM.
    fn read_u64(&mut self, address: u64) -> Option<u64>;

    /// Sets `bits` in the 8 bytes at `address`, which `read_u64` could read: reads them again, ORs and writes, so that nothing that L2
    /// or a device wrote in between is lost.
    fn set_bits(&mut self, address: u64, bits: u64);

    /// How EPT12 maps an address of L2; `None` where it maps nothing.
    fn translate(&mut self, address: u64) -> Option<Outer>;
}

/// How EPT12 maps one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// The machine's physical address of what was asked for, of any alignment.
    pub address: u64,
    /// Size in bytes, a power of 2 from 4096: the naturally aligned block of this size around L2's address is mapped contiguously,
    /// with these permissions and this memory type throughout. How the machine's address is aligned doesn't matter.
    pub block_size: u64,
    /// The permissions, ANDed over all levels of EPT12.
    pub permissions: Permissions,
    /// The memory type of the last entry.
    pub memory_type: MemoryType,
}

/// EPT memory types, SDM 3C 28.3.7.2 "Memory Type Used for Translated Guest-Physical Addresses". The others are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemoryType {
    /// UC.
    Uncacheable = 0,
    /// WC.
    WriteCombining = 1,
    /// WT.
    WriteThrough = 4,
    /// WP.
    WriteProtected = 5,
    /// WB.
    WriteBack = 6,
}
