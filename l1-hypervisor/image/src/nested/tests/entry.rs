//! VMLAUNCH and VMRESUME of L2.

use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::testing::{Machine, START, Scripted};
use crate::vmcs12::CR4_OSXSAVE;

const MOV_SS: u64 = 1 << 1;
const EVENTS_BLOCKED: u64 = 26;

#[test]
fn blocking_by_mov_ss_counts_only_right_behind_it() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    // mov ss; vmlaunch
    vcpu.set(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("the run goes on");
    assert!(!vcpu.runs_l3);
    assert_eq!(vcpu.vmcs23().get(Field::VM_INSTRUCTION_ERROR), EVENTS_BLOCKED);
    // mov ss; cpuid; vmlaunch: L1 has done CPUID and left the blocking where it was.
    vcpu.set(Field::GUEST_RIP, START - 2);
    vcpu.set(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS);
    vcpu.nested_step(&Scripted::new(Reason::CPUID).length(2)).expect("the run goes on");
    assert_eq!(vcpu.get(Field::GUEST_INTERRUPTIBILITY_STATE), MOV_SS);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    assert!(vcpu.runs_l3);
}

#[test]
fn host_cr4_of_vmcs13_follows_l3() {
    for osxsave in [0, CR4_OSXSAVE] {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        let cr4 = vcpu.vmcs23().get(Field::GUEST_CR4) & !CR4_OSXSAVE | osxsave;
        vcpu.vmcs23().write(Field::GUEST_CR4, cr4);
        vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
        assert!(vcpu.runs_l3);
        assert_eq!(vcpu.get(Field::HOST_CR4) & CR4_OSXSAVE, osxsave);
    }
}
