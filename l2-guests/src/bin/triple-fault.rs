//! Crashes: with an empty IDT the first exception becomes a triple fault, which shuts the processor down.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "the guest breaks its own exception handling")]

use core::arch::asm;

use l2_guests::idt::{self, TableRegister};
use l2_guests::{Outcome, println};

l2_guests::guest!(run);

fn run(_arguments: &str) -> Outcome {
    println!("This guest faults three times over.");
    // SAFETY: the processor shuts down at UD2; no code of the guest runs after it.
    unsafe {
        idt::load(TableRegister::default());
        asm!("ud2", options(noreturn));
    }
}
