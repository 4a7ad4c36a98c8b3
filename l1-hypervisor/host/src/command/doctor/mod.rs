//! `doctor`: which machines can be used here, and what to do about those that cannot.
//!
//! Nothing is guessed: KVM is asked by its own interface, and Bochs has to run L1 with the guest `hello`.
//!
//! With `--json` one object is printed, whose names are stable:
//!
//! ```text
//! auto           the machine that `--machine auto` chooses, or null
//! machines       one object a machine:
//!   name         "kvm" or "bochs"
//!   usable       whether L1 can run there
//!   reason       why not, or null
//!   remedy       what to do about it, or null
//! capabilities   null without --cpu, else what L1 finds on that processor model of Bochs:
//!   cpu          short name of the model
//!   usable       whether L1 can run there
//!   reason       why not, or null
//!   msrs         the capability MSRs, raw: objects of number, name, value (text like "0x2b": a JSON number may not hold it)
//!   controls     objects of group, name (SDM, in capitals), title (SDM), bit, setting ("any", "must-be-1", "must-be-0")
//!   ept_vpid     names of the EPT and VPID capabilities that are there
//!   basic, misc  objects of the decoded fields of IA32_VMX_BASIC and IA32_VMX_MISC
//! ```

mod bochs;
mod capabilities;
mod report;

use std::io::{self, Write};

use l1_protocol::end::ExitStatus;
use thiserror::Error;

use crate::command::run::{RunError, Target, choose_machine, find_model};
use crate::command_line::{DoctorArguments, MachineChoice, RunArguments};
use crate::machine::bochs::model;
use crate::machine::kvm;
use bochs::BochsProblem;
use capabilities::CapabilityReport;
use report::{Machine, Report};

/// Why there is no report.
#[derive(Debug, Error)]
pub enum DoctorError {
    /// There is no such processor model, or Bochs could not be asked about it.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Bochs cannot run at all, so there is nothing to say about its processors.
    #[error("cannot say what L1 finds on {cpu}: {problem}; remedy: {remedy}")]
    Capabilities {
        /// The model.
        cpu: &'static str,
        /// What is wrong with Bochs.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Output(#[from] io::Error),
}

impl DoctorError {
    /// The exit status that this leads to.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Run(error) => error.exit_status(),
            Self::Capabilities { .. } => ExitStatus::NoMachine,
            Self::Interrupted => ExitStatus::Interrupted,
            Self::Output(_) => ExitStatus::Usage,
        }
    }
}

/// Examines the machines and writes what was found to `out`. The status is success if there is a usable machine.
///
/// # Errors
/// [`DoctorError`].
pub fn doctor(arguments: &DoctorArguments, out: &mut impl Write) -> Result<ExitStatus, DoctorError> {
    let asked_for = arguments.cpu.as_deref().map(find_model).transpose()?;
    let kvm = match kvm::check() {
        Ok(()) => Machine::usable("kvm"),
        Err(problem) => Machine::unusable("kvm", problem.to_string(), problem.remedy()),
    };
    let bochs = match bochs::probe(find_model(model::DEFAULT)?).map(|found| found.problem) {
        Ok(None) => Machine::usable("bochs"),
        Ok(Some(problem)) | Err(problem) => match problem {
            BochsProblem::Interrupted => return Err(DoctorError::Interrupted),
            problem => Machine::unusable("bochs", problem.to_string(), problem.remedy()),
        },
    };
    let capabilities = match asked_for {
        None => None,
        Some(cpu) => match bochs::probe(cpu) {
            Ok(found) => Some(CapabilityReport::new(cpu.name, &found)),
            Err(BochsProblem::Interrupted) => return Err(DoctorError::Interrupted),
            Err(problem) => {
                let remedy = problem.remedy();
                return Err(DoctorError::Capabilities { cpu: cpu.name, problem: problem.to_string(), remedy });
            }
        },
    };
    let machines = vec![kvm, bochs];
    let automatic = RunArguments { machine: MachineChoice::Auto, ..RunArguments::default() };
    let auto = match choose_machine(&automatic)? {
        Target::Kvm => "kvm",
        Target::Bochs(_) => "bochs",
    };
    // `auto` does not try Bochs before it chooses it.
    let auto = machines.iter().find(|machine| machine.name == auto && machine.usable).map(|machine| machine.name);
    let report = Report { auto, machines, capabilities };
    if arguments.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    let usable = report.machines.iter().any(|machine| machine.usable);
    Ok(if usable { ExitStatus::Success } else { ExitStatus::NoMachine })
}
