//! Tests of the exit qualifications: one line of text a format.

use super::*;
use std::string::{String, ToString};

const NONE: InterruptionInformation = InterruptionInformation(0);

fn text(reason: BasicExitReason, qualification: u64) -> String {
    Qualification::decode(reason, NONE, qualification).to_string()
}

#[test]
fn text_of_every_format() {
    let rows = [
        (BasicExitReason::CPUID, 0xdead, ""),
        (BasicExitReason::START_UP_IPI, 0x9a, "vector 0x9a"),
        (BasicExitReason::TASK_SWITCH, 0x4000_0028, "IRET to selector 0x0028"),
        (BasicExitReason::TASK_SWITCH, 0xc000_0030, "task gate to selector 0x0030"),
        (BasicExitReason::INVLPG, 0xffff_8000_0000_1000, "linear address 0xffff800000001000"),
        (BasicExitReason::CONTROL_REGISTER_ACCESS, 0x300, "MOV CR0, RBX"),
        (BasicExitReason::CONTROL_REGISTER_ACCESS, 0xf13, "MOV R15, CR3"),
        (BasicExitReason::CONTROL_REGISTER_ACCESS, 0x20, "CLTS"),
        (BasicExitReason::CONTROL_REGISTER_ACCESS, 0x0033_0030, "LMSW 0x0033"),
        (BasicExitReason::MOV_DR, 0x107, "MOV DR7, RCX"),
        (BasicExitReason::MOV_DR, 0x116, "MOV RCX, DR6"),
        (BasicExitReason::IO_INSTRUCTION, 0x0060_0008, "IN port 0x0060 size 1"),
        (BasicExitReason::IO_INSTRUCTION, 0x03f8_0041, "OUT port 0x03f8 size 2"),
        (BasicExitReason::IO_INSTRUCTION, 0x0cf8_003b, "REP INS port 0x0cf8 size 4"),
        (BasicExitReason::IO_INSTRUCTION, 0x0080_0017, "OUTS port 0x0080 size reserved"),
        (BasicExitReason::MWAIT, 1, "monitor armed"),
        (BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE, 4, "invalid VMCS link pointer"),
        (BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE, 99, "qualification 0x63"),
        (BasicExitReason::ENTRY_FAILURE_MSR_LOADING, 3, "entry 3 of the MSR-load area"),
        (BasicExitReason::APIC_ACCESS, 0x10b0, "write offset 0x0b0"),
        (BasicExitReason::APIC_ACCESS, 0xf123, "guest-physical access"),
        (BasicExitReason::APIC_ACCESS, 0x5123, "access type 5"),
        (BasicExitReason::VIRTUALIZED_EOI, 0x41, "vector 0x41"),
        (BasicExitReason::APIC_WRITE, 0x1300, "offset 0x300"),
        (BasicExitReason::EPT_VIOLATION, 0x182, "write not-present"),
        (BasicExitReason::EPT_VIOLATION, 0x10aa, "write of a paging structure readable executable NMI-unblocking-due-to-IRET"),
        (BasicExitReason::PAGE_MODIFICATION_LOG_FULL, 0x1_1000, "NMI-unblocking-due-to-IRET asynchronous"),
        (BasicExitReason::SPP_RELATED_EVENT, 0x800, "SPP-miss"),
        (BasicExitReason::SPP_RELATED_EVENT, 0, "SPP-misconfiguration"),
        (BasicExitReason::WRMSRNS_IMMEDIATE, 0xc000_0080, "MSR 0xc0000080"),
        (BasicExitReason::INSTRUCTION_TIMEOUT, 1, "context invalid"),
        (BasicExitReason::VMCLEAR, 0x10, "displacement 0x10"),
        (BasicExitReason(1000), 0x10, "qualification 0x10"),
    ];
    for (reason, qualification, expected) in rows {
        assert_eq!(text(reason, qualification), expected, "{reason} {qualification:#x}");
    }
}

#[test]
fn an_exception_tells_what_its_qualification_is() {
    let decode = |information, value| Qualification::decode(BasicExitReason::EXCEPTION_OR_NMI, information, value);
    let page_fault = InterruptionInformation::hardware_exception(Vector::PF, true);
    assert_eq!(decode(page_fault, 0x1234), Qualification::LinearAddress(0x1234));
    let debug = InterruptionInformation::hardware_exception(Vector::DB, false);
    assert_eq!(decode(debug, 0x6805).to_string(), "B0 B2 BLD BD BS");
    assert_eq!(decode(InterruptionInformation::nmi(), 0x6805), Qualification::Nothing);
}

#[test]
fn parts_of_ept_violations() {
    let violation = EptViolation(0x9b);
    assert!(violation.has(EptViolation::READ | EptViolation::WRITE | EptViolation::LINEAR_ADDRESS_VALID));
    assert!(!violation.has(EptViolation::READ | EptViolation::FETCH));
    assert!(!violation.is_not_present());
    assert!(EptViolation(0x181).is_not_present());
}
