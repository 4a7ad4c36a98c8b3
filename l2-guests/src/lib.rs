//! The runtime that the L2 guests share: start, console, exit, panic, exceptions, and the processor's own registers.
//!
//! A guest is one file in `src/bin/`. It runs in ring 0 of a machine with nothing else on it and ends by returning:
//!
//! ```text
//! //! What this guest shows, in one line: `l1-hypervisor guests` prints it.
//! #![cfg_attr(bare_metal, no_std, no_main)]
//!
//! use l2_guests::{Outcome, ensure, println};
//!
//! l2_guests::guest!(run);
//!
//! fn run(arguments: &str) -> Outcome {
//!     ensure!(arguments.len() < 100, "the arguments are {} bytes long", arguments.len());
//!     println!("it works");
//!     Ok(())
//! }
//! ```
//!
//! How to write one more:
//! - The name of the file is the name of the guest. Its first `//!` line is its description.
//! - `run` returns `Ok(())` for success. [`ensure!`] and [`fail!`] print what is wrong and return failure; a panic or
//!   an exception nobody waits for prints where it happened and is a failure, too.
//! - What is printed must not depend on the machine (no time stamps, no model's numbers), as output is compared
//!   between machines. One [`println!`] is one VM exit: a single `rep outsb` to the debug console.
//! - An instruction that may fault goes into [`attempt!`], which yields the exception if there was one. Interrupts and
//!   traps get a function: [`idt::set_handler`].
//! - There is no heap. Interrupts are off at start. SSE is on.
//! - Built in the ordinary way a guest is a host program that only says how to run it. All of its code is still
//!   compiled and linted then, so the bare-metal build, which is made with `BARE_METAL=1` by the host program's build
//!   script, holds no surprises.
//!
//! What always holds: nothing here needs anything from L1 but what a processor and the devices named in
//! [`l1_protocol::guest`] give, and interrupt gates and page tables are the loader's, one address to one.
#![no_std]

pub mod console;
pub mod control;
pub mod cpuid;
pub mod exception;
pub mod exit;
pub mod fuzz;
pub mod idt;
pub mod long_mode;
#[cfg(bare_metal)]
mod memory;
pub mod msr;
pub mod outcome;
pub mod paging;
#[cfg(bare_metal)]
mod panic;
pub mod pic;
pub mod pit;
pub mod port;
pub mod start;
pub mod surroundings;
pub mod tsc;
pub mod user_mode;
pub mod vmcall;
pub mod vmx;

pub use exception::Exception;
pub use outcome::{Failure, Outcome};
