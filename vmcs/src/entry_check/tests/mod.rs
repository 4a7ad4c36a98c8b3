//! One negative test a rule: a valid entry, one thing mutated, and the rule that must be the first to notice.

mod controls;
mod guest;
mod host;
mod segments;

use std::boxed::Box;
use std::collections::BTreeMap;
use std::string::ToString;
use std::vec::Vec;

use super::state::READ_AT_ONCE;
use super::*;
use crate::controls::{
    Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryExit, SecondaryProcessorBased as Secondary,
    TertiaryProcessorBased as Tertiary,
};
use crate::field::{FIELDS, Field, Kind};
use crate::msr;
use crate::software::SoftwareVmcs;

/// Where every address field of the valid entry points.
const PAGE: u64 = 0x10_0000;
/// The VMCS revision identifier of the processor.
const REVISION: u64 = 0x2b;
const PHYSICAL_ADDRESS_WIDTH: u32 = 40;

/// An entry to be mutated.
struct Case {
    vmcs: SoftwareVmcs,
    msrs: BTreeMap<u32, u64>,
    environment: Environment<'static>,
    memory: BTreeMap<u64, u64>,
    refused_msrs: Vec<u32>,
}

struct Machine {
    memory: BTreeMap<u64, u64>,
    refused_msrs: Vec<u32>,
}

impl Platform for Machine {
    fn read_memory(&self, physical_address: u64) -> Option<u64> {
        assert_eq!(physical_address % 8, 0, "only aligned addresses are read");
        self.memory.get(&physical_address).copied()
    }

    fn accepts_msr(&self, number: u32, _value: u64) -> bool {
        !self.refused_msrs.contains(&number)
    }
}

/// A VMCS that knows which fields the rules may read.
struct Guarded<'a> {
    vmcs: &'a mut SoftwareVmcs,
    capabilities: Capabilities,
    reads: BTreeMap<Field, u32>,
}

impl VmcsAccess for Guarded<'_> {
    fn read(&mut self, field: Field) -> u64 {
        let row = field.information().expect("only known fields are read");
        assert!(row.existence.holds(&self.capabilities), "{field} is read although the processor doesn't have it");
        assert_ne!(row.kind, Kind::ReadOnly);
        *self.reads.entry(field).or_default() += 1;
        self.vmcs.get(field)
    }

    fn write(&mut self, field: Field, _value: u64) {
        panic!("{field} is written");
    }
}

impl Case {
    /// A processor that supports every control but a few reserved ones, and a 64-bit guest on it.
    fn valid() -> Self {
        let msrs = BTreeMap::from([
            (msr::IA32_VMX_BASIC, 0x00d8_1000_0000_0000 | REVISION),
            (msr::IA32_VMX_PINBASED_CTLS, 0x0000_00ff_0000_0016),
            (msr::IA32_VMX_PROCBASED_CTLS, 0xfffb_fffe_0401_e172),
            (msr::IA32_VMX_EXIT_CTLS, 0xff7f_ffff_0003_6dff),
            (msr::IA32_VMX_ENTRY_CTLS, 0x01ff_ffff_0000_11ff),
            (msr::IA32_VMX_MISC, 0x2004_01e5),
            (msr::IA32_VMX_CR0_FIXED0, 0x8000_0021),
            (msr::IA32_VMX_CR0_FIXED1, 0xffff_ffff),
            (msr::IA32_VMX_CR4_FIXED0, 0x2000),
            (msr::IA32_VMX_CR4_FIXED1, 0x1_03ff_7fff),
            (msr::IA32_VMX_VMCS_ENUM, 0x52),
            (msr::IA32_VMX_PROCBASED_CTLS2, 0xdfff_ffff_0000_0000),
            (msr::IA32_VMX_EPT_VPID_CAP, 0x0034_0f01_06f3_4141),
            (msr::IA32_VMX_TRUE_PINBASED_CTLS, 0x0000_00ff_0000_0016),
            (msr::IA32_VMX_TRUE_PROCBASED_CTLS, 0xfffb_fffe_0400_6172),
            (msr::IA32_VMX_TRUE_EXIT_CTLS, 0xff7f_ffff_0003_6dfb),
            (msr::IA32_VMX_TRUE_ENTRY_CTLS, 0x01ff_ffff_0000_11fb),
            (msr::IA32_VMX_VMFUNC, 1),
            (msr::IA32_VMX_PROCBASED_CTLS3, 0x1df),
            (msr::IA32_VMX_EXIT_CTLS2, 0xf),
        ]);
        let mut case = Self {
            vmcs: SoftwareVmcs::new(),
            msrs,
            environment: Environment::new(PHYSICAL_ADDRESS_WIDTH),
            memory: BTreeMap::new(),
            refused_msrs: Vec::new(),
        };
        for row in FIELDS.iter().filter(|row| row.address.is_some()) {
            case.set(row.field, PAGE);
        }
        for (field, value) in VALID {
            case.set(*field, *value);
        }
        case.memory.insert(PAGE, REVISION);
        case
    }

