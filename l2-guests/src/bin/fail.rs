//! Reports failure, with the value 3: the run must end as one that the guest called failed.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::{Failure, Outcome, println};

l2_guests::guest!(run);

fn run(_arguments: &str) -> Outcome {
    println!("This guest reports failure 3.");
    Err(Failure::with_value(3))
}
