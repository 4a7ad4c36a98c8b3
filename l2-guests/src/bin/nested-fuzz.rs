//! Random VMX operations: SEED COUNT, or SEED COUNT FIRST [verbose]; a hash a program, the same bare and under L1.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::fuzz::program;
use l2_guests::fuzz::scene::Scene;
use l2_guests::fuzz::trace::Trace;
use l2_guests::vmx::operation::{allow, capabilities, check_offered, prepare_control_registers};
use l2_guests::{Outcome, fail, println};

l2_guests::guest!(run);

/// The seed, if there is no argument.
const SEED: u64 = 1;
/// How many programs, if there is no argument.
const COUNT: u64 = 20;

fn run(arguments: &str) -> Outcome {
    let mut words = arguments.split_ascii_whitespace().peekable();
    let mut number = |default: u64| match words.peek().map(|word| word.parse()) {
        None | Some(Err(_)) => default,
        Some(Ok(number)) => {
            words.next();
            number
        }
    };
    let (seed, count, first) = (number(SEED), number(COUNT), number(0));
    let verbose = match (words.next(), words.next()) {
        (None, None) => false,
        (Some("verbose"), None) => true,
        _ => fail!("{arguments:?}: SEED COUNT FIRST verbose are to be had"),
    };
    let Some(end) = first.checked_add(count) else { fail!("there are not that many programs") };

    check_offered()?;
    allow()?;
    let capabilities = capabilities()?;
    prepare_control_registers(&capabilities)?;
    let mut scene = Scene::new(capabilities.basic().vmcs_revision_identifier());
    for index in first..end {
        let mut trace = Trace::new(verbose);
        if verbose {
            println!("program {index}");
        }
        program::run(&mut scene, seed, index, &mut trace)?;
        println!("{index}: {:016x}", trace.hash());
    }
    scene.reset()
}
