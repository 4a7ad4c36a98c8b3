//! The KVM lab: a real KVM where there is none.
//!
//! Debian's unmodified kernel boots in Bochs, loads its modules `kvm` and `kvm_intel`, and runs the program under test
//! on the real `/dev/kvm` there. One boot serves any number of jobs, with VMCS shadowing allowed to KVM or not.
//!
//! With `KVM_LAB_VERBOSE` in the environment what the kernel prints goes to standard error as it comes; otherwise the
//! last lines are kept and shown if the lab fails.
//!
//! What always holds: the lab ends. A job has a timeout by the lab's clock; a lab that says nothing for too long is
//! ended from outside, as a guest that spins with interrupts off stops Linux on Bochs altogether (see
//! docs/deviations.md).

mod follow;
pub mod initramfs;
pub mod job;
pub mod modules;
pub mod start;
pub mod stream;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use l1_hypervisor::machine::bochs::model::Model;
use thiserror::Error;

use crate::packages::{self, PackageError};
use crate::program::{self, ProgramError};
pub use follow::StreamError;
use initramfs::Initramfs;
use job::{Job, JobResult};
use modules::{MODULES, StripError};
use start::BootError;

/// What the lab ran, and how far it came.
#[derive(Debug)]
pub struct LabRun {
    /// The results of the jobs that ended, in their order.
    pub results: Vec<JobResult>,
    /// Why there are fewer results than jobs: what happened to the first job that has none.
    pub failure: Option<StreamError>,
    /// What the kernel printed.
    pub kernel_log: Vec<String>,
}

/// Why the lab could not run at all.
#[derive(Debug, Error)]
pub enum LabError {
    /// A Debian package is missing.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A program under test is missing.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A file could not be made small.
    #[error(transparent)]
    Strip(#[from] StripError),
    /// A file could not be read.
    #[error("cannot read {file}: {error}")]
    File {
        /// The file.
        file: String,
        /// The operating system's answer.
        error: std::io::Error,
    },
    /// The machine did not start.
    #[error(transparent)]
    Boot(#[from] BootError),
}

impl LabError {
    /// Whether something is missing on this machine, as against something that is wrong.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Package(_) | Self::Strip(StripError::NoTool(_)))
            || matches!(self, Self::Boot(BootError::Bochs(l1_hypervisor::machine::bochs::process::StartError::NotInstalled)))
    }
}

/// A lab to be started.
#[derive(Debug, Clone)]
pub struct Lab {
    model: &'static Model,
    program: Option<PathBuf>,
    files: BTreeMap<String, PathBuf>,
}

impl Lab {
    /// A lab on this processor model.
    #[must_use]
    pub fn new(model: &'static Model) -> Self {
        Self { model, program: None, files: BTreeMap::new() }
    }

    /// Runs another program than ours for the jobs.
    #[must_use]
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// Puts a file of this machine into the lab's root folder, under `name`.
    #[must_use]
    pub fn with_file(mut self, name: &str, file: PathBuf) -> Self {
        self.files.insert(name.to_owned(), file);
        self
    }

    /// Boots and runs `jobs` one after the other. Progress goes to standard error.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn run(&self, jobs: &[Job]) -> Result<LabRun, LabError> {
        let kernel = packages::linux_kernel()?;
        let initramfs = self.initramfs(&kernel, jobs)?;
        let image = read(&kernel.image)?;
        eprintln!("kvm lab on {}: booting Linux {} for {} jobs", self.model.name, kernel.release, jobs.len());
        let mut process = start::start(self.model, &image, &initramfs)?;
        Ok(follow::follow(&mut process, self.model.name, jobs))
    }

    fn initramfs(&self, kernel: &packages::LinuxKernel, jobs: &[Job]) -> Result<Vec<u8>, LabError> {
        let mut archive = ["/dev", "/proc", "/sys", "/tmp", "/modules"].into_iter().fold(Initramfs::new(), Initramfs::folder);
        // Opened by the kernel as standard input and output of /init, before anything is mounted.
        archive = archive.character_device("/dev/console", 5, 1).character_device("/dev/null", 1, 3);
        for (name, place) in MODULES {
            archive = archive.file(&format!("/modules/{name}.ko"), &modules::strip(&kernel.modules.join(place))?);
        }
        for (name, file) in &self.files {
            archive = archive.file(name, &read(file)?);
        }
        let program = match &self.program {
            Some(program) => program,
            None => program::l1_hypervisor()?,
        };
        archive = archive.file(job::PROGRAM, &modules::strip(program)?);
        archive = archive.file(job::JOBS, &serde_json::to_vec(jobs).unwrap_or_default());
        Ok(archive.file("/init", &modules::strip(program::lab_init()?)?).finish())
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, LabError> {
    fs::read(path).map_err(|error| LabError::File { file: path.display().to_string(), error })
}
