//! Roots, invalidation, and the pool's end.

use super::*;

const FILLED: Outcome = Outcome::Filled { page_size: 4096, newly_dirty: false };

fn read(address: u64) -> Access {
    Access::new(address, READ | FINAL)
}

/// EPTP23 number `number`, with a root of its own that maps address 0 to a page of its own.
fn several(memory: &mut Memory, number: u64) -> u64 {
    let eptp23 = ((32 + 4 * number) * KIB) | (3 << 3) | 6;
    memory.next_table = (200 + 16 * number) * KIB;
    memory.map(eptp23, 0, 1, ((16 + number) * MIB) | PAGE);
    eptp23
}

fn machine_address(number: u64) -> u64 {
    5 * GIB + (16 + number) * MIB
}

#[test]
fn a_pool_that_is_too_small_or_misplaced_is_refused() {
    let mut pages = pool(MINIMUM_TABLES);
    assert!(Composition::new(&mut pages, POOL, OFFERED, rules()).is_ok());
    assert_eq!(Composition::new(&mut pages[1..], POOL, OFFERED, rules()).err(), Some(TooFewTables));
    for address in [POOL + 8, 1 << 52, u64::MAX - 0xfff, (1 << 52) - 4096] {
        assert_eq!(Composition::new(&mut pages, address, OFFERED, rules()).err(), Some(TooFewTables), "{address:#x}");
    }
}

#[test]
fn what_means_the_same_shares_a_root() {
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    let eptp13 = composition.pointer(EPTP23);
    assert_eq!(composition.pointer(EPTP23 & !7), eptp13, "the memory type of the structures");
    assert_ne!(composition.pointer(EPTP23_FLAGS) & ADDRESS, eptp13 & ADDRESS);
    assert_ne!(composition.pointer(EPTP23 + 4096) & ADDRESS, eptp13 & ADDRESS);
    let five_levels = composition.pointer(EPTP23 & !0x38 | 4 << 3);
    assert_ne!(five_levels & ADDRESS, eptp13 & ADDRESS);
    assert_eq!(five_levels & 0x38, 4 << 3);
    assert_eq!(composition.pointer(EPTP23), eptp13);
    assert!(!composition.take_flush());
}

#[test]
fn the_structures_are_uncacheable_where_the_processor_has_nothing_else() {
    let mut pages = pool(16);
    let own = (OFFERED - EptVpid::MEMORY_TYPE_WRITE_BACK) | EptVpid::MEMORY_TYPE_UNCACHEABLE;
    let mut composition = Composition::new(&mut pages, POOL, own, rules()).expect("large enough");
    assert_eq!(composition.pointer(EPTP23) & 0xfff, 0x18);
}

#[test]
fn several_roots_do_not_mix() {
    let mut memory = Memory::usual();
    let mut pages = pool(64);
    let mut composition = composition(&mut pages);
    let all: Vec<u64> = (0..ROOTS as u64).map(|number| several(&mut memory, number)).collect();
    for eptp23 in &all {
        assert_eq!(composition.fault(&mut memory, *eptp23, read(0)), FILLED);
    }
    assert!(!composition.take_flush());
    for (number, eptp23) in (0..).zip(&all) {
        assert_eq!(mapped(&mut composition, *eptp23, 0).expect("filled").address, machine_address(number));
    }
    // A single-context INVEPT is for one of them.
    composition.invalidate_single(all[3]);
    assert!(composition.take_flush());
    for (number, eptp23) in (0..).zip(&all) {
        assert_eq!(mapped(&mut composition, *eptp23, 0).is_some(), number != 3);
    }
    composition.invalidate_all();
    assert!(composition.take_flush());
    for eptp23 in &all {
        assert_eq!(mapped(&mut composition, *eptp23, 0), None);
    }
    assert!(!composition.take_flush(), "the answer is given once");
}

#[test]
fn a_single_context_invept_goes_by_the_root_address_alone() {
    let mut memory = Memory::usual();
    memory.map(EPTP23, 0, 1, (16 * MIB) | PAGE);
    let mut pages = pool(32);
    let mut composition = composition(&mut pages);
    composition.fault(&mut memory, EPTP23, read(0));
    composition.fault(&mut memory, EPTP23_FLAGS, read(0));
    composition.invalidate_single(EPTP23);
    for eptp23 in [EPTP23, EPTP23_FLAGS] {
        assert_eq!(mapped(&mut composition, eptp23, 0), None);
    }
}

#[test]
fn what_is_empty_needs_no_flush() {
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    composition.pointer(EPTP23);
    composition.invalidate_all();
    composition.invalidate_single(EPTP23);
    composition.invalidate_single(EPTP23 + 4096);
    assert!(!composition.take_flush());
}

