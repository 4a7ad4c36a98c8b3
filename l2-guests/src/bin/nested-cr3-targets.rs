//! MOV to CR3 in L3 with CR3-load exiting: values among the CR3 targets go through, all others exit.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::control::read_cr3;
use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{Answer, L3, enable};
use l2_guests::{Outcome, ensure, l3_code, println};
use vmcs::controls::PrimaryProcessorBased as Primary;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

// RDI: the new CR3. RSI: what CR3 is then.
l3_code! {
    load { "mov cr3, rdi", "mov rsi, cr3", "vmcall", "ud2" }
}

const TARGETS: [Field; 4] =
    [Field::CR3_TARGET_VALUE0, Field::CR3_TARGET_VALUE1, Field::CR3_TARGET_VALUE2, Field::CR3_TARGET_VALUE3];
/// Bits of CR3 that the processor ignores here: PWT and PCD make values that differ and mean the same tables.
const FLAGS: [u64; 4] = [0, 1 << 3, 1 << 4, 3 << 3];
const GENERAL_PROTECTION: u64 = 1 << 13;

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let count = vmx.capabilities.misc().cr3_target_values().min(4) as usize;
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(load), Some(Ept::identity()))?;
    l3.set_controls(|controls| {
        controls.primary -= Primary::CR3_STORE_EXITING;
        controls.primary |= Primary::CR3_LOAD_EXITING;
    })?;
    l3.write(Field::EXCEPTION_BITMAP, GENERAL_PROTECTION);
    let values = FLAGS.map(|flags| read_cr3() | flags);
    for (field, value) in TARGETS.into_iter().zip(values).take(count) {
        l3.write(field, value);
    }
    for number in 0..=count {
        l3.write(Field::CR3_TARGET_COUNT, number as u64);
        for (place, value) in values.into_iter().enumerate() {
            let reason = execute(&mut l3, value)?;
            let expected = if place < number { Reason::VMCALL } else { Reason::CONTROL_REGISTER_ACCESS };
            ensure!(reason == expected, "{number} targets, value {place}: exit {reason}");
            let loaded = l3.registers().rsi;
            ensure!(reason != Reason::VMCALL || loaded == value, "CR3 is {loaded:#x} after {value:#x} was loaded");
        }
    }
    println!("as many values go through as there are targets");
    if count == TARGETS.len() {
        // A value that is no CR3 exits or not as any other, and raises #GP if not.
        l3.write(Field::CR3_TARGET_VALUE2, values[2] | 1 << 63);
        l3.write(Field::CR3_TARGET_VALUE3, values[3] | 1 << 60);
        l3.write(Field::CR3_TARGET_COUNT, 4);
        for (what, value) in [("bit 60", values[3] | 1 << 60), ("no target, bit 60", values[0] | 1 << 60)] {
            let reason = execute(&mut l3, value)?;
            ensure!(
                reason == if what == "bit 60" { Reason::EXCEPTION_OR_NMI } else { Reason::CONTROL_REGISTER_ACCESS },
                "{what}: exit {reason}"
            );
        }
    }
    l3.write(Field::CR3_TARGET_COUNT, count as u64 + 1);
    let answer = match l3.enter() {
        Err(answer) => answer,
        Ok(exit) => l2_guests::fail!("more targets than there are: exit {exit}"),
    };
    ensure!(answer == Answer::FailValid(7), "more targets than there are: {answer}");
    println!("more targets than the processor has: {answer}");
    vmx.disable()
}

fn execute(l3: &mut L3, value: u64) -> Result<Reason, l2_guests::Failure> {
    l3.write(Field::GUEST_RIP, code_address(load));
    l3.write(Field::GUEST_CR3, read_cr3());
    l3.registers().rdi = value;
    let exit = l3.run()?;
    ensure!(!exit.reason.is_entry_failure(), "{exit}");
    Ok(exit.reason.basic())
}
