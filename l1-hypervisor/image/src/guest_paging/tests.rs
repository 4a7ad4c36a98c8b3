#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::guest_memory::GuestMemory;
use proptest::prelude::*;
use std::{vec, vec::Vec};

const P: u64 = 1 << 0;
const W: u64 = 1 << 1;
const U: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;

const PAGING: u64 = 1 << 31;
const WRITE_PROTECT: u64 = 1 << 16;
const PSE: u64 = 1 << 4;
const PAE: u64 = 1 << 5;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const PKE: u64 = 1 << 22;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;
const AC: u64 = 1 << 18;

/// Where the tables of the tests lie, one page a level.
const ROOT: u64 = 0x10_0000;
const LEVEL_3: u64 = 0x10_1000;
const LEVEL_2: u64 = 0x10_2000;
const LEVEL_1: u64 = 0x10_3000;
const RAM: usize = 4 << 20;

/// A linear address with a different index at each of four levels, and one for 32-bit modes.
const LINEAR: u64 = 0x0000_7123_4567_89ab;
const LINEAR_32: u64 = 0x8567_89ab;

struct Guest {
    ram: Vec<u8>,
    state: PagingState,
}

impl Guest {
    fn new(cr0: u64, cr4: u64, efer: u64) -> Self {
        let long_mode = efer & LMA != 0;
        let state = PagingState {
            cr0,
            cr3: ROOT,
            cr4,
            efer,
            long_mode,
            pdptes: [0, 0, LEVEL_2 | P, 0],
            physical_address_width: 39,
            gigabyte_pages: true,
            ..PagingState::default()
        };
        Self { ram: vec![0; RAM], state }
    }

    /// 4-level paging that maps `LINEAR` to 0x5000 with `bits` in each entry.
    fn four_level(bits: u64) -> Self {
        let mut guest = Self::new(PAGING | WRITE_PROTECT, PAE, LMA | NXE);
        guest.set(ROOT, LINEAR >> 39, LEVEL_3 | bits);
        guest.set(LEVEL_3, LINEAR >> 30, LEVEL_2 | bits);
        guest.set(LEVEL_2, LINEAR >> 21, LEVEL_1 | bits);
        guest.set(LEVEL_1, LINEAR >> 12, 0x5000 | bits);
        guest
    }

    fn set(&mut self, table: u64, index: u64, entry: u64) {
        self.memory().write(GuestPhysical(table + (index & 511) * 8), &entry.to_le_bytes());
    }

    fn get(&mut self, table: u64, index: u64) -> u64 {
        self.memory().read_u64(GuestPhysical(table + (index & 511) * 8))
    }

    fn set_32(&mut self, table: u64, index: u64, entry: u32) {
        self.memory().write(GuestPhysical(table + (index & 1023) * 4), &entry.to_le_bytes());
    }

    fn memory(&mut self) -> GuestMemory<'_> {
        GuestMemory::new(&mut self.ram)
    }

    fn translate(&mut self, linear: u64, kind: AccessKind) -> Result<u64, PageFault> {
        let state = self.state;
        translate(&mut self.memory(), &state, linear, kind).map(|address| address.0)
    }

    /// The error code of the fault that an access must give, or `None` if it is allowed. A fault names the address and
    /// leaves the guest's memory as it was.
    fn code(&mut self, linear: u64, kind: AccessKind) -> Option<u32> {
        let before = self.ram.clone();
        let fault = self.translate(linear, kind).err()?;
        assert!(self.ram == before, "a fault changed memory");
        assert_eq!(fault.address, linear);
        Some(fault.error_code)
    }
}

use AccessKind::{Execute, Read, Write};

#[test]
fn without_paging_addresses_are_physical_and_have_32_bits() {
    let mut guest = Guest::new(0, PAE, 0);
    assert_eq!(guest.translate(0x1_2345_6789, Write), Ok(0x2345_6789));
}

#[test]
fn four_level_paging() {
    let mut guest = Guest::four_level(P | W | U);
    assert_eq!(guest.translate(LINEAR, Read), Ok(0x59ab));
    guest.set(LEVEL_2, LINEAR >> 21, 0x40_0000 | P | PS);
    assert_eq!(guest.translate(LINEAR, Read), Ok(0x40_0000 + LINEAR % 0x20_0000));
    guest.set(LEVEL_3, LINEAR >> 30, 0x4000_0000 | P | PS);
    assert_eq!(guest.translate(LINEAR, Read), Ok(0x4000_0000 + LINEAR % 0x4000_0000));
}

