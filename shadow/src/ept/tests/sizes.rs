//! Every combination of page sizes, and memory types.

use super::*;

/// Size of the page in EPT13 for a page of EPT23 at `level`, with blocks of EPT12 and this offset in the machine.
fn size_with(level: u32, largest_block: u64, offset: u64, own: EptVpid) -> u64 {
    let region = Region { largest_block, ..Region::new(GIB, 2 * GIB, 8 * GIB + offset) };
    let mut memory = Memory::new(&[Region::new(0, MIB, 0), region]);
    memory.map(EPTP23, 4 * GIB, level, GIB | PAGE | if level > 1 { LARGE_PAGE } else { 0 });
    let mut pages = pool(16);
    let mut composition = Composition::new(&mut pages, POOL, own, rules()).expect("large enough");
    let address = 4 * GIB + 0xabc;
    let outcome = composition.fault(&mut memory, EPTP23, Access::new(address, READ | FINAL));
    let found = mapped(&mut composition, EPTP23, address).expect("filled");
    assert_eq!(found.address, 8 * GIB + offset + 0xabc);
    assert_eq!(outcome, Outcome::Filled { page_size: found.page_size, newly_dirty: false });
    found.page_size
}

#[test]
fn a_page_is_as_small_as_the_smallest() {
    let blocks = [(1, 4 * KIB), (2, 2 * MIB), (3, GIB)];
    for (level, inner) in blocks {
        for (_, outer) in blocks {
            for (offset, aligned) in [(0, GIB), (2 * MIB, 2 * MIB), (MIB, 4 * KIB), (4 * KIB, 4 * KIB)] {
                for (own, largest) in [
                    (OFFERED, GIB),
                    (OFFERED - EptVpid::PAGES_1_GBYTE, 2 * MIB),
                    (OFFERED - EptVpid::PAGES_1_GBYTE - EptVpid::PAGES_2_MBYTE, 4 * KIB),
                ] {
                    let expected = [inner, outer, aligned, largest].into_iter().min();
                    let size = size_with(level, outer, offset, own);
                    assert_eq!(Some(size), expected, "{inner:#x} in {outer:#x}, {offset:#x} off, {own:?}");
                }
            }
        }
    }
}

#[test]
fn a_large_page_gets_smaller_and_the_rest_of_it_goes() {
    let mut memory = Memory::usual();
    memory.map(EPTP23, 0, 2, (16 * MIB) | PAGE | LARGE_PAGE);
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    let read = |address| Access::new(address, READ | FINAL);
    assert_eq!(composition.fault(&mut memory, EPTP23, read(0)), Outcome::Filled { page_size: 2 * MIB, newly_dirty: false });
    // L2 splits the page, and a violation comes before its INVEPT.
    memory.map(EPTP23, 0, 2, 0);
    memory.map(EPTP23, 0x3000, 1, (64 * MIB) | PAGE);
    assert_eq!(composition.fault(&mut memory, EPTP23, read(0x3000)), Outcome::Filled { page_size: 4096, newly_dirty: false });
    let found = mapped(&mut composition, EPTP23, 0x3000).expect("filled");
    assert_eq!((found.address, found.page_size), (5 * GIB + 64 * MIB, 4096));
    assert_eq!(mapped(&mut composition, EPTP23, 0), None);
}

#[test]
fn the_parts_of_a_large_page_have_no_neighbours_in_ept23() {
    let mut memory = Memory::usual();
    memory.regions[1].largest_block = 4 * KIB;
    memory.map(EPTP23, 0, 2, (16 * MIB) | PAGE | LARGE_PAGE);
    memory.map(EPTP23, 2 * MIB, 2, (32 * MIB) | PAGE | LARGE_PAGE);
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    composition.fault(&mut memory, EPTP23, Access::new(0, READ | FINAL));
    assert!(mapped(&mut composition, EPTP23, 0).is_some());
    assert_eq!(mapped(&mut composition, EPTP23, 0x1000), None);
}

