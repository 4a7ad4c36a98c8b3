use l1_protocol::end::EndReason;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;
use vmcs::msr;

use crate::exit::msr::KERNEL_GS_BASE;
use crate::guest_memory::GuestPhysical;
use crate::testing::{HOST_RIP, L3_START, Machine, Scripted, TestVcpu, VMCS23};

const LIST: u64 = 0x3_0000;
const NO_SUCH_MSR: u64 = 0x1234_5678;

fn write_list(vcpu: &mut TestVcpu<'_>, at: u64, entries: &[(u64, u64)]) {
    for (number, &(index, value)) in (0..).zip(entries) {
        vcpu.memory.write(GuestPhysical(at + 16 * number), &index.to_le_bytes());
        vcpu.memory.write(GuestPhysical(at + 16 * number + 8), &value.to_le_bytes());
    }
}

fn entry_list(vcpu: &mut TestVcpu<'_>, entries: &[(u64, u64)]) {
    write_list(vcpu, LIST, entries);
    vcpu.vmwrites(&[(Field::VM_ENTRY_MSR_LOAD_ADDRESS, LIST), (Field::VM_ENTRY_MSR_LOAD_COUNT, entries.len() as u64)]);
}

#[test]
fn an_entry_loads_what_wrmsr_would() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    entry_list(
        &mut vcpu,
        &[
            (KERNEL_GS_BASE.into(), 0x1111),
            (msr::IA32_SYSENTER_ESP.into(), 0x2222),
            (msr::IA32_PAT.into(), 0x0606_0606_0606_0606),
        ],
    );
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    assert!(vcpu.runs_l3);
    assert_eq!(vcpu.get(Field::GUEST_RIP), L3_START);
    assert_eq!(vcpu.platform.msrs.get(&KERNEL_GS_BASE), Some(&0x1111));
    assert_eq!(vcpu.get(Field::GUEST_IA32_SYSENTER_ESP), 0x2222);
    assert_eq!(vcpu.get(Field::GUEST_IA32_PAT), 0x0606_0606_0606_0606);
}

#[test]
fn a_bad_entry_fails_the_vm_entry_behind_those_before_it() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    vcpu.vmwrites(&[(Field::GUEST_IA32_SYSENTER_ESP, 0x3333)]);
    let bad = [
        (NO_SUCH_MSR, 0),
        (1 << 32 | u64::from(KERNEL_GS_BASE), 0),
        (crate::exit::msr::FS_BASE.into(), 0),
        (KERNEL_GS_BASE.into(), 1 << 63),
        (msr::IA32_EFER.into(), 1 << 40),
    ];
    for entry in bad {
        entry_list(&mut vcpu, &[(KERNEL_GS_BASE.into(), 0x1111), (msr::IA32_SYSENTER_ESP.into(), 0x2222), entry]);
        vcpu.enter_l3(Reason::VMLAUNCH).expect("the run goes on");
        let (reason, qualification, _) = vcpu.seen_exit();
        assert_eq!((reason, qualification), (u32::from(Reason::ENTRY_FAILURE_MSR_LOADING.0) | 1 << 31, 3), "{entry:x?}");
        assert_eq!(vcpu.get(Field::GUEST_RIP), HOST_RIP);
        assert_eq!(vcpu.platform.msrs.get(&KERNEL_GS_BASE), Some(&0x1111), "the processor leaves it loaded");
        assert_eq!(vcpu.vmcs23().get(Field::GUEST_IA32_SYSENTER_ESP), 0x3333, "a failed entry saves nothing");
        assert!(!vcpu.vmcs23().launched, "the launch state stays clear");
    }
    entry_list(&mut vcpu, &[]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    assert_eq!(vcpu.get(Field::GUEST_IA32_SYSENTER_ESP), 0x3333, "what the list changed in vmcs13 is written anew");
}

/// A guest hypervisor may write a list while its entry is checked; here the check has passed long ago.
#[test]
fn a_list_that_changes_after_the_check_is_judged_as_it_is_loaded() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    entry_list(&mut vcpu, &[(KERNEL_GS_BASE.into(), 0x1111)]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    vcpu.nested_step(&Scripted::new(Reason::CPUID).length(2)).expect("the run goes on");
    write_list(&mut vcpu, LIST, &[(NO_SUCH_MSR, 0)]);
    vcpu.enter_l3(Reason::VMRESUME).expect("the run goes on");
    assert_eq!(vcpu.seen_exit().1, 1);
    assert!(vcpu.vmcs23().launched, "it was launched before");
}

