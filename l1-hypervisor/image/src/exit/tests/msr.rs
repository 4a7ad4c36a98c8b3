//! RDMSR and WRMSR.

use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;
use vmcs::msr;

use super::GP;
use crate::context::register::{RAX, RCX, RDX};
use crate::exit::Action;
use crate::testing::{Machine, Scripted, TSC_START, TestVcpu, handle};
use crate::vmcs12::PAT_AFTER_RESET;

fn read(vcpu: &mut TestVcpu<'_>, index: u32) -> Option<u64> {
    let exit = Scripted::new(Reason::RDMSR)
        .register(RCX, 0xabcd_0000_0000_0000 | u64::from(index))
        .register(RAX, u64::MAX)
        .register(RDX, u64::MAX);
    match handle(vcpu, &exit).1 {
        Action::Complete => {
            let [high, low] = [RDX, RAX].map(|register| vcpu.context.general[register]);
            assert!(high >> 32 == 0 && low >> 32 == 0, "RDMSR clears the upper halves");
            Some(high << 32 | low)
        }
        action => {
            assert_eq!(action, GP);
            None
        }
    }
}

fn write(vcpu: &mut TestVcpu<'_>, index: u32, value: u64) -> bool {
    let exit = Scripted::new(Reason::WRMSR)
        .register(RCX, index.into())
        .register(RAX, 0xabcd_0000_0000_0000 | value & 0xffff_ffff)
        .register(RDX, 0xabcd_0000_0000_0000 | value >> 32);
    match handle(vcpu, &exit).1 {
        Action::Complete => true,
        action => {
            assert_eq!(action, GP);
            false
        }
    }
}

#[test]
fn each_register_after_the_start() {
    let rows = [
        (msr::IA32_TIME_STAMP_COUNTER, 0),
        (0x17, 0),
        (msr::IA32_FEATURE_CONTROL, 1),
        (0x8b, 0),
        (msr::IA32_MISC_ENABLE, 1),
        (msr::IA32_DEBUGCTL, 0),
        (msr::IA32_PAT, PAT_AFTER_RESET),
        (msr::IA32_EFER, 0x500),
    ];
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for (index, value) in rows {
        assert_eq!(read(&mut vcpu, index), Some(value), "MSR {index:#x}");
    }
}

#[test]
fn what_is_not_there_raises_general_protection() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    // MTRR capabilities, machine check, VMX, x2APIC in xAPIC mode, performance counters, and the edges of the bitmap.
    for index in
        [0xfe, 0x179, 0x480, 0x48b, 0x800, 0x80b, 0xc1, 0x186, 0x1fff, 0x2000, 0x4000_0000, 0xc000_1fff, 0xc001_0015, u32::MAX]
    {
        assert_eq!(read(&mut vcpu, index), None, "reading MSR {index:#x}");
        assert!(!write(&mut vcpu, index, 0), "writing MSR {index:#x}");
    }
}

#[test]
fn writes_are_taken_ignored_or_refused() {
    let all = u64::MAX;
    // Register, value, whether WRMSR goes through, what is read afterwards.
    let rows = [
        (msr::IA32_FEATURE_CONTROL, 5, false, 1),
        (0x17, 0, false, 0),
        (0x8b, all, true, 0),
        (msr::IA32_MISC_ENABLE, all, true, 1),
        (msr::IA32_DEBUGCTL, 3, true, 3),
        (msr::IA32_DEBUGCTL, 1 << 6, false, 3),
        (msr::IA32_DEBUGCTL, 1 << 63, false, 3),
        (msr::IA32_PAT, 0x0007_0605_0401_0006, true, 0x0007_0605_0401_0006),
        (msr::IA32_PAT, 0x0200_0000_0000_0000, false, 0x0007_0605_0401_0006),
        (msr::IA32_PAT, 0x0000_0000_0000_0003, false, 0x0007_0605_0401_0006),
        (msr::IA32_PAT, 0x0000_0008_0000_0000, false, 0x0007_0605_0401_0006),
    ];
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for (index, value, taken, after) in rows {
        assert_eq!(write(&mut vcpu, index, value), taken, "MSR {index:#x} = {value:#x}");
        assert_eq!(read(&mut vcpu, index), Some(after), "after MSR {index:#x} = {value:#x}");
        vcpu.platform.check_entry();
    }
}

