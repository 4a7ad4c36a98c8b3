//! The errors of the VMX instructions in their order, the bounded cache, and random programs beside a model.

use proptest::prelude::*;
use std::vec::Vec;

use super::model::{PHYSICAL_ADDRESS_WIDTH, World, capabilities, run};
use super::*;

const SHADOW: u32 = VMCS_REVISION_IDENTIFIER | SHADOW_INDICATOR;

/// In VMX operation, with the VMXON region at 0x1000.
fn on(shadow_vmcs: bool) -> (Operation, World) {
    let (mut operation, mut world) = (Operation::new(&capabilities(shadow_vmcs), PHYSICAL_ADDRESS_WIDTH), World::new());
    assert_eq!(operation.vmxon(0x1000, &mut world), Reply::Succeed);
    (operation, world)
}

fn number(reply: Reply) -> u32 {
    match reply {
        Reply::FailValid(error) => error.0,
        _ => 0,
    }
}

#[test]
fn the_flags_of_each_reply() {
    assert_eq!(Reply::FLAGS, 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11);
    assert_eq!(Reply::Succeed.flags(), 0);
    assert_eq!(Reply::FailInvalid.flags(), 1, "CF");
    assert_eq!(Reply::FailValid(InstructionError(7)).flags(), 1 << 6, "ZF");
}

#[test]
fn vmxon_takes_an_aligned_page_with_the_identifier_and_bit_31_clear() {
    for (address, identifier, expected) in [
        (0x1000, VMCS_REVISION_IDENTIFIER, Reply::Succeed),
        (0x1008, VMCS_REVISION_IDENTIFIER, Reply::FailInvalid),
        (1 << PHYSICAL_ADDRESS_WIDTH, VMCS_REVISION_IDENTIFIER, Reply::FailInvalid),
        (0x9_9000, VMCS_REVISION_IDENTIFIER, Reply::FailInvalid),
        (0x1000, VMCS_REVISION_IDENTIFIER ^ 1, Reply::FailInvalid),
        (0x1000, SHADOW, Reply::FailInvalid),
    ] {
        let (mut operation, mut world) = (Operation::new(&capabilities(true), PHYSICAL_ADDRESS_WIDTH), World::new());
        world.store(0x1000, &identifier.to_le_bytes());
        assert_eq!(operation.vmxon(address, &mut world), expected, "{address:#x} {identifier:#x}");
        assert_eq!(operation.is_on(), expected == Reply::Succeed);
        assert_eq!(operation.vmxon_pointer(), if operation.is_on() { address } else { u64::MAX });
    }
}

#[test]
fn without_a_current_vmcs_every_failure_is_vmfail_invalid() {
    let (mut operation, mut world) = on(false);
    assert_eq!(operation.current_pointer(), u64::MAX, "VMPTRST");
    let replies = [
        operation.vmxon_again(),
        operation.vmclear(0x2008, &mut world),
        operation.vmclear(0x1000, &mut world),
        operation.vmptrld(0x2008, &mut world),
        operation.vmptrld(0x1000, &mut world),
        operation.vmwrite(Field::GUEST_RIP, 0),
        operation.vmwrite(Field(0x7ffe), 0),
    ];
    assert_eq!(replies, [Reply::FailInvalid; 7]);
    assert_eq!(operation.vmread(Field(0x7ffe)), Err(Reply::FailInvalid));
}

