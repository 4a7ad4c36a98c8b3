//! The local APIC as the guest's instructions reach it, and what it does to the virtual processor: its page, its MSRs,
//! the TSC-deadline timer, and NMIs.

use vmcs::controls::PrimaryProcessorBased;
use vmcs::event::{ActivityState, InterruptionInformation as Information};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;
use vmcs::msr;

use super::GP;
use crate::context::register::{RAX, RCX, RDX};
use crate::exit::Action;
use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, START, Scripted, TSC_START, TestVcpu, step};

const PAGE: u64 = 0xfee0_0000;
const IF: u64 = 1 << 9;
const BLOCKING_BY_MOV_SS: u64 = 1 << 1;
const BLOCKING_BY_NMI: u64 = 1 << 3;
const X2APIC: u64 = PAGE | 0xd00;
/// Interrupt command: an NMI to the processor with the identifier 0.
const NMI: u64 = 0x400;

/// The guest executes `bytes`, which access the APIC's page.
fn execute(vcpu: &mut TestVcpu<'_>, bytes: &[u8], rax: u64) -> Action {
    // The page directory of the tests maps the first GiB: this page is where the last 2 MiB of it are.
    const LINEAR: u64 = 0x3fe0_0000;
    const ENTRY: u64 = 0x3000 + 511 * 8;
    vcpu.memory.write(GuestPhysical(ENTRY), &(PAGE | 0x87).to_le_bytes());
    vcpu.memory.write(GuestPhysical(START), bytes);
    vcpu.set(Field::GUEST_RIP, START);
    let exit = Scripted::new(Reason::EPT_VIOLATION)
        .qualification(0b1_1000_0011)
        .field(Field::GUEST_LINEAR_ADDRESS, LINEAR)
        .register(RAX, rax)
        .register(RDX, LINEAR);
    step(vcpu, &exit).expect("the guest goes on")
}

fn wrmsr(vcpu: &mut TestVcpu<'_>, index: u32, value: u64) -> Action {
    let exit = Scripted::new(Reason::WRMSR)
        .length(2)
        .register(RCX, index.into())
        .register(RAX, value & 0xffff_ffff)
        .register(RDX, value >> 32);
    step(vcpu, &exit).expect("the guest goes on")
}

fn rdmsr(vcpu: &mut TestVcpu<'_>, index: u32) -> u64 {
    let exit = Scripted::new(Reason::RDMSR).length(2).register(RCX, index.into());
    assert_eq!(step(vcpu, &exit), Ok(Action::Complete));
    vcpu.context.general[RDX] << 32 | vcpu.context.general[RAX]
}

fn event(vcpu: &TestVcpu<'_>) -> Option<Information> {
    let information = Information(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) as u32);
    information.is_valid().then_some(information)
}

fn primary(vcpu: &TestVcpu<'_>) -> PrimaryProcessorBased {
    PrimaryProcessorBased::from_bits_retain(vcpu.get(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) as u32)
}

#[test]
fn its_page_is_read_and_written() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    // mov eax, [rdx + 0x30]
    assert_eq!(execute(&mut vcpu, &[0x8b, 0x42, 0x30], u64::MAX), Action::Continue);
    assert_eq!(vcpu.context.general[RAX], 0x5_0014);
    // mov [rdx + 0x80], eax
    execute(&mut vcpu, &[0x89, 0x82, 0x80, 0, 0, 0], 0x50);
    assert_eq!(vcpu.devices.task_priority_class(), 5);
    assert_eq!(vcpu.get(Field::GUEST_RIP), START + 6);
    assert_eq!(wrmsr(&mut vcpu, msr::IA32_APIC_BASE, X2APIC), Action::Complete);
    execute(&mut vcpu, &[0x8b, 0x42, 0x30], 0);
    assert_eq!(vcpu.context.general[RAX], 0xffff_ffff, "in x2APIC mode nothing is there");
    assert_eq!(rdmsr(&mut vcpu, 0x808), 0x50);
}

#[test]
fn a_write_to_the_page_interrupts_at_once() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.set(Field::GUEST_RFLAGS, 2 | IF);
    // mov [rdx + 0x300], eax: a self IPI
    execute(&mut vcpu, &[0x89, 0x82, 0, 3, 0, 0], 0x4_0041);
    assert_eq!(event(&vcpu), Some(Information::external_interrupt(0x41)));
}

