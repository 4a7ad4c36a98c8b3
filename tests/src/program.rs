//! Where the programs under test are.
//!
//! `CARGO_BIN_EXE_…` exists only for programs of the test's own package, and a program that lies beside the test may
//! be older than its sources. So cargo is asked to build, which takes no time if there is nothing to do, and says
//! where it put the result; that also holds with another target folder or profile.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde::Deserialize;
use thiserror::Error;

/// Why there is no program.
#[derive(Debug, Clone, Error)]
pub enum ProgramError {
    /// Cargo could not be started.
    #[error("cannot start cargo: {0}")]
    Cargo(String),
    /// Cargo refused, or a program does not compile; cargo has said more on standard error.
    #[error("cargo did not build the programs under test: {0}")]
    Build(String),
    /// Cargo built everything but this.
    #[error("cargo built no program called {0}")]
    Missing(&'static str),
}

/// A line of cargo's report, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

/// The host program.
///
/// # Errors
/// [`ProgramError`].
pub fn l1_hypervisor() -> Result<&'static Path, ProgramError> {
    find("l1-hypervisor")
}

/// The program that is `/init` in the KVM lab.
///
/// # Errors
/// [`ProgramError`].
pub fn lab_init() -> Result<&'static Path, ProgramError> {
    find("kvm-lab-init")
}

/// The program that asks KVM for a VM entry that fails.
///
/// # Errors
/// [`ProgramError`].
pub fn failing_entry() -> Result<&'static Path, ProgramError> {
    find("kvm-failing-entry")
}

/// The program that runs small guests on KVM.
///
/// # Errors
/// [`ProgramError`].
pub fn kvm_guests() -> Result<&'static Path, ProgramError> {
    find("kvm-guests")
}

fn find(name: &'static str) -> Result<&'static Path, ProgramError> {
    static PROGRAMS: OnceLock<Result<BTreeMap<String, PathBuf>, ProgramError>> = OnceLock::new();
    let programs = PROGRAMS.get_or_init(build).as_ref().map_err(Clone::clone)?;
    programs.get(name).map(PathBuf::as_path).ok_or(ProgramError::Missing(name))
}

fn build() -> Result<BTreeMap<String, PathBuf>, ProgramError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--quiet", "--package=l1-hypervisor", "--package=tests", "--bins"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().map_err(|error: io::Error| ProgramError::Cargo(error.to_string()))?;
    if !output.status.success() {
        return Err(ProgramError::Build(output.status.to_string()));
    }
    let messages = output.stdout.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Message>(line).ok());
    Ok(messages.filter_map(|message| Some((message.target?.name, message.executable?))).collect())
}
