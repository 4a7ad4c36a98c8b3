//! The checks of the guest's segment and descriptor-table registers.
//!
//! A macro writes the groups of one register, since six of them share most of their rules and a rule has to name its own fields.

use super::access_rights::{
    AccessRights, CODE_OR_DATA, DEFAULT_OPERATION_SIZE, DPL, LONG, PRESENT, READ_WRITE_ACCESSED, RESERVED, TYPE, UNUSABLE,
};
use super::rule::{Group, Outcome, bits, group, unless};
use super::state::State;
use super::values::{CR0_PE, CR4_FRED};
use crate::controls::SecondaryProcessorBased;
use crate::field::Field;
use crate::qualification::GuestStateFailure;

/// Number and title of the SDM's sections.
const SECTION: (&str, &str) = ("26.3.1.2", "Checks on Guest Segment Registers");
const DESCRIPTOR_TABLES: (&str, &str) = ("26.3.1.3", "Checks on Guest Descriptor-Table Registers");
const GUEST: Outcome = Outcome::guest(GuestStateFailure::UNSPECIFIED);

/// Access rights of every segment in virtual-8086 mode: present, DPL 3, read/write, accessed.
const VIRTUAL_8086_RIGHTS: u64 = 0xf3;
/// Requested privilege level of a selector.
const RPL: u64 = 3;
/// Table indicator of a selector.
const TI: u64 = 4;
/// Type of an LDT.
const LDT: u64 = 2;
/// Types of a busy 16-bit and 32-bit (in IA-32e mode 64-bit) task-state segment.
const BUSY_TSS_16: u64 = 3;
const BUSY_TSS: u64 = 11;

const CANONICAL: &str = "must be canonical";
const GRANULARITY: &str = "bit 15 (G) must be 0 if a bit of limit[11:0] is 0, and 1 if a bit of limit[31:20] is 1";

fn virtual_8086(state: &State<'_>) -> bool {
    state.get(Field::GUEST_RFLAGS) & 1 << 17 != 0
}

fn unrestricted(state: &State<'_>) -> bool {
    state.secondary.contains(SecondaryProcessorBased::UNRESTRICTED_GUEST)
}

fn rights(state: &State<'_>, field: Field) -> AccessRights {
    AccessRights(state.get(field))
}

/// Neither in virtual-8086 mode nor unusable.
fn checked(state: &State<'_>, field: Field) -> bool {
    !virtual_8086(state) && rights(state, field).is_usable()
}

fn not_canonical(state: &State<'_>, value: u64) -> Option<u64> {
    unless(state.is_canonical(value), value)
}

/// What CS must be if it is a code segment: its DPL equals SS's, or for a conforming segment is not above it.
fn code_privilege_is_consistent(state: &State<'_>) -> bool {
    let code = rights(state, Field::GUEST_CS_ACCESS_RIGHTS);
    let stack = rights(state, Field::GUEST_SS_ACCESS_RIGHTS).privilege_level();
    match code.segment_type() {
        9 | 11 => code.privilege_level() == stack,
        13 | 15 => code.privilege_level() <= stack,
        _ => true,
    }
}

/// The type of CS is one that the guest may have.
fn code_type_is_allowed(state: &State<'_>, value: u64) -> bool {
    let segment_type = AccessRights(value).segment_type();
    matches!(segment_type, 9 | 11 | 13 | 15) || (segment_type == READ_WRITE_ACCESSED && unrestricted(state))
}

/// The guest is in real mode, or CS is a data segment as after leaving it: then SS must have privilege level 0.
fn like_real_mode(state: &State<'_>) -> bool {
    let data_in_cs = rights(state, Field::GUEST_CS_ACCESS_RIGHTS).segment_type() == READ_WRITE_ACCESSED;
    state.get(Field::GUEST_CR0) & CR0_PE == 0 || data_in_cs
}

/// Data segments and code segments that aren't conforming have a DPL that must not be below the selector's RPL.
fn privilege_is_too_low(rights: u64, selector: u64) -> bool {
    let rights = AccessRights(rights);
    rights.segment_type() <= 11 && rights.privilege_level() < selector & RPL
}

