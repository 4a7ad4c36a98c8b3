//! Runs one job and sends what came of it.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use tests::lab::job::{Ending, Job, PROGRAM, Summary};
use tests::lab::stream::Kind;

use crate::console::{instructions, send};
use crate::kernel_log::KernelLog;

/// Where a job's outputs go until it has ended, so that what it costs to send them is not part of the job.
const STDOUT: &str = "/tmp/stdout";
const STDERR: &str = "/tmp/stderr";
/// How often a running job is looked at, by the lab's clock.
const STEP: Duration = Duration::from_millis(20);

/// Runs `job` and sends its outputs and its summary.
pub fn run(job: &Job) -> io::Result<()> {
    send(Kind::Started, job.name.as_bytes());
    let kernel_log = KernelLog::begin()?;
    let before = instructions();
    let mut child = Command::new(PROGRAM)
        .args(&job.arguments)
        .stdin(Stdio::null())
        .stdout(File::create(STDOUT)?)
        .stderr(File::create(STDERR)?)
        .spawn()
        .map_err(|error| io::Error::other(format!("cannot start {PROGRAM}: {error}")))?;
    let ending = wait(&mut child, job.timeout)?;
    let summary = Summary { ending, instructions: instructions() - before };

    send(Kind::Stdout, &fs::read(STDOUT)?);
    send(Kind::Stderr, &fs::read(STDERR)?);
    send(Kind::KernelLog, kernel_log.read()?.as_bytes());
    for name in &job.files {
        // A file that the program did not write is no error of the lab's.
        if let Ok(contents) = fs::read(name) {
            send(Kind::File, &[name.as_bytes(), b"\n", &contents].concat());
            fs::remove_file(name)?;
        }
    }
    send(Kind::Summary, &serde_json::to_vec(&summary)?);
    Ok(())
}

fn wait(child: &mut Child, timeout: Duration) -> io::Result<Ending> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(ending(status));
        }
        if started.elapsed() >= timeout {
            child.kill()?;
            child.wait()?;
            return Ok(Ending::TimedOut);
        }
        thread::sleep(STEP);
    }
}

fn ending(status: ExitStatus) -> Ending {
    status.code().map(Ending::Exited).or_else(|| status.signal().map(Ending::Signaled)).unwrap_or(Ending::Exited(-1))
}
