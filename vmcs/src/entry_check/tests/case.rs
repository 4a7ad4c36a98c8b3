//! An entry that breaks no rule, and how the tests change it.

use std::collections::BTreeMap;
use std::string::ToString;
use std::vec::Vec;

use super::super::*;
use crate::controls::{
    Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryExit, SecondaryProcessorBased as Secondary,
    TertiaryProcessorBased as Tertiary,
};
use crate::event::InterruptionInformation;
use crate::field::{FIELDS, Kind};
use crate::msr;
use crate::software::SoftwareVmcs;

/// Where every address field of the valid entry points.
pub(super) const PAGE: u64 = 0x10_0000;
/// The VMCS revision identifier of the processor.
pub(super) const REVISION: u64 = 0x2b;
pub(super) const PHYSICAL_ADDRESS_WIDTH: u32 = 40;

/// An entry to be mutated.
pub(super) struct Case {
    pub vmcs: SoftwareVmcs,
    pub msrs: BTreeMap<u32, u64>,
    pub environment: Environment<'static>,
    pub memory: BTreeMap<u64, u64>,
    pub refused_msrs: Vec<u32>,
}

/// A platform that knows some memory and refuses some MSRs.
pub(super) struct Machine {
    pub memory: BTreeMap<u64, u64>,
    pub refused_msrs: Vec<u32>,
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
    pub fn valid() -> Self {
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

    pub fn set(&mut self, field: Field, value: u64) -> &mut Self {
        assert!(self.vmcs.set(field, value), "{field:?} is not in the table");
        self
    }

    /// Sets bits of a field.
    pub fn or(&mut self, field: Field, bits: u64) -> &mut Self {
        self.set(field, self.vmcs.get(field) | bits)
    }

    /// Clears bits of a field.
    pub fn and_not(&mut self, field: Field, bits: u64) -> &mut Self {
        self.set(field, self.vmcs.get(field) & !bits)
    }

    pub fn pin(&mut self, controls: PinBased) -> &mut Self {
        self.or(Field::PIN_BASED_VM_EXECUTION_CONTROLS, controls.bits().into())
    }

    pub fn primary(&mut self, controls: Primary) -> &mut Self {
        self.or(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into())
    }

    pub fn secondary(&mut self, controls: Secondary) -> &mut Self {
        self.primary(Primary::ACTIVATE_SECONDARY_CONTROLS);
        self.or(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into())
    }

    pub fn tertiary(&mut self, controls: Tertiary) -> &mut Self {
        self.primary(Primary::ACTIVATE_TERTIARY_CONTROLS);
        self.or(Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits())
    }

    pub fn exit(&mut self, controls: PrimaryExit) -> &mut Self {
        self.or(Field::PRIMARY_VM_EXIT_CONTROLS, controls.bits().into())
    }

    pub fn secondary_exit(&mut self, controls: SecondaryExit) -> &mut Self {
        self.exit(PrimaryExit::ACTIVATE_SECONDARY_CONTROLS);
        self.or(Field::SECONDARY_VM_EXIT_CONTROLS, controls.bits())
    }

    pub fn entry(&mut self, controls: Entry) -> &mut Self {
        self.or(Field::VM_ENTRY_CONTROLS, controls.bits().into())
    }

    pub fn inject(&mut self, event: InterruptionInformation) -> &mut Self {
        self.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, event.0.into())
    }

    /// Sets bits of a capability MSR.
    pub fn capability(&mut self, number: u32, bits: u64) -> &mut Self {
        *self.msrs.entry(number).or_default() |= bits;
        self
    }

    /// Clears bits of a capability MSR.
    pub fn no_capability(&mut self, number: u32, bits: u64) -> &mut Self {
        *self.msrs.entry(number).or_default() &= !bits;
        self
    }

    /// Every broken rule; the first of them is what [`check`] gives.
    pub fn violations(&self) -> Vec<Violation> {
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
    pub fn assert_valid(&self, what: &str) {
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
