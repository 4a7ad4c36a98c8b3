//! What the whole-machine tests share. The tests themselves are in `tests/tests/`, one file a behaviour.
//!
//! What always holds: nothing here is replaced by a stand-in. A test runs the program on a real machine; where that
//! machine cannot be had, it says "skipped" and why, and in CI that is a failure.

pub mod guest;
pub mod guest_hypervisor;
pub mod lab;
pub mod packages;
pub mod program;
pub mod skip;
pub mod snapshot;