/// The rules of one of CS, SS, DS, ES, FS and GS in virtual-8086 mode.
macro_rules! virtual_8086 {
    ($name:literal, $selector:ident, $base:ident, $limit:ident, $rights:ident) => {
        group!(SECTION, GUEST, "in virtual-8086 mode", virtual_8086, [$base $limit], {
            concat!("guest.", $name, ".virtual-8086.base"), [$base $selector], "must be the selector times 16",
                |s, value| unless(value == s.get(Field::$selector) << 4, value);
            concat!("guest.", $name, ".virtual-8086.limit"), [$limit], "must be 0xffff", |_, value| unless(value == 0xffff, value);
            concat!("guest.", $name, ".virtual-8086.access-rights"), [$rights], "must be 0xf3",
                |_, value| unless(value == VIRTUAL_8086_RIGHTS, value);
        })
    };
}

/// The rules for the access rights of a usable code or data segment beside its type and privilege level.
macro_rules! usable {
    ($name:literal, $limit:ident, $rights:ident, [$($fetch:ident)*], { $($more:tt)* }) => {
        group!(SECTION, GUEST, "with a usable segment outside virtual-8086 mode", |s| checked(s, Field::$rights), [$($fetch)*], {
            $($more)*
            concat!("guest.", $name, ".code-or-data"), [$rights], "bit 4 (S) must be 1", |_, value| bits(!value & CODE_OR_DATA);
            concat!("guest.", $name, ".present"), [$rights], "bit 7 (P) must be 1", |_, value| bits(!value & PRESENT);
            concat!("guest.", $name, ".reserved"), [$rights], "bits 11:8 and 31:17 must be 0", |_, value| bits(value & RESERVED);
            concat!("guest.", $name, ".granularity"), [$rights $limit], GRANULARITY,
                |s, value| bits(AccessRights(value).granularity_contradiction(s.get(Field::$limit)));
        })
    };
}

/// The rules of a usable DS, ES, FS or GS.
macro_rules! data {
    ($name:literal, $selector:ident, $limit:ident, $rights:ident, [$($fetch:ident)*], { $($more:tt)* }) => {
        usable!($name, $limit, $rights, [$($fetch)*], {
            $($more)*
            concat!("guest.", $name, ".accessed"), [$rights], "bit 0 (accessed) must be 1", |_, value| bits(!value & 1);
            concat!("guest.", $name, ".readable"), [$rights], "a code segment must be readable: bit 1 must be 1 if bit 3 is",
                |_, value| unless(value & 0xa != 8, value & TYPE);
            concat!("guest.", $name, ".dpl"), [$rights $selector],
                "without \"unrestricted guest\" the DPL must not be below the RPL, unless the segment is a conforming code segment",
                |s, value| unless(unrestricted(s) || !privilege_is_too_low(value, s.get(Field::$selector)), value & DPL);
        })
    };
}

/// The rules for the access rights of LDTR or TR.
macro_rules! system {
    ($name:literal, $selector:ident, $limit:ident, $rights:ident, $when:literal, $condition:expr, [$($fetch:ident)*], { $($more:tt)* }) => {
        group!(SECTION, GUEST, $when, $condition, [$($fetch)*], {
            concat!("guest.", $name, ".table-indicator"), [$selector], "bit 2 (TI) must be 0", |_, value| bits(value & TI);
            $($more)*
            concat!("guest.", $name, ".system"), [$rights], "bit 4 (S) must be 0", |_, value| bits(value & CODE_OR_DATA);
            concat!("guest.", $name, ".present"), [$rights], "bit 7 (P) must be 1", |_, value| bits(!value & PRESENT);
            concat!("guest.", $name, ".reserved"), [$rights], "bits 11:8 and 31:17 must be 0", |_, value| bits(value & RESERVED);
            concat!("guest.", $name, ".granularity"), [$rights $limit], GRANULARITY,
                |s, value| bits(AccessRights(value).granularity_contradiction(s.get(Field::$limit)));
        })
    };
}

/// Said of the base of CS, SS, DS and ES.
const UPPER_HALF: &str = "bits 63:32 must be 0";

/// The bits of a base that the four segments without a 64-bit base cannot have.
fn upper_half(_: &State<'_>, base: u64) -> Option<u64> {
    bits(base & !0xffff_ffff)
}