/// Each row breaks one rule more than the row after it, so that the order shows.
#[test]
fn errors_come_in_the_order_of_the_sdm() {
    let (mut operation, mut world) = on(false);
    world.store(0x3000, &0_u32.to_le_bytes());
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    // The VMXON region with a wrong identifier: the pointer is compared first.
    world.store(0x1000, &0_u32.to_le_bytes());
    for (address, vmptrld, vmclear) in [
        (0x1008, 9, 2),
        (1 << PHYSICAL_ADDRESS_WIDTH | 0x1000, 9, 2),
        (0x1000, 10, 3),
        (0x3000, 11, 0),
        (0x9_9000, 11, 0),
        (0x4000, 0, 0),
    ] {
        let reply = operation.vmclear(address, &mut world);
        assert_eq!(number(reply), vmclear, "VMCLEAR {address:#x}");
        if vmclear != 0 {
            assert_eq!(operation.vmread(Field::VM_INSTRUCTION_ERROR), Ok(vmclear.into()));
        }
        let reply = operation.vmptrld(address, &mut world);
        assert_eq!(number(reply), vmptrld, "VMPTRLD {address:#x}");
        if vmptrld != 0 {
            assert_eq!(operation.vmread(Field::VM_INSTRUCTION_ERROR), Ok(vmptrld.into()));
            assert_eq!(operation.current_pointer(), 0x2000, "the current VMCS stays");
        }
    }
    assert_eq!(operation.current_pointer(), 0x4000);
    assert_eq!(number(operation.vmxon_again()), 15);
    assert_eq!(operation.vmread(Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS).map_err(number), Err(12));
    assert_eq!(number(operation.vmwrite(Field(0x7ffe), 0)), 12);
    assert_eq!(operation.vmwrite(Field::EXIT_REASON, 0x1234), Reply::Succeed, "IA32_VMX_MISC[29]");
    assert_eq!(operation.vmread(Field::EXIT_REASON), Ok(0x1234));
}

#[test]
fn a_shadow_vmcs_is_loaded_only_where_shadowing_is_offered() {
    for (offered, expected) in [(false, 11), (true, 0)] {
        let (mut operation, mut world) = on(offered);
        assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
        world.store(0x3000, &SHADOW.to_le_bytes());
        assert_eq!(number(operation.vmptrld(0x3000, &mut world)), expected);
        assert_eq!(operation.current().is_some_and(|vmcs23| vmcs23.is_shadow), offered);
        // Bit 31 alone does not make up for a wrong identifier.
        world.store(0x3000, &(SHADOW ^ 2).to_le_bytes());
        assert_eq!(number(operation.vmptrld(0x3000, &mut world)), 11);
    }
}

#[test]
fn the_identifier_is_looked_at_again_at_every_vmptrld() {
    let (mut operation, mut world) = on(true);
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    assert_eq!(operation.vmwrite(Field::GUEST_RIP, 0x1234), Reply::Succeed);
    world.store(0x2000, &0_u32.to_le_bytes());
    assert_eq!(number(operation.vmptrld(0x2000, &mut world)), 11, "though it is active and current");
    assert_eq!(operation.vmptrld(0x3000, &mut world), Reply::Succeed);
    assert_eq!(number(operation.vmptrld(0x2000, &mut world)), 11, "though it is active");
    world.store(0x2000, &SHADOW.to_le_bytes());
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    assert_eq!(operation.current().map(|vmcs23| vmcs23.is_shadow), Some(true));
    assert_eq!(operation.vmread(Field::GUEST_RIP), Ok(0x1234));
}

#[test]
fn eviction_keeps_content_and_launch_state() {
    let (mut operation, mut world) = on(false);
    let addresses: Vec<u64> = (2..3 + SLOTS as u64).map(|page| page << 12).collect();
    for (&address, value) in addresses.iter().zip(0x100..) {
        assert_eq!(operation.vmptrld(address, &mut world), Reply::Succeed);
        assert_eq!(operation.vmwrite(Field::GUEST_RIP, value), Reply::Succeed);
        operation.current().expect("it was loaded").launched = value % 2 == 0;
    }
    assert_eq!(world.releases, 1, "one more than there are slots");
    for (&address, value) in addresses.iter().zip(0x100..) {
        assert_eq!(operation.vmptrld(address, &mut world), Reply::Succeed);
        assert_eq!(operation.vmread(Field::GUEST_RIP), Ok(value));
        assert_eq!(operation.current().expect("it was loaded").launched, value % 2 == 0);
    }
}

