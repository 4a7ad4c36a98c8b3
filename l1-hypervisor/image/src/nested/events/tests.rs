//! The tables of `shadow` and of the trace are one, and steps come out as they were noted.

use exit_trace::rule::NAMES;
use shadow::reflect::{RULES, rule_name};

use super::*;
use crate::testing::Machine;

#[test]
fn the_trace_knows_the_rules_by_their_names() {
    for number in 1..=RULES.len() {
        let name = rule_name(u16::try_from(number).expect("there are few rules"));
        assert_eq!(NAMES.get(number - 1), Some(&name), "rule {number}");
    }
    assert_eq!(NAMES.len(), RULES.len());
}

#[test]
fn the_trace_knows_the_groups_of_a_merge_by_their_names() {
    let names: Vec<_> = MergeGroups::ALL.iter().skip(1).map(|(_, name)| *name).collect();
    assert_eq!(GROUPS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    for (number, (group, _)) in MergeGroups::ALL.iter().skip(1).enumerate() {
        assert_eq!(group.0, 1 << (number + 1));
    }
    assert_eq!(groups(&FieldSet::ALL), MergeGroups::EVERYTHING);
    assert_eq!(groups(&FieldSet::of(&[Field::GUEST_RIP])), MergeGroups::COPIED);
    assert_eq!(groups(&FieldSet::EMPTY), MergeGroups(0));
}

#[test]
fn a_sync_tells_of_the_vmcs_it_was_about() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    let mut events = Events::new();
    events.begin(0x1000, 0);
    events.sync(Direction::FromShadow, 3, &mut vcpu.platform);
    events.sync(Direction::ToShadow, 25, &mut vcpu.platform);
    let syncs: Vec<_> = events.take(0x2000).iter().filter_map(ShadowSync::read).collect();
    let sync = |vmcs23, direction, fields| ShadowSync { vmcs23, direction, fields };
    assert_eq!(syncs, [sync(0x1000, Direction::FromShadow, 3), sync(0x2000, Direction::ToShadow, 25)]);
    assert!(events.take(0x2000).is_empty());
    (0..2 * CAPACITY).for_each(|_| events.sync(Direction::ToShadow, 0, &mut vcpu.platform));
    assert_eq!(events.take(0).len(), CAPACITY, "more has no place");
}

#[test]
fn intercepts_show_when_they_are_new() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    let mut events = Events::new();
    let mut vmcs23 = Vmcs23::new();
    let mut kinds = |vmcs23: &Vmcs23| -> Vec<_> {
        events.enter(false, vmcs23, &FieldSet::EMPTY, 0, &mut vcpu.platform);
        events.take(0).iter().filter_map(Record::kind).collect()
    };
    use RecordKind as K;
    assert_eq!(kinds(&vmcs23), [K::NestedIntercepts, K::Merge, K::NestedEntry]);
    vmcs23.write(Field::GUEST_RIP, 0x1234);
    assert_eq!(kinds(&vmcs23), [K::Merge, K::NestedEntry]);
    vmcs23.write(Field::EXCEPTION_BITMAP, 1 << 6);
    assert_eq!(kinds(&vmcs23), [K::NestedIntercepts, K::Merge, K::NestedEntry]);
}
