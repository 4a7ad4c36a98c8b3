//! What a guest finds in memory when it does not start in real mode: a GDT and, in long mode, page tables.

use super::error::Offence;
use super::layout::Layout;
use l1_protocol::guest::{LOADER_GDT, LOADER_PAGE_TABLES};
use l1_protocol::memory_map::PAGE_SIZE;

/// Flat 32-bit code, readable, accessed. SDM 3A 3.4.5 "Segment Descriptors".
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
/// Flat 64-bit code, readable, accessed.
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
/// Flat data, writable, accessed.
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Present and writable, in entries of all paging structures. SDM 3A 4.5 "4-Level Paging and 5-Level Paging".
const PRESENT_WRITABLE: u64 = 0b11;
/// The entry of a page directory maps a page of 2 MiB.
const PAGE_SIZE_BIT: u64 = 1 << 7;
/// End of what the page tables map.
pub const MAPPED_END: u64 = 4 << 30;

/// Limit of the GDT that [`add_gdt`] adds.
pub const GDT_LIMIT: u64 = 4 * 8 - 1;

/// Adds the GDT at [`LOADER_GDT`]: code at selector 0x10 (64-bit if `long_mode`), data at 0x18.
pub fn add_gdt(layout: &mut Layout<'_>, long_mode: bool) -> Result<(), Offence> {
    let code = if long_mode { CODE_64 } else { CODE_32 };
    let entries: Vec<u8> = [0, 0, code, DATA].into_iter().flat_map(u64::to_le_bytes).collect();
    layout.add_all("the loader's GDT", LOADER_GDT, entries)
}

/// Adds page tables at [`LOADER_PAGE_TABLES`] that map the first 4 GiB one to one: a PML4, a PDPT and four page
/// directories of 2 MiB pages.
pub fn add_page_tables(layout: &mut Layout<'_>) -> Result<(), Offence> {
    let table = |index: u64| LOADER_PAGE_TABLES + index * PAGE_SIZE;
    let mut tables = vec![0; 6 * PAGE_SIZE as usize];
    let mut set = |address: u64, entry: u64| {
        let offset = (address - LOADER_PAGE_TABLES) as usize;
        tables[offset..offset + 8].copy_from_slice(&entry.to_le_bytes());
    };
    set(table(0), table(1) | PRESENT_WRITABLE);
    for directory in 0..4 {
        set(table(1) + 8 * directory, table(2 + directory) | PRESENT_WRITABLE);
    }
    // The four directories lie behind each other, so their entries are one array.
    for page in 0..4 * 512 {
        set(table(2) + 8 * page, (page << 21) | PRESENT_WRITABLE | PAGE_SIZE_BIT);
    }
    layout.add_all("the loader's page tables", LOADER_PAGE_TABLES, tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tables as the processor does. SDM 3A 4.5.4 "Linear-Address Translation with 4-Level Paging".
    fn translate(tables: &[u8], linear: u64) -> u64 {
        let entry = |table: u64, index: u64| {
            let offset = (table - LOADER_PAGE_TABLES + 8 * index) as usize;
            u64::from_le_bytes(tables[offset..offset + 8].try_into().expect("eight bytes"))
        };
        let mut table = LOADER_PAGE_TABLES;
        for shift in [39, 30] {
            let next = entry(table, linear >> shift & 511);
            assert_eq!(next & 0xfff, PRESENT_WRITABLE);
            table = next & !0xfff;
        }
        let page = entry(table, linear >> 21 & 511);
        assert_eq!(page & 0xfff, PRESENT_WRITABLE | PAGE_SIZE_BIT);
        (page & !0xfff) | (linear & 0x1f_ffff)
    }

    #[test]
    fn the_first_4_gib_are_mapped_one_to_one() {
        let mut layout = Layout::new(4 << 20);
        add_page_tables(&mut layout).expect("free");
        let segments = layout.into_segments().expect("one");
        for linear in [0, 0x1f_ffff, 0x20_0000, 0x1234_5678, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff] {
            assert_eq!(translate(&segments[0].bytes, linear), linear);
        }
    }

    /// Base, limit with granularity applied, type, and the flags S, P, L and D/B of a descriptor with DPL 0.
    /// SDM 3A 3.4.5 "Segment Descriptors", figure 3-8.
    fn decode(descriptor: u64) -> (u64, u64, u64, [bool; 4]) {
        let bit = |number: u32| descriptor >> number & 1 == 1;
        let base = (descriptor >> 16 & 0xff_ffff) | (descriptor >> 56) << 24;
        let limit = (descriptor & 0xffff) | (descriptor >> 48 & 0xf) << 16;
        let limit = if bit(55) { limit << 12 | 0xfff } else { limit };
        assert!(!bit(45) && !bit(46), "DPL 0");
        (base, limit, descriptor >> 40 & 0xf, [bit(44), bit(47), bit(53), bit(54)])
    }

    #[test]
    fn the_gdt_has_code_at_0x10_and_data_at_0x18() {
        for long_mode in [false, true] {
            let mut layout = Layout::new(4 << 20);
            add_gdt(&mut layout, long_mode).expect("free");
            let bytes = &layout.into_segments().expect("one")[0].bytes;
            assert_eq!(bytes.len() as u64, GDT_LIMIT + 1);
            let entry = |selector: usize| u64::from_le_bytes(bytes[selector..selector + 8].try_into().expect("eight bytes"));
            assert_eq!(entry(0), 0);
            assert_eq!(decode(entry(0x10)), (0, 0xffff_ffff, 0b1011, [true, true, long_mode, !long_mode]));
            assert_eq!(decode(entry(0x18)), (0, 0xffff_ffff, 0b0011, [true, true, false, true]));
        }
    }
}
