//! Tests of the MSR areas, over a machine with a few MSRs.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;
use vmcs::msr::{IA32_FS_BASE, IA32_KERNEL_GS_BASE, IA32_LSTAR, IA32_PAT, IA32_STAR};

use super::*;

const AREA: u64 = 0x1_0000;
/// L2 has RAM up to here.
const END: u64 = 0x10_0000;
/// IA32_VMX_MISC of Bochs: 512 entries are recommended.
const MISC: Misc = Misc(0x2004_01e0);

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Machine {
    memory: BTreeMap<u64, u64>,
    msrs: BTreeMap<u32, u64>,
    read_addresses: Vec<u64>,
}

impl Machine {
    /// A machine with these entries in memory, whose MSRs are all 0.
    fn new(entries: &[(u64, u64)]) -> Self {
        let mut machine = Self::default();
        for (address, (first, value)) in (AREA..).step_by(16).zip(entries) {
            machine.memory.insert(address, *first);
            machine.memory.insert(address + 8, *value);
        }
        for number in [IA32_STAR, IA32_LSTAR, IA32_PAT, IA32_KERNEL_GS_BASE, IA32_FS_BASE, 0x808] {
            machine.msrs.insert(number, 0);
        }
        machine
    }
}

impl MsrMachine for Machine {
    fn read_u64(&mut self, address: u64) -> u64 {
        assert_eq!(address % 8, 0);
        self.read_addresses.push(address);
        if address < END { self.memory.get(&address).copied().unwrap_or(0) } else { u64::MAX }
    }

    fn write_u64(&mut self, address: u64, value: u64) {
        assert_eq!(address % 8, 0);
        if address < END {
            self.memory.insert(address, value);
        }
    }

    fn read_msr(&mut self, number: u32) -> Option<u64> {
        self.msrs.get(&number).copied()
    }

    /// Values with bit 63 are refused.
    fn write_msr(&mut self, number: u32, value: u64) -> bool {
        self.msrs.get_mut(&number).filter(|_| value >> 63 == 0).map(|msr| *msr = value).is_some()
    }
}

fn list(count: u32) -> MsrList {
    MsrList { address: AREA, count, misc: MISC, x2apic_mode: true }
}

fn bad(number: u32, mistake: MsrAreaMistake) -> Result<u32, BadEntry> {
    Err(BadEntry { number, mistake })
}

#[test]
fn entries_are_loaded_in_order() {
    let entries = [(IA32_STAR.into(), 1), (IA32_LSTAR.into(), 2), (IA32_STAR.into(), 3), (IA32_PAT.into(), 4)];
    for load in [MsrList::load_on_entry, MsrList::load_on_exit] {
        let mut machine = Machine::new(&entries);
        assert_eq!(load(&list(3), &mut machine), Ok(3));
        assert_eq!((machine.msrs[&IA32_STAR], machine.msrs[&IA32_LSTAR], machine.msrs[&IA32_PAT]), (3, 2, 0));
        assert_eq!(machine.read_addresses, [AREA, AREA + 8, AREA + 16, AREA + 24, AREA + 32, AREA + 40], "each word once");
    }
}

#[test]
fn entries_are_stored_behind_their_numbers() {
    let mut machine = Machine::new(&[(IA32_STAR.into(), 0), (IA32_FS_BASE.into(), 0), (IA32_PAT.into(), 7)]);
    machine.msrs.insert(IA32_STAR, 0x1111);
    machine.msrs.insert(IA32_FS_BASE, 0x2222);
    assert_eq!(list(2).store_on_exit(&mut machine), Ok(2));
    let words: Vec<u64> = (0..6).map(|word| machine.memory[&(AREA + 8 * word)]).collect();
    assert_eq!(words, [IA32_STAR.into(), 0x1111, IA32_FS_BASE.into(), 0x2222, IA32_PAT.into(), 7]);
}

