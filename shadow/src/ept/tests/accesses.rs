//! Permissions, and the qualification that L2 gets.

use super::*;

/// The combinations of permissions that an entry may have.
const VALID: [u64; 6] = [0b000, 0b001, 0b011, 0b100, 0b101, 0b111];

/// EPT23 with these permissions for address 0 at the levels 1 to 4.
fn with_permissions(by_level: [u64; 4]) -> Memory {
    let mut memory = Memory::usual();
    memory.map(EPTP23, 0, 1, (16 * MIB) | (6 << 3) | by_level[0]);
    let mut slot = EPTP23 & ADDRESS;
    for level in (2..=4).rev() {
        let entry = memory.word(slot) & !7 | by_level[level - 1];
        memory.words.insert(slot, entry);
        slot = entry & ADDRESS;
    }
    memory
}

#[test]
fn permissions_are_anded_over_all_levels() {
    for level in 0..4 {
        for (upper, here) in VALID.iter().flat_map(|upper| VALID.map(|here| (*upper, here))) {
            for needed in [READ, WRITE, FETCH, READ | WRITE] {
                let mut by_level = [ALL; 4];
                by_level[level] = here;
                by_level[3] &= upper;
                let not_present = by_level.contains(&0);
                let granted = by_level.iter().fold(ALL, |all, one| all & one);
                let mut memory = with_permissions(by_level);
                let mut pages = pool(16);
                let mut composition = composition(&mut pages);
                let outcome = composition.fault(&mut memory, EPTP23, Access::new(0x18, needed | FINAL));
                if granted & needed == needed && !not_present {
                    assert_eq!(outcome, Outcome::Filled { page_size: 4096, newly_dirty: false });
                    let found = mapped(&mut composition, EPTP23, 0x18);
                    assert_eq!(found.expect("it was filled").permissions, granted);
                } else {
                    let granted = if not_present { 0 } else { granted };
                    let qualification = needed | FINAL | granted << 3;
                    assert_eq!(outcome, Outcome::L2(Fault::Violation { qualification }), "{by_level:?} {needed}");
                }
            }
        }
    }
}

#[test]
fn permissions_are_anded_with_those_of_ept12() {
    for outer in VALID.map(Permissions::from_bits_retain) {
        for inner in VALID.into_iter().filter(|inner| *inner != 0) {
            let region = Region { permissions: outer, ..Region::new(16 * MIB, 16 * MIB, GIB) };
            let mut memory = Memory::new(&[Region::new(0, MIB, 0), region]);
            memory.map(EPTP23, 0, 1, (16 * MIB) | (6 << 3) | inner);
            for needed in [READ, WRITE, FETCH].into_iter().filter(|needed| inner & needed != 0) {
                let mut pages = pool(16);
                let mut composition = composition(&mut pages);
                let outcome = composition.fault(&mut memory, EPTP23, Access::new(0, needed | FINAL));
                let found = mapped(&mut composition, EPTP23, 0);
                if outer.bits() & needed == needed {
                    assert_eq!(outcome, Outcome::Filled { page_size: 4096, newly_dirty: false });
                    assert_eq!(found.map(|found| found.permissions), Some(inner & outer.bits()));
                } else {
                    assert_eq!(outcome, Outcome::L1 { address: 16 * MIB, permissions: outer, newly_dirty: false });
                    assert_eq!(found, None);
                }
            }
        }
    }
}

#[test]
fn where_ept12_maps_nothing_the_access_is_for_l1() {
    let mut memory = Memory::usual();
    memory.map(EPTP23_FLAGS, 0xa_0000, 1, 0xa_0000 | PAGE);
    memory.map(EPTP23_FLAGS, 64 * GIB, 3, (64 * GIB) | PAGE | LARGE_PAGE);
    let mut pages = pool(16);
    let mut composition = composition(&mut pages);
    let mut fault = |address, access| composition.fault(&mut memory, EPTP23_FLAGS, Access::new(address, access | FINAL));
    let nothing = Permissions::empty();
    assert_eq!(fault(0xa_0123, READ), Outcome::L1 { address: 0xa_0123, permissions: nothing, newly_dirty: false });
    assert_eq!(fault(0xa_0123, WRITE), Outcome::L1 { address: 0xa_0123, permissions: nothing, newly_dirty: true });
    assert_eq!(fault(0xa_0123, WRITE), Outcome::L1 { address: 0xa_0123, permissions: nothing, newly_dirty: false });
    assert_eq!(fault(65 * GIB - 1, READ), Outcome::L1 { address: 65 * GIB - 1, permissions: nothing, newly_dirty: false });
}

#[test]
fn the_qualification_is_made_anew() {
    let mut memory = Memory::usual();
    memory.map(EPTP23, 0, 1, (16 * MIB) | (6 << 3) | 0b101);
    let advanced = Rules::new(OFFERED | EptVpid::ADVANCED_EPT_VIOLATION_INFORMATION, WIDTH);
    let mut qualification = |rules: &Rules, real| match rules.translate(&mut memory, EPTP23, Access::new(0, real | WRITE)) {
        Err(fault @ Fault::Violation { qualification }) => {
            assert_eq!((fault.exit_reason().0, fault.qualification()), (48, qualification));
            qualification
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(qualification(&rules(), u64::MAX), 0b1_0001_1010_1111);
    assert_eq!(qualification(&advanced, u64::MAX), 0b1_1111_1010_1111);
    assert_eq!(qualification(&rules(), 0), WRITE | 0b101 << 3);
    assert_eq!(qualification(&rules(), 0b111 << 3), WRITE | 0b101 << 3, "what EPT13 allows is not L2's business");
    assert_eq!(qualification(&rules(), FINAL), WRITE | FINAL | 0b101 << 3);
}

#[test]
fn faults_name_their_exit_reasons() {
    assert_eq!((Fault::Misconfiguration.exit_reason().0, Fault::Misconfiguration.qualification()), (49, 0));
    let full = Fault::PageModificationLogFull { qualification: 1 << 12 };
    assert_eq!((full.exit_reason().0, full.qualification()), (62, 1 << 12));
}
