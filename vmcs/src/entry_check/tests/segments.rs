//! Mutations that break the checks of the guest's segment and descriptor-table registers.

use super::guest::{protected_mode, real_mode, unrestricted};
use super::*;

const WILD: u64 = 0x0000_8000_0000_0000;
const UNUSABLE: u64 = 1 << 16;

/// Selector, base, limit and access rights of the six code and data segments.
pub(super) const SEGMENTS: &[(Field, Field, Field, Field)] = &[
    (Field::GUEST_ES_SELECTOR, Field::GUEST_ES_BASE, Field::GUEST_ES_LIMIT, Field::GUEST_ES_ACCESS_RIGHTS),
    (Field::GUEST_CS_SELECTOR, Field::GUEST_CS_BASE, Field::GUEST_CS_LIMIT, Field::GUEST_CS_ACCESS_RIGHTS),
    (Field::GUEST_SS_SELECTOR, Field::GUEST_SS_BASE, Field::GUEST_SS_LIMIT, Field::GUEST_SS_ACCESS_RIGHTS),
    (Field::GUEST_DS_SELECTOR, Field::GUEST_DS_BASE, Field::GUEST_DS_LIMIT, Field::GUEST_DS_ACCESS_RIGHTS),
    (Field::GUEST_FS_SELECTOR, Field::GUEST_FS_BASE, Field::GUEST_FS_LIMIT, Field::GUEST_FS_ACCESS_RIGHTS),
    (Field::GUEST_GS_SELECTOR, Field::GUEST_GS_BASE, Field::GUEST_GS_LIMIT, Field::GUEST_GS_ACCESS_RIGHTS),
];

/// A guest in virtual-8086 mode.
pub(super) fn virtual_8086(c: &mut Case) -> &mut Case {
    protected_mode(c).or(Field::GUEST_RFLAGS, 1 << 17);
    for (selector, base, limit, rights) in SEGMENTS {
        c.set(*selector, 0x1234).set(*base, 0x1_2340).set(*limit, 0xffff).set(*rights, 0xf3);
    }
    c
}

/// A 64-bit guest at CPL 3.
pub(super) fn user_mode(c: &mut Case) -> &mut Case {
    for (selector, _, _, rights) in SEGMENTS {
        c.or(*selector, 3).or(*rights, 0x60);
    }
    c
}

/// The mutations that DS, ES, FS and GS have in common.
macro_rules! data {
    ($name:literal, $selector:ident, $base:ident, $limit:ident, $rights:ident) => {
        [
            (concat!("guest.", $name, ".virtual-8086.base"), |c| {
                virtual_8086(c).set(Field::$base, 0x1_2350);
            }),
            (concat!("guest.", $name, ".virtual-8086.limit"), |c| {
                virtual_8086(c).set(Field::$limit, 0xf_ffff);
            }),
            (concat!("guest.", $name, ".virtual-8086.access-rights"), |c| {
                virtual_8086(c).set(Field::$rights, 0x93);
            }),
            (concat!("guest.", $name, ".accessed"), |c| {
                c.set(Field::$rights, 0xc092);
            }),
            (concat!("guest.", $name, ".readable"), |c| {
                c.set(Field::$rights, 0xc099);
            }),
            (concat!("guest.", $name, ".dpl"), |c| {
                c.or(Field::$selector, 1);
            }),
            (concat!("guest.", $name, ".code-or-data"), |c| {
                c.and_not(Field::$rights, 0x10);
            }),
            (concat!("guest.", $name, ".present"), |c| {
                c.and_not(Field::$rights, 0x80);
            }),
            (concat!("guest.", $name, ".reserved"), |c| {
                c.or(Field::$rights, 0x800);
            }),
            (concat!("guest.", $name, ".granularity"), |c| {
                c.set(Field::$limit, 0x1000);
            }),
        ]
    };
}

