//! The pages that EPT13 is made of.
//!
//! What always holds: the first [`ROOTS`] pages are the roots, one a slot, for good; any other page is free, never used, or on the
//! list of one root. So the pages of one root are given back in one step. A page that was given back may still be known to the
//! processor, which is told with an INVEPT before L3 runs again.

use thiserror::Error;

use super::entry::{ADDRESS, index};
use super::roots::ROOTS;

/// Pages beyond this number (8 MiB) are not used.
const MAXIMUM_TABLES: usize = 2048;
/// The least number of pages that a pool must have: the roots, and the tables below one of them for one address with a page-walk
/// length of 5.
pub const MINIMUM_TABLES: usize = ROOTS + 4;
/// End of a list.
const NONE: u16 = u16::MAX;
/// An entry of EPT13 that points to a table: the entry for the page alone decides.
const TABLE_BITS: u64 = 0b111;

/// There are less than [`MINIMUM_TABLES`] pages, or they don't lie at a page boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("nested EPT needs at least {MINIMUM_TABLES} pages for its tables, at a multiple of 4096")]
pub struct TooFewTables;

/// A list of pages that belong to one root.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageList {
    first: u16,
    last: u16,
}

impl PageList {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };
}

/// All pages are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted;

#[derive(Debug)]
pub(super) struct Pool<'p> {
    pages: &'p mut [[u64; 512]],
    /// Physical address of the first page.
    address: u64,
    /// The page that follows a page on its list.
    next: [u16; MAXIMUM_TABLES],
    free: PageList,
    /// Pages from here on were never used.
    untouched: usize,
}

impl<'p> Pool<'p> {
    /// A pool of `pages`, which lie at the physical `address`.
    pub(super) fn new(pages: &'p mut [[u64; 512]], address: u64) -> Result<Self, TooFewTables> {
        let size = pages.len().min(MAXIMUM_TABLES);
        let pages = pages.get_mut(..size).ok_or(TooFewTables)?;
        let end = address.checked_add(4096 * size as u64);
        if size < MINIMUM_TABLES || address & !ADDRESS != 0 || end.is_none_or(|end| end > 1 << 52) {
            return Err(TooFewTables);
        }
        for root in pages.iter_mut().take(ROOTS) {
            root.fill(0);
        }
        Ok(Self { pages, address, next: [NONE; MAXIMUM_TABLES], free: PageList::EMPTY, untouched: ROOTS })
    }

    /// Physical address of a page.
    pub(super) fn address_of(&self, page: usize) -> u64 {
        self.address + 4096 * page as u64
    }

    /// The entry of table `page` that translates `address` at `level`. 0 for a page that isn't there, which cannot be.
    pub(super) fn entry(&self, page: usize, address: u64, level: u32) -> u64 {
        self.pages.get(page).map_or(0, |table| table[index(address, level)])
    }

    /// Sets the entry of table `page` that translates `address` at `level`.
    pub(super) fn set_entry(&mut self, page: usize, address: u64, level: u32, entry: u64) {
        if let Some(table) = self.pages.get_mut(page) {
            table[index(address, level)] = entry;
        }
    }

    /// The page that an entry for a table points to.
    pub(super) fn table_of(&self, entry: u64) -> usize {
        ((entry & ADDRESS).wrapping_sub(self.address) / 4096) as usize
    }

    /// Takes a page, empties it, puts it on the root's list and gives its number and the entry that points to it.
    pub(super) fn take(&mut self, list: &mut PageList) -> Result<(usize, u64), Exhausted> {
        let page = match self.free.first {
            NONE if self.untouched >= self.pages.len() => return Err(Exhausted),
            NONE => {
                self.untouched += 1;
                self.untouched - 1
            }
            first => {
                let page = usize::from(first);
                self.free.first = self.next_of(page);
                page
            }
        };
        self.clear(page);
        self.set_next(page, list.first);
        list.first = page as u16;
        if list.last == NONE {
            list.last = page as u16;
        }
        Ok((page, self.address_of(page) | TABLE_BITS))
    }

    /// Gives back all pages of a root.
    pub(super) fn give_back(&mut self, list: &mut PageList) {
        if list.first != NONE {
            self.set_next(usize::from(list.last), self.free.first);
            self.free.first = list.first;
        }
        *list = PageList::EMPTY;
    }

    /// Empties a page.
    pub(super) fn clear(&mut self, page: usize) {
        if let Some(table) = self.pages.get_mut(page) {
            table.fill(0);
        }
    }

    fn next_of(&self, page: usize) -> u16 {
        self.next.get(page).copied().unwrap_or(NONE)
    }

    fn set_next(&mut self, page: usize, next: u16) {
        if let Some(slot) = self.next.get_mut(page) {
            *slot = next;
        }
    }
}
