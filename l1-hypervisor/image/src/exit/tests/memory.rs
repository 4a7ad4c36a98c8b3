//! EPT violations and misconfigurations. The guest has 1 MiB of RAM; from there on is nothing.

use l1_protocol::end::EndReason;
use vmcs::event::{InterruptionInformation, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use super::{UD, page_fault, to_user_mode};
use crate::context::register::{RAX, RBP, RCX, RDI, RSI};
use crate::exit::{Action, EndText};
use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, START, Scripted, TestVcpu, handle, step};

/// Bits of the exit qualification (SDM 3C table 28-7 "Exit Qualification for EPT Violations").
const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 2;
const LINEAR_VALID: u64 = 1 << 7;
const TRANSLATED: u64 = 1 << 8;

const NOTHING: u64 = 0x20_0000;
/// Of the page tables that `Machine::long_mode` makes.
const PML4: u64 = 0x1000;

fn violation(access: u64, linear: u64) -> Scripted {
    Scripted::new(Reason::EPT_VIOLATION)
        .qualification(access | LINEAR_VALID)
        .field(Field::GUEST_LINEAR_ADDRESS, linear)
        .field(Field::GUEST_PHYSICAL_ADDRESS, linear)
}

fn store(vcpu: &mut TestVcpu<'_>, address: u64, bytes: &[u8]) {
    vcpu.memory.write(GuestPhysical(address), bytes);
}

#[test]
fn page_tables_where_nothing_is_have_reserved_bits_set() {
    const LINEAR: u64 = 1 << 39 | 0x1234;
    const NXE: u64 = 1 << 11;
    // Access, EFER.NXE, user mode, error code.
    let rows = [
        (READ, 0, false, 0b0_1001),
        (WRITE, 0, false, 0b0_1011),
        (FETCH, 0, false, 0b0_1001),
        (FETCH, NXE, false, 0b1_1001),
        (READ, 0, true, 0b0_1101),
        (WRITE, NXE, true, 0b0_1111),
    ];
    for (access, execute_disable, user, error_code) in rows {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        store(&mut vcpu, PML4 + 8, &(0x4000_0007_u64).to_le_bytes());
        vcpu.set(Field::GUEST_IA32_EFER, 0x500 | execute_disable);
        if user {
            to_user_mode(&mut vcpu);
        }
        assert_eq!(step(&mut vcpu, &violation(access, LINEAR)), Ok(page_fault(error_code)), "{access:#b}");
        assert_eq!(vcpu.platform.cr2, LINEAR);
    }
}

/// With 32-bit paging an entry of all ones is valid and maps the last page.
#[test]
fn page_tables_of_32_bit_paging_where_nothing_is_map_the_last_page() {
    const DIRECTORY: u64 = 0x9000;
    let mut machine = super::protected_mode();
    let mut vcpu = machine.vcpu();
    // The first 4 MiB are mapped through a table in RAM, what follows 2 GiB through one that is not there.
    store(&mut vcpu, DIRECTORY, &(0xa007_u32).to_le_bytes());
    store(&mut vcpu, DIRECTORY + 512 * 4, &(0x4000_0007_u32).to_le_bytes());
    for index in 0..1024 {
        store(&mut vcpu, 0xa000 + index * 4, &((index << 12) as u32 | 7).to_le_bytes());
    }
    vcpu.set(Field::GUEST_CR3, DIRECTORY);
    vcpu.set(Field::GUEST_CR0, 0x8000_0031);
    // mov eax, [0x80000000]
    store(&mut vcpu, START, &[0xa1, 0, 0, 0, 0x80]);
    assert_eq!(step(&mut vcpu, &violation(READ, 0x8000_0000)), Ok(Action::Continue));
    assert_eq!((vcpu.context.general[RAX], vcpu.get(Field::GUEST_RIP)), (0xffff_ffff, START + 5));
    // Code there is FF FF …
    assert_eq!(step(&mut vcpu, &violation(FETCH, 0x8000_0000)), Ok(UD));
    // With CR4.PSE the directory's entry is checked.
    let cr4 = vcpu.get(Field::GUEST_CR4);
    vcpu.set(Field::GUEST_CR4, cr4 | 1 << 4);
    vcpu.set(Field::GUEST_CR3, 0x4000_0000);
    assert_eq!(step(&mut vcpu, &violation(READ, 0x8000_0000)), Ok(page_fault(9)));
}

#[test]
fn code_where_nothing_is_is_no_instruction() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    assert_eq!(step(&mut vcpu, &violation(FETCH | TRANSLATED, NOTHING)), Ok(UD));
}

#[test]
fn an_event_that_cannot_be_delivered_ends_the_run() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    let exit = violation(READ | TRANSLATED, NOTHING).vectoring(InterruptionInformation::external_interrupt(0x20), 0);
    let end = step(&mut vcpu, &exit).expect_err("there is no way to go on");
    assert_eq!((end.reason, end.value), (EndReason::UnhandledExit, Reason::EPT_VIOLATION.0.into()));
    assert!(end.text.to_string().contains("delivered"), "{}", end.text);
}

