//! One negative test a rule: a valid entry, one thing mutated, and the rule that must be the first to notice.

mod case;
mod controls;
mod guest;
mod host;
mod segments;

use std::boxed::Box;
use std::string::ToString;
use std::vec::Vec;

use self::case::{Case, Machine, PAGE, PHYSICAL_ADDRESS_WIDTH, REVISION};
use super::state::{READ_AT_ONCE, Slot, slots};
use super::*;
use crate::controls::{
    Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryExit, SecondaryProcessorBased as Secondary,
    TertiaryProcessorBased as Tertiary,
};
use crate::field::{FIELDS, Field, Kind};
use crate::msr;
use crate::software::SoftwareVmcs;

type Mutate = fn(&mut Case);
type Mutation = (&'static str, Mutate);

/// Every mutation of the test tables.
fn mutations() -> Box<dyn Iterator<Item = &'static Mutation>> {
    Box::new(controls::MUTATIONS.iter().chain(host::MUTATIONS).chain(guest::MUTATIONS).chain(segments::mutations()))
}

fn all_rules() -> impl Iterator<Item = (&'static Group, &'static Rule)> {
    GROUPS.iter().copied().flat_map(|group| group.rules.iter().map(move |rule| (group, rule)))
}

#[test]
fn the_valid_entry_breaks_no_rule() {
    Case::valid().assert_valid("the valid entry");
}

#[test]
fn each_mutation_breaks_its_rule_first() {
    for (id, mutate) in mutations() {
        let mut case = Case::valid();
        mutate(&mut case);
        let violations = case.violations();
        let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
        let first = violations.first().unwrap_or_else(|| panic!("{id}: nothing is noticed"));
        assert_eq!(first.rule.id, *id, "{lines:#?}");
    }
}

#[test]
fn examine_finds_what_check_all_finds() {
    for (id, mutate) in mutations() {
        let mut case = Case::valid();
        mutate(&mut case);
        let capabilities = Capabilities::read(|number| case.msrs.get(&number).copied()).expect("every MSR is there");
        let machine = Machine { memory: case.memory.clone(), refused_msrs: case.refused_msrs.clone() };
        let environment = Environment { platform: &machine, ..case.environment };
        let (mut broken, mut kept) = (Vec::new(), 0);
        examine(&mut case.vmcs.clone(), &capabilities, &environment, |_, rule, violation| match violation {
            Some(_) => broken.push(rule.id),
            None => kept += 1,
        });
        let expected: Vec<_> = case.violations().iter().map(|violation| violation.rule.id).collect();
        assert_eq!(broken, expected, "{id}");
        assert!(kept > 50, "{id}: only {kept} rules are said to be kept");
    }
}

#[test]
fn every_rule_has_a_mutation() {
    let tested: Vec<_> = mutations().map(|(id, _)| *id).collect();
    let untested: Vec<_> = all_rules().map(|(_, rule)| rule.id).filter(|id| !tested.contains(id)).collect();
    assert!(untested.is_empty(), "{untested:#?}");
}

#[test]
fn rules_are_well_formed() {
    let mut ids: Vec<_> = all_rules().map(|(_, rule)| rule.id).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id stands twice");
    for (group, rule) in all_rules() {
        assert!(rule.fields.len() <= rule::MAXIMUM_FIELDS, "{}", rule.id);
        assert!(rule.id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte)));
        for field in rule.fields {
            let words = [
                Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
                Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
                Field::SECONDARY_VM_EXIT_CONTROLS,
            ];
            let fetched = |slots: &[Slot]| slots.iter().any(|slot| slot.field == *field);
            let read = fetched(READ_AT_ONCE) || fetched(group.fetch) || words.contains(field);
            assert!(read, "{} of {} is never read", field, rule.id);
        }
    }
}

#[test]
fn each_single_control_is_accepted_where_nothing_speaks_against_it() {
    // Switching on a control must break at most rules about other controls, never one about a value that is valid already.
    let mut broken = Vec::new();
    for bit in 0..32 {
        let mut case = Case::valid();
        case.secondary(Secondary::from_bits_retain(1 << bit) | Secondary::ENABLE_EPT);
        broken.extend(case.violations().iter().map(|violation| (bit, violation.rule.id)));
    }
    let expected = [
        (4, "execution.tpr-shadow.x2apic-mode"),
        (8, "execution.tpr-shadow.apic-registers"),
        (9, "execution.tpr-shadow.interrupt-delivery"),
        (9, "execution.virtual-interrupt-delivery"),
        (24, "execution.processor-trace.load"),
        (24, "execution.processor-trace.clear"),
        (29, "execution.secondary.allowed"),
    ];
    assert_eq!(broken, expected);
}

