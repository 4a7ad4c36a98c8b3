//! What can be observed of a run, and how to get it from bare Bochs.

use std::fs;
use std::process::{Command, Stdio};

use l1_hypervisor::machine::bochs::model::Model;
use libtest_mimic::Failed;
use tests::program;

/// What can be observed of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How the program ended.
    pub status: String,
    /// What the guest printed.
    pub stdout: Vec<u8>,
    /// What the program said. Not compared: it may name the machine.
    pub stderr: Vec<u8>,
    /// The canonical trace.
    pub trace: Vec<u8>,
}

/// Runs the program on this machine, with bare Bochs.
pub fn on_bochs(model: &Model, common: &[&str], trace_mode: &str, arguments: &[String]) -> Result<Outcome, Failed> {
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace.txt");
    let mut command = Command::new(program::l1_hypervisor()?);
    command.args(["run", "--machine", "bochs", "--cpu", model.name, "--trace", trace_mode]);
    if trace_mode != super::NO_TRACE {
        command.arg("--trace-out").arg(&trace);
    }
    let output = command.args(common).args(arguments).stdin(Stdio::null()).output()?;
    Ok(Outcome {
        status: output.status.code().map_or_else(|| output.status.to_string(), |code| format!("exit status {code}")),
        stdout: output.stdout,
        stderr: output.stderr,
        trace: fs::read(trace).unwrap_or_default(),
    })
}
