//! L3's time-stamp counter: offset and multiplier, each with and without the other.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable};
use l2_guests::{Outcome, ensure, l3_code, println, tsc};
use vmcs::controls::{PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

l3_code! {
    read { "rdtsc", "shl rdx, 32", "or rax, rdx", "vmcall", "ud2" }
    read_with_processor { "rdtscp", "shl rdx, 32", "or rax, rdx", "vmcall", "ud2" }
}

const ONE: u64 = 1 << 48;
const MULTIPLIERS: [u64; 6] = [ONE, 2 * ONE, ONE / 2, 1, ONE + ONE / 3, 1000 * ONE];
const OFFSETS: [u64; 3] = [0, 1 << 40, u64::MAX << 40];

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let scaling = vmx.capabilities.supports_secondary(Secondary::USE_TSC_SCALING);
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(read), Some(Ept::identity()))?;
    l3.set_controls(|controls| controls.secondary |= Secondary::ENABLE_RDTSCP)?;
    for offset in OFFSETS {
        l3.write(Field::TSC_OFFSET, offset);
        l3.set_controls(|controls| controls.primary -= Primary::USE_TSC_OFFSETTING)?;
        between(&mut l3, ONE, 0)?;
        l3.set_controls(|controls| controls.primary |= Primary::USE_TSC_OFFSETTING)?;
        between(&mut l3, ONE, offset)?;
    }
    println!("RDTSC and RDTSCP of L3 have the offset, if it is used");
    if !scaling {
        println!("TSC scaling is not offered");
        return vmx.disable();
    }
    l3.set_controls(|controls| controls.secondary |= Secondary::USE_TSC_SCALING)?;
    for (multiplier, offset) in MULTIPLIERS.into_iter().flat_map(|multiplier| OFFSETS.map(|offset| (multiplier, offset))) {
        l3.write(Field::TSC_MULTIPLIER, multiplier);
        l3.write(Field::TSC_OFFSET, offset);
        between(&mut l3, multiplier, offset)?;
        l3.set_controls(|controls| controls.primary -= Primary::USE_TSC_OFFSETTING)?;
        between(&mut l3, ONE, 0)?;
        l3.set_controls(|controls| controls.primary |= Primary::USE_TSC_OFFSETTING)?;
    }
    println!("and the multiplier, if both are used");
    l3.write(Field::TSC_MULTIPLIER, 0);
    let Err(answer) = l3.enter() else { l2_guests::fail!("a multiplier of 0 is accepted") };
    println!("multiplier 0: {answer}");
    l3.set_controls(|controls| controls.secondary -= Secondary::USE_TSC_SCALING)?;
    between(&mut l3, ONE, u64::MAX << 40)?;
    println!("it does not matter without the control");
    vmx.disable()
}

/// What L3 reads must lie between what L2's counter gives before and after, or one beside it.
fn between(l3: &mut L3, multiplier: u64, offset: u64) -> Outcome {
    for code in [read, read_with_processor] {
        l3.write(Field::GUEST_RIP, code_address(code));
        let before = expected(tsc::read(), multiplier, offset);
        l3.run_to(Reason::VMCALL)?;
        let after = expected(tsc::read(), multiplier, offset);
        let value = l3.registers().rax;
        let (low, width) = (before.wrapping_sub(1), after.wrapping_sub(before).wrapping_add(2));
        ensure!(value.wrapping_sub(low) <= width, "{multiplier:#x}, {offset:#x}: {value:#x} is not in {before:#x}..{after:#x}");
    }
    Ok(())
}

fn expected(counter: u64, multiplier: u64, offset: u64) -> u64 {
    (((u128::from(counter) * u128::from(multiplier)) >> 48) as u64).wrapping_add(offset)
}
