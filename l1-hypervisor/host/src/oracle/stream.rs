//! An oracle run: L1 on Bochs in its oracle mode, and the verdicts as they come.

use std::time::{Duration, Instant};

use l1_oracle::Machine;
use l1_protocol::boot;
use l1_protocol::end::{EndReason, EndReport};
use l1_protocol::frame::{CAPABILITY, FrameKind};
use l1_protocol::guest::GuestStart;
use l1_protocol::oracle::Verdict;
use std::sync::atomic::Ordering;
use thiserror::Error;
use vmcs::capability::Capabilities;
use zerocopy::FromBytes;

use crate::built_in;
use crate::frames::{Frame, FrameError, FrameReader};
use crate::handover::{self, HandoverError, OracleCases};
use crate::loader::{GuestFormat, LoadedGuest};
use crate::machine::bochs::model::Model;
use crate::machine::bochs::{BochsMachine, INSTRUCTIONS_PER_SECOND};
use crate::machine::{MachineError, Output, RunningMachine};
use crate::session::INTERRUPTED;

/// Longest silence: a batch takes a fraction of a second, so L1 has lost its way.
const SILENCE: Duration = Duration::from_secs(60);
/// How long one wait for the machine is at most.
const STEP: Duration = Duration::from_millis(100);
/// The guest's memory, which this mode doesn't use, in bytes.
const MEMORY: u64 = 4 << 20;

/// Why a run did not come to its end.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// What L1 is handed.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// The stream.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame does not hold what it must.
    #[error("L1 sent a frame of {0:?} that does not hold what it must")]
    Content(FrameKind),
    /// L1 ended for another reason than that all was done.
    #[error("L1 ended ({reason:?}) after case {last}: {text}")]
    Ended {
        /// Why.
        reason: Option<EndReason>,
        /// The last case whose verdict arrived.
        last: u64,
        /// What it said.
        text: String,
    },
    /// The machine died.
    #[error("the machine ended or fell silent in one of the cases after {last}; its last words:\n{words}")]
    Died {
        /// The last case whose verdict arrived.
        last: u64,
        /// What it said.
        words: String,
    },
    /// By the user.
    #[error("interrupted after case {0}")]
    Interrupted(u64),
}

/// What L1 sends.
#[derive(Debug)]
pub enum Item {
    /// What the states depend on; once, before the first verdict.
    Machine(Box<(Machine, Capabilities)>),
    /// A verdict.
    Verdict(Verdict),
}

/// Runs the cases on `model` and hands on what comes.
///
/// # Errors
/// [`StreamError`].
pub fn run(model: &Model, cases: OracleCases, mut take: impl FnMut(Item)) -> Result<(), StreamError> {
    let guest = LoadedGuest {
        format: GuestFormat::Flat,
        start: GuestStart::default(),
        segments: Vec::new(),
        symbols: Vec::new(),
        load_base: 0,
    };
    let options = handover::Options {
        machine: boot::MACHINE_BOCHS,
        trace_mode: boot::TRACE_OFF,
        shadowing: boot::SHADOWING_AUTO,
        nested: None,
        shadow_fields: boot::SHADOW_FIELDS_HOT,
        look_ahead: boot::LOOK_AHEAD_OFF,
        intercepts: 0,
        exception_intercepts: 0,
        report_capabilities: l1_protocol::boot::REPORT_CAPABILITIES,
        oracle: Some(cases),
        guest_memory: MEMORY,
        tsc_frequency: INSTRUCTIONS_PER_SECOND,
        wall_clock: 0,
    };
    let image = handover::prepare(built_in::IMAGE, &guest, &options)?;
    let mut machine = BochsMachine::start(model, image)?;
    let mut stream = Stream { capabilities: None, last: cases.first };
    let mut reader = FrameReader::new();
    let mut heard = Instant::now();
    loop {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err(StreamError::Interrupted(stream.last));
        }
        match machine.output(STEP)? {
            Output::Bytes(bytes) => {
                heard = Instant::now();
                reader.push(&bytes);
            }
            Output::Nothing if heard.elapsed() < SILENCE => continue,
            Output::Nothing | Output::Ended => {
                return Err(StreamError::Died { last: stream.last, words: machine.last_words() });
            }
        }
        while let Some(frame) = reader.next_frame()? {
            if stream.take(&frame, &mut take)? {
                return Ok(());
            }
        }
    }
}

/// What is known of the run so far.
struct Stream {
    capabilities: Option<Capabilities>,
    last: u64,
}

impl Stream {
    /// Takes a frame; says whether it was the last.
    fn take(&mut self, frame: &Frame, take: &mut impl FnMut(Item)) -> Result<bool, StreamError> {
        let damaged = StreamError::Content(frame.kind);
        match frame.kind {
            FrameKind::Capabilities => self.capabilities = Some(capabilities(&frame.payload).ok_or(damaged)?),
            FrameKind::OracleMachine => {
                let machine = Machine::read_from_bytes(&frame.payload).map_err(|_| StreamError::Content(frame.kind))?;
                let capabilities = self.capabilities.ok_or(damaged)?;
                take(Item::Machine(Box::new((machine, capabilities))));
            }
            FrameKind::OracleVerdicts => {
                for bytes in frame.payload.chunks(size_of::<Verdict>()) {
                    let verdict = Verdict::read_from_bytes(bytes).map_err(|_| StreamError::Content(frame.kind))?;
                    self.last = verdict.case;
                    take(Item::Verdict(verdict));
                }
            }
            FrameKind::End => {
                let (report, text) = EndReport::read_from_prefix(&frame.payload).map_err(|_| damaged)?;
                let reason = EndReason::from_number(report.reason);
                if reason == Some(EndReason::OracleDone) {
                    return Ok(true);
                }
                let text = String::from_utf8_lossy(text).into_owned();
                return Err(StreamError::Ended { reason, last: self.last, text });
            }
            FrameKind::Message => {
                let text = String::from_utf8_lossy(frame.payload.get(1..).unwrap_or(&[])).into_owned();
                tracing::warn!(target: crate::session::MESSAGE_TARGET, "L1: {text}");
            }
            FrameKind::Console
            | FrameKind::Trace
            | FrameKind::History
            | FrameKind::Fields
            | FrameKind::OfferedCapabilities
            | FrameKind::InputTaken => {}
        }
        Ok(false)
    }
}

/// The entries of [`FrameKind::Capabilities`].
fn capabilities(payload: &[u8]) -> Option<Capabilities> {
    let entries = payload.as_chunks::<CAPABILITY>().0;
    let read = |wanted: u32| {
        entries.iter().find_map(|entry| {
            let (number, value) = entry.split_first_chunk()?;
            (u32::from_le_bytes(*number) == wanted).then(|| Some(u64::from_le_bytes(value.try_into().ok()?)))?
        })
    };
    Capabilities::read(read).ok()
}
