//! A built-in guest on Bochs, and what it prints.

use std::process::{Command, Stdio};

use libtest_mimic::Failed;

use crate::program;

/// The program, to run `guest` on this processor of Bochs; more options may follow.
///
/// # Errors
/// There is no program.
pub fn command(guest: &str, processor: &str) -> Result<Command, Failed> {
    let mut command = Command::new(program::l1_hypervisor()?);
    command.args(["run", guest, "--machine", "bochs", "--cpu", processor, "--quiet", "--timeout", "60s"]).stdin(Stdio::null());
    Ok(command)
}

/// What the guest prints. It must end well.
///
/// # Errors
/// It does not; with what it has printed and what the program has said.
pub fn printed(command: &mut Command) -> Result<String, Failed> {
    let output = command.output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    Err(format!("{}: {}; it printed\n{printed}and said\n{errors}", arguments.join(" "), output.status).into())
}

/// What it prints on Bochs itself, without L1.
///
/// # Errors
/// Those of [`printed`].
pub fn printed_bare(guest: &str, processor: &str) -> Result<String, Failed> {
    printed(command(guest, processor)?.arg("--bare"))
}
