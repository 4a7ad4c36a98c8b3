use vmcs::event::{InterruptionInformation, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::context::register::RCX;
use crate::exit::Action;
use crate::testing::{HOST_RIP, L3_START, Machine, Scripted, TestVcpu};

const NO_SUCH_MSR: u64 = 0x1234_5678;
const MSR_BITMAP: u64 = 0x3_0000;

/// L3 runs; L2 intercepts no MSR that the bitmaps cover, and the exceptions in `bitmap`.
fn l3<'m>(machine: &'m mut Machine, bitmap: u64) -> TestVcpu<'m> {
    let mut vcpu = machine.guest_hypervisor();
    let use_bitmaps = u64::from(vmcs::controls::PrimaryProcessorBased::USE_MSR_BITMAPS.bits());
    let primary = vcpu.vmcs23().get(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS);
    vcpu.vmwrites(&[
        (Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, primary | use_bitmaps),
        (Field::MSR_BITMAP, MSR_BITMAP),
        (Field::EXCEPTION_BITMAP, bitmap),
    ]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    vcpu
}

/// An MSR that the bitmaps cover, that L2 lets L3 read, and that does not exist.
fn rdmsr() -> Scripted {
    Scripted::new(Reason::RDMSR).register(RCX, NO_SUCH_MSR & 0xfff | 0x1000).length(2)
}

#[test]
fn an_exception_that_l2_does_not_want_is_l3s() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine, 1 << Vector::UD);
    assert_eq!(vcpu.nested_step(&rdmsr()), Ok(Action::Continue));
    assert!(vcpu.runs_l3);
    assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), 0x8000_0b0d);
    assert_eq!(vcpu.get(Field::VM_ENTRY_EXCEPTION_ERROR_CODE), 0);
    assert_eq!(vcpu.get(Field::GUEST_RIP), L3_START);
}

#[test]
fn an_exception_that_l2_wants_is_an_exit() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine, 1 << Vector::GP);
    vcpu.nested_step(&rdmsr()).expect("the run goes on");
    assert_eq!(vcpu.seen_exit(), (0, 0, InterruptionInformation(0x8000_0b0d)));
    assert_eq!(vcpu.get(Field::GUEST_RIP), HOST_RIP);
    assert_eq!(vcpu.vmcs23().get(Field::GUEST_RIP), L3_START);
    assert_eq!(vcpu.vmcs23().get(Field::GUEST_RFLAGS), 2 | 1 << 16, "RF as it would be pushed");
    assert_eq!(vcpu.vmcs23().get(Field::IDT_VECTORING_INFORMATION), 0);
    assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) >> 31, 0, "nothing is injected into L2");
}

/// An instruction fetch of L3 where L2 has no RAM, while another event is being delivered, is not emulated; so the exception is
/// raised here by hand.
fn raised(vcpu: &mut TestVcpu<'_>, first: InterruptionInformation, error_code: u32, vector: u8, address: u64) -> Action {
    use crate::exit::information::Exit;
    let exit = Scripted::new(Reason::EPT_VIOLATION).vectoring(first, error_code);
    exit.happen(&mut vcpu.platform.vmcs, &mut vcpu.context);
    let mut exit = Exit::read(&mut vcpu.platform);
    vcpu.raised = address;
    let Action::Inject(injection) = Action::exception(vector, Some(2)) else { panic!("it is an exception") };
    super::raise(vcpu, &mut exit, injection)
}

#[test]
fn page_faults_go_by_mask_and_match_and_leave_cr2_to_l2() {
    let fault = InterruptionInformation::hardware_exception(Vector::PF, true);
    let nothing = InterruptionInformation(0);
    // Bit of #PF, mask, match, and whether a fault with the error code 2 exits.
    for (bit, mask, matching, exits) in
        [(true, 0, 0, true), (true, 2, 0, false), (true, 2, 2, true), (false, 0, 0, false), (false, 2, 0, true)]
    {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        vcpu.vmwrites(&[
            (Field::EXCEPTION_BITMAP, u64::from(bit) << Vector::PF),
            (Field::PAGE_FAULT_ERROR_CODE_MASK, mask),
            (Field::PAGE_FAULT_ERROR_CODE_MATCH, matching),
        ]);
        vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
        let action = raised(&mut vcpu, nothing, 0, Vector::PF, 0xdead_b000);
        assert_eq!(action, if exits { Action::Reflect } else { Action::Continue }, "{bit} {mask} {matching}");
        assert_eq!(vcpu.platform.cr2, if exits { 0 } else { 0xdead_b000 });
        if exits {
            assert_eq!(vcpu.seen_exit(), (0, 0xdead_b000, fault));
            assert_eq!(vcpu.vmcs23().get(Field::VM_EXIT_INTERRUPTION_ERROR_CODE), 2);
        }
    }
}

#[test]
fn what_was_being_delivered_counts() {
    let of = |vector| InterruptionInformation::hardware_exception(vector, true);
    let run = |first, vector| {
        let mut machine = Machine::hypervisor();
        let mut vcpu = l3(&mut machine, 0xffff_ffff);
        assert_eq!(raised(&mut vcpu, first, 7, vector, 0x5000), Action::Reflect);
        let seen = vcpu.seen_exit();
        let vmcs23 = vcpu.vmcs23();
        (seen, vmcs23.get(Field::IDT_VECTORING_INFORMATION), vmcs23.get(Field::IDT_VECTORING_ERROR_CODE))
    };
    // #PF during #GP is delivered in its place; #GP during #PF is a double fault; #PF during a double fault a triple fault.
    assert_eq!(run(of(Vector::GP), Vector::PF), ((0, 0x5000, of(Vector::PF)), 0x8000_0b0d, 7));
    let ((reason, qualification, double_fault), vectoring, _) = run(of(Vector::PF), Vector::GP);
    assert_eq!((reason, qualification, double_fault, vectoring), (0, 0, of(Vector::DF), 0));
    let ((reason, qualification, _), vectoring, _) = run(of(Vector::DF), Vector::PF);
    assert_eq!((reason, qualification, vectoring), (u32::from(Reason::TRIPLE_FAULT.0), 0, 0));
}
