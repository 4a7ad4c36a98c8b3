use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::context::register::{RAX, RBX, RCX, RSI};
use crate::exit::Action;
use crate::guest_memory::GuestPhysical;
use crate::testing::{HOST_RIP, L3_START, Machine, Scripted, TestVcpu};

/// The last-level table of EPT23, for the first 2 MiB of L3.
const PAGE_TABLE: u64 = 0x4_3000;
const ALL: u64 = 0x37;
/// L3's page tables, 4 KiB apart; they lie at the same addresses of L2 (see `testing::machine`).
const L3_TABLES: [u64; 3] = [0x1000, 0x2000, 0x3000];
/// A page of L3, and where L2 has put it.
const PAGE: (u64, u64) = (0x6000, 0x3_6000);
/// A page that L2 has not mapped.
const MISSING: u64 = 0x7000;
/// A page that L2 has put where it has no RAM.
const DEVICE: (u64, u64) = (0x5000, 0xd000_0000);
const CODE: (u64, u64) = (L3_START, 0x3_9000);

/// REP OUTSB to the debug console.
const REP_OUTSB: u64 = 0x00e9_0030;
const ADDRESS_SIZE_64: u64 = 2 << 7;

fn map(vcpu: &mut TestVcpu<'_>, page: u64, entry: u64) {
    vcpu.memory.write(GuestPhysical(PAGE_TABLE + page / 4096 * 8), &entry.to_le_bytes());
}

/// An L3 whose pages lie elsewhere in L2; L2 intercepts no I/O.
fn l3<'m>(machine: &'m mut Machine) -> TestVcpu<'m> {
    let mut vcpu = machine.guest_hypervisor();
    for level in 0..3_u64 {
        let table = 0x4_0000 + level * 0x1000;
        vcpu.memory.write(GuestPhysical(table), &((table + 0x1000) | 7).to_le_bytes());
    }
    for table in L3_TABLES {
        map(&mut vcpu, table, table | ALL);
    }
    for (l3, l2) in [PAGE, DEVICE, CODE] {
        map(&mut vcpu, l3, l2 | ALL);
    }
    vcpu.vmwrites(&[
        (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, Secondary::ENABLE_EPT.bits().into()),
        (Field::EPT_POINTER, 0x4_0000 | 6 | 3 << 3),
    ]);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    vcpu
}

fn outs(linear: u64, count: u64) -> Scripted {
    Scripted::new(Reason::IO_INSTRUCTION)
        .qualification(REP_OUTSB)
        .field(Field::VM_EXIT_INSTRUCTION_INFORMATION, ADDRESS_SIZE_64)
        .field(Field::GUEST_LINEAR_ADDRESS, linear)
        .register(RSI, linear)
        .register(RCX, count)
        .length(2)
}

/// Reason, qualification, guest-physical and guest-linear address of an EPT violation that L2 has got.
fn violation(vcpu: &mut TestVcpu<'_>) -> (u32, u64, u64, u64) {
    let (reason, qualification, _) = vcpu.seen_exit();
    let vmcs23 = vcpu.vmcs23();
    (reason, qualification, vmcs23.get(Field::GUEST_PHYSICAL_ADDRESS), vmcs23.get(Field::GUEST_LINEAR_ADDRESS))
}

const VIOLATION: u32 = Reason::EPT_VIOLATION.0 as u32;

#[test]
fn an_operand_is_read_where_l2_has_put_it() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine);
    vcpu.memory.write(GuestPhysical(PAGE.1 + 0x10), b"right");
    vcpu.memory.write(GuestPhysical(PAGE.0 + 0x10), b"wrong");
    assert_eq!(vcpu.nested_step(&outs(PAGE.0 + 0x10, 5)), Ok(Action::Complete));
    drop(vcpu);
    assert_eq!(machine.host.printed, b"right");
}

