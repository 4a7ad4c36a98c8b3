//! Halts with interrupts off: nothing can wake it, and the run ends at once.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::{Outcome, exit, println};

l2_guests::guest!(run);

fn run(_arguments: &str) -> Outcome {
    println!("Halting with interrupts off.");
    exit::halt_for_ever()
}