    fn set(&mut self, field: Field, value: u64) -> &mut Self {
        assert!(self.vmcs.set(field, value), "{field:?} is not in the table");
        self
    }

    /// Sets bits of a field.
    fn or(&mut self, field: Field, bits: u64) -> &mut Self {
        self.set(field, self.vmcs.get(field) | bits)
    }

    /// Clears bits of a field.
    fn and_not(&mut self, field: Field, bits: u64) -> &mut Self {
        self.set(field, self.vmcs.get(field) & !bits)
    }

    fn pin(&mut self, controls: PinBased) -> &mut Self {
        self.or(Field::PIN_BASED_VM_EXECUTION_CONTROLS, controls.bits().into())
    }

    fn primary(&mut self, controls: Primary) -> &mut Self {
        self.or(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into())
    }

    fn secondary(&mut self, controls: Secondary) -> &mut Self {
        self.primary(Primary::ACTIVATE_SECONDARY_CONTROLS);
        self.or(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into())
    }

    fn tertiary(&mut self, controls: Tertiary) -> &mut Self {
        self.primary(Primary::ACTIVATE_TERTIARY_CONTROLS);
        self.or(Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits())
    }

    fn exit(&mut self, controls: PrimaryExit) -> &mut Self {
        self.or(Field::PRIMARY_VM_EXIT_CONTROLS, controls.bits().into())
    }

    fn secondary_exit(&mut self, controls: SecondaryExit) -> &mut Self {
        self.exit(PrimaryExit::ACTIVATE_SECONDARY_CONTROLS);
        self.or(Field::SECONDARY_VM_EXIT_CONTROLS, controls.bits())
    }

    fn entry(&mut self, controls: Entry) -> &mut Self {
        self.or(Field::VM_ENTRY_CONTROLS, controls.bits().into())
    }

    fn inject(&mut self, event: crate::event::InterruptionInformation) -> &mut Self {
        self.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, event.0.into())
    }

    /// Sets bits of a capability MSR.
    fn capability(&mut self, number: u32, bits: u64) -> &mut Self {
        *self.msrs.entry(number).or_default() |= bits;
        self
    }

    /// Clears bits of a capability MSR.
    fn no_capability(&mut self, number: u32, bits: u64) -> &mut Self {
        *self.msrs.entry(number).or_default() &= !bits;
        self
    }

    /// Every broken rule; the first of them is what [`check`] gives.
    fn violations(&self) -> Vec<Violation> {
        let capabilities = Capabilities::read(|number| self.msrs.get(&number).copied()).expect("every MSR is there");
        let machine = Machine { memory: self.memory.clone(), refused_msrs: self.refused_msrs.clone() };
        let environment = Environment { platform: &machine, ..self.environment };
        let mut vmcs = self.vmcs.clone();
        let mut violations = Vec::new();
        let mut guarded = Guarded { vmcs: &mut vmcs, capabilities, reads: BTreeMap::new() };
        check_all(&mut guarded, &capabilities, &environment, |violation| violations.push(violation));
        let mut guarded = Guarded { vmcs: &mut vmcs, capabilities, reads: BTreeMap::new() };
        let first = check(&mut guarded, &capabilities, &environment).err();
        assert_eq!(first.map(|violation| violation.rule.id), violations.first().map(|violation| violation.rule.id));
        assert!(guarded.reads.values().all(|reads| *reads == 1), "a field is read twice: {:?}", guarded.reads);
        violations
    }

    #[track_caller]
    fn assert_valid(&self, what: &str) {
        let lines: Vec<_> = self.violations().iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{what}: {lines:#?}");
    }
}

