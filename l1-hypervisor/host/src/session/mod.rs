//! One run: from a machine that was started to the report of how it ended.
//!
//! What always holds: what was captured is never lost, however the run ends; a run ends at its timeout at the latest,
//! plus a short time in which L1 may report its state.

pub mod input;
mod level;
pub mod report;
pub mod sinks;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use exit_trace::decode::Item;
use exit_trace::record::Record;
use l1_protocol::end::{EndReason, EndReport, ExitStatus};
use l1_protocol::frame::{CAPABILITY, FrameKind, Severity};
use thiserror::Error;
use tracing::{debug, error, info, warn};
use zerocopy::FromBytes;

use crate::frames::Frame;
use crate::machine::{MachineError, Output, RunningMachine};
use input::Input;
use level::Level;
use sinks::Sinks;

/// Target of the events that L1's and the host program's own messages become.
pub const MESSAGE_TARGET: &str = "l1::message";
/// How long L1 may take to report after it was asked to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How long one wait for the machine is at most: the clock and the signals are looked at in between.
const STEP: Duration = Duration::from_millis(20);
/// Exits and lines of output that are kept for the report of a run that ends badly.
const LAST_EXITS: usize = 16;
const LAST_OUTPUT: usize = 2048;

/// Set by the signal handlers; a run ends soon after.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// L1 said why.
    Reported(EndReason),
    /// The time was over.
    TimedOut,
    /// The user interrupted it.
    Interrupted,
    /// The machine ended without a word from L1.
    MachineDied,
    /// L1's stream was damaged.
    DamagedStream,
}

/// Everything known of a run.
#[derive(Debug)]
pub struct RunResult {
    /// How it ended.
    pub ending: Ending,
    /// L1's last frame, if it arrived. Of hypervisors inside each other, that of the one whose guest's end decides.
    pub report: Option<EndReport>,
    /// The last frames of the hypervisors around that one, outermost first.
    pub outer_reports: Vec<EndReport>,
    /// Its text.
    pub text: String,
    /// The last exits, oldest first.
    pub last_exits: Vec<Record>,
    /// The last bytes that L2 printed.
    pub last_output: Vec<u8>,
    /// The capability MSRs that L1 found, if it was asked to send them: number and value, in ascending order.
    pub capabilities: Vec<(u32, u64)>,
    /// The capability MSRs that L2 reads, if L1 was asked to send them and L2 has VMX.
    pub offered: Vec<(u32, u64)>,
    /// The field encodings that VMREAD takes, if L1 was asked to try them and came so far, in ascending order.
    pub fields: Option<Vec<u32>>,
    /// What the machine said about itself, if it died.
    pub last_words: String,
    /// How long the run took.
    pub duration: Duration,
}

impl RunResult {
    /// The report of the outermost hypervisor.
    #[must_use]
    pub fn outermost(&self) -> Option<&EndReport> {
        self.outer_reports.first().or(self.report.as_ref())
    }

    /// The exit status that this leads to.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self.ending {
            Ending::Reported(reason) => reason.exit_status(),
            Ending::TimedOut => ExitStatus::TimedOut,
            Ending::Interrupted => ExitStatus::Interrupted,
            Ending::MachineDied | Ending::DamagedStream => ExitStatus::Bug,
        }
    }
}

/// Why a run could not go on.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Output could not be written.
    #[error("cannot write {what}: {error}")]
    Output {
        /// What was written.
        what: &'static str,
        /// The operating system's answer.
        error: io::Error,
    },
}

/// A run in progress.
#[derive(Debug)]
struct Session<'a, 's> {
    machine: &'a mut dyn RunningMachine,
    sinks: &'a mut Sinks<'s>,
    /// The hypervisors, outermost first; never empty.
    levels: Vec<Level>,
    last_exits: VecDeque<Record>,
    last_output: VecDeque<u8>,
    capabilities: Vec<(u32, u64)>,
    offered: Vec<(u32, u64)>,
    fields: Option<Vec<u32>>,
}

/// Follows `machine` to its end. `timeout` is `None` for no limit.
///
/// # Errors
/// [`SessionError`]; what was captured until then has gone to `sinks`.
pub fn run(
    machine: &mut dyn RunningMachine,
    sinks: &mut Sinks<'_>,
    input: Input,
    timeout: Option<Duration>,
) -> Result<RunResult, SessionError> {
    run_nested(machine, sinks, input, timeout, 1)
}

