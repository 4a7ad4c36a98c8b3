//! The VMCS fields that an exit of L3 and its resumption touch.

use vmcs::controls::{Entry, PrimaryExit, SecondaryProcessorBased as Secondary};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::exit::Action;
use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, Scripted, TestPlatform};

const EPT23: u64 = 0x4_0000;

/// What KVM (Linux 6.1) serves its guest without an exit; any other access costs L1 in KVM more than a thousand instructions.
/// The read-only ones are at the end.
const SHADOWED_BY_KVM: &[u32] = &[
    0x0c08, 0x0c0a, 0x4000, 0x4002, 0x4004, 0x4016, 0x4018, 0x401a, 0x401c, 0x4824, 0x482e, 0x6000, 0x6004, 0x6006, 0x6800,
    0x6802, 0x6804, 0x681c, 0x681e, 0x6820, 0x6c06, 0x6c08, // read-only:
    0x2400, 0x4402, 0x4404, 0x4406, 0x4408, 0x440a, 0x440c, 0x4816, 0x4818, 0x6400, 0x640a,
];

/// L2 can change these without an exit (see [`super::guarded`]).
const LOOKED_AT: [Field; 8] = [
    Field::GUEST_ES_SELECTOR,
    Field::GUEST_CS_SELECTOR,
    Field::GUEST_SS_SELECTOR,
    Field::GUEST_DS_SELECTOR,
    Field::GUEST_FS_SELECTOR,
    Field::GUEST_GS_SELECTOR,
    Field::GUEST_FS_BASE,
    Field::GUEST_GS_BASE,
];

#[test]
fn a_round_trip_touches_few_fields_that_kvm_does_not_shadow() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    for (address, entry) in [(EPT23, (EPT23 + 0x1000) | 7), (EPT23 + 0x1000, (EPT23 + 0x2000) | 7), (EPT23 + 0x2000, 0xb7_u64)] {
        vcpu.memory.write(GuestPhysical(address), &entry.to_le_bytes());
    }
    let exit = vcpu.vmcs23().get(Field::PRIMARY_VM_EXIT_CONTROLS);
    let entry = vcpu.vmcs23().get(Field::VM_ENTRY_CONTROLS);
    let exit_loads =
        PrimaryExit::LOAD_IA32_EFER | PrimaryExit::LOAD_IA32_PAT | PrimaryExit::SAVE_IA32_EFER | PrimaryExit::SAVE_IA32_PAT;
    let entry_loads = Entry::LOAD_IA32_EFER | Entry::LOAD_IA32_PAT;
    vcpu.vmwrites(&[
        (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, Secondary::ENABLE_EPT.bits().into()),
        (Field::EPT_POINTER, EPT23 | 6 | 3 << 3),
        (Field::PRIMARY_VM_EXIT_CONTROLS, exit | u64::from(exit_loads.bits())),
        (Field::VM_ENTRY_CONTROLS, entry | u64::from(entry_loads.bits())),
    ]);
    let cpuid = Scripted::new(Reason::CPUID).length(2);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    let mut exits = Vec::new();
    // The first ones write what then stays as it is.
    for _ in 0..3 {
        assert_eq!(vcpu.nested_step(&cpuid), Ok(Action::Reflect));
        exits = slow(&vcpu.platform);
        let rip = vcpu.vmcs23().get(Field::GUEST_RIP);
        vcpu.vmwrites(&[(Field::GUEST_RIP, rip + 2)]);
        vcpu.enter_l3(Reason::VMRESUME).expect("L3 runs");
    }
    assert_eq!(exits, LOOKED_AT.map(|field| format!("read {field}")), "the exit");
    // L2 does not load L3's debug registers, and L3 may have changed DR7.
    assert_eq!(slow(&vcpu.platform), ["write GUEST_DR7"], "the entry");
}

/// The accesses of the last step that KVM does not shadow.
fn slow(platform: &TestPlatform) -> Vec<String> {
    let reads = platform.reads.iter().filter(|field| !SHADOWED_BY_KVM.contains(&field.0)).map(|field| format!("read {field}"));
    let writes = platform.writes.iter().map(|(field, ..)| field);
    let writes = writes.filter(|field| !SHADOWED_BY_KVM.contains(&field.0)).map(|field| format!("write {field}"));
    reads.chain(writes).collect()
}