#[test]
fn msrs_are_there_in_their_mode() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    assert_eq!(rdmsr(&mut vcpu, msr::IA32_APIC_BASE), PAGE | 0x900);
    assert_eq!(wrmsr(&mut vcpu, 0x808, 0), GP);
    assert_eq!(wrmsr(&mut vcpu, msr::IA32_APIC_BASE, PAGE | 0xd01), GP, "a reserved bit");
    assert_eq!(wrmsr(&mut vcpu, msr::IA32_APIC_BASE, X2APIC), Action::Complete);
    assert_eq!(wrmsr(&mut vcpu, msr::IA32_APIC_BASE, PAGE | 0x900), GP, "not back to xAPIC mode");
    assert_eq!(wrmsr(&mut vcpu, 0x808, 0x100), GP);
    assert_eq!(wrmsr(&mut vcpu, 0x80b, 0), Action::Complete);
    assert_eq!(rdmsr(&mut vcpu, 0x803), 0x5_0014);
}

/// A tick of the tests' counter is 10 ns.
#[test]
fn the_tsc_deadline_is_met_and_not_too_early() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.set(Field::GUEST_RFLAGS, 2 | IF);
    wrmsr(&mut vcpu, msr::IA32_APIC_BASE, X2APIC);
    wrmsr(&mut vcpu, 0x832, 2 << 17 | 0x40);
    wrmsr(&mut vcpu, msr::IA32_TSC_DEADLINE, 12_345);
    assert_eq!(rdmsr(&mut vcpu, msr::IA32_TSC_DEADLINE), 12_345);
    vcpu.platform.tsc = TSC_START + 12_344;
    assert_eq!(rdmsr(&mut vcpu, msr::IA32_TSC_DEADLINE), 12_345);
    assert_eq!(event(&vcpu), None);
    vcpu.platform.tsc += 1;
    step(&mut vcpu, &Scripted::new(Reason::VMX_PREEMPTION_TIMER_EXPIRED)).expect("the guest goes on");
    assert_eq!(event(&vcpu), Some(Information::external_interrupt(0x40)));
    assert_eq!(rdmsr(&mut vcpu, msr::IA32_TSC_DEADLINE), 0);
    wrmsr(&mut vcpu, 0x80b, 0);

    // In the past: at once. When the counter is changed, the deadline is met by the new count.
    wrmsr(&mut vcpu, msr::IA32_TSC_DEADLINE, 1);
    assert_eq!(event(&vcpu), Some(Information::external_interrupt(0x40)));
    wrmsr(&mut vcpu, 0x80b, 0);
    vcpu.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0);
    wrmsr(&mut vcpu, msr::IA32_TSC_DEADLINE, 1 << 40);
    assert_eq!(event(&vcpu), None);
    wrmsr(&mut vcpu, msr::IA32_TIME_STAMP_COUNTER, 1 << 40);
    assert_eq!(event(&vcpu), Some(Information::external_interrupt(0x40)));
    wrmsr(&mut vcpu, 0x80b, 0);
    vcpu.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0);
    wrmsr(&mut vcpu, msr::IA32_TSC_DEADLINE, u64::MAX);
    assert_eq!((event(&vcpu), vcpu.devices.next_deadline()), (None, None), "beyond the lifetime of the machine");
}

#[test]
fn an_nmi_comes_with_interrupts_off() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    wrmsr(&mut vcpu, msr::IA32_APIC_BASE, X2APIC);
    assert_eq!(wrmsr(&mut vcpu, 0x830, NMI), Action::Complete);
    assert_eq!(event(&vcpu), Some(Information::nmi()));
    assert!(!vcpu.devices.event_pending());
}

#[test]
fn an_nmi_waits_for_its_window() {
    for blocking in [BLOCKING_BY_NMI, BLOCKING_BY_MOV_SS] {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        wrmsr(&mut vcpu, msr::IA32_APIC_BASE, X2APIC);
        vcpu.set(Field::GUEST_INTERRUPTIBILITY_STATE, blocking);
        // An exit that leaves the blocking as it is.
        vcpu.devices.write_local_apic(0x830, NMI, 0).expect("an NMI to itself");
        step(&mut vcpu, &Scripted::new(Reason::EXTERNAL_INTERRUPT)).expect("the guest goes on");
        assert_eq!(event(&vcpu), None, "{blocking:#x}");
        assert!(primary(&vcpu).contains(PrimaryProcessorBased::NMI_WINDOW_EXITING));
        vcpu.set(Field::GUEST_INTERRUPTIBILITY_STATE, 0);
        step(&mut vcpu, &Scripted::new(Reason::NMI_WINDOW)).expect("the guest goes on");
        assert_eq!(event(&vcpu), Some(Information::nmi()));
        assert!(!primary(&vcpu).contains(PrimaryProcessorBased::NMI_WINDOW_EXITING));
    }
}