#[test]
fn thirty_two_bit_paging() {
    let mut guest = Guest::new(PAGING, 0, 0);
    guest.set_32(ROOT, LINEAR_32 >> 22, (LEVEL_1 | P | PS) as u32);
    guest.set_32(LEVEL_1, LINEAR_32 >> 12, 0x5000 | P as u32);
    assert_eq!(guest.translate(LINEAR_32, Read), Ok(0x59ab), "PS is ignored without CR4.PSE");
    assert_eq!(guest.translate(LINEAR_32 | 7 << 32, Read), Ok(0x59ab), "a linear address has 32 bits");
    guest.state.cr4 = PSE;
    guest.set_32(ROOT, LINEAR_32 >> 22, 0xffc0_0000 | (0x5a << 13) | (P | PS) as u32);
    assert_eq!(guest.translate(LINEAR_32, Read), Ok(0x5a_ffc0_0000 + LINEAR_32 % 0x40_0000), "PSE-36");
    guest.set_32(ROOT, LINEAR_32 >> 22, 0xffc0_0000 | (0x80 << 13) | (P | PS) as u32);
    assert_eq!(guest.code(LINEAR_32, Read), Some(0b01001), "address bit 39 is beyond the width");
    guest.set_32(ROOT, LINEAR_32 >> 22, 0xffc0_0000 | (1 << 21) | (P | PS) as u32);
    assert_eq!(guest.code(LINEAR_32, Read), Some(0b01001), "bit 21 is reserved");
}

#[test]
fn pae_paging() {
    let mut guest = Guest::new(PAGING, PAE, NXE);
    guest.set(LEVEL_2, LINEAR_32 >> 21, LEVEL_1 | P | W);
    guest.set(LEVEL_1, LINEAR_32 >> 12, 0x5000 | P | W);
    assert_eq!(guest.translate(LINEAR_32, Read), Ok(0x59ab));
    assert_eq!(guest.code(0x1000, Write), Some(0b00010), "PDPTE 0 is not present");
    for reserved in [1 << 39, 1 << 52, 1 << 62] {
        guest.set(LEVEL_1, LINEAR_32 >> 12, 0x5000 | P | reserved);
        assert_eq!(guest.code(LINEAR_32, Read), Some(0b01001), "{reserved:#x}");
    }
    guest.set(LEVEL_2, LINEAR_32 >> 21, 0x20_0000 | P | PS);
    assert_eq!(guest.translate(LINEAR_32, Read), Ok(0x20_0000 + LINEAR_32 % 0x20_0000));
    guest.set(LEVEL_2, LINEAR_32 >> 21, 0x20_2000 | P | PS);
    assert_eq!(guest.code(LINEAR_32, Read), Some(0b01001), "bit 13 of a 2 MiB page");
}

#[test]
fn what_is_not_present_faults_at_every_level() {
    for (table, index) in [(ROOT, LINEAR >> 39), (LEVEL_3, LINEAR >> 30), (LEVEL_2, LINEAR >> 21), (LEVEL_1, LINEAR >> 12)] {
        let mut guest = Guest::four_level(P | W | U);
        guest.set(table, index, !P);
        assert_eq!(guest.code(LINEAR, Write), Some(0b00010), "reserved bits of an absent entry do not count");
        guest.state.cpl = 3;
        assert_eq!(guest.code(LINEAR, Execute), Some(0b10100));
    }
}

#[test]
fn reserved_bits_of_four_level_paging() {
    let tables = [(ROOT, LINEAR >> 39), (LEVEL_3, LINEAR >> 30), (LEVEL_2, LINEAR >> 21), (LEVEL_1, LINEAR >> 12)];
    for (level, (table, index)) in (1..=4).rev().zip(tables) {
        let mut guest = Guest::four_level(P | W | U);
        let good = guest.get(table, index);
        guest.set(table, index, good | 1 << 52 | 1 << 62);
        assert_eq!(guest.code(LINEAR, Read), None, "bits 62:52 are ignored");
        for bit in [39, 51] {
            guest.set(table, index, good | 1 << bit);
            assert_eq!(guest.code(LINEAR, Read), Some(0b01001), "bit {bit} at level {level}");
        }
        guest.set(table, index, good | NX);
        assert_eq!(guest.code(LINEAR, Read), None);
        assert_eq!(guest.code(LINEAR, Execute), Some(0b10001));
        guest.state.efer = LMA;
        assert_eq!(guest.code(LINEAR, Execute), Some(0b01001), "NX is reserved, and fetches are not told apart");
    }
    let mut guest = Guest::four_level(P | PS);
    assert_eq!(guest.code(LINEAR, Read), Some(0b01001), "bit 7 of a PML4E");
    let mut guest = Guest::four_level(P);
    guest.set(LEVEL_3, LINEAR >> 30, P | PS);
    guest.state.gigabyte_pages = false;
    assert_eq!(guest.code(LINEAR, Read), Some(0b01001), "a 1 GiB page on a processor without");
    guest.state.gigabyte_pages = true;
    guest.set(LEVEL_3, LINEAR >> 30, 1 << 29 | P | PS);
    assert_eq!(guest.code(LINEAR, Read), Some(0b01001), "bit 29 of a 1 GiB page");
}