#[test]
fn the_first_refused_entry_is_named_and_the_ones_before_it_stay() {
    use MsrAreaMistake::{Refused, Reserved, SegmentBase, X2apic};
    let rows =
        [((u64::from(IA32_PAT) | 1 << 32, 5), Reserved, Reserved), ((0x808, 5), X2apic, X2apic), ((0x1234, 5), Refused, Refused)];
    for (entry, loading, storing) in rows {
        let before = Machine::new(&[(IA32_STAR.into(), 1), entry, (IA32_LSTAR.into(), 2)]);
        for load in [MsrList::load_on_entry, MsrList::load_on_exit] {
            let mut machine = before.clone();
            assert_eq!(load(&list(3), &mut machine), bad(2, loading), "{entry:x?}");
            assert_eq!((machine.msrs[&IA32_STAR], machine.msrs[&IA32_LSTAR]), (1, 0));
        }
        let mut machine = before.clone();
        assert_eq!(list(3).store_on_exit(&mut machine), bad(2, storing), "{entry:x?}");
        assert_eq!((machine.memory[&(AREA + 8)], machine.memory[&(AREA + 40)]), (0, 2));
    }
    let mut machine = Machine::new(&[(IA32_FS_BASE.into(), 5)]);
    assert_eq!(list(1).load_on_entry(&mut machine), bad(1, SegmentBase));
    assert_eq!(list(1).load_on_exit(&mut machine), bad(1, SegmentBase));
    let mut machine = Machine::new(&[(IA32_PAT.into(), 1 << 63)]);
    assert_eq!(list(1).load_on_entry(&mut machine), bad(1, Refused), "WRMSR of the value raises #GP");
    let mut machine = Machine::new(&[(0x808, 5)]);
    let in_xapic_mode = MsrList { x2apic_mode: false, ..list(1) };
    assert_eq!(in_xapic_mode.load_on_entry(&mut machine), Ok(1));
}

#[test]
fn a_list_without_ram_is_refused_at_its_first_entry_there() {
    let mut machine = Machine::new(&[]);
    for number in 0..4 {
        machine.memory.insert(END - 64 + 16 * number, IA32_STAR.into());
    }
    for (address, number) in [(END, 1), (END - 16, 2), (END - 64, 5), (u64::MAX, 1)] {
        let list = MsrList { address, ..list(500) };
        assert_eq!(list.load_on_entry(&mut machine), bad(number, MsrAreaMistake::Reserved), "{address:#x}");
        assert_eq!(list.store_on_exit(&mut machine), bad(number, MsrAreaMistake::Reserved), "{address:#x}");
    }
}

#[test]
fn no_count_is_longer_than_the_recommended_maximum() {
    let entries = std::vec![(u64::from(IA32_STAR), 3); 600];
    for (misc, maximum) in [(MISC, 512_u32), (Misc(1 << 25), 1024), (Misc(7 << 25), 4096)] {
        for count in [maximum + 1, u32::MAX] {
            let mut machine = Machine::new(&entries);
            for number in 0..4096 {
                machine.memory.insert(AREA + 16 * number, IA32_STAR.into());
            }
            let list = MsrList { misc, ..list(count) };
            assert_eq!(list.load_on_entry(&mut machine), bad(maximum + 1, MsrAreaMistake::BeyondMaximum));
            assert_eq!(machine.read_addresses.len() as u32, 2 * maximum);
        }
        let list = MsrList { misc, ..list(maximum) };
        let mut machine = Machine::new(&[]);
        for number in 0..4096 {
            machine.memory.insert(AREA + 16 * number, IA32_STAR.into());
        }
        assert_eq!(list.load_on_entry(&mut machine), Ok(maximum));
    }
    assert_eq!(list(0).load_on_entry(&mut Machine::default()), Ok(0));
}

proptest! {
    #[test]
    fn any_list_ends(
        entries in prop::collection::vec((prop_oneof![any::<u64>(), 0x800..0x900_u64, Just(u64::from(IA32_STAR))], any::<u64>()), 0..20),
        address in prop_oneof![any::<u64>(), Just(AREA), END - 0x100..END, u64::MAX - 0x100..=u64::MAX],
        count in prop_oneof![any::<u32>(), 0..20_u32],
        x2apic_mode in any::<bool>(),
    ) {
        let list = MsrList { address, count, misc: MISC, x2apic_mode };
        for process in [MsrList::load_on_entry, MsrList::load_on_exit, MsrList::store_on_exit] {
            let mut machine = Machine::new(&entries);
            match process(&list, &mut machine) {
                Ok(processed) => prop_assert_eq!(processed, count),
                Err(bad) => prop_assert!(bad.number >= 1 && bad.number <= count),
            }
            prop_assert!(machine.read_addresses.len() <= 1024);
        }
    }
}
