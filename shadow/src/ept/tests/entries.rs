//! Each rule for an entry of EPT23.

use super::*;

const MISCONFIGURED: Result<u64, Fault> = Err(Fault::Misconfiguration);
/// Read and executed; what isn't allowed is told in the qualification.
const NOT_PRESENT: Result<u64, Fault> = Err(Fault::Violation { qualification: READ });

/// What a read comes to if the entry at `level` is this one, the others are in order, and this is offered.
fn read_through(level: u32, entry: u64, offered: EptVpid, width: u32) -> Result<u64, Fault> {
    let mut memory = Memory::usual();
    if level > 1 && entry & LARGE_PAGE == 0 && entry & ADDRESS != 0 {
        // What follows is a table with a page for the address, or a chain of them.
        let mut table = entry & ADDRESS;
        for below in (1..level).rev() {
            let next = if below == 1 { (16 * MIB) | PAGE } else { (300 * KIB + 4096 * u64::from(below)) & !0xfff | ALL };
            memory.words.insert(table, next);
            table = next & ADDRESS;
        }
    }
    memory.map(EPTP23, 0, level, entry);
    Rules::new(offered, width).translate(&mut memory, EPTP23, Access::new(0, READ)).map(|translation| translation.address)
}

#[test]
fn every_rule_for_an_entry() {
    const TABLE: u64 = 256 * KIB;
    const TO_PAGE: Result<u64, Fault> = Ok(16 * MIB);
    let large = PAGE | LARGE_PAGE;
    let rows: &[(&str, u32, u64, Result<u64, Fault>)] = &[
        ("a page of 4 KBytes", 1, (16 * MIB) | PAGE, TO_PAGE),
        ("bit 7 of an EPT PTE is ignored", 1, (16 * MIB) | large, TO_PAGE),
        ("bits 63:52, 11:8 and 6 of a page are ignored", 1, (16 * MIB) | PAGE | 0xfff << 52 | 0xf40, TO_PAGE),
        ("a page of 2 MBytes", 2, (16 * MIB) | large, TO_PAGE),
        ("a page of 1 GByte", 3, GIB | large, Ok(GIB)),
        ("a table at level 2", 2, TABLE | ALL, TO_PAGE),
        ("a table at level 3", 3, TABLE | ALL, TO_PAGE),
        ("a table at level 4", 4, TABLE | ALL, TO_PAGE),
        ("bits 63:52 and 11:8 of a table are ignored", 3, TABLE | ALL | 0xfff << 52 | 0xf00, TO_PAGE),
        ("a zero entry", 1, 0, NOT_PRESENT),
        ("not present: nothing else matters, level 1", 1, !7, NOT_PRESENT),
        ("not present: nothing else matters, level 2", 2, !7, NOT_PRESENT),
        ("not present: nothing else matters, level 3", 3, !7, NOT_PRESENT),
        ("not present: nothing else matters, level 4", 4, !7, NOT_PRESENT),
        ("all ones, level 1", 1, u64::MAX, MISCONFIGURED),
        ("all ones, level 2", 2, u64::MAX, MISCONFIGURED),
        ("all ones, level 3", 3, u64::MAX, MISCONFIGURED),
        ("all ones, level 4", 4, u64::MAX, MISCONFIGURED),
        ("write-only page", 1, (16 * MIB) | (6 << 3) | 0b010, MISCONFIGURED),
        ("page for writing and executing, KVM's mark of MMIO", 1, (16 * MIB) | (6 << 3) | 0b110, MISCONFIGURED),
        ("write-only table", 3, TABLE | 0b010, MISCONFIGURED),
        ("write-and-execute table", 4, TABLE | 0b110, MISCONFIGURED),
        ("memory type 0", 1, (16 * MIB) | ALL, TO_PAGE),
        ("memory type 1", 1, (16 * MIB) | ALL | 1 << 3, TO_PAGE),
        ("memory type 2", 1, (16 * MIB) | ALL | 2 << 3, MISCONFIGURED),
        ("memory type 3", 1, (16 * MIB) | ALL | 3 << 3, MISCONFIGURED),
        ("memory type 4", 1, (16 * MIB) | ALL | 4 << 3, TO_PAGE),
        ("memory type 5", 1, (16 * MIB) | ALL | 5 << 3, TO_PAGE),
        ("memory type 7", 1, (16 * MIB) | ALL | 7 << 3, MISCONFIGURED),
        ("memory type 2 of 2 MBytes", 2, (16 * MIB) | ALL | 2 << 3 | LARGE_PAGE, MISCONFIGURED),
        ("memory type 7 of 1 GByte", 3, GIB | ALL | 7 << 3 | LARGE_PAGE, MISCONFIGURED),
        ("bit 3 of a table", 2, TABLE | ALL | 1 << 3, MISCONFIGURED),
        ("bit 4 of a table", 3, TABLE | ALL | 1 << 4, MISCONFIGURED),
        ("bit 5 of a table", 4, TABLE | ALL | 1 << 5, MISCONFIGURED),
        ("bit 6 of a table", 2, TABLE | ALL | 1 << 6, MISCONFIGURED),
        ("bit 7 at level 4", 4, TABLE | ALL | 1 << 7, MISCONFIGURED),
        ("bit 12 of a page of 2 MBytes", 2, (16 * MIB) | large | 1 << 12, MISCONFIGURED),
        ("bit 20 of a page of 2 MBytes", 2, (16 * MIB) | large | 1 << 20, MISCONFIGURED),
        ("bit 12 of a page of 1 GByte", 3, GIB | large | 1 << 12, MISCONFIGURED),
        ("bit 29 of a page of 1 GByte", 3, GIB | large | 1 << 29, MISCONFIGURED),
        ("beyond the width, level 1", 1, (16 * MIB) | PAGE | 1 << WIDTH, MISCONFIGURED),
        ("beyond the width, level 2", 2, (16 * MIB) | large | 1 << 51, MISCONFIGURED),
        ("beyond the width, level 3", 3, TABLE | ALL | 1 << 45, MISCONFIGURED),
        ("beyond the width, level 4", 4, TABLE | ALL | 1 << WIDTH, MISCONFIGURED),
        ("the last bit of the width", 1, 1 << (WIDTH - 1) | PAGE, Ok(1 << (WIDTH - 1))),
    ];
    for (what, level, entry, expected) in rows {
        assert_eq!(read_through(*level, *entry, OFFERED, WIDTH), *expected, "{what}: {entry:#x} at level {level}");
    }
}

