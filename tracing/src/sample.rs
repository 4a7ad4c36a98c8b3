//! Hand-made records for the tests of this crate, with values as a processor would give them.

use crate::nested::{
    Direction, EntryRule, InstructionResult, Merge, MergeGroups, NestedEntry, NestedEntryFailed, NestedExit, NestedInject,
    NestedIntercepts, NestedInterruptExit, ShadowSync, VmxInstruction,
};
use crate::record::{Action, Record, RecordKind, cpuid_detail, injected_detail, msr_detail};
use crate::rule::{NAMES, ReflectionRule};
use crate::symbols::SymbolTable;
use vmcs::entry_check::{GROUPS, Outcome};
use vmcs::event::{Injection, InterruptionInformation, Vector};
use vmcs::exit_reason::{BasicExitReason, ExitReason};
use vmcs::field::Field;
use vmcs::instruction_error::InstructionError;

const GENERAL_PROTECTION: InterruptionInformation = InterruptionInformation::hardware_exception(Vector::GP, true);
const INVALID_OPCODE: InterruptionInformation = InterruptionInformation::hardware_exception(Vector::UD, false);
const PAGE_FAULT: InterruptionInformation = InterruptionInformation::hardware_exception(Vector::PF, true);

/// `guest::main` at 0x100000, 64 bytes; `guest::interrupt` at 0x100080, 64 bytes.
pub(crate) fn symbols() -> SymbolTable {
    SymbolTable::new([
        (0x10_0000, 0x40, "_ZN5guest4main17h0123456789abcdefE".to_owned()),
        (0x10_0080, 0x40, "_ZN5guest9interrupt17h0123456789abcdefE".to_owned()),
    ])
}

fn exit(reason: BasicExitReason) -> Record {
    Record {
        reason: u32::from(reason.0),
        level: 2,
        owner: 1,
        action: Action::Emulated as u8,
        rip: 0x10_0010,
        cost: 250,
        tsc: 1_000_000,
        ..Record::ZERO
    }
}

fn injected(record: Record, event: InterruptionInformation, error_code: u32) -> Record {
    let detail = injected_detail(Injection::new(event, Some(error_code)));
    Record { action: Action::Injected as u8, detail, ..record }
}

fn interrupt(vector: u8) -> InterruptionInformation {
    InterruptionInformation::external_interrupt(vector)
}

fn resumed(record: Record) -> Record {
    Record { action: Action::Resumed as u8, ..record }
}

fn stopped(record: Record) -> Record {
    Record { action: Action::Stopped as u8, cost: 0, ..record }
}

pub(crate) fn cpuid(leaf: u32, sub_leaf: u32) -> Record {
    Record { instruction_length: 2, detail: cpuid_detail(leaf, sub_leaf), ..exit(BasicExitReason::CPUID) }
}

pub(crate) fn hlt() -> Record {
    Record { instruction_length: 1, ..exit(BasicExitReason::HLT) }
}

fn io(qualification: u64, value: u64) -> Record {
    Record { instruction_length: 1, info1: qualification, detail: value, ..exit(BasicExitReason::IO_INSTRUCTION) }
}

pub(crate) fn io_out(port: u16) -> Record {
    io(u64::from(port) << 16, 0x48)
}

pub(crate) fn io_in(port: u16) -> Record {
    io(u64::from(port) << 16 | 1 << 3, 0x60)
}

/// The guest's timer: L1's preemption timer ran out and vector 0x20 was injected.
pub(crate) fn timer_interrupt() -> Record {
    injected(exit(BasicExitReason::VMX_PREEMPTION_TIMER_EXPIRED), interrupt(0x20), 0)
}

pub(crate) fn triple_fault() -> Record {
    stopped(exit(BasicExitReason::TRIPLE_FAULT))
}

/// A VM entry that gave a VM-instruction error.
pub(crate) fn entry_failure(error: u64) -> Record {
    stopped(Record { kind: RecordKind::EntryFailure as u8, reason: 0, info1: error, ..exit(BasicExitReason(0)) })
}

/// L2-physical address of vmcs23, RIP of L3, time of the steps.
const VMCS23: u64 = 0x5000;
const L3_RIP: u64 = 0x10_0088;
const TSC: u64 = 1_000_100;

/// The rule with this name.
fn rule(name: &str) -> ReflectionRule {
    let row = NAMES.iter().position(|known| *known == name).expect("a rule of the table");
    ReflectionRule(row as u16 + 1)
}

/// The entry check with this id.
fn entry_rule(id: &str) -> EntryRule {
    let place = |(group, row): (usize, usize)| EntryRule((group as u16 + 1) << 8 | row as u16);
    let rows = GROUPS.iter().zip(0..).flat_map(|(group, number)| group.rules.iter().zip(0..).map(move |row| (number, row)));
    rows.map(|(group, (rule, row))| (rule.id, (group, row)))
        .find(|(known, _)| *known == id)
        .map(|(_, numbers)| place(numbers))
        .expect("a check of the table")
}