#[test]
fn small_pages_get_large_only_after_an_invept() {
    let mut memory = Memory::usual();
    memory.map(EPTP23, 0, 1, (16 * MIB) | PAGE);
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    let read = |address| Access::new(address, READ | FINAL);
    let filled = |page_size| Outcome::Filled { page_size, newly_dirty: false };
    assert_eq!(composition.fault(&mut memory, EPTP23, read(0)), filled(4096));
    memory.map(EPTP23, 0, 2, (32 * MIB) | PAGE | LARGE_PAGE);
    assert_eq!(composition.fault(&mut memory, EPTP23, read(0x5000)), filled(4096));
    assert_eq!(mapped(&mut composition, EPTP23, 0x5000).expect("filled").address, 5 * GIB + 32 * MIB + 0x5000);
    assert_eq!(mapped(&mut composition, EPTP23, 0).expect("cached").address, 5 * GIB + 16 * MIB);
    composition.invalidate_all();
    assert_eq!(composition.fault(&mut memory, EPTP23, read(0)), filled(2 * MIB));
}

#[test]
fn the_memory_type_is_that_of_ept12() {
    use MemoryType::{Uncacheable, WriteBack, WriteCombining, WriteProtected, WriteThrough};
    for (outer, number) in [(Uncacheable, 0), (WriteCombining, 1), (WriteThrough, 4), (WriteProtected, 5), (WriteBack, 6)] {
        for inner in [0, 1, 4, 5, 6] {
            let region = Region { memory_type: outer, ..Region::new(16 * MIB, 16 * MIB, GIB) };
            let mut memory = Memory::new(&[Region::new(0, MIB, 0), region]);
            memory.map(EPTP23, 0, 1, (16 * MIB) | ALL | inner << 3);
            let mut pages = pool(16);
            let mut composition = composition(&mut pages);
            composition.fault(&mut memory, EPTP23, Access::new(0, READ));
            assert_eq!(mapped(&mut composition, EPTP23, 0).expect("filled").memory_type, number);
        }
    }
}

#[test]
fn the_neighbours_of_a_small_page_come_along_as_far_as_they_may_be_cached() {
    let mut memory = Memory::usual();
    let entries = [
        (16 * MIB) | PAGE,
        (17 * MIB) | PAGE | ACCESSED,
        (18 * MIB) | PAGE | ACCESSED | DIRTY,
        0,
        (19 * MIB) | (6 << 3) | 0b110 | ACCESSED,
        // No RAM.
        0xa_0000 | PAGE | ACCESSED,
        (20 * MIB) | (6 << 3) | READ | ACCESSED | DIRTY,
        (21 * MIB) | PAGE,
        // Not of this cache line.
        (22 * MIB) | PAGE | ACCESSED,
    ];
    for (page, entry) in (0..).zip(entries) {
        memory.map(EPTP23, 4096 * page, 1, entry);
    }
    let before = memory.words.clone();
    let permissions = |eptp23| {
        let mut memory = memory.clone();
        let mut pages = pool(16);
        let mut composition = composition(&mut pages);
        composition.fault(&mut memory, eptp23, Access::new(7 * 4096, READ | FINAL));
        let mapped = (0..9).map(|page| mapped(&mut composition, eptp23, 4096 * page).map_or(0, |found| found.permissions));
        (mapped.collect::<Vec<_>>(), memory.words)
    };
    assert_eq!(permissions(EPTP23), (vec![7, 7, 7, 0, 0, 0, 1, 7, 0], before));
    let (with_flags, after) = permissions(EPTP23_FLAGS);
    assert_eq!(with_flags, [0, 5, 7, 0, 0, 0, 1, 5, 0]);
    let last_table = memory.map(EPTP23, 0, 1, 0);
    for page in 0..7 {
        assert_eq!(after[&(last_table + 8 * page)], entries[page as usize], "no flag is set on the neighbours");
    }
}
