//! Exceptions that exit are handed on to the guest as they are.

use l1_protocol::end::EndReason;
use vmcs::event::{InterruptionInformation as Information, Vector};
use vmcs::field::Field;

use crate::exit::Action;
use crate::testing::{Machine, Scripted, TestVcpu, step};

/// What the next entry delivers: event, error code, instruction length.
fn delivered(vcpu: &TestVcpu<'_>) -> (Information, u64, u64) {
    (
        Information(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) as u32),
        vcpu.get(Field::VM_ENTRY_EXCEPTION_ERROR_CODE),
        vcpu.get(Field::VM_ENTRY_INSTRUCTION_LENGTH),
    )
}

#[test]
fn a_page_fault_brings_cr2() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    let fault = Information::hardware_exception(Vector::PF, true);
    let exit = Scripted::exception(fault, 0x15).qualification(0xffff_8000_0000_1234);
    step(&mut vcpu, &exit).expect("it is handed on");
    assert_eq!(vcpu.platform.cr2, 0xffff_8000_0000_1234);
    assert_eq!(delivered(&vcpu), (fault, 0x15, 0));
}

#[test]
fn a_debug_exception_brings_dr6() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.platform.debug[4] = 0xffff_0ff0 | 0b1010 | 1 << 13;
    vcpu.set(Field::GUEST_DR7, 0x400 | 1 << 13);
    let debug = Information::hardware_exception(Vector::DB, false);
    step(&mut vcpu, &Scripted::exception(debug, 0).qualification(1 << 14 | 0b100)).expect("it is handed on");
    assert_eq!(vcpu.platform.debug[4], 0xffff_0ff0 | 0b100 | 1 << 13 | 1 << 14, "B0 to B3 are new, BD and BS stick");
    assert_eq!(delivered(&vcpu).0, debug);
    assert_eq!(vcpu.get(Field::GUEST_DR7), 0x400, "the handler of #DB may use the registers (SDM 3B 18.2.4)");
}

#[test]
fn software_exceptions_bring_their_length() {
    for information in [
        Information::software_exception(Vector::BP),
        Information::software_exception(Vector::OF),
        Information::privileged_software_exception(),
    ] {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        step(&mut vcpu, &Scripted::exception(information, 0).length(1)).expect("it is handed on");
        assert_eq!(delivered(&vcpu), (information, 0, 1), "{information}");
    }
}

#[test]
fn exceptions_without_anything() {
    for vector in [Vector::DE, Vector::BR, Vector::UD, Vector::NM, Vector::MF, Vector::XM] {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        let information = Information::hardware_exception(vector, false);
        let with_nmi_unblocking = Information(information.0 | Information::NMI_UNBLOCKING_DUE_TO_IRET);
        step(&mut vcpu, &Scripted::exception(with_nmi_unblocking, 0)).expect("it is handed on");
        assert_eq!(delivered(&vcpu), (information, 0, 0), "bit 12 is not part of an injection");
        assert_eq!(vcpu.platform.cr2, 0);
    }
}

#[test]
fn exceptions_during_delivery_combine() {
    let fault = |vector| Information::hardware_exception(vector, Vector::pushes_error_code(vector));
    // First, second, what is delivered with which error code; none is a triple fault.
    let rows = [
        (Information::external_interrupt(0x30), fault(Vector::GP), Some((fault(Vector::GP), 7))),
        (Information::software_interrupt(0x30), fault(Vector::NP), Some((fault(Vector::NP), 7))),
        (fault(Vector::PF), fault(Vector::PF), Some((fault(Vector::DF), 0))),
        (fault(Vector::GP), fault(Vector::TS), Some((fault(Vector::DF), 0))),
        (fault(Vector::UD), fault(Vector::GP), Some((fault(Vector::GP), 7))),
        (fault(Vector::DF), fault(Vector::PF), None),
    ];
    for (first, second, expected) in rows {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        let result = step(&mut vcpu, &Scripted::exception(second, 7).vectoring(first, 3));
        match expected {
            Some((event, error_code)) => {
                result.expect("the guest goes on");
                let (found, code, _) = delivered(&vcpu);
                assert_eq!((found, code), (event, error_code), "{second} during {first}");
            }
            None => assert_eq!(result.expect_err("shutdown").reason, EndReason::TripleFault),
        }
    }
}

#[test]
fn an_nmi_of_the_machine_is_none_of_the_guest() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    assert_eq!(step(&mut vcpu, &Scripted::exception(Information::nmi(), 0)), Ok(Action::Resume));
    assert!(!delivered(&vcpu).0.is_valid());
}