fn exit_of_l3(reason: BasicExitReason, action: Action, rule_name: &str) -> Record {
    let owner = if action == Action::Reflected { 2 } else { 1 };
    Record { level: 3, owner, action: action as u8, rip: L3_RIP, rule: rule(rule_name).0, cost: 620, ..exit(reason) }
}

/// A VMX instruction of L2.
pub(crate) fn vmx(reason: BasicExitReason, field: Option<Field>, result: Option<InstructionResult>) -> Record {
    Record { instruction_length: 4, detail: VmxInstruction { field, result }.detail(), ..exit(reason) }
}

fn succeeded(reason: BasicExitReason) -> Record {
    vmx(reason, None, Some(InstructionResult::Succeed))
}

fn nested_exit(reason: BasicExitReason) -> NestedExit {
    NestedExit {
        rip: L3_RIP,
        reason: reason.into(),
        qualification: 0,
        guest_physical_address: 0,
        interruption: InterruptionInformation(0),
        error_code: 0,
        idt_vectoring: InterruptionInformation(0),
        instruction_length: 0,
        rule: ReflectionRule::NONE,
        fields: 20,
    }
}

fn sync(direction: Direction, fields: u32) -> Record {
    ShadowSync { vmcs23: VMCS23, direction, fields }.record(TSC)
}

fn merge(groups: MergeGroups, fields: u32) -> Record {
    Merge { vmcs23: VMCS23, groups, fields }.record(TSC)
}

fn nested_entry(instruction: BasicExitReason, event: Option<Injection>) -> Record {
    NestedEntry { instruction, rip: L3_RIP + 2, vmcs23: VMCS23, ept_pointer: 0x601e, event, fields: 3 }.record(TSC)
}

fn numbered(records: impl IntoIterator<Item = Record>) -> Vec<Record> {
    records.into_iter().zip(0..).map(|(record, sequence)| Record { sequence, ..record }).collect()
}

/// CPUID of L3, handled by L2.
fn reflected_cpuid() -> [Record; 2] {
    let exit = exit_of_l3(BasicExitReason::CPUID, Action::Reflected, "cpuid");
    let seen = NestedExit { instruction_length: 2, ..nested_exit(BasicExitReason::CPUID) };
    [Record { instruction_length: 2, detail: cpuid_detail(1, 0), ..exit }, seen.record(TSC)]
}

/// The round trip of a CPUID: the processor serves the VMREADs and VMWRITEs.
pub(crate) fn hardware_round_trip() -> Vec<Record> {
    let resume = [
        vmx(BasicExitReason::VMRESUME, None, None),
        sync(Direction::FromShadow, 3),
        merge(MergeGroups(MergeGroups::COPIED.0), 1),
        nested_entry(BasicExitReason::VMRESUME, None),
    ];
    numbered(reflected_cpuid().into_iter().chain([sync(Direction::ToShadow, 14)]).chain(resume).chain(reflected_cpuid()))
}

/// The same round trip: each VMREAD and VMWRITE exits.
pub(crate) fn software_round_trip() -> Vec<Record> {
    const READ: [Field; 3] = [Field::EXIT_REASON, Field::GUEST_RIP, Field::VM_EXIT_INSTRUCTION_LENGTH];
    let result = Some(InstructionResult::Succeed);
    let reads = READ.map(|field| vmx(BasicExitReason::VMREAD, Some(field), result));
    let handled = [
        vmx(BasicExitReason::VMWRITE, Some(Field::GUEST_RIP), result),
        vmx(BasicExitReason::VMRESUME, None, None),
        merge(MergeGroups(MergeGroups::COPIED.0), 1),
        nested_entry(BasicExitReason::VMRESUME, None),
    ];
    numbered(reflected_cpuid().into_iter().chain(reads).chain(handled).chain(reflected_cpuid()))
}

