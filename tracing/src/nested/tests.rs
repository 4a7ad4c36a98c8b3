//! Every kind of step comes back from its record, and only from its own.

use super::*;
use crate::rule::ReflectionRule;
use proptest::prelude::*;
use vmcs::entry_check::Outcome;
use vmcs::exit_reason::{BasicExitReason, ExitReason};
use vmcs::instruction_error::InstructionError;
use zerocopy::FromBytes;

const TSC: u64 = 77;
const INTERRUPT: Injection = Injection::new(InterruptionInformation::external_interrupt(0x31), None);

fn page_fault() -> Injection {
    Injection::new(InterruptionInformation::hardware_exception(14, true), Some(2))
}

#[test]
fn entries() {
    let breakpoint = InterruptionInformation::software_exception(3);
    let software = Injection { instruction_length: Some(1), ..Injection::new(breakpoint, None) };
    for event in [None, Some(INTERRUPT), Some(page_fault()), Some(software)] {
        let entry = NestedEntry {
            instruction: BasicExitReason::VMRESUME,
            rip: 0x1000,
            vmcs23: 0x5000,
            ept_pointer: 0x601e,
            event,
            fields: 14,
        };
        let record = entry.record(TSC);
        assert_eq!(NestedEntry::read(&record), Some(entry));
        assert_eq!((record.tsc, record.level, record.owner, record.field_count()), (TSC, 3, 1, Some(14)));
        if let Some(event) = event {
            let inject = NestedInject { rip: 0x1000, event };
            assert_eq!(NestedInject::read(&inject.record(TSC)), Some(inject));
        }
    }
}

#[test]
fn an_injection_of_nothing_is_none() {
    let record = NestedInject { rip: 0, event: INTERRUPT }.record(TSC);
    assert_eq!(NestedInject::read(&Record { intr_info: 0, ..record }), None);
}

#[test]
fn failed_entries() {
    let invalid_guest = BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE;
    for outcome in [
        Outcome::VmfailInvalid,
        Outcome::VmfailValid(InstructionError::VM_ENTRY_WITH_INVALID_CONTROL_FIELDS),
        Outcome::EntryFailure { reason: invalid_guest, qualification: 4 },
        Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_MSR_LOADING, qualification: 0 },
    ] {
        let failed =
            NestedEntryFailed { rip: 0x10, vmcs23: u64::MAX, outcome, rule: EntryRule(0x0102), offending: 0x1_8000_0001 };
        assert_eq!(NestedEntryFailed::read(&failed.record(TSC)), Some(failed));
    }
}

#[test]
fn exits() {
    let exit = NestedExit {
        rip: 0x1000,
        reason: ExitReason::from(BasicExitReason::EPT_VIOLATION),
        qualification: 0x182,
        guest_physical_address: 0xfee0_0000,
        interruption: InterruptionInformation(0),
        error_code: 5,
        idt_vectoring: INTERRUPT.information,
        instruction_length: 3,
        rule: ReflectionRule(38),
        fields: 20,
    };
    assert_eq!(NestedExit::read(&exit.record(TSC)), Some(exit));
    for vector in [None, Some(0), Some(0xff)] {
        let interrupt = NestedInterruptExit { rip: 1, vector };
        assert_eq!(NestedInterruptExit::read(&interrupt.record(TSC)), Some(interrupt));
    }
}

#[test]
fn intercepts_and_copies() {
    let intercepts =
        NestedIntercepts { rip: 1, vmcs23: 2, pin_based: 3, primary: 0x8000_0004, secondary: 5, exception_bitmap: 6 };
    assert_eq!(NestedIntercepts::read(&intercepts.record(TSC)), Some(intercepts));
    let merge = Merge { vmcs23: 0x5000, groups: MergeGroups(0x8000_0005), fields: 9 };
    assert_eq!(Merge::read(&merge.record(TSC)), Some(merge));
    for direction in [Direction::ToShadow, Direction::FromShadow] {
        let sync = ShadowSync { vmcs23: 0x5000, direction, fields: 4 };
        assert_eq!(ShadowSync::read(&sync.record(TSC)), Some(sync));
    }
}

proptest! {
    #[test]
    fn arbitrary_records_are_of_one_kind_at_most(raw in prop::array::uniform32(any::<u8>()), rest in prop::array::uniform32(any::<u8>()), kind in 0_u8..12) {
        let arbitrary = Record::read_from_bytes(&[raw, rest].concat()).expect("64 bytes");
        let record = Record { kind, ..arbitrary };
        let readings = [
            NestedEntry::read(&record).is_some(),
            NestedExit::read(&record).is_some(),
            NestedInject::read(&record).is_some(),
            NestedEntryFailed::read(&record).is_some(),
            NestedInterruptExit::read(&record).is_some(),
            NestedIntercepts::read(&record).is_some(),
            ShadowSync::read(&record).is_some(),
            Merge::read(&record).is_some(),
        ];
        let count = readings.into_iter().filter(|reading| *reading).count();
        prop_assert!(count <= 1);
        let typed = matches!(record.kind(), Some(kind) if kind.is_step());
        prop_assert!(count == 0 || typed);
        let may_be_damaged = matches!(record.kind(), Some(RecordKind::NestedInject | RecordKind::Sync));
        prop_assert!(count == 1 || !typed || may_be_damaged);
    }
}
