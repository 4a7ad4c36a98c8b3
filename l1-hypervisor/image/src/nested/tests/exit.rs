use l1_protocol::end::EndReason;
use vmcs::controls::{PinBased, SecondaryProcessorBased as Secondary};
use vmcs::event::{EventType, InterruptionInformation};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::exit::Action;
use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, Scripted, TestVcpu};

const EPT23: u64 = 0x4_0000;
/// Virtual NMIs, which need NMI exiting.
const NMIS: PinBased = PinBased::NMI_EXITING.union(PinBased::VIRTUAL_NMIS);

/// An L3 under EPT23, which maps the first 2 MiB one to one; nothing is in EPT13 yet.
fn l3_with_ept<'m>(machine: &'m mut Machine) -> TestVcpu<'m> {
    let mut vcpu = machine.guest_hypervisor();
    for (address, entry) in [(EPT23, (EPT23 + 0x1000) | 7), (EPT23 + 0x1000, (EPT23 + 0x2000) | 7), (EPT23 + 0x2000, 0xb7_u64)] {
        vcpu.memory.write(GuestPhysical(address), &entry.to_le_bytes());
    }
    let pin_based = vcpu.vmcs23().get(Field::PIN_BASED_VM_EXECUTION_CONTROLS);
    vcpu.vmwrites(&[
        (Field::PIN_BASED_VM_EXECUTION_CONTROLS, pin_based | u64::from(NMIS.bits())),
        (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, Secondary::ENABLE_EPT.bits().into()),
        (Field::EPT_POINTER, EPT23 | 6 | 3 << 3),
    ]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    vcpu
}

fn violation(address: u64, qualification: u64) -> Scripted {
    Scripted::new(Reason::EPT_VIOLATION).field(Field::GUEST_PHYSICAL_ADDRESS, address).qualification(qualification)
}

#[test]
fn a_misconfiguration_of_ept13_is_a_bug_of_l1() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3_with_ept(&mut machine);
    let exit = Scripted::new(Reason::EPT_MISCONFIGURATION).field(Field::GUEST_PHYSICAL_ADDRESS, 0x5000);
    assert_eq!(vcpu.nested_step(&exit).map_err(|end| end.reason), Err(EndReason::Bug));
}

#[test]
fn nmis_are_blocked_again_before_an_iret_is_executed_again() {
    const NMI_UNBLOCKING: u64 = 1 << 12;
    let nmi = InterruptionInformation(0x8000_0202);
    assert_eq!(nmi.event_type(), EventType::NMI);
    for (qualification, vectoring, blocked) in
        [(0x181, 0, 0), (0x181 | NMI_UNBLOCKING, 0, 8), (0x181 | NMI_UNBLOCKING, 0x8000_0b0d, 0)]
    {
        let mut machine = Machine::hypervisor();
        let mut vcpu = l3_with_ept(&mut machine);
        let exit = violation(0x5000, qualification).vectoring(InterruptionInformation(vectoring), 0);
        assert_eq!(vcpu.nested_step(&exit), Ok(Action::Resume));
        assert!(vcpu.runs_l3);
        assert_eq!(vcpu.get(Field::GUEST_INTERRUPTIBILITY_STATE), blocked, "{qualification:#x} {vectoring:#x}");
    }
}

#[test]
fn an_event_whose_delivery_l1_has_cut_short_is_injected_again() {
    // What was being delivered, the length of its instruction, and the interruptibility state before and after: an NMI that is
    // injected again must not find NMIs blocked.
    for (vectoring, length, state) in [(0x8000_0b0e, 0, 0), (0x8000_0680, 2, 0), (0x8000_0202, 0, 8), (0x8000_0020, 0, 0)] {
        let mut machine = Machine::hypervisor();
        let mut vcpu = l3_with_ept(&mut machine);
        vcpu.set(Field::GUEST_INTERRUPTIBILITY_STATE, state);
        vcpu.set(Field::GUEST_RFLAGS, 0x202);
        let exit = violation(0x5000, 0x181).vectoring(InterruptionInformation(vectoring), 6).length(length);
        assert_eq!(vcpu.nested_step(&exit), Ok(Action::Resume));
        assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), u64::from(vectoring));
        assert_eq!(vcpu.get(Field::GUEST_INTERRUPTIBILITY_STATE), 0);
        if vectoring == 0x8000_0680 {
            assert_eq!(vcpu.get(Field::VM_ENTRY_INSTRUCTION_LENGTH), length);
        }
    }
}

#[test]
fn an_event_whose_delivery_ends_in_an_exit_to_l2_is_handed_over() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3_with_ept(&mut machine);
    // Behind what EPT23 maps.
    let exit = violation(0x20_0000, 0x181).vectoring(InterruptionInformation(0x8000_0b0e), 6);
    assert_eq!(vcpu.nested_step(&exit), Ok(Action::Reflect));
    assert_eq!(vcpu.seen_exit().0, u32::from(Reason::EPT_VIOLATION.0));
    assert_eq!(vcpu.vmcs23().get(Field::IDT_VECTORING_INFORMATION), 0x8000_0b0e);
    assert_eq!(vcpu.vmcs23().get(Field::IDT_VECTORING_ERROR_CODE), 6);
    assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) >> 31, 0, "nothing is injected into L2");
}
