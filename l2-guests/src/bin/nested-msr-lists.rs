//! The three MSR areas: loaded on VM entry, stored and loaded on VM exit, in order, with one entry and with many.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "WRMSR is an unsafe function")]

use l2_guests::outcome::must_succeed;
use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable, region};
use l2_guests::{Failure, Outcome, ensure, l3_code, msr, println, tsc};
use vmcs::controls::PrimaryProcessorBased as Primary;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// MSRs that L2 does not use and that no control switches.
const INDICES: [u32; 4] = [msr::KERNEL_GS_BASE, msr::LSTAR, msr::CSTAR, msr::STAR];
/// What L2 has in them, what L3 gets, what L3 writes, what L2 gets; plus the number of the MSR.
const OWN: u64 = 0x1000;
const FOR_L3: u64 = 0x2000;
const BY_L3: u64 = 0x3000;
const FOR_L2: u64 = 0x4000;
/// Entries of the long lists: 3 pages.
const MANY: u64 = 512 + 200;

l3_code! {
    // Reads the four into RSI, RDI, R8 and R9, then writes 0x3000 to 0x3003.
    exchange {
        "mov ecx, {first}", "rdmsr", "mov esi, eax",
        "mov ecx, {second}", "rdmsr", "mov edi, eax",
        "mov ecx, {third}", "rdmsr", "mov r8d, eax",
        "mov ecx, {fourth}", "rdmsr", "mov r9d, eax",
        "xor edx, edx",
        "mov ecx, {first}", "mov eax, 0x3000", "wrmsr",
        "mov ecx, {second}", "mov eax, 0x3001", "wrmsr",
        "mov ecx, {third}", "mov eax, 0x3002", "wrmsr",
        "mov ecx, {fourth}", "mov eax, 0x3003", "wrmsr",
        "vmcall";
        first = const INDICES[0], second = const INDICES[1], third = const INDICES[2], fourth = const INDICES[3]
    }
}

/// Pages of the three areas.
struct Areas {
    entry_load: u64,
    exit_store: u64,
    exit_load: u64,
}

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(exchange), Some(Ept::identity()))?;
    l3.set_controls(|controls| controls.primary |= Primary::USE_MSR_BITMAPS)?;
    l3.write(Field::MSR_BITMAP, region::allocate(1));
    let areas = Areas { entry_load: region::allocate(3), exit_store: region::allocate(3), exit_load: region::allocate(3) };
    l3.write(Field::VM_ENTRY_MSR_LOAD_ADDRESS, areas.entry_load);
    l3.write(Field::VM_EXIT_MSR_STORE_ADDRESS, areas.exit_store);
    l3.write(Field::VM_EXIT_MSR_LOAD_ADDRESS, areas.exit_load);
    without_lists(&mut l3)?;
    one_each(&mut l3, &areas)?;
    four_each(&mut l3, &areas)?;
    many(&mut l3, &areas)?;
    later_entries_win(&mut l3, &areas)?;
    time_stamp_counter(&mut l3, &areas)?;
    vmx.disable()
}

fn entry(area: u64, number: u64, index: u32, value: u64) {
    region::write(area + number * 16, index.into());
    region::write(area + number * 16 + 8, value);
}

fn counts(l3: &L3, entry_load: u64, exit_store: u64, exit_load: u64) {
    l3.write(Field::VM_ENTRY_MSR_LOAD_COUNT, entry_load);
    l3.write(Field::VM_EXIT_MSR_STORE_COUNT, exit_store);
    l3.write(Field::VM_EXIT_MSR_LOAD_COUNT, exit_load);
}

fn set_own() -> Outcome {
    for (number, index) in (0..).zip(INDICES) {
        // SAFETY: nothing uses these.
        must_succeed("WRMSR", unsafe { msr::write(index, OWN + number) })?;
    }
    Ok(())
}

/// What L3 read, and what L2 has afterwards.
fn go(l3: &mut L3) -> Result<([u64; 4], [u64; 4]), Failure> {
    l3.reset(code_address(exchange));
    l3.run_to(Reason::VMCALL)?;
    let registers = *l3.registers();
    let mut own = [0; 4];
    for (value, index) in own.iter_mut().zip(INDICES) {
        *value = msr::read(index).unwrap_or(u64::MAX);
    }
    Ok(([registers.rsi, registers.rdi, registers.r8, registers.r9], own))
}