/// The mutations that LDTR and TR have in common.
macro_rules! system {
    ($name:literal, $selector:ident, $base:ident, $limit:ident, $rights:ident) => {
        [
            (concat!("guest.", $name, ".table-indicator"), |c| {
                c.or(Field::$selector, 4);
            }),
            (concat!("guest.", $name, ".base"), |c| {
                c.set(Field::$base, WILD);
            }),
            (concat!("guest.", $name, ".type"), |c| {
                c.or(Field::$rights, 4);
            }),
            (concat!("guest.", $name, ".system"), |c| {
                c.or(Field::$rights, 0x10);
            }),
            (concat!("guest.", $name, ".present"), |c| {
                c.and_not(Field::$rights, 0x80);
            }),
            (concat!("guest.", $name, ".reserved"), |c| {
                c.or(Field::$rights, 1 << 17);
            }),
            (concat!("guest.", $name, ".granularity"), |c| {
                c.set(Field::$limit, 0x10_0000);
            }),
        ]
    };
}

const ES: [Mutation; 10] = data!("es", GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS);
const DS: [Mutation; 10] = data!("ds", GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS);
const FS: [Mutation; 10] = data!("fs", GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS);
const GS: [Mutation; 10] = data!("gs", GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS);
const LDTR: [Mutation; 7] = system!("ldtr", GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS);
const TR: [Mutation; 7] = system!("tr", GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS);

#[rustfmt::skip]
const OTHERS: &[Mutation] = &[
    ("guest.es.base", |c| { c.set(Field::GUEST_ES_BASE, 1 << 32); }),
    ("guest.ds.base", |c| { c.set(Field::GUEST_DS_BASE, 1 << 32); }),
    ("guest.fs.base", |c| { c.set(Field::GUEST_FS_BASE, WILD); }),
    ("guest.gs.base", |c| { c.set(Field::GUEST_GS_BASE, WILD); }),
    ("guest.cs.virtual-8086.base", |c| { virtual_8086(c).set(Field::GUEST_CS_BASE, 0); }),
    ("guest.cs.virtual-8086.limit", |c| { virtual_8086(c).set(Field::GUEST_CS_LIMIT, 0xfffe); }),
    ("guest.cs.virtual-8086.access-rights", |c| { virtual_8086(c).set(Field::GUEST_CS_ACCESS_RIGHTS, 0xfb); }),
    ("guest.ss.virtual-8086.base", |c| { virtual_8086(c).set(Field::GUEST_SS_BASE, 0); }),
    ("guest.ss.virtual-8086.limit", |c| { virtual_8086(c).set(Field::GUEST_SS_LIMIT, 0xfffe); }),
    ("guest.ss.virtual-8086.access-rights", |c| { virtual_8086(c).set(Field::GUEST_SS_ACCESS_RIGHTS, 0x1_00f3); }),
    ("guest.cs.base", |c| { c.set(Field::GUEST_CS_BASE, 1 << 32); }),
    ("guest.cs.type", |c| { c.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa093); }),
    ("guest.cs.code-or-data", |c| { c.and_not(Field::GUEST_CS_ACCESS_RIGHTS, 0x10); }),
    ("guest.cs.dpl.data", |c| { real_mode(c).set(Field::GUEST_CS_ACCESS_RIGHTS, 0xb3); }),
    ("guest.cs.dpl.code", |c| { c.or(Field::GUEST_CS_ACCESS_RIGHTS, 0x60); }),
    ("guest.cs.present", |c| { c.and_not(Field::GUEST_CS_ACCESS_RIGHTS, 0x80); }),
    ("guest.cs.reserved", |c| { c.or(Field::GUEST_CS_ACCESS_RIGHTS, 0x100); }),
    ("guest.cs.operation-size", |c| { c.or(Field::GUEST_CS_ACCESS_RIGHTS, 0x4000); }),
    ("guest.cs.granularity", |c| { c.and_not(Field::GUEST_CS_ACCESS_RIGHTS, 0x8000); }),
    ("guest.ss.base", |c| { c.set(Field::GUEST_SS_BASE, 1 << 32); }),
    ("guest.ss.type", |c| { c.set(Field::GUEST_SS_ACCESS_RIGHTS, 0xc091); }),
    ("guest.ss.code-or-data", |c| { c.and_not(Field::GUEST_SS_ACCESS_RIGHTS, 0x10); }),
    ("guest.ss.present", |c| { c.and_not(Field::GUEST_SS_ACCESS_RIGHTS, 0x80); }),
    ("guest.ss.reserved", |c| { c.or(Field::GUEST_SS_ACCESS_RIGHTS, 1 << 31); }),
    ("guest.ss.granularity", |c| { c.and_not(Field::GUEST_SS_ACCESS_RIGHTS, 0x8000); }),
    ("guest.ss.rpl", |c| { user_mode(c).and_not(Field::GUEST_SS_SELECTOR, 3); }),
    ("guest.ss.dpl.rpl", |c| {
        // A conforming code segment may have a lower DPL than SS.
        user_mode(c).set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa09f).and_not(Field::GUEST_SS_ACCESS_RIGHTS, 0x60);
    }),
    ("guest.ss.dpl.real-mode", |c| { real_mode(c).set(Field::GUEST_SS_ACCESS_RIGHTS, 0xf3); }),
    ("guest.ss.dpl.fred", |c| {
        user_mode(c).or(Field::GUEST_CR4, 1 << 32);
        for (selector, _, _, rights) in SEGMENTS {
            c.and_not(*selector, 2).and_not(*rights, 0x40);
        }
    }),
    ("guest.cs.long.fred", |c| { c.or(Field::GUEST_CR4, 1 << 32).set(Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b).set(Field::GUEST_RIP, 0); }),
    ("guest.gdtr.base", |c| { c.set(Field::GUEST_GDTR_BASE, WILD); }),
    ("guest.idtr.base", |c| { c.set(Field::GUEST_IDTR_BASE, WILD); }),
    ("guest.gdtr.limit", |c| { c.set(Field::GUEST_GDTR_LIMIT, 0x1_0000); }),
    ("guest.idtr.limit", |c| { c.set(Field::GUEST_IDTR_LIMIT, 0x1_0000); }),
    ("guest.tr.usable", |c| { c.or(Field::GUEST_TR_ACCESS_RIGHTS, UNUSABLE); }),
];

