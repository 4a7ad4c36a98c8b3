//! What the lab is asked to run, and what came of it. Both sides read these types: the test and the lab's `/init`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the program under test lies in the lab.
pub const PROGRAM: &str = "/l1-hypervisor";
/// Where the list of jobs lies in the lab.
pub const JOBS: &str = "/jobs.json";

/// One run of the program under test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What it is called in messages.
    pub name: String,
    /// Arguments of the program, without its own name.
    pub arguments: Vec<String>,
    /// `enable_shadow_vmcs` of `kvm_intel`; `nested` and `dump_invalid_vmcs` are always 1.
    pub shadow_vmcs: bool,
    /// Files that the program writes and whose contents are wanted. They are removed before the next job.
    pub files: Vec<String>,
    /// The program is killed after this time by the lab's clock, which counts 50 million instructions as a second.
    pub timeout: Duration,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It was killed at its timeout.
    TimedOut,
}

/// The part of a result that is known without the outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How it ended.
    pub ending: Ending,
    /// Instructions from before the program was started until after it had ended, those of the kernel included.
    pub instructions: u64,
}

/// What came of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobResult {
    /// How it ended.
    pub ending: Ending,
    /// See [`Summary::instructions`].
    pub instructions: u64,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// What the kernel said from before the program was started until after it had ended, as `dmesg` prints it.
    pub kernel_log: String,
    /// The wanted files that existed.
    pub files: BTreeMap<String, Vec<u8>>,
}