/// Fills every field with something, unless a rule or the control words hold it.
fn scramble(vmcs: &SoftwareVmcs, kept: &[Field], mut seed: u64) -> SoftwareVmcs {
    let mut scrambled = vmcs.clone();
    for row in FIELDS.iter().filter(|row| row.kind != Kind::ReadOnly && !kept.contains(&row.field)) {
        // Knuth's multiplicative generator: any values that differ from before will do.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        scrambled.set(row.field, seed ^ (seed >> 29));
    }
    scrambled
}

#[test]
fn a_rule_depends_on_no_field_but_those_it_names() {
    let control_words = [
        Field::PIN_BASED_VM_EXECUTION_CONTROLS,
        Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
        Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
        Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
        Field::PRIMARY_VM_EXIT_CONTROLS,
        Field::SECONDARY_VM_EXIT_CONTROLS,
        Field::VM_ENTRY_CONTROLS,
    ];
    for (round, (_, mutate)) in (0..).zip(mutations().step_by(16)) {
        let mut case = Case::valid();
        mutate(&mut case);
        let capabilities = Capabilities::read(|number| case.msrs.get(&number).copied()).expect("every MSR is there");
        let machine = Machine { memory: case.memory.clone(), refused_msrs: case.refused_msrs.clone() };
        let environment = Environment { platform: &machine, ..case.environment };
        for (_, rule) in all_rules() {
            let kept: Vec<Field> = rule.fields.iter().chain(&control_words).copied().collect();
            let verdict = |mut vmcs: SoftwareVmcs| {
                let mut state = State::read(&mut vmcs, &capabilities, &environment);
                for row in FIELDS {
                    let [slot] = slots([row.field]);
                    state.fetch(&mut vmcs, slot);
                }
                (rule.broken)(&state, rule.fields.first().map_or(0, |field| state.get(*field)))
            };
            let scrambled = scramble(&case.vmcs, &kept, round);
            assert_eq!(verdict(case.vmcs.clone()), verdict(scrambled), "{} looks at a field it doesn't name", rule.id);
        }
    }
}

#[test]
fn text_names_fields_values_section_and_outcome() {
    let mut case = Case::valid();
    case.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xe09b);
    let lines: Vec<_> = case.violations().iter().map(ToString::to_string).collect();
    let expected = "GUEST_CS_ACCESS_RIGHTS = 0xe09b: bit 14 (D/B) must be 0 in a 64-bit code segment (\"IA-32e mode guest\" and L) \
                    (outside virtual-8086 mode); offending 0x4000; SDM 3C 26.3.1.2 \"Checks on Guest Segment Registers\" \
                    [guest.cs.operation-size] -> exit reason 0x80000021 qualification 0";
    assert_eq!(lines, [expected]);
}

#[test]
fn an_incomplete_dump_proves_only_what_it_shows() {
    // CS is broken; whether that counts depends on virtual-8086 mode, thus on RFLAGS.
    let mut case = Case::valid();
    case.and_not(Field::GUEST_CS_ACCESS_RIGHTS, 0x80);
    let capabilities = Capabilities::read(|number| case.msrs.get(&number).copied()).expect("every MSR is there");
    let broken = |missing: &[Field]| {
        let mut ids = Vec::new();
        let mut vmcs = case.vmcs.clone();
        check_known(
            &mut vmcs,
            |field| !missing.contains(&field),
            &capabilities,
            &case.environment,
            |violation| {
                ids.push(violation.rule.id);
            },
        );
        ids
    };
    assert_eq!(broken(&[]), ["guest.cs.present"]);
    assert_eq!(broken(&[Field::GUEST_CS_LIMIT, Field::HOST_RIP, Field::GUEST_IA32_PAT]), ["guest.cs.present"]);
    assert!(broken(&[Field::GUEST_RFLAGS]).is_empty());
    assert!(broken(&[Field::GUEST_CS_ACCESS_RIGHTS]).is_empty());
    assert!(broken(&[Field::VM_ENTRY_CONTROLS]).contains(&"guest.cs.present"), "the mode of the guest doesn't matter for this");
}
