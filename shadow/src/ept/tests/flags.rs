//! Accessed and dirty flags of EPT23, and page-modification logging.

use super::*;

const FILLED: Outcome = Outcome::Filled { page_size: 4096, newly_dirty: false };
const FILLED_DIRTY: Outcome = Outcome::Filled { page_size: 4096, newly_dirty: true };

/// EPT23 with one page of 4 KBytes at address 0 and the addresses of its entries, the last one first.
fn one_page() -> (Memory, [u64; 4]) {
    let mut memory = Memory::usual();
    memory.map(EPTP23, 0, 1, (16 * MIB) | PAGE);
    let mut slots = [EPTP23 & ADDRESS; 4];
    for level in (0..3).rev() {
        slots[level] = memory.word(slots[level + 1]) & ADDRESS;
    }
    (memory, slots)
}

fn flags(memory: &Memory, slots: [u64; 4]) -> [u64; 4] {
    slots.map(|slot| memory.word(slot) & (ACCESSED | DIRTY))
}

#[test]
fn without_bit_6_no_flag_is_touched() {
    let (mut memory, slots) = one_page();
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    assert_eq!(composition.fault(&mut memory, EPTP23, Access::new(0, WRITE | FINAL)), FILLED);
    assert_eq!(flags(&memory, slots), [0; 4]);
    let eptp13 = composition.pointer(EPTP23);
    assert_eq!(eptp13 & 0xfff, 0x1e);
    assert_eq!(processor_walk(&composition, eptp13, 0).expect("filled").permissions, ALL);
}

#[test]
fn a_read_marks_all_levels_and_the_first_write_is_seen() {
    let (mut memory, slots) = one_page();
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    let eptp13 = composition.pointer(EPTP23_FLAGS);
    assert_eq!(eptp13 & 0xfff, 0x5e, "the processor must treat accesses to page tables as writes in EPT13 too");
    assert_eq!(composition.fault(&mut memory, EPTP23_FLAGS, Access::new(0, READ | FINAL)), FILLED);
    assert_eq!(flags(&memory, slots), [ACCESSED; 4]);
    assert_eq!(processor_walk(&composition, eptp13, 0).expect("filled").permissions, READ | FETCH);
    assert_eq!(composition.fault(&mut memory, EPTP23_FLAGS, Access::new(0xff8, WRITE | FINAL)), FILLED_DIRTY);
    assert_eq!(flags(&memory, slots), [ACCESSED | DIRTY, ACCESSED, ACCESSED, ACCESSED]);
    assert_eq!(processor_walk(&composition, eptp13, 0).expect("filled").permissions, ALL);
    assert!(!composition.take_flush(), "an EPT violation has removed the old entry from the processor's caches");
    // L2 clears the flags and executes INVEPT, and sees them come back.
    for slot in slots {
        *memory.words.get_mut(&slot).expect("a table") &= !(ACCESSED | DIRTY);
    }
    composition.invalidate_single(EPTP23_FLAGS);
    assert!(composition.take_flush());
    assert_eq!(processor_walk(&composition, eptp13, 0), None);
    assert_eq!(composition.fault(&mut memory, EPTP23_FLAGS, Access::new(0, WRITE | FINAL)), FILLED_DIRTY);
    assert_eq!(flags(&memory, slots), [ACCESSED | DIRTY, ACCESSED, ACCESSED, ACCESSED]);
}

#[test]
fn the_flag_of_a_large_page_is_set_once_for_all_its_parts() {
    let mut memory = Memory::usual();
    memory.regions[1].largest_block = 4 * KIB;
    let slot = memory.map(EPTP23_FLAGS, 0, 2, (16 * MIB) | PAGE | LARGE_PAGE);
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    let mut fault = |address, access| composition.fault(&mut memory, EPTP23_FLAGS, Access::new(address, access | FINAL));
    assert_eq!(fault(0x1000, READ), FILLED);
    assert_eq!(fault(0x2000, WRITE), FILLED_DIRTY);
    assert_eq!(fault(0x1000, WRITE), FILLED, "dirty already");
    assert_eq!(memory.word(slot), (16 * MIB) | PAGE | LARGE_PAGE | ACCESSED | DIRTY);
}

#[test]
fn an_access_to_a_paging_structure_is_a_write_if_there_are_flags() {
    let (mut memory, slots) = one_page();
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    assert_eq!(composition.fault(&mut memory, EPTP23, Access::new(0, READ | OF_PAGING)), FILLED);
    assert_eq!(composition.fault(&mut memory, EPTP23_FLAGS, Access::new(0, READ | OF_PAGING)), FILLED_DIRTY);
    assert_eq!(flags(&memory, slots)[0], ACCESSED | DIRTY);
    // Loading the PDPTEs has no linear address, and is a read.
    memory.words.insert(slots[0], (16 * MIB) | PAGE);
    assert_eq!(composition.fault(&mut memory, EPTP23_FLAGS, Access::new(0, READ)), FILLED);
    assert_eq!(flags(&memory, slots)[0], ACCESSED);
    // A page table in a page that may not be written.
    memory.words.insert(slots[0], (16 * MIB) | (6 << 3) | READ);
    let qualification = READ | OF_PAGING | READ << 3;
    let refused = composition.fault(&mut memory, EPTP23_FLAGS, Access::new(0, READ | OF_PAGING));
    assert_eq!(refused, Outcome::L2(Fault::Violation { qualification }));
    assert_eq!(flags(&memory, slots)[0], 0, "a refused access sets no flag");
}

#[test]
fn a_refused_access_sets_no_flag() {
    for last in [0, (16 * MIB) | (6 << 3) | READ, (16 * MIB) | PAGE | 1 << 45] {
        let (mut memory, slots) = one_page();
        memory.words.insert(slots[0], last);
        let before = memory.words.clone();
        assert!(rules().translate(&mut memory, EPTP23_FLAGS, Access::new(0, WRITE | FINAL)).is_err());
        assert_eq!(memory.words, before, "{last:#x}");
    }
}

#[test]
fn a_full_log_keeps_every_flag_as_it_is() {
    let (mut memory, slots) = one_page();
    let unblocking = EptViolation::NMI_UNBLOCKING_DUE_TO_IRET;
    let full = |access| Access { log_is_full: true, ..Access::new(0, access | FINAL | unblocking) };
    let expected = Err(Fault::PageModificationLogFull { qualification: unblocking });
    let before = memory.words.clone();
    assert_eq!(rules().translate(&mut memory, EPTP23_FLAGS, full(READ)), expected);
    assert_eq!(rules().translate(&mut memory, EPTP23_FLAGS, full(WRITE)), expected);
    assert_eq!(memory.words, before);
    rules().translate(&mut memory, EPTP23_FLAGS, Access::new(0, READ)).expect("there is room");
    assert!(rules().translate(&mut memory, EPTP23_FLAGS, full(READ)).is_ok(), "nothing to be set, nothing to be logged");
    assert_eq!(rules().translate(&mut memory, EPTP23_FLAGS, full(WRITE)), expected);
    rules().translate(&mut memory, EPTP23_FLAGS, Access::new(0, WRITE)).expect("there is room");
    assert!(rules().translate(&mut memory, EPTP23_FLAGS, full(WRITE)).is_ok());
    assert_eq!(flags(&memory, slots)[0], ACCESSED | DIRTY);
    assert!(rules().translate(&mut memory, EPTP23, full(WRITE)).is_ok(), "without flags nothing is logged");
}