#[test]
fn an_nmi_goes_before_an_interrupt() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    wrmsr(&mut vcpu, msr::IA32_APIC_BASE, X2APIC);
    wrmsr(&mut vcpu, 0x83f, 0x41);
    vcpu.set(Field::GUEST_RFLAGS, 2 | IF);
    vcpu.devices.write_local_apic(0x830, NMI, 0).expect("an NMI to itself");
    step(&mut vcpu, &Scripted::new(Reason::EXTERNAL_INTERRUPT)).expect("the guest goes on");
    assert_eq!(event(&vcpu), Some(Information::nmi()));
    assert!(vcpu.devices.interrupt_pending());
    assert!(primary(&vcpu).contains(PrimaryProcessorBased::INTERRUPT_WINDOW_EXITING));
}

#[test]
fn an_nmi_whose_delivery_was_cut_short_is_delivered_again() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.set(Field::GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    let exit = Scripted::new(Reason::EXTERNAL_INTERRUPT).vectoring(Information::nmi(), 0);
    // `step` checks the entry: with blocking by NMI it would fail.
    step(&mut vcpu, &exit).expect("the guest goes on");
    assert_eq!(event(&vcpu), Some(Information::nmi()));
}

#[test]
fn an_nmi_wakes_a_guest_that_halted_with_interrupts_off() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    wrmsr(&mut vcpu, msr::IA32_APIC_BASE, X2APIC);
    vcpu.devices.write_local_apic(0x830, NMI, 0).expect("an NMI to itself");
    step(&mut vcpu, &Scripted::new(Reason::HLT).length(1)).expect("the guest goes on");
    assert_eq!(event(&vcpu), Some(Information::nmi()));
    vcpu.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0);

    // The 8254 through the 8259 and LINT0, as an NMI.
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe), (0x43, 0x30), (0x40, 0xff), (0x40, 0)] {
        let exit = Scripted::new(Reason::IO_INSTRUCTION).qualification(port << 16).register(RAX, value).length(1);
        step(&mut vcpu, &exit).expect("the guest goes on");
    }
    wrmsr(&mut vcpu, 0x835, 0x400);
    step(&mut vcpu, &Scripted::new(Reason::HLT).length(1)).expect("the guest goes on");
    assert_eq!(ActivityState(vcpu.get(Field::GUEST_ACTIVITY_STATE) as u32), ActivityState::HLT);
    vcpu.platform.tsc += vcpu.get(Field::VMX_PREEMPTION_TIMER_VALUE);
    step(&mut vcpu, &Scripted::new(Reason::VMX_PREEMPTION_TIMER_EXPIRED)).expect("the guest goes on");
    assert_eq!(event(&vcpu), Some(Information::nmi()));
}

#[test]
fn the_timer_wakes_a_halted_guest_but_not_one_with_interrupts_off() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    wrmsr(&mut vcpu, msr::IA32_APIC_BASE, X2APIC);
    wrmsr(&mut vcpu, 0x832, 0x40);
    wrmsr(&mut vcpu, 0x838, 100_000);
    vcpu.set(Field::GUEST_RFLAGS, 2 | IF);
    assert_eq!(step(&mut vcpu, &Scripted::new(Reason::HLT).length(1)), Ok(Action::Continue));
    vcpu.platform.tsc += vcpu.get(Field::VMX_PREEMPTION_TIMER_VALUE);
    step(&mut vcpu, &Scripted::new(Reason::VMX_PREEMPTION_TIMER_EXPIRED)).expect("the guest goes on");
    assert_eq!(event(&vcpu), Some(Information::external_interrupt(0x40)));
    wrmsr(&mut vcpu, 0x80b, 0);
    wrmsr(&mut vcpu, 0x838, 100_000);
    vcpu.set(Field::GUEST_RFLAGS, 2);
    vcpu.set(Field::GUEST_ACTIVITY_STATE, 0);
    vcpu.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0);
    assert!(step(&mut vcpu, &Scripted::new(Reason::HLT).length(1)).is_err(), "halted for ever");
}
