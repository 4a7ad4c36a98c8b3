//! Follows a lab from its start to its end and collects what it sends.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use l1_hypervisor::machine::Output;
use l1_hypervisor::machine::bochs::process::Process;
use l1_hypervisor::machine::bochs::read_output;
use thiserror::Error;

use super::LabRun;
use super::job::{Ending, Job, JobResult, Summary};
use super::stream::{Kind, Piece, Reader};

/// Longest silence of a lab: longer than a boot or a job takes on a busy machine.
const SILENCE: Duration = Duration::from_secs(180);
/// How long one wait for Bochs is.
const STEP: Duration = Duration::from_millis(200);
/// Lines of the kernel that are kept.
const KERNEL_LINES: usize = 200;

/// Why a lab did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StreamError {
    /// `/init` gave up.
    #[error("the lab's /init gave up: {0}")]
    Init(String),
    /// Nothing came for too long.
    #[error("the lab said nothing for {} s and was ended", SILENCE.as_secs())]
    Silence,
    /// Bochs ended.
    #[error("Bochs ended before the lab was through: {0}")]
    Ended(String),
    /// What came is not what `/init` sends.
    #[error("the lab's stream is damaged at {0:?}")]
    Damaged(String),
}

/// The parts of a result that have arrived.
#[derive(Debug, Default)]
struct Parts {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    kernel_log: String,
    files: BTreeMap<String, Vec<u8>>,
}

struct Follower<'a> {
    name: &'static str,
    jobs: &'a [Job],
    started: Instant,
    parts: Parts,
    results: Vec<JobResult>,
    kernel_log: VecDeque<String>,
}

/// Reads what `process` sends until all jobs are done or nothing more can come.
pub fn follow(process: &mut Process, name: &'static str, jobs: &[Job]) -> LabRun {
    let mut follower = Follower {
        name,
        jobs,
        started: Instant::now(),
        parts: Parts::default(),
        results: Vec::new(),
        kernel_log: VecDeque::new(),
    };
    let failure = follower.read(process).err();
    process.end();
    LabRun { results: follower.results, failure, kernel_log: follower.kernel_log.into() }
}

impl Follower<'_> {
    fn read(&mut self, process: &mut Process) -> Result<(), StreamError> {
        let mut reader = Reader::default();
        let mut last = Instant::now();
        loop {
            match read_output(process, STEP) {
                Ok(Output::Bytes(bytes)) => {
                    last = Instant::now();
                    reader.push(&bytes);
                }
                Ok(Output::Nothing) if last.elapsed() > SILENCE => return Err(StreamError::Silence),
                Ok(Output::Nothing) => {}
                Ok(Output::Ended) => return Err(StreamError::Ended(format!("{}\n{}", reader.rest(), process.last_words()))),
                Err(error) => return Err(StreamError::Ended(error.to_string())),
            }
            while let Some(piece) = reader.next_piece() {
                match piece {
                    Piece::Text(line) => self.kernel_line(line),
                    Piece::Damaged(header) => return Err(StreamError::Damaged(header)),
                    Piece::Frame(Kind::End, _) => return Ok(()),
                    Piece::Frame(kind, payload) => self.frame(kind, payload)?,
                }
            }
        }
    }

    fn kernel_line(&mut self, line: String) {
        if std::env::var_os("KVM_LAB_VERBOSE").is_some() {
            eprintln!("kvm lab on {}: {:5.1} s: {line}", self.name, self.started.elapsed().as_secs_f64());
        }
        if self.kernel_log.len() == KERNEL_LINES {
            self.kernel_log.pop_front();
        }
        self.kernel_log.push_back(line);
    }

    fn frame(&mut self, kind: Kind, payload: Vec<u8>) -> Result<(), StreamError> {
        match kind {
            Kind::Failure => return Err(StreamError::Init(String::from_utf8_lossy(&payload).into_owned())),
            Kind::Message => self.progress(&String::from_utf8_lossy(&payload)),
            Kind::Started => self.parts = Parts::default(),
            Kind::Stdout => self.parts.stdout = payload,
            Kind::Stderr => self.parts.stderr = payload,
            Kind::KernelLog => self.parts.kernel_log = String::from_utf8_lossy(&payload).into_owned(),
            Kind::File => {
                let name_end = payload.iter().position(|&byte| byte == b'\n').unwrap_or(0);
                let name = String::from_utf8_lossy(&payload[..name_end]).into_owned();
                self.parts.files.insert(name, payload[name_end + 1..].to_vec());
            }
            Kind::Summary => self.summary(&payload)?,
            Kind::End => {}
        }
        Ok(())
    }

    fn summary(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        let damaged = || StreamError::Damaged(String::from_utf8_lossy(payload).into_owned());
        let Summary { ending, instructions } = serde_json::from_slice(payload).map_err(|_| damaged())?;
        let Parts { stdout, stderr, kernel_log, files } = std::mem::take(&mut self.parts);
        let name = self.jobs.get(self.results.len()).map_or("a job nobody asked for", |job| &job.name);
        let ended = match ending {
            Ending::Exited(status) => format!("exit status {status}"),
            Ending::Signaled(signal) => format!("signal {signal}"),
            Ending::TimedOut => "timed out".to_owned(),
        };
        self.progress(&format!("{name}: {ended}, {:.1} million instructions", instructions as f64 / 1e6));
        if std::env::var_os("KVM_LAB_VERBOSE").is_some() && ending != Ending::Exited(0) {
            eprintln!("{}", String::from_utf8_lossy(&stderr));
        }
        self.results.push(JobResult { ending, instructions, stdout, stderr, kernel_log, files });
        Ok(())
    }

    fn progress(&self, text: &str) {
        eprintln!("kvm lab on {}: {:5.1} s: {text}", self.name, self.started.elapsed().as_secs_f64());
    }
}