#[test]
fn an_exit_stores_l3s_and_loads_l2s() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    let load = LIST + 0x1000;
    write_list(&mut vcpu, LIST, &[(KERNEL_GS_BASE.into(), 0), (msr::IA32_SYSENTER_EIP.into(), 0)]);
    write_list(&mut vcpu, load, &[(KERNEL_GS_BASE.into(), 0x4444), (msr::IA32_SYSENTER_EIP.into(), 0x5555)]);
    vcpu.vmwrites(&[
        (Field::VM_EXIT_MSR_STORE_ADDRESS, LIST),
        (Field::VM_EXIT_MSR_STORE_COUNT, 2),
        (Field::VM_EXIT_MSR_LOAD_ADDRESS, load),
        (Field::VM_EXIT_MSR_LOAD_COUNT, 2),
    ]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    vcpu.platform.msrs.insert(KERNEL_GS_BASE, 0x6666);
    vcpu.set(Field::GUEST_IA32_SYSENTER_EIP, 0x7777);
    vcpu.nested_step(&Scripted::new(Reason::CPUID).length(2)).expect("the run goes on");
    assert_eq!(vcpu.memory.read_u64(GuestPhysical(LIST + 8)), 0x6666);
    assert_eq!(vcpu.memory.read_u64(GuestPhysical(LIST + 24)), 0x7777);
    assert_eq!(vcpu.platform.msrs.get(&KERNEL_GS_BASE), Some(&0x4444));
    assert_eq!(vcpu.get(Field::GUEST_IA32_SYSENTER_EIP), 0x5555);
}

#[test]
fn a_bad_entry_at_an_exit_is_a_vmx_abort() {
    let fields = [
        (Field::VM_EXIT_MSR_STORE_ADDRESS, Field::VM_EXIT_MSR_STORE_COUNT, 1),
        (Field::VM_EXIT_MSR_LOAD_ADDRESS, Field::VM_EXIT_MSR_LOAD_COUNT, 4),
    ];
    for (address, count, indicator) in fields {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        write_list(&mut vcpu, LIST, &[(NO_SUCH_MSR, 0)]);
        vcpu.vmwrites(&[(address, LIST), (count, 1)]);
        vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
        let end = vcpu.nested_step(&Scripted::new(Reason::CPUID).length(2)).expect_err("the virtual machine shuts down");
        assert_eq!(end.reason, EndReason::TripleFault);
        assert!(format!("{}", end.text).contains("VMX abort"), "{end:?}");
        assert_eq!(vcpu.memory.read_u32(GuestPhysical(VMCS23 + 4)), indicator);
    }
}

/// SDM 3C 25.3: L3 writes the counter itself, and what L2 adds for L3 stays.
#[test]
fn time_stamp_counter_of_l3_and_of_the_lists() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    let offsetting = u64::from(vmcs::controls::PrimaryProcessorBased::USE_TSC_OFFSETTING.bits());
    let primary = vcpu.vmcs23().get(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS);
    vcpu.vmwrites(&[
        (Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, primary | offsetting),
        (Field::TSC_OFFSET, 1000),
        (Field::VM_EXIT_MSR_STORE_ADDRESS, LIST + 0x1000),
        (Field::VM_EXIT_MSR_STORE_COUNT, 1),
    ]);
    write_list(&mut vcpu, LIST + 0x1000, &[(msr::IA32_TIME_STAMP_COUNTER.into(), 0)]);
    entry_list(&mut vcpu, &[(msr::IA32_TIME_STAMP_COUNTER.into(), 7_000)]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    let now = vcpu.platform.tsc;
    assert_eq!(vcpu.get(Field::TSC_OFFSET).wrapping_add(now), 8_000);
    vcpu.nested_step(&Scripted::new(Reason::CPUID).length(2)).expect("the run goes on");
    assert_eq!(vcpu.get(Field::TSC_OFFSET).wrapping_add(now), 7_000, "vmcs12 has heard of it");
    assert_eq!(vcpu.memory.read_u64(GuestPhysical(LIST + 0x1008)), 7_000);
    // L2 changes its counter itself: vmcs13 hears of it.
    vcpu.set_time_stamp_counter(20_000);
    entry_list(&mut vcpu, &[]);
    vcpu.enter_l3(Reason::VMRESUME).expect("L3 runs");
    assert_eq!(vcpu.get(Field::TSC_OFFSET).wrapping_add(now), 21_000);
}