#[test]
fn capabilities_are_read_only_and_those_that_are_offered() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.vcpu();
    let offered = vcpu.features.offered.expect("the guest has VMX");
    for index in 0x480..=0x493 {
        assert_eq!(read(&mut vcpu, index), offered.raw(index), "MSR {index:#x}");
        assert!(!write(&mut vcpu, index, offered.raw(index).unwrap_or(0)), "writing MSR {index:#x}");
    }
    assert_eq!(offered.iter().map(|(index, _)| index).collect::<Vec<_>>(), (0x480..=0x491).collect::<Vec<_>>());
    // Locked, VMXON allowed outside SMX operation.
    assert_eq!(read(&mut vcpu, msr::IA32_FEATURE_CONTROL), Some(5));
    for value in [0, 1, 4, 5, u64::MAX] {
        assert!(!write(&mut vcpu, msr::IA32_FEATURE_CONTROL, value), "{value:#x}: it is locked");
    }
    // Without secondary controls there are fewer.
    let mut machine = Machine::hypervisor();
    machine.information.nested_profile = l1_protocol::boot::NESTED_PROFILE_MINIMAL;
    let mut vcpu = machine.vcpu();
    assert_eq!([0x48a, 0x48b, 0x48c, 0x48d].map(|index| read(&mut vcpu, index).is_some()), [true, false, false, true]);
}

#[test]
fn efer() {
    const SCE: u64 = 1;
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;
    const NXE: u64 = 1 << 11;
    // Paging, before, written, after; none if it is refused.
    let rows = [
        (true, LME | LMA, LME | LMA | SCE, Some(LME | LMA | SCE)),
        (true, LME | LMA, LME | NXE, Some(LME | LMA | NXE)),
        (true, LME | LMA, LMA, None),
        (true, 0, LME, None),
        (true, 0, SCE | LMA, Some(SCE)),
        (false, 0, LME, Some(LME)),
        (false, LME, LMA, Some(0)),
        (false, 0, 1 << 1, None),
        (false, 0, 1 << 12, None),
        (false, 0, 1 << 13, None),
        (false, 0, 1 << 63, None),
    ];
    for (paging, before, written, after) in rows {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        vcpu.set(Field::GUEST_CR0, if paging { 0x8000_0021 } else { 0x21 });
        vcpu.set(Field::GUEST_IA32_EFER, before);
        assert_eq!(write(&mut vcpu, msr::IA32_EFER, written), after.is_some(), "{before:#x} <- {written:#x}");
        assert_eq!(vcpu.get(Field::GUEST_IA32_EFER), after.unwrap_or(before), "{before:#x} <- {written:#x}");
    }
}

#[test]
fn the_counter_goes_on_from_what_was_written() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for value in [0, 1000, u64::MAX - 5] {
        assert!(write(&mut vcpu, msr::IA32_TIME_STAMP_COUNTER, value));
        let offset = vcpu.get(Field::TSC_OFFSET);
        assert_eq!(vcpu.platform.tsc.wrapping_add(offset), value);
        vcpu.platform.tsc += 77;
        assert_eq!(read(&mut vcpu, msr::IA32_TIME_STAMP_COUNTER), Some(value.wrapping_add(77)));
    }
    assert!(vcpu.platform.tsc > TSC_START);
}

#[test]
fn counter_instructions() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.platform.tsc += 0x12_3456_789a;
    vcpu.platform.tsc_auxiliary = 0xffff_ffff_0000_0007;
    assert_eq!(handle(&mut vcpu, &Scripted::new(Reason::RDTSC)).1, Action::Complete);
    assert_eq!((vcpu.context.general[RDX], vcpu.context.general[RAX]), (0x12, 0x3456_789a));
    assert_eq!(handle(&mut vcpu, &Scripted::new(Reason::RDTSCP)).1, Action::Complete);
    assert_eq!((vcpu.context.general[RDX], vcpu.context.general[RCX]), (0x12, 7));
}
