//! Builds page tables: L1's own, and the EPT of L2. Both have four levels of 512 entries, bit 7 marks a large page in
//! both, and both use the largest page that fits.
//!
//! What always holds: an entry that is not asked for is zero (not present), and a mapping never replaces another.

use l1_protocol::memory_map::PAGE_SIZE;
use thiserror::Error;

/// Bit 7 of an entry that is not in the last level: it maps a page (SDM 3A 4.5, 3C 29.3.2).
const LARGE_PAGE: u64 = 1 << 7;
/// Bits of an entry that hold an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What the tables look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Bits of an entry that points to a table.
    pub table_bits: u64,
    /// Whether 1 GiB pages may be used.
    pub gigabyte_pages: bool,
    /// Whether 2 MiB pages may be used.
    pub large_pages: bool,
}

/// Why a mapping could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MapError {
    /// All pages for tables are used.
    #[error("no page left for a page table")]
    OutOfTables,
    /// Something is mapped there already.
    #[error("address {0:#x} is mapped twice")]
    Overlap(u64),
    /// An address or length is not a multiple of the page size.
    #[error("address {0:#x} or the length of its range is not a multiple of the page size")]
    Alignment(u64),
}

/// Builds tables in the pages it is given; the first is the root.
#[derive(Debug)]
pub struct TableBuilder<'a> {
    pages: &'a mut [[u64; 512]],
    address: u64,
    used: usize,
    format: Format,
}

impl<'a> TableBuilder<'a> {
    /// A builder with an empty root table. `address` is the physical address of the zeroed `pages`.
    ///
    /// # Errors
    /// [`MapError::OutOfTables`] if there is no page at all.
    pub fn new(pages: &'a mut [[u64; 512]], address: u64, format: Format) -> Result<Self, MapError> {
        if pages.is_empty() { Err(MapError::OutOfTables) } else { Ok(Self { pages, address, used: 1, format }) }
    }

    /// Maps `length` bytes from `from` to the physical address `to`, with `bits` in every last entry.
    ///
    /// # Errors
    /// [`MapError`]; part of the range may be mapped then.
    pub fn map(&mut self, from: u64, to: u64, length: u64, bits: u64) -> Result<(), MapError> {
        if !(from | to | length).is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Alignment(from));
        }
        let mut done = 0;
        while done < length {
            let (source, target, rest) = (from + done, to + done, length - done);
            let level = self.largest_level(source | target, rest);
            self.set_leaf(source, target, level, bits)?;
            done += page_size(level);
        }
        Ok(())
    }

    /// Level (1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB) of the largest page for addresses with these bits.
    fn largest_level(&self, addresses: u64, rest: u64) -> u32 {
        let fits = |level| addresses.is_multiple_of(page_size(level)) && rest >= page_size(level);
        match () {
            () if self.format.gigabyte_pages && fits(3) => 3,
            () if self.format.large_pages && fits(2) => 2,
            () => 1,
        }
    }

    fn set_leaf(&mut self, from: u64, to: u64, leaf_level: u32, bits: u64) -> Result<(), MapError> {
        let mut table = 0;
        for level in (leaf_level + 1..=4).rev() {
            table = self.next_table(table, index(from, level), from)?;
        }
        let entry = &mut self.pages[table][index(from, leaf_level)];
        if *entry != 0 {
            return Err(MapError::Overlap(from));
        }
        *entry = to | bits | if leaf_level > 1 { LARGE_PAGE } else { 0 };
        Ok(())
    }

    fn next_table(&mut self, table: usize, index: usize, from: u64) -> Result<usize, MapError> {
        let entry = self.pages[table][index];
        if entry & LARGE_PAGE != 0 {
            return Err(MapError::Overlap(from));
        }
        if entry != 0 {
            return Ok(((entry & ADDRESS) - self.address) as usize / PAGE_SIZE as usize);
        }
        let new = self.used;
        if new >= self.pages.len() {
            return Err(MapError::OutOfTables);
        }
        self.used += 1;
        self.pages[table][index] = (self.address + new as u64 * PAGE_SIZE) | self.format.table_bits;
        Ok(new)
    }
}

const fn page_size(level: u32) -> u64 {
    PAGE_SIZE << (9 * (level - 1))
}

const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * (level - 1))) as usize & 511
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    const BASE: u64 = 0x100_0000;
    const FORMAT: Format = Format { table_bits: 3, gigabyte_pages: true, large_pages: true };

    fn lookup(pages: &[[u64; 512]], address: u64) -> Option<u64> {
        let mut table = 0;
        for level in (1..=4).rev() {
            let entry = pages[table][index(address, level)];
            if entry == 0 {
                return None;
            }
            if level == 1 || entry & LARGE_PAGE != 0 {
                return Some((entry & ADDRESS) + address % page_size(level));
            }
            table = ((entry & ADDRESS) - BASE) as usize / 4096;
        }
        None
    }

    fn pages(count: usize) -> Vec<[u64; 512]> {
        vec![[0; 512]; count]
    }

    #[test]
    fn every_page_of_a_range_is_mapped_and_none_beside_it() {
        let mut pages = pages(16);
        let mut builder = TableBuilder::new(&mut pages, BASE, FORMAT).unwrap();
        builder.map(0x1f_f000, 0x5f_f000, 0x40_2000, 3).unwrap();
        for address in (0..0x80_0000).step_by(4096) {
            let expected = (0x1f_f000..0x60_1000).contains(&address).then_some(address + 0x40_0000);
            assert_eq!(lookup(&pages, address), expected, "{address:#x}");
        }
    }

    #[test]
    fn the_largest_page_is_used() {
        let mut pages = pages(4);
        let mut builder = TableBuilder::new(&mut pages, BASE, FORMAT).unwrap();
        builder.map(0, 1 << 30, 2 << 30, 3).unwrap();
        assert_eq!(builder.used, 2, "two 1 GiB pages need no page directory");
        builder.map(2 << 30, 0x20_0000, 0x20_0000, 3).unwrap();
        assert_eq!(builder.used, 3, "a 2 MiB page needs no last-level table");
    }

    #[test]
    fn errors() {
        let mut pages = pages(4);
        let mut builder = TableBuilder::new(&mut pages, BASE, FORMAT).unwrap();
        assert_eq!(builder.map(1, 0, 4096, 3), Err(MapError::Alignment(1)));
        builder.map(0, 0, 0x20_0000, 3).unwrap();
        assert_eq!(builder.map(0x1000, 0, 0x1000, 3), Err(MapError::Overlap(0x1000)));
        assert_eq!(builder.map(0x8000_0000, 0, 0x1000, 3), Err(MapError::OutOfTables));
        assert_eq!(TableBuilder::new(&mut [], BASE, FORMAT).err(), Some(MapError::OutOfTables));
    }
}