fn must_be(what: &str, found: ([u64; 4], [u64; 4]), expected: ([u64; 4], [u64; 4])) -> Outcome {
    ensure!(found == expected, "{what}: L3 read and L2 has {found:x?}, not {expected:x?}");
    println!("{what}: L3 read {:x?}, L2 has {:x?}", found.0, found.1);
    Ok(())
}

fn from(base: u64) -> [u64; 4] {
    [base, base + 1, base + 2, base + 3]
}

fn without_lists(l3: &mut L3) -> Outcome {
    set_own()?;
    counts(l3, 0, 0, 0);
    let found = go(l3)?;
    must_be("without lists", found, (from(OWN), from(BY_L3)))
}

fn one_each(l3: &mut L3, areas: &Areas) -> Outcome {
    set_own()?;
    entry(areas.entry_load, 0, INDICES[1], FOR_L3 + 1);
    entry(areas.exit_store, 0, INDICES[1], u64::MAX);
    entry(areas.exit_load, 0, INDICES[1], FOR_L2 + 1);
    counts(l3, 1, 1, 1);
    let found = go(l3)?;
    let expected = ([OWN, FOR_L3 + 1, OWN + 2, OWN + 3], [BY_L3, FOR_L2 + 1, BY_L3 + 2, BY_L3 + 3]);
    must_be("one entry in each", found, expected)?;
    let stored = region::read(areas.exit_store + 8);
    ensure!(stored == BY_L3 + 1, "stored {stored:#x}");
    Ok(())
}

fn four_each(l3: &mut L3, areas: &Areas) -> Outcome {
    set_own()?;
    for (number, index) in (0..).zip(INDICES) {
        entry(areas.entry_load, number, index, FOR_L3 + number);
        entry(areas.exit_store, number, index, u64::MAX);
        entry(areas.exit_load, number, index, FOR_L2 + number);
    }
    counts(l3, 4, 4, 4);
    let found = go(l3)?;
    must_be("four entries in each", found, (from(FOR_L3), from(FOR_L2)))?;
    for number in 0..4 {
        let stored = region::read(areas.exit_store + number * 16 + 8);
        ensure!(stored == BY_L3 + number, "stored {stored:#x} in entry {number}");
    }
    Ok(())
}

/// As many entries as are recommended, less where the processor recommends less.
fn many(l3: &mut L3, areas: &Areas) -> Outcome {
    let recommended = u64::from(l3.vmx().capabilities.misc().recommended_msr_list_maximum());
    let count = MANY.min(recommended);
    set_own()?;
    for number in 0..count {
        let which = number % 4;
        let index = INDICES[which as usize];
        entry(areas.entry_load, number, index, FOR_L3 + which);
        entry(areas.exit_store, number, index, u64::MAX);
        entry(areas.exit_load, number, index, FOR_L2 + which);
    }
    counts(l3, count, count, count);
    let found = go(l3)?;
    must_be("as many as are recommended", found, (from(FOR_L3), from(FOR_L2)))?;
    for number in 0..count {
        let stored = region::read(areas.exit_store + number * 16 + 8);
        ensure!(stored == BY_L3 + number % 4, "stored {stored:#x} in entry {number}");
    }
    Ok(())
}

fn later_entries_win(l3: &mut L3, areas: &Areas) -> Outcome {
    set_own()?;
    for number in 0..3 {
        entry(areas.entry_load, number, INDICES[0], FOR_L3 + 0x10 * number);
        entry(areas.exit_load, number, INDICES[0], FOR_L2 + 0x10 * number);
    }
    counts(l3, 3, 0, 3);
    let found = go(l3)?;
    let expected = ([FOR_L3 + 0x20, OWN + 1, OWN + 2, OWN + 3], [FOR_L2 + 0x20, BY_L3 + 1, BY_L3 + 2, BY_L3 + 3]);
    must_be("the same MSR three times", found, expected)
}

/// The time-stamp counter is stored as it was at the exit.
fn time_stamp_counter(l3: &mut L3, areas: &Areas) -> Outcome {
    entry(areas.exit_store, 0, msr::TIME_STAMP_COUNTER, 0);
    counts(l3, 0, 1, 0);
    let before = tsc::read();
    let _ = go(l3)?;
    let after = tsc::read();
    let stored = region::read(areas.exit_store + 8);
    ensure!((before..=after).contains(&stored), "stored {stored:#x}, not {before:#x} to {after:#x}");
    println!("the time-stamp counter is stored as it was at the exit");
    Ok(())
}
