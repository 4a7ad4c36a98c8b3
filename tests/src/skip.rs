//! What becomes of a test whose machine or package cannot be had here.

use std::fmt::Display;

use libtest_mimic::{Completion, Failed};

/// Whether this is a run in CI, where nothing may be missing: `CI` is set to anything but nothing, `0` or `false`.
#[must_use]
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !["", "0", "false"].contains(&value.as_str()))
}

/// The result of a test that cannot run here: skipped with the reason on a developer's machine, failed in CI.
///
/// # Errors
/// In CI.
pub fn skipped(reason: impl Display) -> Result<Completion, Failed> {
    if in_ci() {
        Err(Failed::from(format!("skipped, which CI does not allow: {reason}")))
    } else {
        Ok(Completion::ignored_with(format!("skipped: {reason}")))
    }
}

/// Runs a test that needs Bochs, or says that it is not there.
///
/// # Errors
/// The test's, or the missing Bochs in CI.
pub fn on_bochs(test: impl FnOnce() -> Result<(), Failed>) -> Result<Completion, Failed> {
    match l1_hypervisor::machine::bochs::process::is_installed() {
        Ok(()) => test().map(|()| Completion::Completed),
        Err(problem) => skipped(problem),
    }
}
