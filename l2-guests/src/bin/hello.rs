//! Prints a line and, if it is given arguments, those as well.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::{Outcome, println};

l2_guests::guest!(run);

fn run(arguments: &str) -> Outcome {
    println!("Hello from L2.");
    if !arguments.is_empty() {
        println!("arguments: {arguments}");
    }
    Ok(())
}
