//! `doctor`: which machines can be used here, what to do about those that cannot, and what VMX can do on each.
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
//!   machine      "kvm" or "bochs"
//!   cpu          short name of the model; "host" on KVM
//!   usable       whether L1 can run there
//!   reason       why not, or null
//!   msrs         the capability MSRs, raw: objects of number, name, value (text like "0x2b": a JSON number may not hold it)
//!   controls     objects of group, name (SDM, in capitals), title (SDM), bit, setting ("any", "must-be-1", "must-be-0")
//!   ept_vpid     names of the EPT and VPID capabilities that are there
//!   basic, misc  objects of the decoded fields of IA32_VMX_BASIC and IA32_VMX_MISC
//!   cr0, cr4     objects of name, bit, setting: what VMX operation allows
//!   vmcs_enum    highest index of a field encoding
//!   fields       null without --vmx or where L1 cannot enter VMX operation, else what VMREAD says about all encodings:
//!     count      how many it takes
//!     answering  these, as text like "0x681e"
//!     missing    objects of encoding, name: promised by the capability MSRs, but not taken
//!     unexpected objects of encoding, name (null if the SDM has none): taken, but not promised
//! ```
//!
//! With `--vmx` the object has `capabilities` alone, of the model that `--cpu` names or of the machine that
//! `--machine auto` chooses. With `--nested` it has two such reports and the name of the profile:
//!
//! ```text
//! profile        what --nested-caps says
//! processor      what L1 finds, as `capabilities`
//! offered        what L2 reads there, as `capabilities`; its fields are those that its VMREAD takes
//! ```
//!
//! With `--diff` it is another one:
//!
//! ```text
//! sides          the two names
//! differences    objects of group, name, values (two texts, "-" where a side has no such thing): only what differs
//! ```

mod bochs;
mod capabilities;
mod control_registers;
mod difference;
mod fields;
mod nested;
pub(super) mod probe;
mod report;
mod rows;
mod subject;

use std::fmt;
use std::io::{self, Write};

use l1_protocol::boot::REPORT_CAPABILITIES;
use l1_protocol::end::ExitStatus;
use serde::Serialize;
use thiserror::Error;

use crate::command::run::{RunError, Target, choose_machine, find_model};
use crate::command_line::{DoctorArguments, MachineChoice, RunArguments};
use crate::machine::bochs::model::{self, Model};
use crate::machine::kvm;
use bochs::BochsProblem;
use capabilities::CapabilityReport;
use difference::Difference;
use nested::NestedReport;
use report::{Machine, Report};

/// Why there is no report.
#[derive(Debug, Error)]
pub enum DoctorError {
    /// There is no such processor model, or Bochs could not be asked about it.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The machine cannot run at all, so there is nothing to say about its processors.
    #[error("cannot say what L1 finds on {cpu}: {problem}; remedy: {remedy}")]
    Capabilities {
        /// The model.
        cpu: &'static str,
        /// What is wrong with the machine.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// What was to be compared is nothing.
    #[error("{0:?} is no machine (kvm, bochs), no processor model of Bochs and no file; models: {models}",
        models = model::MODELS.iter().map(|model| model.name).collect::<Vec<_>>().join(", "))]
    NoSubject(String),
    /// A file is no saved report.
    #[error("{file} is not what `doctor --json` prints: {why}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// L1 cannot give its guest VMX there.
    #[error("L1 cannot host a guest on {cpu}, so it gives none VMX: {problem}")]
    NotHosted {
        /// The model.
        cpu: &'static str,
        /// Why not.
        problem: String,
    },
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Output(#[from] io::Error),
}

impl DoctorError {
    fn from_bochs(cpu: &'static str, problem: BochsProblem) -> Self {
        match problem {
            BochsProblem::Interrupted => Self::Interrupted,
            problem => Self::Capabilities { cpu, problem: problem.to_string(), remedy: problem.remedy() },
        }
    }

    /// The exit status that this leads to.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Run(error) => error.exit_status(),
            Self::Capabilities { .. } | Self::NotHosted { .. } => ExitStatus::NoMachine,
            Self::Interrupted => ExitStatus::Interrupted,
            Self::Output(_) | Self::NoSubject(_) | Self::File { .. } => ExitStatus::Usage,
        }
    }
}

/// Does what `arguments` ask for and writes what was found to `out`. The status of the examination of the machines is
/// success if one is usable; that of a capability report or a comparison is success if it could be made.
///
/// # Errors
/// [`DoctorError`].
pub fn doctor(arguments: &DoctorArguments, out: &mut impl Write) -> Result<ExitStatus, DoctorError> {
    if let Some([left, right]) = arguments.diff.as_deref() {
        let reports = [subject::report_on(left)?, subject::report_on(right)?];
        print(arguments.json, &Difference::new([left, right], reports.each_ref()), out)?;
        return Ok(ExitStatus::Success);
    }
    let asked_for = arguments.cpu.as_deref().map(find_model).transpose()?;
    if arguments.vmx || arguments.nested {
        let target = match asked_for {
            Some(model) => Target::Bochs(model),
            None => choose_machine(&automatic())?,
        };
        if arguments.nested {
            print(arguments.json, &NestedReport::new(target, arguments.nested_caps.unwrap_or_default())?, out)?;
        } else {
            print(arguments.json, &VmxReport { capabilities: subject::examine(target)? }, out)?;
        }
        return Ok(ExitStatus::Success);
    }
    let report = examine_machines(asked_for)?;
    print(arguments.json, &report, out)?;
    let usable = report.machines.iter().any(|machine| machine.usable);
    Ok(if usable { ExitStatus::Success } else { ExitStatus::NoMachine })
}

/// What `--vmx` prints.
#[derive(Debug, Serialize)]
struct VmxReport {
    capabilities: CapabilityReport,
}

impl fmt::Display for VmxReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.capabilities.fmt(formatter)
    }
}

fn automatic() -> RunArguments {
    RunArguments { machine: MachineChoice::Auto, ..RunArguments::default() }
}

fn print<T: Serialize + fmt::Display>(json: bool, report: &T, out: &mut impl Write) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report).map_err(io::Error::from)?;
        writeln!(out)
    } else {
        write!(out, "{report}")
    }
}

/// Examines the machines, and the processor model that was asked for.
fn examine_machines(asked_for: Option<&'static Model>) -> Result<Report, DoctorError> {
    let kvm = match kvm::check() {
        Ok(()) => Machine::usable("kvm"),
        Err(problem) => Machine::unusable("kvm", problem.to_string(), problem.remedy()),
    };
    let bochs = match bochs::probe(find_model(model::DEFAULT)?, REPORT_CAPABILITIES, None).map(|(_, problem)| problem) {
        Ok(None) => Machine::usable("bochs"),
        Ok(Some(problem)) | Err(problem) => match problem {
            BochsProblem::Interrupted => return Err(DoctorError::Interrupted),
            problem => Machine::unusable("bochs", problem.to_string(), problem.remedy()),
        },
    };
    let capabilities = asked_for.map(|cpu| {
        let found = bochs::probe(cpu, REPORT_CAPABILITIES, None).map_err(|problem| DoctorError::from_bochs(cpu.name, problem));
        Ok::<_, DoctorError>(CapabilityReport::new("bochs", cpu.name, &found?.0))
    });
    let machines = vec![kvm, bochs];
    let (auto, _) = choose_machine(&automatic())?.names();
    // `auto` does not try Bochs before it chooses it.
    let auto = machines.iter().find(|machine| machine.name == auto && machine.usable).map(|machine| machine.name);
    Ok(Report { auto, machines, capabilities: capabilities.transpose()? })
}