/// As [`run`], with `depth` hypervisors inside each other: what the innermost has to say is the guest's.
///
/// # Errors
/// As [`run`].
pub fn run_nested(
    machine: &mut dyn RunningMachine,
    sinks: &mut Sinks<'_>,
    input: Input,
    timeout: Option<Duration>,
    depth: u8,
) -> Result<RunResult, SessionError> {
    let mut input = input.through(depth);
    let started = Instant::now();
    let mut session = Session {
        machine,
        sinks,
        levels: (1..=depth.max(1)).map(Level::new).collect(),
        last_exits: VecDeque::new(),
        last_output: VecDeque::new(),
        capabilities: Vec::new(),
        offered: Vec::new(),
        fields: None,
    };
    let ending = session.follow(&mut input, started, timeout)?;
    let last_words =
        if matches!(ending, Ending::MachineDied | Ending::DamagedStream) { session.machine.last_words() } else { String::new() };
    session.sinks.finish()?;
    let (reports, end) = level::ends(session.levels);
    let (report, text) = end.map_or((None, String::new()), |(report, text)| (Some(report), text));
    Ok(RunResult {
        ending,
        report,
        outer_reports: reports,
        text,
        last_exits: session.last_exits.into(),
        last_output: session.last_output.into(),
        capabilities: session.capabilities,
        offered: session.offered,
        fields: session.fields,
        last_words,
        duration: started.elapsed(),
    })
}

impl Session<'_, '_> {
    fn follow(&mut self, input: &mut Input, started: Instant, timeout: Option<Duration>) -> Result<Ending, SessionError> {
        let mut stop: Option<(Instant, Ending)> = None;
        loop {
            if stop.is_none() {
                let over = timeout.is_some_and(|limit| started.elapsed() >= limit);
                let interrupted = INTERRUPTED.load(Ordering::Relaxed);
                if over || interrupted {
                    stop = Some((Instant::now() + GRACE, if interrupted { Ending::Interrupted } else { Ending::TimedOut }));
                    self.machine.request_stop()?;
                }
            }
            // Bochs empties its serial line when it starts: what is sent before L1 speaks is lost.
            if self.levels.iter().all(Level::is_open) {
                input.pass_on(self.machine)?;
            }
            match self.machine.output(STEP)? {
                Output::Bytes(bytes) => {
                    if let Some(ending) = self.take(0, &bytes)? {
                        return Ok(stop.map_or(ending, |(_, wanted)| {
                            if ending == Ending::Reported(EndReason::Stopped) { wanted } else { ending }
                        }));
                    }
                }
                Output::Nothing => {}
                Output::Ended => return Ok(stop.map_or(Ending::MachineDied, |(_, wanted)| wanted)),
            }
            if let Some((limit, wanted)) = stop
                && Instant::now() >= limit
            {
                warn!(target: MESSAGE_TARGET, "L1 did not answer the request to stop within {GRACE:?}; the machine is ended without its state");
                return Ok(wanted);
            }
        }
    }

    /// Takes bytes of the stream of the hypervisor with this index; returns how the run ended if they say so.
    fn take(&mut self, index: usize, bytes: &[u8]) -> Result<Option<Ending>, SessionError> {
        self.levels[index].push(bytes);
        loop {
            match self.levels[index].next_frame() {
                Ok(Some(frame)) => {
                    if let Some(ending) = self.take_frame(index, &frame)? {
                        return Ok(Some(ending));
                    }
                }
                Ok(None) => return Ok(None),
                Err(damage) => {
                    error!(target: MESSAGE_TARGET, "{}: {damage}", self.levels[index]);
                    return Ok(Some(Ending::DamagedStream));
                }
            }
        }
    }