#[test]
fn after_a_violation_l2_may_map_another_page_without_invept() {
    for level in 1..=3 {
        let mut memory = Memory::usual();
        let large = if level > 1 { LARGE_PAGE } else { 0 };
        let page = |number, permissions| (number * GIB) | (6 << 3) | large | permissions;
        memory.map(EPTP23, 0, level, page(1, READ));
        let mut pages = pool(16);
        let mut composition = composition(&mut pages);
        composition.fault(&mut memory, EPTP23, read(0));
        assert_eq!(mapped(&mut composition, EPTP23, 0).expect("filled").address, 6 * GIB);
        let write = Access::new(0, WRITE | FINAL);
        let qualification = WRITE | FINAL | READ << 3;
        assert_eq!(composition.fault(&mut memory, EPTP23, write), Outcome::L2(Fault::Violation { qualification }));
        memory.map(EPTP23, 0, level, page(2, READ | WRITE));
        assert_eq!(mapped(&mut composition, EPTP23, 0), None, "a read must not see the old page");
        composition.fault(&mut memory, EPTP23, read(0));
        assert_eq!(mapped(&mut composition, EPTP23, 0).expect("filled").address, 7 * GIB);
        assert!(!composition.take_flush(), "the violation has told the processor");
    }
}

#[test]
fn the_root_used_longest_ago_makes_room() {
    let mut memory = Memory::usual();
    let mut pages = pool(64);
    let mut composition = composition(&mut pages);
    let all: Vec<u64> = (0..=ROOTS as u64).map(|number| several(&mut memory, number)).collect();
    for eptp23 in &all[..ROOTS] {
        composition.fault(&mut memory, *eptp23, read(0));
    }
    composition.pointer(all[0]);
    let given_up = composition.pointer(all[1]);
    for eptp23 in [0, 2, 3, 4, 5, 6, 7] {
        composition.pointer(all[eptp23]);
    }
    assert!(!composition.take_flush());
    let new = composition.pointer(all[ROOTS]);
    assert!(composition.take_flush(), "the processor knows translations of the old root by the same address");
    assert_eq!(new, given_up);
    assert_eq!(processor_walk(&composition, new, 0), None);
    assert_eq!(composition.fault(&mut memory, all[ROOTS], read(0)), FILLED);
    assert_eq!(processor_walk(&composition, new, 0).expect("filled").address, machine_address(ROOTS as u64));
    assert_ne!(composition.pointer(all[1]), given_up);
    assert!(composition.take_flush());
}

#[test]
fn pages_are_used_again() {
    let mut memory = Memory::usual();
    let mut pages = pool(MINIMUM_TABLES + 2);
    let mut composition = composition(&mut pages);
    let first = several(&mut memory, 0);
    let second = several(&mut memory, 1);
    composition.fault(&mut memory, first, read(0));
    // Three tables each, and six are there.
    for _ in 0..100 {
        composition.fault(&mut memory, second, read(0));
        composition.invalidate_single(second);
        assert_eq!(mapped(&mut composition, first, 0).expect("untouched").address, machine_address(0));
    }
}

#[test]
fn with_all_pages_used_everything_starts_again() {
    let mut memory = Memory::usual();
    let other = several(&mut memory, 0);
    memory.next_table = 2 * MIB;
    let far: Vec<u64> = (0..40).map(|number| number * 512 * GIB).collect();
    for address in &far {
        memory.map(EPTP23, *address, 1, (16 * MIB) | PAGE);
    }
    let mut pages = pool(MINIMUM_TABLES);
    let mut composition = composition(&mut pages);
    let eptp13 = composition.pointer(EPTP23);
    composition.fault(&mut memory, other, read(0));
    for address in &far {
        assert_eq!(composition.fault(&mut memory, EPTP23, read(*address)), FILLED);
        assert!(composition.take_flush(), "three tables more are never there");
        assert_eq!(composition.pointer(EPTP23), eptp13, "the root in use stays where vmcs13 has it");
        assert_eq!(processor_walk(&composition, eptp13, *address).expect("filled").address, 5 * GIB + 16 * MIB);
        let mapped = far.iter().filter(|address| processor_walk(&composition, eptp13, **address).is_some()).count();
        assert_eq!(mapped, 1);
    }
    assert_eq!(mapped(&mut composition, other, 0), None);
}

#[test]
fn five_levels_fit_into_the_smallest_pool() {
    let mut memory = Memory::usual();
    let eptp23 = (64 * KIB) | (4 << 3) | 6;
    memory.map(eptp23, 1 << 56, 1, (16 * MIB) | PAGE);
    let mut pages = pool(MINIMUM_TABLES);
    let rules = Rules::new(OFFERED | EptVpid::PAGE_WALK_LENGTH_5, WIDTH);
    let mut composition = Composition::new(&mut pages, POOL, OFFERED, rules).expect("large enough");
    assert_eq!(composition.fault(&mut memory, eptp23, read(1 << 56)), FILLED);
    assert_eq!(mapped(&mut composition, eptp23, 1 << 56).expect("filled").address, 5 * GIB + 16 * MIB);
}
