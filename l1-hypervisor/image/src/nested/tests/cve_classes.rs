//! Classes of security holes of other hypervisors' nested VMX, each with the tests that L1 has for its like. The classes that
//! crate `shadow` can show are in its own `cve_classes.rs`.

use vmcs::controls::SecondaryProcessorBased;
use vmcs::event::{InterruptionInformation, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::context::register::{RAX, RCX, RDX};
use crate::exit::Action;
use crate::exit::msr::{PASSED_THROUGH, READ_THROUGH};
use crate::testing::{Machine, START, Scripted, TestVcpu, everything, handle};

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

/// The path of a 32-bit guest hypervisor crashed the host, whatever its operands were.
#[test]
fn thirty_two_bit_path_cve_2013_0151() {
    const CODE_32: u64 = 0xc09b;
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    let efer = vcpu.get(Field::GUEST_IA32_EFER);
    for (number, reason) in (0_u64..400).zip(VMX_INSTRUCTIONS.into_iter().cycle()) {
        // Every bit of the operands is set in some and clear in others.
        let garbage = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number << 29;
        if vcpu.runs_l3 {
            vcpu.nested_step(&Scripted::new(Reason::VMCALL).length(3)).expect("L2 goes on");
        }
        if let Some(nested) = &mut vcpu.nested {
            nested.long_mode = false;
        }
        vcpu.set(Field::GUEST_CS_ACCESS_RIGHTS, CODE_32);
        vcpu.set(Field::GUEST_IA32_EFER, efer & !0x500);
        vcpu.platform.checks_entries = false;
        let exit = Scripted::new(reason)
            .field(Field::VM_EXIT_INSTRUCTION_INFORMATION, garbage >> 7 & 0xffff_ffff)
            .qualification(garbage)
            .register(0, garbage)
            .register(6, !garbage)
            .length(3);
        at_start(&mut vcpu);
        let upper = vcpu.context.general[7];
        // L2 goes on, with an exception or without.
        vcpu.nested_step(&exit).expect("no instruction of L2's ends the run");
        if reason != Reason::VMREAD {
            assert_eq!(vcpu.context.general[7], upper, "{reason} has changed a register");
        }
    }
}

/// The nested guest got at the machine's own x2APIC through the merged bitmap.
#[test]
fn bitmap_merge_cve_2019_3887() {
    const WORDS: usize = 128;
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    let use_bitmaps = u64::from(vmcs::controls::PrimaryProcessorBased::USE_MSR_BITMAPS.bits());
    let primary = vcpu.vmcs23().get(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS);
    // L2's bitmap, of zeros, lets everything through.
    vcpu.vmwrites(&[
        (Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, primary | use_bitmaps),
        (Field::MSR_BITMAP, 0x5_0000),
    ]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    let words = vcpu.nested.as_ref().map(|nested| nested.regions.bitmap.words.to_vec()).expect("there is VMX");
    // For reading and for writing, 0 to 0x1fff and 0xc0000000 to 0xc0001fff.
    for (list, start, allowed) in [
        (0, 0, [PASSED_THROUGH, READ_THROUGH].concat()),
        (1, 0xc000_0000, [PASSED_THROUGH, READ_THROUGH].concat()),
        (2, 0, PASSED_THROUGH.to_vec()),
        (3, 0xc000_0000, PASSED_THROUGH.to_vec()),
    ] {
        for number in 0..0x2000_u32 {
            let exits = words[list * WORDS + number as usize / 64] >> (number % 64) & 1 != 0;
            let index = start + number;
            assert_eq!(exits, !allowed.contains(&index), "MSR {index:#x}, list {list}");
        }
        assert!(!allowed.iter().any(|index| (0x800..0x900).contains(index)), "no x2APIC register is among them");
    }
}

/// A guest hypervisor that trusts IBRS to keep its guest's branches apart from its own needs a barrier at each exit. L2 is shown
/// none of it, so it trusts nothing (docs/nested.md).
#[test]
fn speculation_cve_2022_2196() {
    // IBRS and IBPB, STIBP, L1D_FLUSH, IA32_ARCH_CAPABILITIES, IA32_CORE_CAPABILITIES, SSBD (SDM 2A "CPUID", leaf 7).
    const SPECULATION: u64 = 0b11_1111 << 26;
    const SPEC_CTRL: u64 = 0x48;
    const PRED_CMD: u64 = 0x49;
    let mut machine = Machine::hypervisor();
    machine.cpuid = everything;
    let mut vcpu = machine.vcpu();
    let (_, action) = handle(&mut vcpu, &Scripted::new(Reason::CPUID).register(RAX, 7).register(RCX, 0).length(2));
    assert_eq!(action, Action::Complete);
    assert_eq!(vcpu.context.general[RDX] & SPECULATION, 0);
    for (reason, index) in [(Reason::RDMSR, SPEC_CTRL), (Reason::WRMSR, SPEC_CTRL), (Reason::WRMSR, PRED_CMD)] {
        let exit = Scripted::new(reason).register(RCX, index).register(RAX, 1).register(RDX, 0).length(2);
        assert_eq!(handle(&mut vcpu, &exit).1, Action::GENERAL_PROTECTION, "{reason} {index:#x}");
    }
}

/// A nested guest was entered with control registers that no processor would take.
#[test]
fn missing_entry_check_cve_2023_30456() {
    const INVALID_GUEST_STATE: u32 = 0x8000_0021;
    const PAGING: u64 = 1 << 31;
    const PCID: u64 = 1 << 17;
    let rows = [
        ("paging without protection", Field::GUEST_CR0, 0x20 | PAGING),
        ("no paging in IA-32e mode", Field::GUEST_CR0, 0x21),
        ("a bit of CR0 that must be 0", Field::GUEST_CR0, 0x21 | PAGING | 1 << 32),
        ("no PAE in IA-32e mode", Field::GUEST_CR4, 0x2000),
        ("no VMXE", Field::GUEST_CR4, 0x20),
        ("a bit of CR4 that nobody offers", Field::GUEST_CR4, 0x2020 | 1 << 31),
    ];
    for (what, field, value) in rows {
        let mut machine = Machine::hypervisor();
        let mut vcpu = machine.guest_hypervisor();
        vcpu.vmwrites(&[(field, value)]);
        vcpu.enter_l3(Reason::VMLAUNCH).expect("L2 goes on");
        assert_eq!(vcpu.seen_exit().0, INVALID_GUEST_STATE, "{what}");
    }
    // PCIDs outside IA-32e mode.
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    let entry = vcpu.vmcs23().get(Field::VM_ENTRY_CONTROLS) & !(1 << 9);
    vcpu.vmwrites(&[
        (Field::VM_ENTRY_CONTROLS, entry),
        (Field::GUEST_IA32_EFER, 0),
        (Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b),
        (Field::GUEST_CR4, 0x2020 | PCID),
    ]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L2 goes on");
    assert_eq!(vcpu.seen_exit().0, INVALID_GUEST_STATE);
}