#[test]
fn an_operand_that_l2_has_not_mapped_is_an_exit_of_l2() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine);
    vcpu.memory.write(GuestPhysical(PAGE.1 + 0xffd), b"abc");
    // Three bytes are done, the fourth is in the page that is not mapped.
    assert_eq!(vcpu.nested_step(&outs(MISSING - 3, 5)), Ok(Action::Reflect));
    assert_eq!(violation(&mut vcpu), (VIOLATION, 0x181, MISSING, MISSING));
    assert_eq!((vcpu.context.general[RSI], vcpu.context.general[RCX]), (MISSING, 2), "as between two repetitions");
    assert_eq!(vcpu.get(Field::GUEST_RIP), HOST_RIP);
    assert_eq!(vcpu.vmcs23().get(Field::GUEST_RIP), L3_START);
    drop(vcpu);
    assert_eq!(machine.host.printed, b"abc");
}

#[test]
fn page_tables_of_l3_go_through_its_ept_too() {
    let mut machine = Machine::hypervisor();
    for (entry, qualification) in [(0, 0x81), (L3_TABLES[1] | 0x34, 0xa1)] {
        let mut vcpu = l3(&mut machine);
        map(&mut vcpu, L3_TABLES[1], entry);
        assert_eq!(vcpu.nested_step(&outs(PAGE.0, 1)), Ok(Action::Reflect));
        assert_eq!(violation(&mut vcpu), (VIOLATION, qualification, L3_TABLES[1], PAGE.0));
    }
    // The walk wants to set accessed flags in an entry that L3 may only read.
    let mut vcpu = l3(&mut machine);
    for table in L3_TABLES {
        vcpu.memory.write(GuestPhysical(table), &(vcpu_entry(table) & !0x60).to_le_bytes());
    }
    map(&mut vcpu, L3_TABLES[2], L3_TABLES[2] | 0x31);
    assert_eq!(vcpu.nested_step(&outs(PAGE.0, 1)), Ok(Action::Reflect));
    assert_eq!(violation(&mut vcpu), (VIOLATION, 0x8b, L3_TABLES[2], PAGE.0));
}

/// The first entry of each of L3's tables.
fn vcpu_entry(table: u64) -> u64 {
    if table == L3_TABLES[2] { 0x87 } else { (table + 0x1000) | 7 }
}

#[test]
fn a_misconfiguration_is_l2s_too() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine);
    // Writable and not readable.
    map(&mut vcpu, PAGE.0, PAGE.1 | 2);
    assert_eq!(vcpu.nested_step(&outs(PAGE.0, 1)), Ok(Action::Reflect));
    let (reason, qualification, _) = vcpu.seen_exit();
    assert_eq!((reason, qualification), (u32::from(Reason::EPT_MISCONFIGURATION.0), 0));
}

/// MOV EAX, [RBX] from where L2 has no RAM.
fn load() -> Scripted {
    Scripted::new(Reason::EPT_VIOLATION)
        .qualification(0x181)
        .field(Field::GUEST_PHYSICAL_ADDRESS, DEVICE.0)
        .field(Field::GUEST_LINEAR_ADDRESS, DEVICE.0)
        .register(RBX, DEVICE.0)
        .register(RAX, 0)
}

#[test]
fn an_instruction_is_fetched_where_l2_has_put_it() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine);
    vcpu.memory.write(GuestPhysical(CODE.1), &[0x8b, 0x03]);
    vcpu.memory.write(GuestPhysical(CODE.0), &[0x0f, 0x0b]);
    assert_eq!(vcpu.nested_step(&load()), Ok(Action::Continue));
    assert!(vcpu.runs_l3);
    assert_eq!(vcpu.context.general[RAX], 0xffff_ffff);
    assert_eq!(vcpu.get(Field::GUEST_RIP), L3_START + 2);
}

#[test]
fn an_instruction_that_l2_takes_away_meanwhile_is_an_exit_of_l2() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine);
    map(&mut vcpu, CODE.0, 0);
    assert_eq!(vcpu.nested_step(&load()), Ok(Action::Reflect));
    assert_eq!(violation(&mut vcpu), (VIOLATION, 0x184, L3_START, L3_START));
    assert_eq!(vcpu.context.general[RAX], 0);
}

#[test]
fn an_event_that_cannot_be_delivered_shuts_l3_down_and_not_l2() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = l3(&mut machine);
    let exit = load().vectoring(InterruptionInformation(0x8000_0b0e), 2);
    assert_eq!(vcpu.nested_step(&exit), Ok(Action::Reflect));
    assert_eq!(vcpu.seen_exit().0, u32::from(Reason::TRIPLE_FAULT.0));
}
