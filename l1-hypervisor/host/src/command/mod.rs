//! The commands of the program, one a module.

pub mod bench;
pub mod doctor;
pub mod explain;
pub mod guests;
pub mod oracle;
pub mod run;

use std::process::ExitCode;

use l1_protocol::end::ExitStatus;

/// An exit status as the process's.
#[must_use]
pub fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(status as u8)
}
