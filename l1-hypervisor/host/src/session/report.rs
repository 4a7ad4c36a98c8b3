//! What is told to a person about a run that did not end well.

use std::fmt::Write as _;

use exit_trace::describe::describe;
use exit_trace::symbols::SymbolTable;
use l1_protocol::end::{EndReason, EndReport, FinalState};

use super::{Ending, RunResult};

/// Lines of L2's output that are shown.
const OUTPUT_LINES: usize = 10;

/// One line that says how the run ended.
#[must_use]
pub fn headline(result: &RunResult) -> String {
    let value = result.report.map_or(0, |report| report.value);
    let text = result.text.lines().next().unwrap_or("");
    let because = if text.is_empty() { String::new() } else { format!(": {text}") };
    match result.ending {
        Ending::Reported(reason) => match reason {
            EndReason::GuestSuccess => "the guest reported success".to_owned(),
            EndReason::GuestFailure => format!("the guest reported failure: status {value}"),
            EndReason::PowerOff => "the guest switched itself off".to_owned(),
            EndReason::Reset => "the guest reset the machine".to_owned(),
            EndReason::TripleFault => "the guest crashed: triple fault".to_owned(),
            EndReason::EntryFailed => format!("the guest crashed: VM entry failed with {value:#x}{because}"),
            EndReason::UnhandledExit => {
                format!("the guest crashed: exit {} is not handled{because}", vmcs::exit_reason::ExitReason(value as u32))
            }
            EndReason::HaltedForEver => format!("the guest crashed: nothing can wake it{because}"),
            EndReason::Stopped => "the run was stopped".to_owned(),
            EndReason::OracleDone => "all cases were tried".to_owned(),
            EndReason::UnfitMachine => format!("this machine cannot host a guest{because}"),
            EndReason::DamagedHandover => format!("bug: L1 refused what it was handed{because}"),
            EndReason::Bug => format!("bug in L1{because}"),
        },
        Ending::TimedOut => format!("timed out after {:.1} s", result.duration.as_secs_f64()),
        Ending::Interrupted => "interrupted".to_owned(),
        Ending::MachineDied => "bug: the machine ended without a report of L1".to_owned(),
        Ending::DamagedStream => "bug: what L1 sent is damaged".to_owned(),
    }
}

/// Everything that helps to find out why a run ended badly: the headline, L2's last output, its state, the last exits.
#[must_use]
pub fn full(result: &RunResult, symbols: &SymbolTable) -> String {
    let mut out = headline(result);
    out.push('\n');
    for line in result.text.lines().skip(1) {
        let _ = writeln!(out, "  {line}");
    }
    if !result.last_words.is_empty() {
        let _ = writeln!(out, "the machine's last words:\n{}", indent(&result.last_words));
    }
    let output = String::from_utf8_lossy(&result.last_output);
    let lines: Vec<&str> = output.lines().collect();
    if !lines.is_empty() {
        let _ =
            writeln!(out, "last output of the guest:\n{}", indent(&lines[lines.len().saturating_sub(OUTPUT_LINES)..].join("\n")));
    }
    if let Some(report @ EndReport { has_state: 1.., .. }) = &result.report {
        let _ = writeln!(out, "state of the guest:\n{}", state(&report.state, symbols));
    }
    if !result.last_exits.is_empty() {
        let _ = writeln!(out, "last exits, the newest at the end:");
        for record in &result.last_exits {
            let _ = writeln!(out, "  {}", describe(record, symbols));
        }
    }
    out
}

/// How many exits the outermost hypervisor took for one of the guest's, if there is more than one hypervisor and all have
/// reported; else nothing.
#[must_use]
pub fn exits_per_guest_exit(result: &RunResult) -> String {
    let (Some(outermost), Some(innermost)) = (result.outer_reports.first(), &result.report) else { return String::new() };
    let (outer, guest) = (outermost.counters.exits, innermost.counters.exits);
    if guest == 0 {
        return String::new();
    }
    format!("{outer} exits of L1 for {guest} exits of the guest: {:.1} each\n", outer as f64 / guest as f64)
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {}", line.escape_debug())).collect::<Vec<_>>().join("\n")
}

fn state(s: &FinalState, symbols: &SymbolTable) -> String {
    let place = symbols.lookup(s.rip).map_or(String::new(), |location| format!(" <{location}>"));
    format!(
        "  rip {:016x}{place} rflags {:08x}\n\
         \x20 rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}\n\
         \x20 rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}\n\
         \x20 r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}\n\
         \x20 r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}\n\
         \x20 cr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:08x} efer {:04x}\n\
         \x20 cs {:04x} base {:x} ss {:04x} ds {:04x} es {:04x} fs base {:x} gs base {:x}\n\
         \x20 gdtr {:x} idtr {:x} interruptibility {:x} activity {}",
        s.rip,
        s.rflags,
        s.rax,
        s.rbx,
        s.rcx,
        s.rdx,
        s.rsi,
        s.rdi,
        s.rbp,
        s.rsp,
        s.r8,
        s.r9,
        s.r10,
        s.r11,
        s.r12,
        s.r13,
        s.r14,
        s.r15,
        s.cr0,
        s.cr2,
        s.cr3,
        s.cr4,
        s.efer,
        s.cs,
        s.cs_base,
        s.ss,
        s.ds,
        s.es,
        s.fs_base,
        s.gs_base,
        s.gdtr_base,
        s.idtr_base,
        s.interruptibility,
        s.activity
    )
}
