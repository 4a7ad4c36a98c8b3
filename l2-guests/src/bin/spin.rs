//! Spins for ever with interrupts on (`spin`) or off (`spin cli`): only a time limit ends it.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "a loop that the compiler leaves as it is")]

use core::arch::asm;

use l2_guests::{Outcome, fail, pic, println};

l2_guests::guest!(run);

fn run(arguments: &str) -> Outcome {
    match arguments.trim() {
        "" => {
            // No line is let through: interrupts are on, and there are none.
            pic::initialize();
            pic::enable_interrupts();
            println!("Spinning with interrupts on.");
        }
        "cli" => println!("Spinning with interrupts off."),
        other => fail!("the argument is {other:?}, not `cli`"),
    }
    // SAFETY: goes nowhere.
    unsafe { asm!("2: jmp 2b", options(noreturn)) }
}
