//! A VM entry that really fails in KVM: the dump in its kernel log, read by `explain vmcs`, names the rule that was broken.
//!
//! The manual and the README show such a dump; what the program says of theirs and of a fresh one is the same.

use std::io::Write as _;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use l1_hypervisor::machine::bochs::model;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value;
use tests::lab::job::{Ending, Job, JobResult};
use tests::lab::{Lab, LabError};
use tests::program;
use tests::skip::skipped;

/// A processor with "unrestricted guest": without, KVM emulates what the processor would refuse.
const MODEL: &str = "haswell";
/// By the lab's clock.
const TIMEOUT: Duration = Duration::from_secs(40);
/// The dump that the manual and the README show: one that this test brought up.
const SHOWN: &str = include_str!("../../l1-hypervisor/host/src/command/explain/tests/dumps/kvm-6.1-failed-entry.txt");

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trial = Trial::ignorable_test("the_dump_of_a_failed_entry_names_the_broken_rule", names_the_broken_rule);
    libtest_mimic::run(&arguments, vec![trial]).exit_code()
}

fn names_the_broken_rule() -> Result<Completion, Failed> {
    let job = match failing_entry() {
        Ok(job) => job,
        Err(problem) if problem.downcast_ref().is_some_and(LabError::is_missing) => return skipped(problem),
        Err(problem) => return Err(problem.to_string().into()),
    };
    let printed = String::from_utf8_lossy(&job.stdout);
    let log = &job.kernel_log;
    if job.ending != Ending::Exited(0) || printed != "KVM: entry failed, hardware error 0x80000021\n" {
        let errors = String::from_utf8_lossy(&job.stderr);
        return Err(format!("{:?}: {printed}{errors}\nthe kernel said:\n{log}", job.ending).into());
    }
    // For whoever wants to renew the dump that is shown.
    eprintln!("{log}");

    let json: Value = serde_json::from_slice(&explain(&["--json", "vmcs", "-"], log)?.stdout)?;
    let dump = &json["dumps"][0];
    let broken = dump["verdict"]["broken"].as_array().ok_or("no list of broken rules")?;
    let [rule] = broken.as_slice() else { return Err(format!("not one broken rule but {broken:#?}").into()) };
    let expected = [
        (&rule["id"], "guest.cs.operation-size"),
        (&rule["section"], "26.3.1.2"),
        (&rule["title"], "Checks on Guest Segment Registers"),
        (&rule["fields"][0]["field"], "GUEST_CS_ACCESS_RIGHTS"),
        (&rule["outcome"]["kind"], "entry_failure"),
        (&rule["outcome"]["exit_reason"], "0x80000021"),
    ];
    for (found, wanted) in expected {
        check(found == wanted, format!("{found}, not {wanted:?}"))?;
    }
    // Nothing of what KVM prints is lost on the reader.
    check(dump["unread_count"] == 0, format!("not read: {}", dump["unread"]))?;

    let (fresh, shown) = (verdict(log)?, verdict(SHOWN)?);
    check(fresh == shown, format!("the dump that is shown says:\n{shown}\nand a fresh one:\n{fresh}"))?;
    Ok(Completion::Completed)
}

/// Boots the lab and runs the program whose VM entry fails.
fn failing_entry() -> Result<JobResult, Box<dyn std::error::Error>> {
    let model = model::find(MODEL).ok_or("Bochs has no such model")?;
    let job =
        Job { name: "failing-entry".to_owned(), arguments: Vec::new(), shadow_vmcs: true, files: Vec::new(), timeout: TIMEOUT };
    let lab = Lab::new(model).with_program(program::failing_entry()?.to_owned());
    let mut run = lab.run(&[job])?;
    match run.results.pop() {
        Some(result) => Ok(result),
        None => Err(format!("{:?}; the kernel said:\n{}", run.failure, run.kernel_log.join("\n")).into()),
    }
}

/// What the program explains of this log. It must find a broken rule: exit status 1.
fn explain(arguments: &[&str], log: &str) -> Result<Output, Failed> {
    let mut child = Command::new(program::l1_hypervisor()?)
        .arg("explain")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Closed by this line, so that the program sees the end. It prints only then, so neither waits for the other.
    child.stdin.take().ok_or("no standard input")?.write_all(log.as_bytes())?;
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    check(output.status.code() == Some(1), format!("{}, not 1; standard error: {errors}", output.status))?;
    Ok(output)
}

/// From the first broken rule to what the dump itself records of the entry.
fn verdict(log: &str) -> Result<String, Failed> {
    let text = String::from_utf8(explain(&["vmcs", "-"], log)?.stdout)?;
    let begin = text.find("VM entry breaks 1 rule").ok_or_else(|| format!("no verdict in:\n{text}"))?;
    let end = text.find("\nAssumed\n").ok_or_else(|| format!("no assumptions in:\n{text}"))?;
    Ok(text[begin..end].to_owned())
}

fn check(holds: bool, message: String) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(message.into()) }
}
