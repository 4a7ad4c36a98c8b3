//! Random and hostile tables, against the reference.

use proptest::prelude::*;

use super::model::{Expected, translate};
use super::*;

/// Where entries of EPT23 lie: a few pages with RAM, whose entries point to each other.
const TABLES: u64 = 6;
/// The entries of a table that are used.
const INDEXES: [u64; 4] = [0, 1, 2, 511];

#[derive(Debug, Clone)]
enum Step {
    Access { root: usize, address: u64, access: u64, log_is_full: bool },
    Write { table: u64, index: usize, entry: u64, single: Option<usize> },
}

fn table_address(number: u64) -> u64 {
    64 * KIB + 4096 * number
}

fn eptp23(root: usize) -> u64 {
    [table_address(0), table_address(1), table_address(0) | 0x40, 700 * KIB][root & 3] | 0x1e
}

/// Addresses that some table has an entry for.
fn addresses() -> impl Strategy<Value = u64> {
    let index = prop::sample::select(&INDEXES[..]);
    let page = (prop::array::uniform4(index), 0..4096_u64)
        .prop_map(|(indexes, offset)| indexes.iter().fold(0, |address, index| address << 9 | index) << 12 | offset);
    prop_oneof![20 => page, 1 => any::<u64>()]
}

/// Entries of all kinds: tables, pages of each size, pages without RAM, and garbage.
fn entries() -> impl Strategy<Value = u64> {
    let permissions = prop_oneof![4 => Just(7_u64), 1 => prop::sample::select(&[1_u64, 3, 4, 5][..]), 1 => 0..8_u64];
    let target = prop_oneof![
        6 => (0..TABLES).prop_map(table_address),
        2 => prop::sample::select(&[0, 2 * MIB, 4 * MIB + 0x3000, GIB, GIB + 6 * MIB, 0xa_0000, 3 * GIB, 1 << 39][..]),
        2 => prop::sample::select(&[LARGE_PAGE, (2 * MIB) | LARGE_PAGE, GIB | LARGE_PAGE, (2 * GIB) | LARGE_PAGE, (3 * GIB) | LARGE_PAGE, (5 * GIB) | LARGE_PAGE][..]),
    ];
    let memory_type = prop_oneof![3 => Just(0_u64), 1 => (0..16_u64).prop_map(|bits| bits << 3)];
    let rare = prop_oneof![20 => Just(0_u64), 1 => (0..64_u32).prop_map(|bit| 1 << bit)];
    let flags = (0..4_u64).prop_map(|flags| flags << 8);
    let made = (permissions, target, memory_type, rare, flags).prop_map(|(a, b, c, d, e)| a | b | c | d | e);
    prop_oneof![20 => made, 1 => Just(0_u64), 1 => any::<u64>()]
}

fn steps() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(&[READ, WRITE, FETCH, READ | WRITE][..]);
    let place = prop::sample::select(&[FINAL, FINAL, OF_PAGING, 0, FINAL | 1 << 12][..]);
    let access = (0..8_usize, addresses(), kind, place, prop::bool::weighted(0.1)).prop_map(
        // Few different roots, mostly the first.
        |(root, address, kind, place, log_is_full)| Step::Access { root: root / 2, address, access: kind | place, log_is_full },
    );
    let write = (0..TABLES, 0..INDEXES.len(), entries(), prop::option::of(0..4_usize))
        .prop_map(|(table, index, entry, single)| Step::Write { table, index, entry, single });
    prop_oneof![8 => access, 1 => write]
}

fn offers() -> impl Strategy<Value = EptVpid> {
    prop_oneof![4 => Just(OFFERED), 1 => any::<u64>().prop_map(|bits| OFFERED & EptVpid::from_bits_retain(bits))]
}

/// L2's RAM with a hole, a part that may only be read, and two whose alignment in the machine allows no page of 1 GByte and no large page.
fn memory() -> Memory {
    Memory::new(&[
        Region::new(0, 640 * KIB, 16 * GIB),
        Region { permissions: Permissions::READ, ..Region::new(MIB, 7 * MIB, 16 * GIB + MIB) },
        Region { memory_type: MemoryType::WriteThrough, ..Region::new(8 * MIB, GIB - 8 * MIB, 16 * GIB + 8 * MIB) },
        Region::new(GIB, GIB, 20 * GIB + 2 * MIB),
        Region { permissions: Permissions::READ | Permissions::EXECUTE, ..Region::new(2 * GIB, GIB, 24 * GIB) },
        Region::new(3 * GIB, GIB, 28 * GIB + 4 * KIB),
    ])
}

