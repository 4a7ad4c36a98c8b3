//! Whether Bochs can run L1 here: it has to.

use l1_protocol::boot::REPORT_CAPABILITIES;
use l1_protocol::end::{EndReason, ExitStatus};
use thiserror::Error;

use super::probe::{Found, GUEST, run_guest};
use crate::command::run::{RunError, Target};
use crate::command_line::NestedProfile;
use crate::machine::MachineError;
use crate::machine::bochs::model::Model;
use crate::machine::bochs::process::StartError;
use crate::session::{Ending, RunResult, SessionError, report};

/// Why Bochs cannot run L1.
#[derive(Debug, Error)]
pub enum BochsProblem {
    /// The program is not there.
    #[error("Bochs (bochs-bin) is not installed")]
    NotInstalled,
    /// Its text display is a package of its own.
    #[error("Bochs has no text display (the plugin of its display library \"term\")")]
    NoTextDisplay,
    /// It ended before L1 sent anything.
    #[error("Bochs does not run L1; its last words: {0}")]
    DidNotRun(String),
    /// Its processors have no VMX: it was built without.
    #[error("this Bochs was built without VMX: {0}")]
    NoVmx(String),
    /// The processor model lacks something else that L1 needs.
    #[error("L1 cannot use this processor: {0}")]
    Unfit(String),
    /// The guest did not succeed.
    #[error("L1 runs on Bochs, but its guest {GUEST} did not succeed: {0}")]
    GuestFailed(String),
    /// The operating system refused something.
    #[error("Bochs cannot be started: {0}")]
    Refused(String),
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
}

impl BochsProblem {
    /// What a user can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotInstalled => "`apt-get install bochs bochs-term` as root",
            Self::NoTextDisplay => "`apt-get install bochs-term` as root",
            Self::DidNotRun(_) => {
                "Debian's Bochs 2.7 (packages bochs and bochs-term) is known to work; another one may come first in PATH"
            }
            Self::NoVmx(_) => "a Bochs configured with --enable-vmx=2, as Debian's packages bochs and bochs-term are",
            Self::Unfit(_) => "another processor model: see --cpu, haswell is the default",
            Self::GuestFailed(_) => "this is a bug, please report it with this text",
            Self::Refused(_) => "see the message: perhaps there is no room for temporary files (TMPDIR), memory or processes",
            Self::Interrupted => "run it again",
        }
    }
}

/// Runs L1 with a guest on `model`. What it finds is reported as `report` says, one of `l1_protocol::boot::REPORT_…`, but
/// at least the capability MSRs: they tell what was missing. With `nested` the guest has VMX.
///
/// # Errors
/// [`BochsProblem`] if L1 did not get as far as to read the capability MSRs.
pub fn probe(
    model: &'static Model,
    report: u32,
    nested: Option<NestedProfile>,
) -> Result<(Found, Option<BochsProblem>), BochsProblem> {
    match run_guest(Target::Bochs(model), report.max(REPORT_CAPABILITIES), nested) {
        Ok(result) => judge(result),
        Err(RunError::Session(SessionError::Machine(MachineError::Bochs(StartError::NotInstalled)))) => {
            Err(BochsProblem::NotInstalled)
        }
        Err(error) => Err(BochsProblem::Refused(error.to_string())),
    }
}

/// What the end of the run says about Bochs and its processor.
fn judge(result: RunResult) -> Result<(Found, Option<BochsProblem>), BochsProblem> {
    let text = result.text.clone();
    let problem = match result.ending {
        Ending::Interrupted => return Err(BochsProblem::Interrupted),
        Ending::MachineDied if result.capabilities.is_empty() => return Err(did_not_run(result.last_words)),
        Ending::Reported(EndReason::UnfitMachine) if result.capabilities.is_empty() => return Err(BochsProblem::NoVmx(text)),
        Ending::Reported(EndReason::UnfitMachine) => Some(BochsProblem::Unfit(text)),
        _ if result.exit_status() == ExitStatus::Success => None,
        _ => Some(BochsProblem::GuestFailed(report::headline(&result))),
    };
    let why = problem.as_ref().map(ToString::to_string);
    let RunResult { capabilities, offered, fields, .. } = result;
    Ok((Found { capabilities, offered, fields, problem: why }, problem))
}

fn did_not_run(last_words: String) -> BochsProblem {
    if last_words.contains("display library") && last_words.contains("not available") {
        BochsProblem::NoTextDisplay
    } else {
        let why = last_words.lines().find(|line| line.contains("PANIC")).or(last_words.lines().last());
        BochsProblem::DidNotRun(why.unwrap_or("none").to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn result(ending: Ending, text: &str, last_words: &str, capabilities: &[(u32, u64)]) -> RunResult {
        RunResult {
            ending,
            report: None,
            text: text.to_owned(),
            last_exits: Vec::new(),
            last_output: Vec::new(),
            capabilities: capabilities.to_vec(),
            offered: Vec::new(),
            fields: None,
            last_words: last_words.to_owned(),
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn each_end_has_its_reason() {
        let msrs = [(0x480, 1)];
        let words = "stderr.txt: >>PANIC<< bochsrc.txt:7: display library 'term' not available\nstderr.txt: quit_sim called";
        let died = |words| judge(result(Ending::MachineDied, "", words, &[]));
        assert!(matches!(died(words), Err(BochsProblem::NoTextDisplay)));
        assert!(matches!(died("a\nb"), Err(BochsProblem::DidNotRun(last)) if last == "b"));
        assert!(matches!(died("x\n>>PANIC<< why\nz"), Err(BochsProblem::DidNotRun(line)) if line.ends_with("why")));
        assert!(matches!(died(""), Err(BochsProblem::DidNotRun(_))));
        let unfit = |msrs| judge(result(Ending::Reported(EndReason::UnfitMachine), "why", "", msrs));
        assert!(matches!(unfit(&[]), Err(BochsProblem::NoVmx(text)) if text == "why"));
        assert!(matches!(unfit(&msrs), Ok((_, Some(BochsProblem::Unfit(text)))) if text == "why"));
        let success = judge(result(Ending::Reported(EndReason::GuestSuccess), "", "", &msrs));
        assert!(matches!(success, Ok((Found { problem: None, capabilities, .. }, None)) if capabilities == msrs));
        let failed = judge(result(Ending::TimedOut, "", "", &msrs));
        assert!(matches!(failed, Ok((Found { problem: Some(_), .. }, Some(BochsProblem::GuestFailed(_))))));
    }
}
