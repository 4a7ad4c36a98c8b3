use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, TestVcpu};

/// The page-directory-pointer table of L3: 32 bytes, not at the beginning of a page.
const TABLE: u64 = 0x3_0020;

/// L3 uses PAE paging.
fn with_pae<'m>(machine: &'m mut Machine) -> TestVcpu<'m> {
    const IA_32E_MODE_GUEST: u64 = 1 << 9;
    let mut vcpu = machine.guest_hypervisor();
    let entry = vcpu.vmcs23().get(Field::VM_ENTRY_CONTROLS);
    vcpu.vmwrites(&[
        (Field::VM_ENTRY_CONTROLS, entry & !IA_32E_MODE_GUEST),
        (Field::GUEST_IA32_EFER, 0),
        (Field::GUEST_CR3, TABLE),
        (Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b),
        // What a VMCS holds here counts only with "enable EPT".
        (Field::GUEST_PDPTE0, 0x9_9001),
    ]);
    vcpu
}

#[test]
fn an_entry_without_ept_takes_them_from_memory() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = with_pae(&mut machine);
    for (index, entry) in [0x5001_u64, 0, 0x7001, 0x8001].into_iter().enumerate() {
        vcpu.memory.write(GuestPhysical(TABLE + 8 * index as u64), &entry.to_le_bytes());
    }
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    let fields = [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3];
    assert_eq!(fields.map(|field| vcpu.get(field)), [0x5001, 0, 0x7001, 0x8001]);
}

#[test]
fn a_bad_one_fails_the_entry() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = with_pae(&mut machine);
    // Bit 1 of a PDPTE is reserved.
    vcpu.memory.write(GuestPhysical(TABLE + 16), &3_u64.to_le_bytes());
    vcpu.enter_l3(Reason::VMLAUNCH).expect("the run goes on");
    let (reason, qualification, _) = vcpu.seen_exit();
    assert_eq!((reason, qualification), (u32::from(Reason::ENTRY_FAILURE_INVALID_GUEST_STATE.0) | 1 << 31, 2));
    // The check has passed before, and L2 has changed its memory since.
    vcpu.memory.write(GuestPhysical(TABLE + 16), &1_u64.to_le_bytes());
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    assert!(vcpu.runs_l3);
    vcpu.nested_step(&crate::testing::Scripted::new(Reason::CPUID).length(2)).expect("the run goes on");
    vcpu.memory.write(GuestPhysical(TABLE + 16), &3_u64.to_le_bytes());
    vcpu.enter_l3(Reason::VMRESUME).expect("the run goes on");
    let (reason, qualification, _) = vcpu.seen_exit();
    assert_eq!((reason, qualification), (u32::from(Reason::ENTRY_FAILURE_INVALID_GUEST_STATE.0) | 1 << 31, 2));
    assert_eq!(vcpu.vmcs23().get(Field::GUEST_PDPTE0), 0x9_9001, "a failed entry saves nothing");
}