    fn take_frame(&mut self, index: usize, frame: &Frame) -> Result<Option<Ending>, SessionError> {
        let payload = &frame.payload;
        let level = &self.levels[index];
        match frame.kind {
            // What a hypervisor prints that is a guest is its stream.
            FrameKind::Console if index + 1 < self.levels.len() => return self.take(index + 1, payload),
            FrameKind::Console => {
                self.last_output.extend(payload);
                let surplus = self.last_output.len().saturating_sub(LAST_OUTPUT);
                self.last_output.drain(..surplus);
                self.sinks.console(payload)?;
            }
            FrameKind::Trace => self.take_records(index, payload)?,
            // The innermost hypervisor knows the guest's exits.
            FrameKind::History if !self.last_exits.is_empty() => {}
            FrameKind::History => {
                self.last_exits = exit_trace::decode::records(payload).flatten().collect();
            }
            FrameKind::Message => {
                if let Some((&severity, text)) = payload.split_first() {
                    let text = String::from_utf8_lossy(text);
                    match Severity::from_byte(severity) {
                        Severity::Error => error!(target: MESSAGE_TARGET, "{level}: {text}"),
                        Severity::Warning => warn!(target: MESSAGE_TARGET, "{level}: {text}"),
                        Severity::Information => info!(target: MESSAGE_TARGET, "{level}: {text}"),
                        Severity::Debug => debug!(target: MESSAGE_TARGET, "{level}: {text}"),
                    }
                }
            }
            FrameKind::Capabilities => self.capabilities = capabilities(payload),
            FrameKind::OfferedCapabilities => self.offered = capabilities(payload),
            FrameKind::Fields => self.fields = Some(fields(payload)),
            FrameKind::InputTaken => self.machine.input_taken(payload.first().copied().unwrap_or(0).into()),
            // Only an oracle run has these, and `oracle::stream` takes it.
            FrameKind::OracleMachine | FrameKind::OracleVerdicts => {}
            FrameKind::End => {
                let Ok((report, text)) = EndReport::read_from_prefix(payload) else {
                    error!(target: MESSAGE_TARGET, "{level}'s last frame has {} bytes, too few", payload.len());
                    return Ok(Some(Ending::DamagedStream));
                };
                self.levels[index].end = Some((report, String::from_utf8_lossy(text).into_owned()));
                // The hypervisors around one that has ended have yet to report.
                return Ok((index == 0).then(|| level::ending(&self.levels)));
            }
        }
        Ok(None)
    }

    fn take_records(&mut self, index: usize, bytes: &[u8]) -> Result<(), SessionError> {
        let is_innermost = index + 1 == self.levels.len();
        for item in self.levels[index].decoder.decode(bytes) {
            match item {
                Ok(Item::Record(record)) => {
                    // A trace is about the guest, statistics about what L1 is asked to do.
                    if is_innermost {
                        if self.last_exits.len() == LAST_EXITS {
                            self.last_exits.pop_front();
                        }
                        self.last_exits.push_back(record);
                        self.sinks.record(&record)?;
                    }
                    if index == 0 {
                        self.sinks.count(&record);
                    }
                }
                Ok(Item::Lost(count)) => self.sinks.lost(count.into())?,
                Err(damage) => warn!(target: MESSAGE_TARGET, "{damage}"),
            }
        }
        Ok(())
    }
}

/// The entries of [`FrameKind::Capabilities`] and [`FrameKind::OfferedCapabilities`].
fn capabilities(payload: &[u8]) -> Vec<(u32, u64)> {
    let entries = payload.as_chunks::<CAPABILITY>().0.iter();
    entries
        .filter_map(|entry| {
            let (number, value) = entry.split_first_chunk()?;
            Some((u32::from_le_bytes(*number), u64::from_le_bytes(value.try_into().ok()?)))
        })
        .collect()
}

/// The entries of [`FrameKind::Fields`].
fn fields(payload: &[u8]) -> Vec<u32> {
    payload.as_chunks().0.iter().map(|&encoding| u16::from_le_bytes(encoding).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_taken_apart() {
        let payload = [&[0x80, 4, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8][..], &[0x81, 4, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0], &[1; 11]].concat();
        assert_eq!(capabilities(&payload), [(0x480, 0x0807_0605_0403_0201), (0x481, 9)]);
        assert_eq!(capabilities(&[]), []);
    }

    #[test]
    fn fields_are_taken_apart() {
        assert_eq!(fields(&[0x02, 0x44, 0x1e, 0x68, 1]), [0x4402, 0x681e]);
    }
}
