//! `oracle`: near-valid VMCS states on a processor of Bochs and in `vmcs::entry_check`, and where the two differ.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use l1_protocol::end::ExitStatus;
use thiserror::Error;
use tracing_subscriber::filter::LevelFilter;

use crate::command::run::{RunError, find_model};
use crate::command_line::OracleArguments;
use crate::handover::OracleCases;
use crate::logging;
use crate::machine::MachineError;
use crate::oracle::judge::Judge;
use crate::oracle::stream::{self, Item, StreamError};
use crate::oracle::summary::Summary;

/// Why there is no result.
#[derive(Debug, Error)]
pub enum OracleError {
    /// The processor model.
    #[error(transparent)]
    Model(#[from] RunError),
    /// The run.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Standard output.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl OracleError {
    /// The exit status that this leads to.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Model(error) => error.exit_status(),
            Self::Stream(StreamError::Machine(MachineError::Bochs(_))) => ExitStatus::NoMachine,
            Self::Stream(StreamError::Ended { reason: Some(reason), .. }) => reason.exit_status(),
            Self::Stream(StreamError::Interrupted(_)) => ExitStatus::Interrupted,
            Self::Output(_) => ExitStatus::Usage,
            Self::Stream(_) => ExitStatus::Bug,
        }
    }
}

/// Runs the cases and prints the summary.
///
/// # Errors
/// [`OracleError`].
pub fn oracle(arguments: &OracleArguments, out: &mut impl Write) -> Result<ExitStatus, OracleError> {
    let _messages = logging::start(LevelFilter::WARN, None, None)?;
    let model = find_model(&arguments.cpu)?;
    let cases = OracleCases { seed: arguments.seed, first: arguments.first, count: arguments.cases };
    let bar = progress_bar(arguments.cases);
    let mut summary = Summary::new(model.name, arguments.seed);
    let mut judge = None;
    let result = stream::run(model, cases, |item| match item {
        Item::Machine(known) => judge = Some(Judge::new(&known.0, &known.1, arguments.seed)),
        Item::Verdict(verdict) => {
            if let Some(judge) = &mut judge {
                let judgement = judge.judge(&verdict);
                summary.add(judge, &verdict, &judgement);
                bar.inc(1);
            }
        }
    });
    bar.finish_and_clear();
    summary.finish();
    // What was found until then is told even if the run broke off.
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&summary).map_err(io::Error::from)?)?;
    } else {
        write!(out, "{summary}")?;
        if arguments.verbose {
            summary.rules_not_hit.iter().try_for_each(|id| writeln!(out, "not hit: {id}"))?;
        }
    }
    result?;
    Ok(if summary.unexplained == 0 { ExitStatus::Success } else { ExitStatus::GuestFailure })
}

fn progress_bar(length: u64) -> ProgressBar {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} cases, {eta} left") {
        bar.set_style(style);
    }
    bar
}