pub(super) const GROUPS: &[Group] = &[
    virtual_8086!("es", GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS),
    virtual_8086!("cs", GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS),
    virtual_8086!("ss", GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS),
    virtual_8086!("ds", GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS),
    virtual_8086!("fs", GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS),
    virtual_8086!("gs", GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS),
    data!("es", GUEST_ES_SELECTOR, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS, [GUEST_ES_BASE GUEST_ES_LIMIT], {
        "guest.es.base", [GUEST_ES_BASE], UPPER_HALF, upper_half;
    }),
    // CS is checked even if it is marked unusable.
    group!(SECTION, GUEST, "outside virtual-8086 mode", |s| !virtual_8086(s), [GUEST_CS_BASE GUEST_CS_LIMIT], {
        "guest.cs.base", [GUEST_CS_BASE], UPPER_HALF, upper_half;
        "guest.cs.type", [GUEST_CS_ACCESS_RIGHTS], "the type must be 9, 11, 13 or 15, or 3 with \"unrestricted guest\"",
            |s, value| unless(code_type_is_allowed(s, value), value & TYPE);
        "guest.cs.code-or-data", [GUEST_CS_ACCESS_RIGHTS], "bit 4 (S) must be 1", |_, value| bits(!value & CODE_OR_DATA);
        "guest.cs.dpl.data", [GUEST_CS_ACCESS_RIGHTS], "the DPL must be 0 if the type is 3",
            |_, value| unless(AccessRights(value).segment_type() != READ_WRITE_ACCESSED || value & DPL == 0, value & DPL);
        "guest.cs.dpl.code", [GUEST_CS_ACCESS_RIGHTS GUEST_SS_ACCESS_RIGHTS],
            "the DPL must equal that of SS, and for a conforming code segment must not be above it",
            |s, value| unless(code_privilege_is_consistent(s), value & DPL);
        "guest.cs.present", [GUEST_CS_ACCESS_RIGHTS], "bit 7 (P) must be 1", |_, value| bits(!value & PRESENT);
        "guest.cs.reserved", [GUEST_CS_ACCESS_RIGHTS], "bits 11:8 and 31:17 must be 0", |_, value| bits(value & RESERVED);
        "guest.cs.operation-size", [GUEST_CS_ACCESS_RIGHTS], "bit 14 (D/B) must be 0 in a 64-bit code segment (\"IA-32e mode guest\" and L)",
            |s, value| unless(!s.ia32e_guest() || value & LONG == 0 || value & DEFAULT_OPERATION_SIZE == 0, DEFAULT_OPERATION_SIZE);
        "guest.cs.granularity", [GUEST_CS_ACCESS_RIGHTS GUEST_CS_LIMIT], GRANULARITY,
            |s, value| bits(AccessRights(value).granularity_contradiction(s.get(Field::GUEST_CS_LIMIT)));
    }),
    usable!("ss", GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS, [GUEST_SS_BASE GUEST_SS_LIMIT], {
        "guest.ss.base", [GUEST_SS_BASE], UPPER_HALF, upper_half;
        "guest.ss.type", [GUEST_SS_ACCESS_RIGHTS], "the type must be 3 or 7",
            |_, value| unless(matches!(AccessRights(value).segment_type(), 3 | 7), value & TYPE);
    }),
    data!("ds", GUEST_DS_SELECTOR, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS, [GUEST_DS_BASE GUEST_DS_LIMIT], {
        "guest.ds.base", [GUEST_DS_BASE], UPPER_HALF, upper_half;
    }),
    group!(SECTION, GUEST, "outside virtual-8086 mode", |s| !virtual_8086(s), [GUEST_FS_BASE GUEST_GS_BASE], {
        "guest.fs.base", [GUEST_FS_BASE], CANONICAL, not_canonical;
        "guest.gs.base", [GUEST_GS_BASE], CANONICAL, not_canonical;
    }),
    data!("fs", GUEST_FS_SELECTOR, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS, [GUEST_FS_LIMIT], {}),
    data!("gs", GUEST_GS_SELECTOR, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS, [GUEST_GS_LIMIT], {}),
    // The DPL of SS is the CPL, so these rules hold even if SS is unusable.
    group!(SECTION, GUEST, "outside virtual-8086 mode without \"unrestricted guest\"", |s| !virtual_8086(s) && !unrestricted(s), [], {
        "guest.ss.rpl", [GUEST_SS_SELECTOR GUEST_CS_SELECTOR], "the RPL must equal that of CS",
            |s, value| bits((value ^ s.get(Field::GUEST_CS_SELECTOR)) & RPL);
        "guest.ss.dpl.rpl", [GUEST_SS_ACCESS_RIGHTS GUEST_SS_SELECTOR], "the DPL must equal the RPL",
            |s, value| unless(AccessRights(value).privilege_level() == s.get(Field::GUEST_SS_SELECTOR) & RPL, value & DPL);
    }),
    group!(SECTION, GUEST, "outside virtual-8086 mode, in real mode or with a data segment in CS", |s| !virtual_8086(s) && like_real_mode(s), [], {
        "guest.ss.dpl.real-mode", [GUEST_SS_ACCESS_RIGHTS GUEST_CR0 GUEST_CS_ACCESS_RIGHTS], "the DPL must be 0", |_, value| bits(value & DPL);
    }),
    group!(SECTION, GUEST, "with CR4.FRED", |s| s.get(Field::GUEST_CR4) & CR4_FRED != 0, [], {
        "guest.ss.dpl.fred", [GUEST_SS_ACCESS_RIGHTS GUEST_CR4], "the DPL must be 0 or 3",
            |_, value| unless(matches!(AccessRights(value).privilege_level(), 0 | 3), value & DPL);
        "guest.cs.long.fred", [GUEST_CS_ACCESS_RIGHTS GUEST_SS_ACCESS_RIGHTS], "bit 13 (L) must be 1 if the DPL of SS is 0",
            |s, value| unless(value & LONG != 0 || rights(s, Field::GUEST_SS_ACCESS_RIGHTS).privilege_level() != 0, LONG);
    }),
    group!(DESCRIPTOR_TABLES, GUEST, "", |_| true, [GUEST_GDTR_BASE GUEST_IDTR_BASE GUEST_GDTR_LIMIT GUEST_IDTR_LIMIT], {
        "guest.gdtr.base", [GUEST_GDTR_BASE], CANONICAL, not_canonical;
        "guest.idtr.base", [GUEST_IDTR_BASE], CANONICAL, not_canonical;
        "guest.gdtr.limit", [GUEST_GDTR_LIMIT], "bits 31:16 must be 0", |_, value| bits(value & !0xffff);
        "guest.idtr.limit", [GUEST_IDTR_LIMIT], "bits 31:16 must be 0", |_, value| bits(value & !0xffff);
    }),
    system!("ldtr", GUEST_LDTR_SELECTOR, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS, "with a usable LDTR",
        |s| rights(s, Field::GUEST_LDTR_ACCESS_RIGHTS).is_usable(), [GUEST_LDTR_LIMIT GUEST_LDTR_BASE], {
        "guest.ldtr.type", [GUEST_LDTR_ACCESS_RIGHTS], "the type must be 2 (LDT)",
            |_, value| unless(AccessRights(value).segment_type() == LDT, value & TYPE);
        "guest.ldtr.base", [GUEST_LDTR_BASE], CANONICAL, not_canonical;
    }),
    system!("tr", GUEST_TR_SELECTOR, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS, "", |_| true, [GUEST_TR_LIMIT GUEST_TR_BASE], {
        "guest.tr.base", [GUEST_TR_BASE], CANONICAL, not_canonical;
        "guest.tr.usable", [GUEST_TR_ACCESS_RIGHTS], "bit 16 (unusable) must be 0", |_, value| bits(value & UNUSABLE);
        "guest.tr.type", [GUEST_TR_ACCESS_RIGHTS], "the type must be 11 (busy TSS), or 3 (busy 16-bit TSS) without \"IA-32e mode guest\"",
            |s, value| {
                let segment_type = AccessRights(value).segment_type();
                unless(segment_type == BUSY_TSS || (segment_type == BUSY_TSS_16 && !s.ia32e_guest()), segment_type)
            };
    }),
];
