//! Classes of security holes of other hypervisors' nested VMX, each with the tests that L1 has for its like. The classes that
//! crate `shadow` can show are in its own `cve_classes.rs`.

use vmcs::controls::SecondaryProcessorBased;
use vmcs::event::{InterruptionInformation, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::exit::Action;
use crate::testing::{Machine, START, Scripted, TestVcpu, handle};

/// The instructions of VMX root operation.
const VMX_INSTRUCTIONS: [Reason; 11] = [
    Reason::VMCLEAR,
    Reason::VMLAUNCH,
    Reason::VMPTRLD,
    Reason::VMPTRST,
    Reason::VMREAD,
    Reason::VMRESUME,
    Reason::VMWRITE,
    Reason::VMXOFF,
    Reason::VMXON,
    Reason::INVEPT,
    Reason::INVVPID,
];
/// DPL 3 in the access rights of SS: CPL 3.
const USER_STACK: u64 = 0xc0f3;

fn at_start(vcpu: &mut TestVcpu<'_>) {
    vcpu.set(Field::GUEST_RIP, START);
}

/// A guest's user program reached VMX instructions.
#[test]
fn missing_privilege_check_cve_2013_4551_cve_2018_12904() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    vcpu.set(Field::GUEST_SS_ACCESS_RIGHTS, USER_STACK);
    for reason in VMX_INSTRUCTIONS {
        at_start(&mut vcpu);
        let (_, action) = handle(&mut vcpu, &Scripted::new(reason).length(3));
        assert_eq!(action, Action::GENERAL_PROTECTION, "{reason}");
        assert!(vcpu.in_vmx_operation() && !vcpu.runs_l3, "{reason}");
    }
}

/// VMX instructions worked although the guest was not to have VMX.
#[test]
fn feature_gate_cve_2018_18883() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for reason in VMX_INSTRUCTIONS {
        let (_, action) = handle(&mut vcpu, &Scripted::new(reason).length(3));
        assert_eq!(action, Action::INVALID_OPCODE, "{reason}");
    }
}

/// An exit that nobody had thought of ended the host.
#[test]
fn unhandled_exit_cve_2014_3645_cve_2014_3646() {
    for reason in (0..=80).map(Reason) {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        // What L3's exits leave in fields that no processor would is none of this test's.
        vcpu.platform.checks_entries = false;
        vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
        // Whatever follows, L1 goes on or ends the run in order.
        let _ = vcpu.nested_step(&Scripted::new(reason).length(3));
    }
}

/// INVEPT and INVVPID of L3 are L2's, whatever they say.
#[test]
fn invalidations_of_l3_are_l2s_cve_2014_3645() {
    for reason in [Reason::INVEPT, Reason::INVVPID] {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
        vcpu.nested_step(&Scripted::new(reason).length(5)).expect("L2 goes on");
        assert_eq!(vcpu.seen_exit().0, u32::from(reason.0));
    }
}

/// The exceptions of breakpoint instructions did not reach a guest hypervisor that wanted them.
#[test]
fn exception_class_cve_2016_9588_cve_2018_1087() {
    let breakpoints = [
        InterruptionInformation::software_exception(Vector::BP),
        InterruptionInformation::software_exception(Vector::OF),
        InterruptionInformation::privileged_software_exception(),
    ];
    for information in breakpoints {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        vcpu.vmwrites(&[(Field::EXCEPTION_BITMAP, 1 << information.vector())]);
        vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
        let exit = Scripted::new(Reason::EXCEPTION_OR_NMI)
            .field(Field::VM_EXIT_INTERRUPTION_INFORMATION, information.0.into())
            .length(1);
        vcpu.nested_step(&exit).expect("L2 goes on");
        assert_eq!(vcpu.seen_exit().2, information);
        assert_eq!(vcpu.vmcs23().get(Field::VM_EXIT_INSTRUCTION_LENGTH), 1);
    }
}

/// A failed entry left behind that L3 runs, or its timer.
#[test]
fn stale_state_after_a_failed_entry_cve_2019_7221_cve_2021_47092() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    vcpu.vmwrites(&[(Field::GUEST_RFLAGS, 0)]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L2 goes on");
    assert!(!vcpu.runs_l3 && vcpu.nested.as_ref().is_some_and(|nested| nested.timer().is_none() && !nested.runs_l3()));
    vcpu.vmwrites(&[(Field::GUEST_RFLAGS, 2)]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    assert!(vcpu.runs_l3, "the VMCS is still clear: VMLAUNCH enters");
}

/// A nested guest got translations that another had left behind.
#[test]
fn stale_translations_cve_2026_89932() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    let before = vcpu.platform.invalidations;
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    assert!(vcpu.platform.invalidations > before, "without VPIDs an entry drops what is cached");
    let before = vcpu.platform.invalidations;
    vcpu.nested_step(&Scripted::new(Reason::VMCALL).length(3)).expect("L2 goes on");
    assert!(vcpu.platform.invalidations > before, "and so does an exit");
}

/// A VPID was used by one nested guest after another, and nothing dropped what the first had left.
#[test]
fn stale_translations_of_another_vpid_cve_2026_89932() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    let enable_vpid = SecondaryProcessorBased::ENABLE_VPID.bits().into();
    vcpu.vmwrites(&[(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, enable_vpid)]);
    let mut launch = Reason::VMLAUNCH;
    for (vpid, drops) in [(1, true), (1, false), (2, true), (1, true), (1, false)] {
        vcpu.vmwrites(&[(Field::VIRTUAL_PROCESSOR_IDENTIFIER, vpid)]);
        let before = vcpu.platform.invalidations;
        vcpu.enter_l3(launch).expect("L3 runs");
        assert_eq!(vcpu.platform.invalidations > before, drops, "VPID {vpid}");
        vcpu.nested_step(&Scripted::new(Reason::VMCALL).length(3)).expect("L2 goes on");
        launch = Reason::VMRESUME;
    }
}
