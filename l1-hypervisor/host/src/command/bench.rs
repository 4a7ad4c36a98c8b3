//! `bench`: what exits cost, counted on Bochs, beside what they cost in KVM.
//!
//! On Bochs the time-stamp counter counts instructions, so every figure repeats exactly. A figure is the difference
//! between two runs with different counts, divided by the difference of the counts: what the run itself costs drops out.

mod nested;
mod self_nesting;

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use l1_protocol::boot::{REPORT_CAPABILITIES, TRACE_OFF, TRACE_STREAM};
use l1_protocol::end::{Counters, ExitStatus};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

use crate::built_in;
use crate::command::doctor::probe::run_guest as run_guest_with_report;
use crate::command::run::{RunError, Target, run_bare, run_with_trace};
use crate::command_line::{BenchArguments, RunArguments, ShadowingChoice};
use crate::loader::{self, LoadOptions};
use crate::machine::bochs::model;
use crate::session::input::Input;
use crate::session::sinks::{Sinks, Trace};
use crate::session::{INTERRUPTED, RunResult};

/// The guest that does all this.
const GUEST: &str = "benchmark";

/// Turns of the short and of the long run.
const SHORT: u64 = 100;
const LONG: u64 = 1100;

/// What is measured, and what KVM of Linux 6.1 needs for the same on the same emulated processor: instructions of the
/// kernel, VMREADs and VMWRITEs for one exit of a plain guest.
struct Operation {
    name: &'static str,
    arguments: &'static str,
    kvm: Option<(u64, u64, u64)>,
}

const OPERATIONS: &[Operation] = &[
    Operation { name: "cpuid", arguments: "", kvm: Some((959, 6, 1)) },
    Operation { name: "vmcall", arguments: "", kvm: Some((997, 8, 1)) },
    // IA32_MISC_ENABLE: neither in KVM nor here passed through.
    Operation { name: "rdmsr", arguments: "0x1a0", kvm: Some((1077, 6, 1)) },
    Operation { name: "wrmsr", arguments: "0x1a0", kvm: Some((1252, 6, 1)) },
    Operation { name: "out", arguments: "0x80", kvm: Some((3025, 8, 2)) },
    Operation { name: "ept-violation", arguments: "", kvm: Some((3159, 4, 0)) },
];

/// One row of the result. All figures but `exits` are for one exit; fractions come from work that is shared by many
/// exits, like sending records.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The operation.
    pub name: &'static str,
    /// Processor model of Bochs.
    pub cpu: &'static str,
    /// How VMREAD and VMWRITE of a guest hypervisor would be served.
    pub shadowing: &'static str,
    /// How many hypervisors there were inside each other.
    pub depth: u8,
    /// Whether records were sent.
    pub tracing: bool,
    /// Instructions of the round trip: guest's instruction, exit, L1, entry.
    pub instructions: f64,
    /// Exits for one operation.
    pub exits: f64,
    /// VMREADs for one operation.
    pub vmreads: f64,
    /// VMWRITEs for one operation.
    pub vmwrites: f64,
    /// VMPTRLDs for one operation.
    pub vmptrlds: f64,
    /// VMCLEARs for one operation.
    pub vmclears: f64,
    /// Where the instructions of a round trip of a guest hypervisor go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<nested::Steps>,
}

impl Row {
    /// The row for one of `count` operations that lie between the ticks and counters of a short and a long run.
    fn between(name: &'static str, target: Target, count: f64, short: (u64, Counters), long: (u64, Counters)) -> Self {
        let each = |long: u64, short: u64| long.saturating_sub(short) as f64 / count;
        let ((short_ticks, short), (long_ticks, long)) = (short, long);
        Self {
            name,
            cpu: target.names().1,
            shadowing: "auto",
            depth: 1,
            tracing: false,
            instructions: each(long_ticks, short_ticks),
            exits: each(long.exits, short.exits),
            vmreads: each(long.vmreads, short.vmreads),
            vmwrites: each(long.vmwrites, short.vmwrites),
            vmptrlds: each(long.vmptrlds, short.vmptrlds),
            vmclears: each(long.vmclears, short.vmclears),
            steps: None,
        }
    }
}

