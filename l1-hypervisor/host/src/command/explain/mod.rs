//! `explain`: what exit reasons, fields, controls, errors and whole VMCS dumps mean, for people who write no Rust.
//!
//! Every fact comes from crate `vmcs`; here is what reads the question and words the answer. Each subject builds an [`Explanation`]
//! that is printed as text or, with `--json`, serialized: both say the same.

pub mod control;
pub mod dump;
pub mod exit;
pub mod field;
pub mod instruction_error;
pub mod nearest;
pub mod number;

pub mod whole_vmcs;
pub mod words;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use l1_protocol::end::ExitStatus;
use serde::Serialize;
use thiserror::Error;

use crate::command_line::explain::{ExplainArguments, Subject};
use dump::DumpError;
use number::NumberError;

/// Why nothing could be explained.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// What should be a number is none.
    #[error(transparent)]
    Number(#[from] NumberError),
    /// No such name.
    #[error("there is no {what} `{text}`{proposals}")]
    UnknownName {
        /// What was looked for.
        what: &'static str,
        /// What was given.
        text: String,
        /// Names that may have been meant.
        proposals: Proposals,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// A file holds no dump.
    #[error("{}: {error}", path.display())]
    Dump {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: DumpError,
    },
    /// The explanation cannot be printed.
    #[error("cannot print the explanation: {0}")]
    Print(#[from] io::Error),
}

/// Names that may have been meant.
#[derive(Debug)]
pub struct Proposals(Vec<&'static str>);

impl fmt::Display for Proposals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(formatter, "; perhaps {}", self.0.join(", ")) }
    }
}

impl ExplainError {
    fn unknown_name(what: &'static str, text: &str, proposals: Vec<&'static str>) -> Self {
        Self::UnknownName { what, text: text.to_owned(), proposals: Proposals(proposals) }
    }

    /// What the process ends with.
    #[must_use]
    pub const fn exit_status(&self) -> ExitStatus {
        ExitStatus::Usage
    }
}

/// What is said about a subject.
pub trait Explanation: Serialize {
    /// For people; ends with a line feed.
    fn text(&self) -> String;

    /// What the process ends with.
    fn exit_status(&self) -> ExitStatus {
        ExitStatus::Success
    }
}

/// Explains the subject to `out`.
///
/// # Errors
/// [`ExplainError`] if there is nothing to be said about it, or `out` takes it not.
pub fn explain(arguments: &ExplainArguments, out: &mut impl Write) -> Result<ExitStatus, ExplainError> {
    let json = arguments.json;
    match &arguments.subject {
        Subject::Exit(arguments) => print(&exit::explain(arguments)?, json, out),
        Subject::Field(arguments) => print(&field::explain(&arguments.field)?, json, out),
        Subject::Control(arguments) => {
            print(&control::explain(arguments.word, arguments.value, arguments.capability)?, json, out)
        }
        Subject::Error(arguments) => print(&instruction_error::explain(&arguments.error)?, json, out),
        Subject::Vmcs(arguments) => print(&whole_vmcs::explain(arguments)?, json, out),
    }
}

fn print(explanation: &impl Explanation, json: bool, out: &mut impl Write) -> Result<ExitStatus, ExplainError> {
    let printed = match json {
        true => serde_json::to_writer_pretty(&mut *out, explanation).map_err(io::Error::from).and_then(|()| writeln!(out)),
        false => out.write_all(explanation.text().as_bytes()),
    };
    match printed {
        // Whoever reads has seen enough, as with `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(explanation.exit_status()),
        printed => Ok(printed.map(|()| explanation.exit_status())?),
    }
}

#[cfg(test)]
mod tests;