#[test]
fn the_one_whose_last_use_is_longest_ago_is_evicted() {
    let (mut operation, mut world) = on(false);
    for page in 2..2 + SLOTS as u64 {
        assert_eq!(operation.vmptrld(page << 12, &mut world), Reply::Succeed);
    }
    // The oldest is used again, so that the second is the oldest.
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    let kept = operation.current_slot();
    assert_eq!(operation.vmptrld(0x7000, &mut world), Reply::Succeed);
    assert_eq!(world.releases, 1);
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    assert_eq!((operation.current_slot(), world.releases), (kept, 1), "it is where it was");
}

#[test]
fn release_is_the_only_way_out() {
    let (mut operation, mut world) = on(false);
    let load =
        |operation: &mut Operation, world: &mut World, address| assert_eq!(operation.vmptrld(address, world), Reply::Succeed);
    load(&mut operation, &mut world, 0x2000);
    load(&mut operation, &mut world, 0x3000);
    load(&mut operation, &mut world, 0x3000);
    assert_eq!((world.releases, world.used()), (0, 2), "VMPTRLD gives nothing up while there is room");
    assert_eq!(operation.vmclear(0x2000, &mut world), Reply::Succeed);
    assert_eq!((world.releases, world.used(), world.linked()), (1, 1, operation.current_slot()), "VMCLEAR of another");
    assert_eq!(operation.vmclear(0x3000, &mut world), Reply::Succeed);
    assert_eq!((world.releases, world.used(), world.linked()), (2, 0, None), "VMCLEAR of the current one");
    assert_eq!(operation.current_pointer(), u64::MAX);
    assert_eq!(operation.vmclear(0x3000, &mut world), Reply::Succeed);
    assert_eq!(world.releases, 2, "VMCLEAR of one that is not active");
    load(&mut operation, &mut world, 0x2000);
    load(&mut operation, &mut world, 0x3000);
    assert_eq!(operation.vmxoff(&mut world), Reply::Succeed);
    assert_eq!((world.releases, world.used(), world.linked()), (4, 0, None), "VMXOFF");
    assert!(!operation.is_on());
}

#[test]
fn vmclear_sets_the_launch_state_in_memory_too() {
    let (mut operation, mut world) = on(false);
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    operation.current().expect("it was loaded").launched = true;
    assert_eq!(operation.vmclear(0x2000, &mut world), Reply::Succeed);
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    assert_eq!(operation.current().map(|vmcs23| vmcs23.launched), Some(false));
    // Also of a region that was never active, whatever stands there.
    world.store(0x3008, &u32::MAX.to_le_bytes());
    assert_eq!(operation.vmclear(0x3000, &mut world), Reply::Succeed);
    assert_eq!(operation.vmptrld(0x3000, &mut world), Reply::Succeed);
    assert_eq!(operation.current().map(|vmcs23| vmcs23.launched), Some(false));
}

#[test]
fn an_active_vmcs_does_not_see_what_happens_to_its_page() {
    let (mut operation, mut world) = on(false);
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    world.store(0x2008, &[0xa5; REGION_SIZE - 8]);
    assert_eq!(operation.vmread(Field::GUEST_RIP), Ok(0), "read once");
    assert_eq!(operation.current().map(|vmcs23| vmcs23.launched), Some(false));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_program_does_what_the_model_does(
        entries in proptest::collection::vec((any::<u16>(), prop_oneof![any::<u64>(), 0..4_u64]), 1..150),
        // Most programs begin in VMX operation.
        begins_on in proptest::bool::weighted(0.9),
    ) {
        let mut program = Vec::new();
        let first = if begins_on { entries.first().map(|_| (14, 0)) } else { None };
        for (number, value) in entries.iter().take(1).copied().chain(first).chain(entries.iter().skip(1).copied()) {
            program.extend_from_slice(&number.to_le_bytes());
            program.extend_from_slice(&value.to_le_bytes());
        }
        run(&program);
    }
}