#[test]
fn reads_give_ones_and_writes_are_lost() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    // mov eax, [rsi]; mov [rsi], eax; xor [rsi], eax (sets flags)
    store(&mut vcpu, START, &[0x8b, 0x06, 0x89, 0x06, 0x31, 0x06]);
    vcpu.context.general[RSI] = NOTHING;
    vcpu.context.general[RAX] = 0;
    assert_eq!(step(&mut vcpu, &violation(READ | TRANSLATED, NOTHING)), Ok(Action::Continue));
    assert_eq!((vcpu.context.general[RAX], vcpu.get(Field::GUEST_RIP)), (0xffff_ffff, START + 2));
    assert_eq!(step(&mut vcpu, &violation(WRITE | TRANSLATED, NOTHING)), Ok(Action::Continue));
    assert_eq!(step(&mut vcpu, &violation(READ | WRITE | TRANSLATED, NOTHING)), Ok(Action::Continue));
    assert_eq!((vcpu.get(Field::GUEST_RIP), vcpu.get(Field::GUEST_RFLAGS)), (START + 6, 2 | 0x44), "ZF and PF");
}

#[test]
fn a_single_step_trap_follows() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    store(&mut vcpu, START, &[0x8b, 0x06]);
    vcpu.context.general[RSI] = NOTHING;
    let exit = violation(READ | TRANSLATED, NOTHING)
        .field(Field::GUEST_RFLAGS, 2 | 1 << 8 | 1 << 16 | 1 << 9)
        .field(Field::GUEST_INTERRUPTIBILITY_STATE, 1);
    assert_eq!(step(&mut vcpu, &exit), Ok(Action::Continue));
    assert_eq!(vcpu.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), 1 << 14);
    assert_eq!((vcpu.get(Field::GUEST_RFLAGS), vcpu.get(Field::GUEST_INTERRUPTIBILITY_STATE)), (2 | 1 << 8 | 1 << 9, 0));
}

#[test]
fn repeated_strings_go_on_until_they_are_done() {
    const COUNT: u64 = 100_000;
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    store(&mut vcpu, START, &[0xf3, 0xaa]); // rep stosb
    vcpu.context.general[RDI] = NOTHING;
    vcpu.context.general[RCX] = COUNT;
    let mut exits = 0;
    while vcpu.get(Field::GUEST_RIP) == START {
        let left = vcpu.context.general[RCX];
        let linear = vcpu.context.general[RDI];
        assert_eq!(step(&mut vcpu, &violation(WRITE | TRANSLATED, linear)), Ok(Action::Continue));
        assert!(vcpu.context.general[RCX] < left, "it gets on");
        exits += 1;
    }
    assert_eq!((vcpu.context.general[RCX], vcpu.context.general[RDI]), (0, NOTHING + COUNT));
    assert!(exits > 1 && vcpu.get(Field::GUEST_RIP) == START + 2, "{exits} exits");
}

#[test]
fn faults_of_the_other_operand() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    store(&mut vcpu, START, &[0xa4]); // movsb
    vcpu.context.general[RSI] = NOTHING;
    vcpu.context.general[RDI] = 1 << 40;
    assert_eq!(step(&mut vcpu, &violation(READ | TRANSLATED, NOTHING)), Ok(page_fault(2)));
    assert_eq!(vcpu.platform.cr2, 1 << 40);
    vcpu.context.general[RDI] = 1 << 47;
    assert_eq!(step(&mut vcpu, &violation(READ | TRANSLATED, NOTHING)), Ok(super::GP));
    store(&mut vcpu, START, &[0x89, 0x45, 0]); // mov [rbp], eax
    vcpu.context.general[RBP] = 1 << 47;
    let stack_fault = Action::exception(Vector::SS, Some(0));
    assert_eq!(step(&mut vcpu, &violation(READ | TRANSLATED, NOTHING)), Ok(stack_fault));
    assert_eq!(vcpu.get(Field::GUEST_RIP), START);
}

#[test]
fn instructions_that_are_not_emulated_end_the_run() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    store(&mut vcpu, START, &[0x0f, 0xae, 0x06]); // fxsave [rsi]
    vcpu.context.general[RSI] = NOTHING;
    let end = step(&mut vcpu, &violation(WRITE | TRANSLATED, NOTHING)).expect_err("not emulated");
    assert_eq!(end.reason, EndReason::UnhandledExit);
    assert_eq!(end.text, EndText::Instruction(iced_x86::Mnemonic::Fxsave));
    assert!(end.text.to_string().contains("Fxsave"), "{}", end.text);
    // The guest changed the instruction meanwhile.
    store(&mut vcpu, START, &[0xff, 0xff]);
    assert_eq!(step(&mut vcpu, &violation(WRITE | TRANSLATED, NOTHING)), Ok(UD));
}

#[test]
fn a_misconfiguration_is_a_bug_of_l1() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    let exit = Scripted::new(Reason::EPT_MISCONFIGURATION).field(Field::GUEST_PHYSICAL_ADDRESS, 0x1234_5000);
    let Action::Stop(end) = handle(&mut vcpu, &exit).1 else { panic!("the run ends") };
    assert_eq!((end.reason, end.value), (EndReason::Bug, 0x1234_5000));
}