/// The valid entry beyond its addresses.
#[rustfmt::skip]
const VALID: &[(Field, u64)] = &[
    (Field::PIN_BASED_VM_EXECUTION_CONTROLS, 0x16), (Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, 0x0400_6172),
    (Field::PRIMARY_VM_EXIT_CONTROLS, 0x3_6fff), (Field::VM_ENTRY_CONTROLS, 0x13ff),
    (Field::VIRTUAL_PROCESSOR_IDENTIFIER, 1), (Field::EPT_POINTER, PAGE | 0x5e), (Field::TSC_MULTIPLIER, 1 << 48),
    (Field::VMCS_LINK_POINTER, u64::MAX),
    (Field::HOST_CR0, 0x8001_0031), (Field::HOST_CR3, PAGE), (Field::HOST_CR4, 0x2620), (Field::HOST_RIP, 0xffff_8000_0000_1000),
    (Field::HOST_CS_SELECTOR, 8), (Field::HOST_SS_SELECTOR, 16), (Field::HOST_TR_SELECTOR, 24),
    (Field::HOST_IA32_PAT, 0x0007_0406_0007_0406), (Field::HOST_IA32_EFER, 0xd01),
    (Field::GUEST_CR0, 0x8001_0031), (Field::GUEST_CR3, PAGE), (Field::GUEST_CR4, 0x2620), (Field::GUEST_RFLAGS, 2),
    (Field::GUEST_RIP, 0xffff_8000_0000_2000), (Field::GUEST_DR7, 0x400),
    (Field::GUEST_IA32_PAT, 0x0007_0406_0007_0406), (Field::GUEST_IA32_EFER, 0xd01),
    (Field::GUEST_CS_SELECTOR, 8), (Field::GUEST_CS_LIMIT, 0xffff_ffff), (Field::GUEST_CS_ACCESS_RIGHTS, 0xa09b),
    (Field::GUEST_SS_SELECTOR, 16), (Field::GUEST_SS_LIMIT, 0xffff_ffff), (Field::GUEST_SS_ACCESS_RIGHTS, 0xc093),
    (Field::GUEST_DS_SELECTOR, 16), (Field::GUEST_DS_LIMIT, 0xffff_ffff), (Field::GUEST_DS_ACCESS_RIGHTS, 0xc093),
    (Field::GUEST_ES_SELECTOR, 16), (Field::GUEST_ES_LIMIT, 0xffff_ffff), (Field::GUEST_ES_ACCESS_RIGHTS, 0xc093),
    (Field::GUEST_FS_SELECTOR, 16), (Field::GUEST_FS_LIMIT, 0xffff_ffff), (Field::GUEST_FS_ACCESS_RIGHTS, 0xc093),
    (Field::GUEST_GS_SELECTOR, 16), (Field::GUEST_GS_LIMIT, 0xffff_ffff), (Field::GUEST_GS_ACCESS_RIGHTS, 0xc093),
    (Field::GUEST_LDTR_SELECTOR, 32), (Field::GUEST_LDTR_LIMIT, 0xff), (Field::GUEST_LDTR_ACCESS_RIGHTS, 0x82),
    (Field::GUEST_TR_SELECTOR, 24), (Field::GUEST_TR_LIMIT, 0x67), (Field::GUEST_TR_ACCESS_RIGHTS, 0x8b),
    (Field::GUEST_GDTR_LIMIT, 0xffff), (Field::GUEST_IDTR_LIMIT, 0xfff),
];

type Mutate = fn(&mut Case);
type Mutation = (&'static str, Mutate);

/// Every mutation of the test tables.
fn mutations() -> Box<dyn Iterator<Item = &'static Mutation>> {
    Box::new(controls::MUTATIONS.iter().chain(host::MUTATIONS).chain(guest::MUTATIONS).chain(segments::mutations()))
}

fn all_rules() -> impl Iterator<Item = (&'static Group, &'static Rule)> {
    GROUPS.iter().copied().flatten().flat_map(|group| group.rules.iter().map(move |rule| (group, rule)))
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
            let read = READ_AT_ONCE.contains(field) || group.fetch.contains(field) || words.contains(field);
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
                let every: Vec<Field> = FIELDS.iter().map(|row| row.field).collect();
                state.fetch(&mut vmcs, &every);
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
