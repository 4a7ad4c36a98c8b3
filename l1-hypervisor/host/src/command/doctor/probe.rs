//! Runs L1 with a small guest, to see what it finds on a machine's processor.

use std::time::Duration;

use l1_protocol::boot::TRACE_OFF;

use crate::built_in;
use crate::command::run::{self, RunError, Target};
use crate::command_line::{NestedChoice, NestedProfile, RunArguments};
use crate::loader::{self, LoadOptions};
use crate::session::RunResult;
use crate::session::input::Input;
use crate::session::sinks::{Sinks, Trace};

/// The built-in guest that has to run.
pub const GUEST: &str = "hello";
/// Its memory, in bytes.
const MEMORY: u64 = 16 << 20;
/// It takes a fifth of a second.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What L1 found on a processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The capability MSRs: number and value.
    pub capabilities: Vec<(u32, u64)>,
    /// The capability MSRs that L2 reads there; empty if it has no VMX, or L1 did not come so far.
    pub offered: Vec<(u32, u64)>,
    /// The field encodings that VMREAD takes; `None` if L1 was not asked to try them, or cannot enter VMX operation.
    pub fields: Option<Vec<u32>>,
    /// Why L1 did not host its guest there, if so.
    pub problem: Option<String>,
}

/// Runs L1 on `target`; `report` is one of `l1_protocol::boot::REPORT_…`, and with `nested` the guest has VMX.
///
/// # Errors
/// [`RunError`].
pub fn run_guest(target: Target, report: u32, nested: Option<NestedProfile>) -> Result<RunResult, RunError> {
    let arguments = RunArguments {
        guest: GUEST.to_owned(),
        memory: MEMORY,
        nested: if nested.is_some() { NestedChoice::On } else { NestedChoice::Off },
        nested_caps: nested,
        ..RunArguments::default()
    };
    let guest = built_in::find(GUEST).ok_or_else(|| RunError::NoGuest(GUEST.to_owned()))?;
    let load = LoadOptions { file_name: GUEST, memory_size: MEMORY, command_line: "", initrd: None, load_at: None };
    let loaded = loader::load(guest.elf, &load)?;
    let mut options = run::options(target, &arguments, TRACE_OFF)?;
    options.report_capabilities = report;
    let mut sinks = Sinks { console: Box::new(std::io::sink()), trace: Trace::Off, statistics: None };
    run::run_with_options(target, &options, &loaded, &mut sinks, Input::none(), TIMEOUT)
}