/// The life of a guest hypervisor with a step of every kind.
pub(crate) fn nested_steps() -> Vec<Record> {
    use BasicExitReason as B;
    let refused = NestedEntryFailed {
        rip: 0x10_0010,
        vmcs23: VMCS23,
        outcome: Outcome::VmfailValid(InstructionError::VM_ENTRY_WITH_INVALID_CONTROL_FIELDS),
        rule: entry_rule("execution.pin-based.required"),
        offending: 0x16,
    };
    let outcome = Outcome::EntryFailure { reason: B::ENTRY_FAILURE_INVALID_GUEST_STATE, qualification: 4 };
    let late = NestedEntryFailed { outcome, rule: EntryRule::NONE, offending: 0, ..refused };
    let intercepts = NestedIntercepts {
        rip: 0,
        vmcs23: VMCS23,
        pin_based: 0x1f,
        primary: 0x8401_e1f2,
        secondary: 0x82,
        exception_bitmap: 0x4000,
    };
    let page_fault = Injection::new(PAGE_FAULT, Some(2));
    let fill = exit_of_l3(B::EPT_VIOLATION, Action::Resumed, "ept-violation");
    let access = NestedExit {
        qualification: 0x182,
        guest_physical_address: 0xfee0_0000,
        idt_vectoring: PAGE_FAULT,
        ..nested_exit(B::EPT_VIOLATION)
    };
    let violation = exit_of_l3(B::EPT_VIOLATION, Action::Reflected, "ept-violation");
    let timer = exit_of_l3(B::EXTERNAL_INTERRUPT, Action::Reflected, "external-interrupt");
    let error = InstructionError::VMPTRLD_WITH_VMXON_POINTER;
    numbered([
        succeeded(B::VMXON),
        vmx(B::VMPTRLD, None, Some(InstructionResult::FailValid(error))),
        succeeded(B::VMPTRLD),
        sync(Direction::ToShadow, 30),
        vmx(B::VMREAD, None, Some(InstructionResult::FailInvalid)),
        vmx(B::VMLAUNCH, None, Some(InstructionResult::FailValid(InstructionError::VM_ENTRY_WITH_INVALID_CONTROL_FIELDS))),
        refused.record(TSC),
        vmx(B::VMLAUNCH, None, None),
        late.record(TSC),
        vmx(B::VMLAUNCH, None, None),
        sync(Direction::FromShadow, 3),
        intercepts.record(TSC),
        merge(MergeGroups::EVERYTHING, 96),
        nested_entry(B::VMLAUNCH, Some(page_fault)),
        Record { info1: 0x181, info2: PAGE_FAULT.0, detail: 0x7000, ..fill },
        NestedInject { rip: L3_RIP, event: page_fault }.record(TSC),
        Record { info1: 0x182, info2: PAGE_FAULT.0, detail: 0xfee0_0000, ..violation },
        access.record(TSC),
        vmx(B::VMRESUME, None, None),
        nested_entry(B::VMRESUME, None),
        Record { intr_info: interrupt(0x20).0, ..timer },
        NestedInterruptExit { rip: L3_RIP, vector: Some(0x31) }.record(TSC),
        NestedExit { interruption: interrupt(0x31), ..nested_exit(B::EXTERNAL_INTERRUPT) }.record(TSC),
        succeeded(B::VMXOFF),
        hlt(),
    ])
}

/// Records of every kind that the words tell apart, numbered.
pub(crate) fn one_of_each() -> Vec<Record> {
    use BasicExitReason as B;
    let exception = |event: InterruptionInformation| Record { intr_info: event.0, ..exit(B::EXCEPTION_OR_NMI) };
    let breakpoint = exception(InterruptionInformation::software_exception(Vector::BP));
    let records = [
        injected(Record { error_code: 2, info1: 0x4000, ..exception(PAGE_FAULT) }, PAGE_FAULT, 2),
        injected(exception(INVALID_OPCODE), INVALID_OPCODE, 0),
        Record { instruction_length: 1, action: Action::Reflected as u8, level: 3, owner: 2, ..breakpoint },
        resumed(exception(InterruptionInformation::nmi())),
        injected(Record { intr_info: interrupt(0xef).0, ..exit(B::EXTERNAL_INTERRUPT) }, interrupt(0x24), 0),
        timer_interrupt(),
        injected(exit(B::NMI_WINDOW), InterruptionInformation::nmi(), 0),
        injected(exit(B::INTERRUPT_WINDOW), interrupt(0x21), 0),
        cpuid(1, 0xdead),
        cpuid(7, 1),
        hlt(),
        io_out(0x3f8),
        io_in(0x71),
        io(0x1f0_0000 | 1 << 5 | 1 << 4 | 1 << 3 | 1, 0),
        Record { detail: msr_detail(0xc000_0080, InterruptionInformation(0)), ..exit(B::RDMSR) },
        Record { detail: msr_detail(0x1234, GENERAL_PROTECTION), ..injected(exit(B::WRMSR), GENERAL_PROTECTION, 0) },
        Record { info1: 0x300, ..exit(B::CONTROL_REGISTER_ACCESS) },
        injected(Record { info1: 0x4, ..exit(B::CONTROL_REGISTER_ACCESS) }, GENERAL_PROTECTION, 0),
        Record { info1: 0x7, ..exit(B::MOV_DR) },
        Record { info1: 0x4000_0028, ..exit(B::TASK_SWITCH) },
        Record { info1: 0x182, detail: 0xfec0_0010, ..exit(B::EPT_VIOLATION) },
        Record { info1: 0x181, info2: interrupt(0x20).0, detail: 0x5000, ..exit(B::EPT_VIOLATION) },
        stopped(Record { detail: 0x7000, ..exit(B::EPT_MISCONFIGURATION) }),
        injected(exit(B::VMXON), INVALID_OPCODE, 0),
        Record { rip: 0x10_0084, instruction_length: 3, ..exit(B::VMCALL) },
        Record { rip: 0x20_0000, ..exit(B::XSETBV) },
        stopped(exit(B(999))),
        stopped(Record {
            reason: ExitReason::entry_failure(B::ENTRY_FAILURE_INVALID_GUEST_STATE).0,
            info1: 4,
            ..exit(B::ENTRY_FAILURE_INVALID_GUEST_STATE)
        }),
        entry_failure(7),
        triple_fault(),
    ];
    numbered(records)
}
