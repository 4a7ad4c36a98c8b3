//! The commands of the program, one a module.

pub mod bench;
pub mod doctor;
pub mod explain;
pub mod guests;
pub mod nested;
pub mod oracle;
mod register_bits;
pub mod run;

use std::error::Error;
use std::io;
use std::process::ExitCode;

use l1_protocol::end::ExitStatus;

/// Why a command failed, and what the process ends with.
pub trait Failure: Error {
    /// The exit status.
    fn exit_status(&self) -> ExitStatus;
}

impl Failure for io::Error {
    /// Only output can fail without anything else said.
    fn exit_status(&self) -> ExitStatus {
        ExitStatus::Usage
    }
}

impl Failure for run::RunError {
    fn exit_status(&self) -> ExitStatus {
        self.exit_status()
    }
}

impl Failure for oracle::OracleError {
    fn exit_status(&self) -> ExitStatus {
        self.exit_status()
    }
}

impl Failure for doctor::DoctorError {
    fn exit_status(&self) -> ExitStatus {
        self.exit_status()
    }
}

impl Failure for explain::ExplainError {
    fn exit_status(&self) -> ExitStatus {
        self.exit_status()
    }
}

/// Ends a command: says what went wrong, and makes its exit status the process's.
pub fn finish<E: Failure>(result: Result<ExitStatus, E>) -> ExitCode {
    let status = result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit_status()
    });
    ExitCode::from(status as u8)
}
