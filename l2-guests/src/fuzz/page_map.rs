//! Trees of tables with four levels, for EPT and for L3's own paging, that are built anew for every program.

use crate::vmx::region::{self, PAGE};

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 7;

/// A tree. Its tables come from a fixed number of pages.
#[derive(Debug, Clone, Copy)]
pub struct PageMap {
    tables: u64,
    count: u64,
    used: u64,
    /// Flags of an entry that refers to a table.
    table_flags: u64,
}

impl PageMap {
    /// An empty tree that may have `count` tables.
    #[must_use]
    pub fn new(count: usize, table_flags: u64) -> Self {
        Self { tables: region::allocate(count), count: count as u64, used: 1, table_flags }
    }

    /// Physical address of the top table.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.tables
    }

    /// Forgets all mappings.
    pub fn clear(&mut self) {
        region::fill(self.tables, self.used, 0);
        self.used = 1;
    }

    /// Maps one page.
    ///
    /// # Panics
    /// If there is no page left for a table.
    pub fn map(&mut self, from: u64, to: u64, flags: u64) {
        let mut table = self.tables;
        for level in (1..=3).rev() {
            let entry = table + index(from, level) * 8;
            if region::read(entry) & PRESENT == 0 {
                assert!(self.used < self.count, "no page is left for a table");
                region::write(entry, (self.tables + self.used * PAGE) | self.table_flags);
                self.used += 1;
            }
            table = region::read(entry) & ADDRESS;
        }
        region::write(table + index(from, 0) * 8, to | flags);
    }

    /// Where the entry of `level` (0 a page, 3 the top) on the way to `from` is. The tables above must be as `map` made
    /// them.
    #[must_use]
    pub fn entry(&self, from: u64, level: u32) -> u64 {
        let mut table = self.tables;
        for above in (level + 1..=3).rev() {
            table = region::read(table + index(from, above) * 8) & ADDRESS;
        }
        table + index(from, level) * 8
    }
}

fn index(address: u64, level: u32) -> u64 {
    address >> (12 + 9 * level) & 0x1ff
}
