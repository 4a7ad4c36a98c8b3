//! EPT23: page tables from L3's physical addresses to L2's, here one address to one for the first 4 GiB.
//!
//! Source: SDM 3C 28.3.2 "EPT Translation Mechanism".

use super::region;

/// Data may be read.
pub const READ: u64 = 1 << 0;
/// Data may be written.
pub const WRITE: u64 = 1 << 1;
/// Instructions may be fetched.
pub const EXECUTE: u64 = 1 << 2;
/// All three.
pub const ALL: u64 = READ | WRITE | EXECUTE;
/// The entry maps a page and not a table.
pub const LARGE: u64 = 1 << 7;
/// The page, or something below the table, was accessed.
pub const ACCESSED: u64 = 1 << 8;
/// The page was written to.
pub const DIRTY: u64 = 1 << 9;
/// Memory type of a page: write-back.
pub const WRITE_BACK: u64 = 6 << 3;
/// EPT pointer: structures write-back, page-walk length 4 less 1.
pub const POINTER: u64 = 6 | 3 << 3;
/// EPT pointer: accessed and dirty flags.
pub const POINTER_ACCESSED_AND_DIRTY: u64 = 1 << 6;
/// Bits of an entry that are an address.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes of a page that an entry of a page directory maps.
pub const PAGE_2M: u64 = 2 << 20;

/// A tree of EPT structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ept {
    root: u64,
}

impl Ept {
    /// One address to one for the first 4 GiB, by 2-MByte pages.
    #[must_use]
    pub fn identity() -> Self {
        let tables = region::allocate(6);
        let table = |index: u64| tables + index * region::PAGE;
        region::write(table(0), table(1) | ALL);
        (0..4).for_each(|index| region::write(table(1) + index * 8, table(2 + index) | ALL));
        (0..4 * 512).for_each(|page| region::write(table(2) + page * 8, (page * PAGE_2M) | LARGE | WRITE_BACK | ALL));
        Self { root: tables }
    }

    /// The EPT pointer.
    #[must_use]
    pub fn pointer(self) -> u64 {
        self.root | POINTER
    }

    /// Where the entry that maps `address` is, at the level where its page is mapped; then the level: 1 for a page
    /// table, 2 for a page directory.
    #[must_use]
    pub fn entry(self, address: u64) -> (u64, u32) {
        let (mut table, mut level) = (self.root, 4);
        loop {
            let entry = table + (address >> (12 + 9 * (level - 1)) & 0x1ff) * 8;
            let value = region::read(entry);
            if level == 1 || level < 4 && value & LARGE != 0 {
                return (entry, level);
            }
            (table, level) = (value & ADDRESS, level - 1);
        }
    }

    /// Where the entry of `level` on the way to `address` is.
    #[must_use]
    pub fn entry_at(self, address: u64, level: u32) -> u64 {
        let mut table = self.root;
        for above in (level + 1..=4).rev() {
            table = region::read(table + (address >> (12 + 9 * (above - 1)) & 0x1ff) * 8) & ADDRESS;
        }
        table + (address >> (12 + 9 * (level - 1)) & 0x1ff) * 8
    }

    /// Maps the 2 MiB around `address` by 4-KByte pages, if they are not yet.
    pub fn split(self, address: u64) {
        let (entry, level) = self.entry(address);
        if level == 2 {
            let value = region::read(entry);
            let table = region::allocate(1);
            (0..512).for_each(|page| region::write(table + page * 8, (value & !LARGE) + page * region::PAGE));
            region::write(entry, table | ALL);
        }
    }

    /// Gives the page that `address` lies in another entry and returns the one it had.
    pub fn replace(self, address: u64, value: u64) -> u64 {
        let (entry, _) = self.entry(address);
        let before = region::read(entry);
        region::write(entry, value);
        before
    }
}