/// One access: the processor with EPT13 and, if that doesn't do, the composition; both against the reference.
fn check_access(
    composition: &mut Composition<'_>,
    memory: &mut Memory,
    offered: EptVpid,
    eptp23: u64,
    access: Access,
) -> Result<(), TestCaseError> {
    let mut reference = memory.clone();
    let expected = translate(&mut reference, offered, eptp23, access);
    let needed = access.needed(eptp23 & 0x40 != 0).bits();
    let eptp13 = composition.pointer(eptp23);
    // Wider addresses than four levels cover end before any table.
    let walk = |composition: &Composition<'_>| {
        if access.address >> 48 == 0 { processor_walk(composition, eptp13, access.address) } else { None }
    };
    let before = walk(composition);
    let hit = before.is_some_and(|mapped| mapped.permissions & needed == needed);
    if !hit {
        let outcome = composition.fault(memory, eptp23, access);
        match (expected, outcome) {
            (Expected::Misconfiguration, Outcome::L2(Fault::Misconfiguration))
            | (Expected::LogFull, Outcome::L2(Fault::PageModificationLogFull { .. }))
            | (Expected::Mapped { .. }, Outcome::Filled { .. }) => {}
            (Expected::Violation { qualification }, Outcome::L2(Fault::Violation { qualification: found })) => {
                prop_assert_eq!(found, qualification);
            }
            (Expected::NoRam { address }, Outcome::L1 { address: found, permissions, .. }) => {
                prop_assert_eq!(found, address);
                prop_assert!(!permissions.contains(Permissions::from_bits_truncate(needed)));
            }
            (expected, outcome) => prop_assert!(false, "{expected:?}, and not {outcome:?}"),
        }
    }
    // What a hit leaves undone shows here too: then the reference has set a flag that the composition hasn't.
    prop_assert_eq!(&memory.words, &reference.words);
    if let Expected::Mapped { address, permissions, memory_type, may_write_without_exit } = expected {
        let mapped = walk(composition).expect("it is mapped now");
        prop_assert_eq!((mapped.address, mapped.memory_type), (address, memory_type));
        let granted = if may_write_without_exit { permissions } else { permissions & !WRITE };
        prop_assert_eq!(mapped.permissions | granted, granted, "EPT13 grants too much");
        prop_assert_eq!(mapped.permissions & needed, needed);
    } else {
        prop_assert!(!hit, "EPT13 allows what ends in {:?}", expected);
        if !matches!(expected, Expected::NoRam { .. }) {
            prop_assert_eq!(walk(composition), None);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_composition_is_one_walk_after_the_other(
        tables in prop::collection::vec(prop::array::uniform4(entries()), TABLES as usize),
        steps in prop::collection::vec(steps(), 1..120),
        pages_of_pool in MINIMUM_TABLES..40_usize,
        offered in offers(),
    ) {
        let mut memory = memory();
        for (table, entries) in (0..).zip(&tables) {
            for (index, entry) in INDEXES.iter().zip(entries) {
                memory.words.insert(table_address(table) + 8 * index, *entry);
            }
        }
        let mut pages = pool(pages_of_pool);
        let rules = Rules::new(offered, WIDTH);
        let mut composition = Composition::new(&mut pages, POOL, OFFERED, rules).expect("large enough");
        for step in steps {
            match step {
                Step::Access { root, address, access, log_is_full } => {
                    let access = Access { log_is_full, ..Access::new(address, access) };
                    check_access(&mut composition, &mut memory, offered, eptp23(root), access)?;
                }
                Step::Write { table, index, entry, single } => {
                    memory.words.insert(table_address(table) + 8 * INDEXES[index], entry);
                    match single {
                        // Every root may lead to the table.
                        Some(_) => (0..4).for_each(|root| composition.invalidate_single(eptp23(root))),
                        None => composition.invalidate_all(),
                    }
                }
            }
        }
    }

    #[test]
    fn without_invept_too_nothing_but_ept12_is_mapped(
        steps in prop::collection::vec(steps(), 1..120),
        pages_of_pool in MINIMUM_TABLES..40_usize,
    ) {
        let mut memory = memory();
        let mut pages = pool(pages_of_pool);
        let mut composition = composition(&mut pages);
        for step in steps {
            match step {
                Step::Access { root, address, access, .. } => {
                    composition.fault(&mut memory, eptp23(root), Access::new(address, access));
                    let Some(found) = mapped(&mut composition, eptp23(root), address) else { continue };
                    let region = memory.regions.iter().find(|region| (region.host..region.host + region.size).contains(&found.address));
                    let region = region.expect("it is L2's RAM");
                    prop_assert_eq!(found.permissions & !region.permissions.bits(), 0);
                    let page = found.address & !(found.page_size - 1);
                    prop_assert!(page >= region.host && page + found.page_size <= region.host + region.size);
                }
                Step::Write { table, index, entry, .. } => {
                    memory.words.insert(table_address(table) + 8 * INDEXES[index], entry);
                }
            }
        }
    }

    #[test]
    fn any_words_are_survived(
        words in prop::collection::vec(any::<u64>(), 512),
        accesses in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 1..50),
    ) {
        let mut memory = Memory::usual();
        for (number, word) in (0..).zip(&words) {
            memory.words.insert(64 * KIB + 8 * number, *word);
        }
        let mut pages = pool(MINIMUM_TABLES);
        let mut composition = Composition::new(&mut pages, POOL, EptVpid::from_bits_retain(!0), rules()).expect("large enough");
        for (eptp23, address, qualification) in accesses {
            composition.pointer(eptp23);
            composition.fault(&mut memory, eptp23, Access::new(address, qualification));
            composition.fault(&mut memory, EPTP23_FLAGS, Access::new(address, qualification));
            composition.invalidate_single(qualification);
        }
    }
}
