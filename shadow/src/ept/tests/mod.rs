//! Tests of nested EPT, over a memory of L2 and a walker of EPT13 that reads as the processor does.

mod accesses;
mod composition;
mod entries;
mod flags;
mod model;
mod properties;
mod sizes;

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use vmcs::capability::EptVpid;
use vmcs::qualification::EptViolation;

use super::entry::{ACCESSED, ADDRESS, DIRTY, LARGE_PAGE, index, levels, page_size};
use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const READ: u64 = EptViolation::READ;
const WRITE: u64 = EptViolation::WRITE;
const FETCH: u64 = EptViolation::FETCH;
/// An access to what a linear address is translated to.
const FINAL: u64 = EptViolation::LINEAR_ADDRESS_VALID | EptViolation::FINAL_TRANSLATION;
/// An access to a paging-structure entry of L3.
const OF_PAGING: u64 = EptViolation::LINEAR_ADDRESS_VALID;

/// Entry bits: all permissions, and memory type write-back.
const ALL: u64 = 0b111;
const PAGE: u64 = ALL | 6 << 3;

/// L2's physical-address width in these tests.
const WIDTH: u32 = 40;
/// EPTP23: write-back, page-walk length 4, root at 64 KBytes.
const EPTP23: u64 = (64 * KIB) | (3 << 3) | 6;
/// With accessed and dirty flags.
const EPTP23_FLAGS: u64 = EPTP23 | 1 << 6;
/// Where the tables of EPT13 lie.
const POOL: u64 = 0x7f_f000_0000;

/// Everything that EPT23 may use, except a page-walk length of 5.
const OFFERED: EptVpid = EptVpid::EXECUTE_ONLY_TRANSLATIONS
    .union(EptVpid::PAGE_WALK_LENGTH_4)
    .union(EptVpid::MEMORY_TYPE_WRITE_BACK)
    .union(EptVpid::PAGES_2_MBYTE)
    .union(EptVpid::PAGES_1_GBYTE)
    .union(EptVpid::ACCESSED_AND_DIRTY_FLAGS);

fn rules() -> Rules {
    Rules::new(OFFERED, WIDTH)
}

fn pool(tables: usize) -> Vec<[u64; 512]> {
    // What is not 0 was not prepared.
    vec![[u64::MAX; 512]; tables]
}

fn composition(pages: &mut [[u64; 512]]) -> Composition<'_> {
    Composition::new(pages, POOL, OFFERED, rules()).expect("the pool is large enough")
}

/// A part of L2's RAM that is contiguous in the machine's.
#[derive(Debug, Clone)]
struct Region {
    start: u64,
    size: u64,
    host: u64,
    permissions: Permissions,
    largest_block: u64,
    memory_type: MemoryType,
}

impl Region {
    const fn new(start: u64, size: u64, host: u64) -> Self {
        Self { start, size, host, permissions: Permissions::all(), largest_block: GIB, memory_type: MemoryType::WriteBack }
    }
}

/// L2's RAM, whose words are 0 until they are written, and how EPT12 maps it.
#[derive(Debug, Clone)]
struct Memory {
    regions: Vec<Region>,
    words: BTreeMap<u64, u64>,
    next_table: u64,
    reads: usize,
}

impl Memory {
    fn new(regions: &[Region]) -> Self {
        Self { regions: regions.to_vec(), words: BTreeMap::new(), next_table: 128 * KIB, reads: 0 }
    }

    /// 640 KBytes, and from 1 MByte to 4 GBytes; in the machine 5 GBytes higher.
    fn usual() -> Self {
        Self::new(&[Region::new(0, 640 * KIB, 5 * GIB), Region::new(MIB, 4 * GIB - MIB, 5 * GIB + MIB)])
    }

    fn region(&self, address: u64) -> Option<&Region> {
        self.regions.iter().find(|region| address >= region.start && address - region.start < region.size)
    }

    fn word(&self, address: u64) -> u64 {
        self.words.get(&address).copied().unwrap_or(0)
    }

    /// Sets the entry of EPT23 for `l3` at `level`, and adds the tables on the way as far as they are missing. Gives its address.
    fn map(&mut self, eptp23: u64, l3: u64, level: u32, entry: u64) -> u64 {
        let mut table = eptp23 & ADDRESS;
        for level in (level + 1..=levels(eptp23)).rev() {
            let slot = table + 8 * index(l3, level) as u64;
            if self.word(slot) == 0 {
                self.words.insert(slot, self.next_table | ALL);
                self.next_table += 4096;
            }
            table = self.word(slot) & ADDRESS;
        }
        let slot = table + 8 * index(l3, level) as u64;
        self.words.insert(slot, entry);
        slot
    }
}

impl OuterMemory for Memory {
    fn read_u64(&mut self, address: u64) -> Option<u64> {
        assert_eq!(address % 8, 0, "only aligned addresses are read");
        self.reads += 1;
        self.region(address)?;
        Some(self.word(address))
    }

    fn set_bits(&mut self, address: u64, bits: u64) {
        assert!(self.region(address).is_some(), "only RAM is written");
        *self.words.entry(address).or_default() |= bits;
    }

    fn translate(&mut self, address: u64) -> Option<Outer> {
        let region = self.region(address)?;
        let fits = |size: u64| {
            let start = address & !(size - 1);
            size <= region.largest_block && start >= region.start && start + size <= region.start + region.size
        };
        Some(Outer {
            address: region.host + (address - region.start),
            block_size: [GIB, 2 * MIB].into_iter().find(|size| fits(*size)).unwrap_or(4 * KIB),
            permissions: region.permissions,
            memory_type: region.memory_type,
        })
    }
}

/// What the processor makes of an address with EPT13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapped {
    address: u64,
    page_size: u64,
    permissions: u64,
    memory_type: u64,
}

/// Walks EPT13. Whatever the processor would find misconfigured is a bug of L1.
fn processor_walk(composition: &Composition<'_>, eptp13: u64, l3: u64) -> Option<Mapped> {
    let mut table = eptp13 & ADDRESS;
    let mut permissions = ALL;
    for level in (1..=levels(eptp13)).rev() {
        assert!(table >= POOL, "tables lie in the pool");
        let entry = composition.entry(table, l3, level);
        if entry & ALL == 0 {
            assert_eq!(entry, 0);
            return None;
        }
        permissions &= entry;
        assert_ne!(entry & 3, 2, "writable and not readable");
        if level == 1 || entry & LARGE_PAGE != 0 {
            let size = page_size(level);
            let page = entry & ADDRESS;
            assert!(level <= 3 && page.is_multiple_of(size) && page < POOL, "{entry:#x} at level {level}");
            let memory_type = entry >> 3 & 7;
            return Some(Mapped { address: page + l3 % size, page_size: size, permissions, memory_type });
        }
        assert_eq!(entry & 0x78, 0, "reserved bits of an entry for a table");
        table = entry & ADDRESS;
    }
    None
}

/// What the processor makes of an address with the EPT13 for `eptp23`.
fn mapped(composition: &mut Composition<'_>, eptp23: u64, l3: u64) -> Option<Mapped> {
    let eptp13 = composition.pointer(eptp23);
    processor_walk(composition, eptp13, l3)
}