#[test]
fn what_is_not_offered_is_misconfigured() {
    let fetched = |entry: u64, offered| {
        let mut memory = Memory::usual();
        memory.map(EPTP23, 0, 1, entry);
        Rules::new(offered, WIDTH).translate(&mut memory, EPTP23, Access::new(0, FETCH)).is_ok()
    };
    assert!(fetched((16 * MIB) | (6 << 3) | 0b100, OFFERED));
    assert!(!fetched((16 * MIB) | (6 << 3) | 0b100, OFFERED - EptVpid::EXECUTE_ONLY_TRANSLATIONS));
    let large = PAGE | LARGE_PAGE;
    assert_eq!(read_through(2, (16 * MIB) | large, OFFERED - EptVpid::PAGES_2_MBYTE, WIDTH), MISCONFIGURED);
    assert_eq!(read_through(3, GIB | large, OFFERED - EptVpid::PAGES_1_GBYTE, WIDTH), MISCONFIGURED);
    assert_eq!(read_through(2, (16 * MIB) | large, OFFERED - EptVpid::PAGES_1_GBYTE, WIDTH), Ok(16 * MIB));
}

#[test]
fn any_physical_address_width_is_taken() {
    let top = 1 << 51 | PAGE;
    assert_eq!(read_through(1, top, OFFERED, 51), MISCONFIGURED);
    for width in [52, 57, 64, u32::MAX] {
        assert_eq!(read_through(1, top, OFFERED, width), Ok(1 << 51), "{width}");
    }
    assert_eq!(read_through(1, 1 << 12 | PAGE, OFFERED, 0), MISCONFIGURED);
}

#[test]
fn tables_without_ram_read_as_all_ones() {
    let mut memory = Memory::usual();
    let access = Access::new(0, READ);
    for root in [700 * KIB, 4 * GIB, ADDRESS] {
        assert_eq!(rules().translate(&mut memory, root | 3 << 3 | 6, access), Err(Fault::Misconfiguration), "{root:#x}");
    }
    for level in 2..=4 {
        let mut memory = Memory::usual();
        memory.map(EPTP23, 0, level, (700 * KIB) | ALL);
        assert_eq!(rules().translate(&mut memory, EPTP23, access), Err(Fault::Misconfiguration), "below level {level}");
        // With a width of 52 no address bit is reserved; other bits are.
        let wide = Rules::new(OFFERED, 52).translate(&mut memory, EPTP23, access);
        assert_eq!(wide, Err(Fault::Misconfiguration), "below level {level}");
    }
}

#[test]
fn a_table_that_points_to_itself_ends() {
    let mut memory = Memory::usual();
    let root = EPTP23 & ADDRESS;
    memory.words.insert(root, root | ALL);
    let translation = rules().translate(&mut memory, EPTP23_FLAGS, Access::new(0x123, WRITE)).expect("it is a page in the end");
    assert_eq!((translation.address, translation.page_size), (root + 0x123, 4096));
    assert_eq!(memory.reads, 4);
    assert_eq!(memory.word(root), root | ALL | ACCESSED | DIRTY);
}

#[test]
fn a_walk_length_of_5() {
    let mut memory = Memory::usual();
    let eptp23 = (64 * KIB) | (4 << 3) | 6;
    let high = 1 << 56 | 1 << 47;
    memory.map(eptp23, high, 1, (16 * MIB) | PAGE);
    let rules = Rules::new(OFFERED | EptVpid::PAGE_WALK_LENGTH_5, WIDTH);
    let mut translate = |address| rules.translate(&mut memory, eptp23, Access::new(address, READ)).map(|found| found.address);
    assert_eq!(translate(high | 5), Ok((16 * MIB) | 5));
    assert_eq!(translate(1 << 47), NOT_PRESENT);
    assert_eq!(translate(1 << 57), NOT_PRESENT, "wider than any table");
}

#[test]
fn an_address_that_4_levels_do_not_cover_is_a_violation() {
    let mut memory = Memory::usual();
    memory.map(EPTP23, 0, 1, (16 * MIB) | PAGE);
    for address in [1 << 48, u64::MAX] {
        let violation = rules().translate(&mut memory, EPTP23, Access::new(address, READ));
        assert_eq!(violation, Err(Fault::Violation { qualification: READ }), "{address:#x}");
    }
}