pub(super) fn mutations() -> impl Iterator<Item = &'static Mutation> {
    [ES.as_slice(), &DS, &FS, &GS, &LDTR, &TR].into_iter().flatten().chain(OTHERS)
}

#[test]
fn unusable_segments_are_not_looked_at() {
    let mut case = Case::valid();
    for (selector, base, limit, rights) in SEGMENTS {
        if *rights != Field::GUEST_CS_ACCESS_RIGHTS {
            case.set(*selector, 0).set(*base, 0x1_2345).set(*limit, 0x12_3456).set(*rights, UNUSABLE);
        }
    }
    case.set(Field::GUEST_LDTR_ACCESS_RIGHTS, UNUSABLE).set(Field::GUEST_LDTR_BASE, WILD).or(Field::GUEST_LDTR_SELECTOR, 4);
    case.assert_valid("unusable segments");
}

#[test]
fn a_16_bit_task_state_segment_is_for_guests_outside_ia32e_mode() {
    protected_mode(&mut Case::valid()).set(Field::GUEST_TR_ACCESS_RIGHTS, 0x83).assert_valid("a 16-bit TSS");
    let mut case = Case::valid();
    case.set(Field::GUEST_TR_ACCESS_RIGHTS, 0x83);
    assert_eq!(case.violations().first().map(|violation| violation.rule.id), Some("guest.tr.type"));
}

#[test]
fn privilege_levels_of_data_segments() {
    // A conforming code segment in DS may have any DPL, and an unrestricted guest need not care.
    Case::valid()
        .set(Field::GUEST_DS_ACCESS_RIGHTS, 0xc09f)
        .or(Field::GUEST_DS_SELECTOR, 3)
        .assert_valid("conforming code in DS");
    unrestricted(&mut Case::valid()).or(Field::GUEST_DS_SELECTOR, 3).assert_valid("an unrestricted guest");
}
