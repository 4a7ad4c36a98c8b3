//! Evaluates the table of rules as straight-line code.
//!
//! Walking the table takes ten times as many instructions as the rules need themselves. Here each group and each rule is a
//! constant of a type with its number as parameter, so that the compiler sees which function it calls and puts it in place. The table
//! stays the only place where the rules stand.

use super::rule::{Group, Rule, Violation};
use super::state::{READ_AT_ONCE, Slot, State};
use super::{GROUP_COUNT, IN_ORDER};
use crate::access::VmcsAccess;

/// The most rules a group may have: as many as `rules` visits.
const MAXIMUM_RULES: usize = 16;
/// The most groups there may be: as many as `groups` visits.
pub(super) const MAXIMUM_GROUPS: usize = 112;

/// The most fields that are read at once: as many as `read_at_once` visits.
const MAXIMUM_AT_ONCE: usize = 48;

const _: () = {
    assert!(READ_AT_ONCE.len() <= MAXIMUM_AT_ONCE, "some fields would not be read");
    assert!(GROUP_COUNT <= MAXIMUM_GROUPS, "some groups would not be visited");
    let mut group = 0;
    while group < GROUP_COUNT {
        assert!(IN_ORDER[group].rules.len() <= MAXIMUM_RULES, "some rules would not be visited");
        group += 1;
    }
};

/// The group with this number.
struct GroupAt<const GROUP: usize>;

impl<const GROUP: usize> GroupAt<GROUP> {
    const GROUP: Option<&'static Group> = if GROUP < GROUP_COUNT { Some(IN_ORDER[GROUP]) } else { None };
}

/// The rule with this number in that group.
struct RuleAt<const GROUP: usize, const RULE: usize>;

impl<const GROUP: usize, const RULE: usize> RuleAt<GROUP, RULE> {
    const RULE: Option<&'static Rule> = match GroupAt::<GROUP>::GROUP {
        Some(group) if RULE < group.rules.len() => Some(&group.rules[RULE]),
        _ => None,
    };
}

/// The field with this number among those that are read at once.
struct AtOnce<const FIELD: usize>;

impl<const FIELD: usize> AtOnce<FIELD> {
    const SLOT: Option<Slot> = if FIELD < READ_AT_ONCE.len() { Some(READ_AT_ONCE[FIELD]) } else { None };
}

/// Reads the fields that nearly every entry needs.
#[inline(always)]
pub(super) fn read_at_once(access: &mut impl VmcsAccess, state: &mut State<'_>) {
    macro_rules! fields {
        ($($number:literal)*) => {{ $(if let Some(slot) = AtOnce::<$number>::SLOT {
            state.fetch(access, slot);
        })* }};
    }
    fields!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43
        44 45 46 47
    );
}

/// Evaluates one rule. Gives `false` if `report` has enough.
#[inline(always)]
fn rule<const GROUP: usize, const RULE: usize>(state: &State<'_>, report: &mut dyn FnMut(Violation) -> bool) -> bool {
    let (Some(group), Some(rule)) = (GroupAt::<GROUP>::GROUP, RuleAt::<GROUP, RULE>::RULE) else { return true };
    let value = match rule.fields.first() {
        Some(field) => state.get(*field),
        None => 0,
    };
    match (rule.broken)(state, value) {
        None => true,
        Some(offending) => report(Violation::new((GROUP, RULE), group, rule, offending, state)),
    }
}

/// Evaluates the rules of one group, if its condition holds. Gives `false` if `report` has enough.
#[inline(always)]
fn group<const GROUP: usize>(
    access: &mut impl VmcsAccess,
    state: &mut State<'_>,
    report: &mut dyn FnMut(Violation) -> bool,
) -> bool {
    let Some(group) = GroupAt::<GROUP>::GROUP else { return true };
    if !(group.condition)(state) {
        return true;
    }
    for slot in group.fetch {
        state.fetch(access, *slot);
    }
    macro_rules! rules {
        ($($number:literal)*) => { true $(&& rule::<GROUP, $number>(state, report))* };
    }
    rules!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

/// Evaluates every rule in order, until `report` has enough.
pub(super) fn visit(access: &mut impl VmcsAccess, state: &mut State<'_>, report: &mut dyn FnMut(Violation) -> bool) {
    macro_rules! groups {
        ($($number:literal)*) => { true $(&& group::<$number>(access, state, report))* };
    }
    let _enough = !groups!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43
        44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84
        85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111
    );
}
