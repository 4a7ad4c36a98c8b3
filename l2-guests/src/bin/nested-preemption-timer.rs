//! The VMX-preemption timer of L3: not too early, not too late, zero, saved, halted, and beside other exits.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable};
use l2_guests::{Outcome, ensure, l3_code, println, tsc};
use vmcs::controls::{PinBased, PrimaryExit, PrimaryProcessorBased as Primary};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

// RSI: the counter at the first instruction. RDI: the last that was read.
l3_code! {
    count { "rdtsc", "shl rdx, 32", "or rax, rdx", "mov rsi, rax", "2:", "rdtsc", "shl rdx, 32", "or rax, rdx", "mov rdi, rax", "jmp 2b" }
    halts { "hlt", "vmcall", "ud2" }
    calls { "vmcall", "jmp {calls}"; calls = sym calls }
}

const HALTED: u64 = 1;
/// How much later than the timer says L3 may still run: what a processor needs to notice.
const LATE: u64 = 2_000;
/// A time that no test lasts.
const LONG: u64 = 0xf000_0000;

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    if !vmx.capabilities.supports_pin_based(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER) {
        println!("the VMX-preemption timer is not offered");
        return vmx.disable();
    }
    let rate = vmx.capabilities.misc().preemption_timer_rate();
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(count), Some(Ept::identity()))?;
    l3.set_controls(|controls| controls.pin_based |= PinBased::ACTIVATE_VMX_PREEMPTION_TIMER)?;

    for ticks in [1_000, 20_000, 300_000] {
        l3.write(Field::GUEST_RIP, code_address(count));
        l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, ticks);
        let before = tsc::read();
        l3.run_to(Reason::VMX_PREEMPTION_TIMER_EXPIRED)?;
        let (real, registers) = (tsc::read() - before, *l3.registers());
        let time = ticks << rate;
        // The counter may stand anywhere between two ticks at the start.
        ensure!(real + (1 << rate) >= time, "{ticks} ticks were over after {real} of {time}");
        let ran = registers.rdi.saturating_sub(registers.rsi);
        ensure!(ran <= time + LATE, "{ticks} ticks were over, and L3 ran for {ran} instead of {time}");
        let value = l3.read(Field::VMX_PREEMPTION_TIMER_VALUE);
        ensure!(value == ticks, "the value became {value} without \"save VMX-preemption timer value\"");
    }
    println!("it expires when it should, and the value stays");

    l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, 0);
    for code in [count as unsafe extern "C" fn(), calls, halts] {
        let start = code_address(code);
        l3.write(Field::GUEST_RIP, start);
        l3.run_to(Reason::VMX_PREEMPTION_TIMER_EXPIRED)?;
        let place = l3.read(Field::GUEST_RIP) - start;
        println!("zero: exit before the instruction at +{place}, qualification {}", l3.read(Field::EXIT_QUALIFICATION));
    }
    halted(&mut l3)?;
    saved(&mut l3)?;

    l3.set_controls(|controls| controls.exit -= PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE)?;
    l3.set_controls(|controls| controls.pin_based -= PinBased::ACTIVATE_VMX_PREEMPTION_TIMER)?;
    l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, 0);
    l3.write(Field::GUEST_RIP, code_address(calls));
    l3.run_to(Reason::VMCALL)?;
    println!("without the control the value does not matter");
    l3.set_controls(|controls| controls.exit |= PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE)?;
    match l3.enter() {
        Ok(exit) => println!("saving a timer that is not used: exit {exit}"),
        Err(answer) => println!("saving a timer that is not used: {answer}"),
    }
    vmx.disable()
}

/// L3 halts, or is entered halted: the timer goes on and ends it.
fn halted(l3: &mut L3) -> Outcome {
    l3.set_controls(|controls| controls.primary -= Primary::HLT_EXITING)?;
    l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, 20_000);
    l3.write(Field::GUEST_RIP, code_address(halts));
    l3.run_to(Reason::VMX_PREEMPTION_TIMER_EXPIRED)?;
    let place = l3.read(Field::GUEST_RIP) - code_address(halts);
    println!("L3 halts: at +{place}, activity state {}", l3.read(Field::GUEST_ACTIVITY_STATE));
    for ticks in [20_000, 0] {
        l3.write(Field::GUEST_ACTIVITY_STATE, HALTED);
        l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, ticks);
        l3.run_to(Reason::VMX_PREEMPTION_TIMER_EXPIRED)?;
        let place = l3.read(Field::GUEST_RIP) - code_address(halts);
        println!("entered halted: at +{place}, activity state {}", l3.read(Field::GUEST_ACTIVITY_STATE));
    }
    l3.write(Field::GUEST_ACTIVITY_STATE, 0);
    Ok(())
}

/// With "save VMX-preemption timer value" what is left goes into the VMCS at every exit.
fn saved(l3: &mut L3) -> Outcome {
    l3.set_controls(|controls| controls.exit |= PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE)?;
    l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, 1_000);
    l3.write(Field::GUEST_RIP, code_address(count));
    l3.run_to(Reason::VMX_PREEMPTION_TIMER_EXPIRED)?;
    println!("saved after it expired: {}", l3.read(Field::VMX_PREEMPTION_TIMER_VALUE));
    let mut last = LONG;
    l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, last);
    for _ in 0..5 {
        l3.write(Field::GUEST_RIP, code_address(calls));
        l3.run_to(Reason::VMCALL)?;
        let left = l3.read(Field::VMX_PREEMPTION_TIMER_VALUE);
        ensure!(left <= last && left > LONG / 2, "{left:#x} is left of {last:#x}");
        last = left;
    }
    println!("what is left is saved at every exit and never grows");
    Ok(())
}