/// What `run hello` costs, host program and emulator together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StartUp {
    /// CPU time in seconds.
    pub cpu_seconds: f64,
    /// Peak of resident memory in MiB: host program plus emulator.
    pub memory_mib: f64,
    /// Instructions from the image's first to the first VM entry.
    pub instructions_to_first_entry: u64,
}

/// Measures and prints.
///
/// # Errors
/// [`RunError`].
pub fn bench(arguments: &BenchArguments) -> Result<ExitStatus, RunError> {
    let model = model::find(&arguments.cpu).ok_or_else(|| RunError::NoModel { name: arguments.cpu.clone() })?;
    let target = Target::Bochs(model);
    // First, while nothing else has used memory in this process.
    let start_up = measure_start_up(target)?;
    let entry_check = measure_entry_check(target)?;

    let progress = progress_bar(OPERATIONS.len() as u64 * 2 + nested::STEPS + self_nesting::STEPS);
    let mut rows = Vec::new();
    for tracing in [false, true] {
        for operation in OPERATIONS {
            progress.set_message(format!("{} ({})", operation.name, if tracing { "tracing on" } else { "tracing off" }));
            rows.push(measure(target, operation, tracing)?);
            progress.inc(1);
        }
    }
    rows.extend(nested::measure(target, |what| {
        progress.set_message(what.to_owned());
        progress.inc(1);
    })?);
    rows.extend(self_nesting::measure(target, |what| {
        progress.set_message(what.to_owned());
        progress.inc(1);
    })?);
    progress.finish_and_clear();
    let text = if arguments.json {
        serde_json::to_string_pretty(&rows).map_err(io::Error::from).map(|json| json + "\n")
    } else {
        Ok(table(&rows, &start_up, entry_check))
    };
    text.and_then(|text| io::stdout().write_all(text.as_bytes()))
        .map_err(|error| RunError::OutputFile { file: "standard output".to_owned(), error })?;
    Ok(ExitStatus::Success)
}

fn progress_bar(length: u64) -> ProgressBar {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn options(guest: &str) -> RunArguments {
    RunArguments { guest: guest.to_owned(), shadowing: ShadowingChoice::Auto, ..RunArguments::default() }
}

/// Runs the guest `name` and returns what it printed and what L1 counted.
fn run_guest(target: Target, name: &str, command_line: &str, trace_mode: u32) -> Result<(String, Counters), RunError> {
    let (text, result) = run_arguments(target, &options(name), command_line, trace_mode)?;
    Ok((text, result.report.map_or_else(Counters::default, |report| report.counters)))
}

/// Runs a built-in guest as the arguments say and returns what it printed and how the run ended, which was well.
fn run_arguments(
    target: Target,
    arguments: &RunArguments,
    command_line: &str,
    trace_mode: u32,
) -> Result<(String, RunResult), RunError> {
    let name = arguments.guest.as_str();
    let guest = built_in::find(name).ok_or_else(|| RunError::NoGuest(name.to_owned()))?;
    let loaded = loader::load(
        guest.elf,
        &LoadOptions { file_name: name, memory_size: arguments.memory, command_line, initrd: None, load_at: None },
    )?;
    let mut output = Vec::new();
    let mut sinks = Sinks { console: Box::new(&mut output), trace: Trace::Off, statistics: None };
    let result = if arguments.bare {
        run_bare(target, &loaded, guest.elf, arguments, &mut sinks, Input::none())?
    } else {
        run_with_trace(target, arguments, &loaded, &mut sinks, Input::none(), trace_mode)?
    };
    drop(sinks);
    let text = String::from_utf8_lossy(&output).into_owned();
    // A run may have been over before it saw the signal.
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Err(RunError::Interrupted);
    }
    if result.exit_status() != ExitStatus::Success {
        return Err(RunError::Guest {
            guest: format!("{name} {command_line}"),
            report: crate::session::report::headline(&result),
        });
    }
    Ok((text, result))
}

/// Ticks of the operation less those of the empty loop, from the guest's output.
fn ticks(output: &str) -> Option<u64> {
    let mut numbers = output.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    let (operation, empty) = (numbers.next()?, numbers.next()?);
    operation.checked_sub(empty)
}