#[test]
fn rights_are_those_of_all_levels() {
    for (table, index) in [(ROOT, LINEAR >> 39), (LEVEL_3, LINEAR >> 30), (LEVEL_2, LINEAR >> 21), (LEVEL_1, LINEAR >> 12)] {
        let mut guest = Guest::four_level(P | W | U);
        let good = guest.get(table, index);
        guest.set(table, index, good & !W);
        assert_eq!(guest.code(LINEAR, Write), Some(0b00011));
        guest.state.cpl = 3;
        assert_eq!(guest.code(LINEAR, Write), Some(0b00111));
        assert_eq!(guest.code(LINEAR, Read), None);
        guest.set(table, index, good & !U);
        assert_eq!(guest.code(LINEAR, Read), Some(0b00101));
        assert_eq!(guest.code(LINEAR, Execute), Some(0b10101));
    }
}

#[test]
fn write_protect_binds_the_supervisor_only() {
    let mut guest = Guest::four_level(P | U);
    guest.state.cr0 = PAGING;
    assert_eq!(guest.code(LINEAR, Write), None);
    guest.state.cpl = 3;
    assert_eq!(guest.code(LINEAR, Write), Some(0b00111));
}

#[test]
fn supervisor_mode_access_and_execution_prevention() {
    let mut guest = Guest::four_level(P | W | U);
    guest.state.cr4 |= SMEP | SMAP;
    assert_eq!(guest.code(LINEAR, Read), Some(0b00001));
    assert_eq!(guest.code(LINEAR, Write), Some(0b00011));
    assert_eq!(guest.code(LINEAR, Execute), Some(0b10001));
    guest.state.rflags = AC;
    assert_eq!(guest.code(LINEAR, Read), None);
    assert_eq!(guest.code(LINEAR, Write), None);
    assert_eq!(guest.code(LINEAR, Execute), Some(0b10001), "AC is for data");
    (guest.state.rflags, guest.state.cpl) = (0, 3);
    assert!([Read, Write, Execute].iter().all(|&kind| guest.code(LINEAR, kind).is_none()));
    let mut guest = Guest::four_level(P | W);
    guest.state.cr4 |= SMEP | SMAP;
    assert!([Read, Write, Execute].iter().all(|&kind| guest.code(LINEAR, kind).is_none()), "a supervisor page");
    let mut guest = Guest::new(PAGING, SMEP, 0);
    assert_eq!(guest.code(LINEAR_32, Execute), Some(0b10000), "SMEP alone makes fetches told apart");
}

#[test]
fn protection_keys() {
    let mut guest = Guest::four_level(P | W | U);
    guest.state.pkru = 0b01_00 << 8 | 0b10 << 4;
    guest.state.cpl = 3;
    guest.set(LEVEL_1, LINEAR >> 12, 0x5000 | P | W | U | 5 << 59);
    assert_eq!(guest.code(LINEAR, Read), None, "CR4.PKE is clear");
    guest.state.cr4 |= PKE;
    assert_eq!(guest.code(LINEAR, Read), Some(0b10_0101), "key 5: access disabled");
    assert_eq!(guest.code(LINEAR, Execute), None);
    guest.set(LEVEL_1, LINEAR >> 12, 0x5000 | P | W | U | 2 << 59);
    assert_eq!(guest.code(LINEAR, Read), None, "key 2: writes disabled");
    assert_eq!(guest.code(LINEAR, Write), Some(0b10_0111));
    (guest.state.cpl, guest.state.cr0) = (0, PAGING);
    assert_eq!(guest.code(LINEAR, Write), None, "the supervisor without CR0.WP");
}

