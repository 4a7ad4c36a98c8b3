use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::context::register::RAX;
use crate::exit::Action;
use crate::testing::{Machine, Scripted, TestVcpu};
use crate::vmcs12::{CR0_CD, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_VMXE};

const CR0: u64 = 0x8000_0031;
const CR4: u64 = 0x2020;
const CR4_PGE: u64 = 1 << 7;
const GENERAL_PROTECTION: u64 = 0x8000_0b0d;

/// MOV of `value` to CR0 or CR4, from RAX.
fn mov(register: u64, value: u64) -> Scripted {
    Scripted::new(Reason::CONTROL_REGISTER_ACCESS).qualification(register).register(RAX, value).length(3)
}

/// L3 runs, and L2 keeps these bits of CR0 and CR4 and shows L3 these values of them.
fn l3<'m>(machine: &'m mut Machine, cr0: (u64, u64), cr4: (u64, u64)) -> TestVcpu<'m> {
    let mut vcpu = machine.guest_hypervisor();
    vcpu.vmwrites(&[
        (Field::CR0_GUEST_HOST_MASK, cr0.0),
        (Field::CR0_READ_SHADOW, cr0.1),
        (Field::CR4_GUEST_HOST_MASK, cr4.0),
        (Field::CR4_READ_SHADOW, cr4.1),
    ]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    vcpu
}

/// What vmcs23 holds once L3 has left.
fn after_exit(vcpu: &mut TestVcpu<'_>, field: Field) -> u64 {
    vcpu.nested_step(&Scripted::new(Reason::CPUID).length(2)).expect("the run goes on");
    assert!(!vcpu.runs_l3);
    vcpu.vmcs23().get(field)
}

#[test]
fn bits_of_l2_keep_their_value_and_their_shadow() {
    let mut machine = Machine::hypervisor();
    // L2 keeps WP, which is 0, and shows L3 a 1. CD is L1's: it is never really set.
    let mut vcpu = l3(&mut machine, (CR0_WP, CR0_WP), (0, 0));
    assert_eq!(vcpu.nested_step(&mov(0, CR0 | CR0_WP | CR0_CD | CR0_TS)), Ok(Action::Complete));
    assert_eq!(vcpu.get(Field::GUEST_CR0), CR0 | CR0_TS);
    assert_eq!(vcpu.seen_cr0(), CR0 | CR0_WP | CR0_CD | CR0_TS, "L3 reads what it wrote");
    assert_eq!(after_exit(&mut vcpu, Field::GUEST_CR0), CR0 | CR0_CD | CR0_TS, "and L2 what is so but for the bit that it keeps");
}

#[test]
fn what_changes_a_bit_of_l2_is_an_exit() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine, (CR0_WP, CR0_WP), (0, 0));
    assert_eq!(vcpu.nested_step(&mov(0, CR0 | CR0_CD)), Ok(Action::Reflect));
    assert_eq!(vcpu.seen_exit().0, u32::from(Reason::CONTROL_REGISTER_ACCESS.0));
}

#[test]
fn vmxe_is_one_in_l3_and_hidden_where_l2_keeps_it() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine, (0, 0), (CR4_VMXE, 0));
    assert_eq!(vcpu.nested_step(&mov(4, CR4 & !CR4_VMXE | CR4_PGE)), Ok(Action::Complete));
    assert_eq!(vcpu.get(Field::GUEST_CR4), CR4 | CR4_PGE);
    assert_eq!(vcpu.seen_cr4(), CR4 & !CR4_VMXE | CR4_PGE);
    assert_eq!(after_exit(&mut vcpu, Field::GUEST_CR4), CR4 | CR4_PGE);

    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine, (0, 0), (0, 0));
    assert_eq!(vcpu.nested_step(&mov(4, CR4 & !CR4_VMXE)), Ok(Action::Continue));
    assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), GENERAL_PROTECTION, "VMX operation fixes the bit");
}

/// A write of CR0 from 32-bit code that clears PG, with a change of CD so that it exits to L1.
#[test]
fn only_an_unrestricted_guest_may_leave_paging() {
    for unrestricted in [false, true] {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        let entry = vcpu.vmcs23().get(Field::VM_ENTRY_CONTROLS);
        let secondary = if unrestricted { Secondary::UNRESTRICTED_GUEST | Secondary::ENABLE_EPT } else { Secondary::empty() };
        vcpu.vmwrites(&[
            (Field::VM_ENTRY_CONTROLS, entry & !(1 << 9)),
            (Field::GUEST_IA32_EFER, 0),
            (Field::GUEST_CR4, CR4_VMXE),
            (Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b),
            (Field::EPT_POINTER, 0x4_0000 | 6 | 3 << 3),
            (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, secondary.bits().into()),
        ]);
        vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
        let action = vcpu.nested_step(&mov(0, CR0 & !CR0_PG | CR0_CD));
        if unrestricted {
            assert_eq!(action, Ok(Action::Complete));
            assert_eq!(vcpu.get(Field::GUEST_CR0), CR0 & !CR0_PG);
            assert_eq!(vcpu.nested_step(&mov(0, CR0 & !(CR0_PG | CR0_PE))), Ok(Action::Complete));
            assert_eq!(vcpu.get(Field::GUEST_CR0), CR0 & !(CR0_PG | CR0_PE));
        } else {
            assert_eq!(action, Ok(Action::Continue));
            let injected = InterruptionInformation(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) as u32);
            assert_eq!(u64::from(injected.0), GENERAL_PROTECTION);
        }
    }
}