/// As [`ticks`], of the benchmark with this command line.
fn ticks_of(output: &str, command_line: &str) -> Result<u64, RunError> {
    ticks(output)
        .ok_or_else(|| RunError::Guest { guest: command_line.to_owned(), report: format!("unexpected output: {output}") })
}

fn measure(target: Target, operation: &Operation, tracing: bool) -> Result<Row, RunError> {
    let mode = if tracing { TRACE_STREAM } else { TRACE_OFF };
    let run = |count: u64| -> Result<(u64, Counters), RunError> {
        let command_line = format!("{} {count} {}", operation.name, operation.arguments);
        let (output, counters) = run_guest(target, GUEST, command_line.trim_end(), mode)?;
        Ok((ticks_of(&output, &command_line)?, counters))
    };
    let (short, long) = (run(SHORT)?, run(LONG)?);
    Ok(Row { tracing, ..Row::between(operation.name, target, (LONG - SHORT) as f64, short, long) })
}

fn measure_start_up(target: Target) -> Result<StartUp, RunError> {
    let usage = |who| getrusage(who).ok();
    let cpu = |usage: &Usage| (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6;
    let total =
        || [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].into_iter().filter_map(usage).map(|usage| cpu(&usage)).sum::<f64>();
    let before = total();
    let (_, counters) = run_guest(target, "hello", "", TRACE_OFF)?;
    let cpu_seconds = total() - before;
    let kibibytes: i64 =
        [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].into_iter().filter_map(usage).map(|usage| usage.max_rss()).sum();
    Ok(StartUp {
        cpu_seconds,
        memory_mib: kibibytes as f64 / 1024.0,
        instructions_to_first_entry: counters.tsc_at_first_entry.saturating_sub(counters.tsc_at_start),
    })
}

/// Instructions of a full check of vmcs12, a 64-bit guest's, against the rules of VM entry.
fn measure_entry_check(target: Target) -> Result<u64, RunError> {
    let result = run_guest_with_report(target, REPORT_CAPABILITIES, None)?;
    Ok(result.report.map_or(0, |report| report.counters.entry_check_ticks))
}

fn table(rows: &[Row], start_up: &StartUp, entry_check: u64) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["exit", "tracing", "instructions", "KVM 6.1", "VMREADs", "KVM 6.1", "VMWRITEs", "KVM 6.1", "exits"]);
    for row in rows.iter().filter(|row| row.name != self_nesting::NAME && !nested::is_ours(row)) {
        let kvm = OPERATIONS.iter().find(|operation| operation.name == row.name).and_then(|operation| operation.kvm);
        let figure = |value: f64| if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        let beside = |pick: fn((u64, u64, u64)) -> u64| kvm.map_or("-".to_owned(), |figures| pick(figures).to_string());
        table.add_row([
            row.name.to_owned(),
            if row.tracing { "on" } else { "off" }.to_owned(),
            format!("{:.0}", row.instructions),
            beside(|(instructions, _, _)| instructions),
            figure(row.vmreads),
            beside(|(_, reads, _)| reads),
            figure(row.vmwrites),
            beside(|(_, _, writes)| writes),
            figure(row.exits),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut out = format!("{table}\n");
    let cpu = rows.first().map_or("", |row| row.cpu);
    let _ = writeln!(
        out,
        "\nBochs {cpu}; one operation each. KVM: Linux 6.1, kernel instructions for an exit of a plain guest, same emulator.\n\
         \"out\" goes to user space in KVM; \"ept-violation\" is a new page there and an emulated access here.\n\
         Full check of a 64-bit guest's VMCS against the rules of VM entry: {entry_check} instructions (to reach: 3,000)\n\
         run hello: {:.2} s of CPU time, {:.0} MiB, {} instructions to the first VM entry",
        start_up.cpu_seconds, start_up.memory_mib, start_up.instructions_to_first_entry
    );
    let _ = write!(out, "\n{}\n{}", nested::table(rows), self_nesting::table(rows));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_taken_from_the_output() {
        assert_eq!(ticks("cpuid 100 25400\nempty 100 400\n"), Some(25_000));
        assert_eq!(ticks("nothing"), None);
        assert_eq!(ticks("cpuid 1 5\nempty 1 6\n"), None);
    }
}