#[test]
fn accessed_and_dirty_flags() {
    let mut guest = Guest::four_level(P | W | U);
    let flags = |guest: &mut Guest| {
        [guest.get(ROOT, LINEAR >> 39), guest.get(LEVEL_3, LINEAR >> 30), guest.get(LEVEL_2, LINEAR >> 21)]
            .map(|entry| entry & (A | D))
    };
    let state = guest.state;
    assert_eq!(check(&mut guest.memory(), &state, LINEAR, Write), Ok(GuestPhysical(0x59ab)));
    assert_eq!((flags(&mut guest), guest.get(LEVEL_1, LINEAR >> 12)), ([0; 3], 0x5000 | P | W | U));
    guest.translate(LINEAR, Read).unwrap();
    assert_eq!((flags(&mut guest), guest.get(LEVEL_1, LINEAR >> 12)), ([A; 3], 0x5000 | P | W | U | A));
    guest.translate(LINEAR, Write).unwrap();
    assert_eq!((flags(&mut guest), guest.get(LEVEL_1, LINEAR >> 12)), ([A; 3], 0x5000 | P | W | U | A | D));
}

#[test]
fn tables_outside_ram_are_all_ones() {
    let mut guest = Guest::new(PAGING, PAE, LMA | NXE);
    guest.state.cr3 = 0x7f_ffff_f000;
    assert_eq!(guest.code(LINEAR, Read), Some(0b01001));
    let mut guest = Guest::new(PAGING, 0, 0);
    guest.state.cr3 = 0xf000_0000;
    assert_eq!(guest.translate(LINEAR_32, Write), Ok(0xffff_f9ab), "32-bit paging has no reserved bit there");
}

/// Maps the page after `LINEAR`'s to 0x9000.
fn with_second_page(bits: u64) -> Guest {
    let mut guest = Guest::four_level(P | W);
    guest.set(LEVEL_1, (LINEAR >> 12) + 1, 0x9000 | bits);
    guest
}

#[test]
fn copies_cross_pages() {
    let mut guest = with_second_page(P | W);
    let state = guest.state;
    let start = LINEAR & !0xfff | 0xffd;
    write_linear(&mut guest.memory(), &state, start, &[1, 2, 3, 4, 5]).unwrap();
    assert_eq!((&guest.ram[0x5ffd..0x6000], &guest.ram[0x9000..0x9002]), (&[1, 2, 3][..], &[4, 5][..]));
    let mut buffer = [0; 5];
    read_linear(&mut guest.memory(), &state, start, &mut buffer).unwrap();
    assert_eq!(buffer, [1, 2, 3, 4, 5]);
}

#[test]
fn a_write_that_faults_on_its_second_page_writes_nothing() {
    let mut guest = with_second_page(P);
    let (state, before) = (guest.state, guest.ram.clone());
    let start = LINEAR & !0xfff | 0xffd;
    let fault = write_linear(&mut guest.memory(), &state, start, &[1, 2, 3, 4, 5]);
    assert_eq!(fault, Err(PageFault { address: start + 3, error_code: 0b00011 }));
    assert!(guest.ram == before, "no byte and no flag");
}

#[test]
fn copies_wrap_at_32_bits_outside_64_bit_mode() {
    let mut guest = Guest::new(0, 0, 0);
    let state = guest.state;
    write_linear(&mut guest.memory(), &state, 0xffff_fffe, &[1, 2, 3, 4]).unwrap();
    assert_eq!(guest.ram[..2], [3, 4]);
    write_linear(&mut guest.memory(), &state, u64::MAX - 1, &[5, 6, 7, 8]).unwrap();
    assert_eq!(guest.ram[..2], [7, 8]);
}

#[test]
fn canonical_addresses() {
    for linear in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
        assert!(is_canonical(linear));
    }
    for linear in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63] {
        assert!(!is_canonical(linear));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_state_and_no_table_panics(
        seed in prop::collection::vec(any::<u8>(), 64),
        (cr0, cr3, cr4, efer) in any::<(u64, u64, u64, u64)>(),
        (rflags, cpl, pdptes) in any::<(u64, u8, [u64; 4])>(),
        (long_mode, gigabyte_pages, pkru, physical_address_width) in any::<(bool, bool, u32, u32)>(),
        linear: u64,
    ) {
        let mut ram: Vec<u8> = seed.iter().copied().cycle().take(0x8000).collect();
        let mut memory = GuestMemory::new(&mut ram);
        let cr3 = cr3 & 0x7000;
        let state = PagingState {
            cr0, cr3, cr4, efer, rflags, cpl, long_mode, pkru, pdptes, physical_address_width, gigabyte_pages,
        };
        for kind in [Read, Write, Execute] {
            if let Ok(address) = translate(&mut memory, &state, linear, kind) {
                prop_assert!(address.0 < 1 << 52);
            }
        }
        let mut buffer = [0; 40];
        let _ = read_linear(&mut memory, &state, linear, &mut buffer);
        let _ = write_linear(&mut memory, &state, linear, &buffer);
    }
}
