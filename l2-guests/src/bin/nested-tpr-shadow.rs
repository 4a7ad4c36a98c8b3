//! L3's CR8 in a virtual-APIC page: reads, writes, the TPR threshold, and what VM entry refuses.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "CR8 is read by assembly")]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable, region};
use l2_guests::{Outcome, ensure, fail, l3_code, println};
use vmcs::controls::PrimaryProcessorBased as Primary;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

// RDI: what is written to CR8. RSI: what CR8 was before.
l3_code! {
    exchange { "mov rsi, cr8", "mov cr8, rdi", "vmcall", "ud2" }
}

/// The task-priority register in a virtual-APIC page (SDM 3C 29.1.1 "Virtualized APIC Registers").
const TASK_PRIORITY: u64 = 0x80;
/// #GP in the exception bitmap.
const GENERAL_PROTECTION: u64 = 1 << 13;
/// An address where no machine here has memory.
const NOTHING: u64 = 0xd000_0000;

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(exchange), Some(Ept::identity()))?;
    let page = region::allocate(1);
    l3.set_controls(|controls| controls.primary |= Primary::USE_TPR_SHADOW)?;
    l3.write(Field::VIRTUAL_APIC_ADDRESS, page);
    l3.write(Field::TPR_THRESHOLD, 0);
    l3.write(Field::EXCEPTION_BITMAP, GENERAL_PROTECTION);
    region::write(page + TASK_PRIORITY, 0xffff_ff00_0000_0097);
    let own = own_cr8();

    execute(&mut l3, 3)?;
    println!("L3 reads CR8 {}, then the register is {:#x}", l3.registers().rsi, region::read(page + TASK_PRIORITY));
    ensure!(own_cr8() == own, "L2's CR8 changed");
    for (threshold, first, then) in [(5, 9, 5), (5, 9, 4), (1, 15, 0), (15, 15, 14), (0, 7, 0)] {
        region::write(page + TASK_PRIORITY, first << 4);
        l3.write(Field::TPR_THRESHOLD, threshold);
        let reason = execute(&mut l3, then)?;
        let place = l3.read(Field::GUEST_RIP) - code_address(exchange);
        let register = region::read(page + TASK_PRIORITY);
        println!("threshold {threshold}, CR8 from {first} to {then}: exit {reason} at +{place}, the register is {register:#x}");
    }
    region::write(page + TASK_PRIORITY, 0x20);
    l3.write(Field::TPR_THRESHOLD, 0);
    for wrong in [16, 1 << 31, 1 << 63] {
        let reason = execute(&mut l3, wrong)?;
        let information = l3.read(Field::VM_EXIT_INTERRUPTION_INFORMATION);
        println!("CR8 = {wrong:#x}: exit {reason}, {information:#x}, the register is {:#x}", region::read(page + TASK_PRIORITY));
    }
    intercepts(&mut l3)?;
    entries(&mut l3, page)?;
    nothing(&mut l3)?;
    without(&mut l3)?;
    vmx.disable()
}

fn own_cr8() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, cr8", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn execute(l3: &mut L3, value: u64) -> Result<Reason, l2_guests::Failure> {
    l3.write(Field::GUEST_RIP, code_address(exchange));
    l3.registers().rdi = value;
    let exit = l3.run()?;
    ensure!(!exit.reason.is_entry_failure(), "{exit}");
    Ok(exit.reason.basic())
}

/// CR8-load and CR8-store exiting come before the TPR shadow.
fn intercepts(l3: &mut L3) -> Outcome {
    for control in [Primary::CR8_LOAD_EXITING, Primary::CR8_STORE_EXITING] {
        l3.set_controls(|controls| controls.primary |= control)?;
        let reason = execute(l3, 1)?;
        println!("{control:?}: exit {reason}, {:#x}", l3.read(Field::EXIT_QUALIFICATION));
        l3.set_controls(|controls| controls.primary -= control)?;
    }
    Ok(())
}

fn entries(l3: &mut L3, page: u64) -> Outcome {
    region::write(page + TASK_PRIORITY, 0x47);
    let rows = [
        ("threshold 4, TPR 0x47", Field::TPR_THRESHOLD, 4),
        ("threshold 5, TPR 0x47", Field::TPR_THRESHOLD, 5),
        ("threshold 0x10", Field::TPR_THRESHOLD, 0x10),
        ("page not aligned", Field::VIRTUAL_APIC_ADDRESS, page + 0x10),
        ("page beyond the width", Field::VIRTUAL_APIC_ADDRESS, page | 1 << 52),
    ];
    for (what, field, value) in rows {
        let before = l3.read(field);
        l3.write(field, value);
        l3.write(Field::GUEST_RIP, code_address(exchange));
        l3.registers().rdi = 15;
        match l3.enter() {
            Ok(exit) => println!("{what}: exit {exit}"),
            Err(answer) => println!("{what}: {answer}"),
        }
        l3.write(field, before);
        region::write(page + TASK_PRIORITY, 0x47);
    }
    // The same VMCS, the page changed behind its back.
    l3.write(Field::TPR_THRESHOLD, 4);
    region::write(page + TASK_PRIORITY, 0x30);
    let Err(answer) = l3.enter() else { fail!("TPR 0x30 is not below threshold 4") };
    println!("threshold 4, TPR then 0x30: {answer}");
    l3.write(Field::TPR_THRESHOLD, 0);
    Ok(())
}

/// A page where nothing is: all ones are read, nothing is kept.
fn nothing(l3: &mut L3) -> Outcome {
    let before = l3.read(Field::VIRTUAL_APIC_ADDRESS);
    l3.write(Field::VIRTUAL_APIC_ADDRESS, NOTHING);
    l3.write(Field::TPR_THRESHOLD, 15);
    for value in [3, 3, 16] {
        let reason = execute(l3, value)?;
        println!("no memory behind the page, CR8 = {value}: exit {reason}, CR8 was {}", l3.registers().rsi);
    }
    l3.write(Field::TPR_THRESHOLD, 0);
    l3.write(Field::VIRTUAL_APIC_ADDRESS, before);
    Ok(())
}

/// Without a TPR shadow CR8 is the processor's own, L2's.
fn without(l3: &mut L3) -> Outcome {
    l3.set_controls(|controls| controls.primary -= Primary::USE_TPR_SHADOW)?;
    let reason = execute(l3, 6)?;
    let read = own_cr8();
    println!("without TPR shadow: exit {reason}, L2 then reads CR8 {read}");
    execute(l3, 0)?;
    println!("L3 reads {}, and L2 {}", l3.registers().rsi, own_cr8());
    Ok(())
}
