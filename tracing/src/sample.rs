//! Hand-made records for the tests of this crate, with values as a processor would give them.

use crate::record::{Action, Record, RecordKind, cpuid_detail, injected_detail, msr_detail};
use crate::symbols::SymbolTable;
use vmcs::event::{Injection, InterruptionInformation, Vector};
use vmcs::exit_reason::{BasicExitReason, ExitReason};

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
    records.into_iter().zip(0..).map(|(record, sequence)| Record { sequence, ..record }).collect()
}
