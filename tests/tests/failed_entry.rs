//! A VM entry that fails names the rule that it breaks: its id, its section in the SDM, and the offending value.
//!
//! No guest file makes an entry fail, as the loader gives every guest a valid state; here the state it starts in is
//! changed afterwards, so that the processor itself refuses it.

use std::process::ExitCode;
use std::time::Duration;

use exit_trace::symbols::SymbolTable;
use l1_hypervisor::built_in;
use l1_hypervisor::command::run::{self, Target, find_model};
use l1_hypervisor::command_line::RunArguments;
use l1_hypervisor::loader::{self, LoadOptions};
use l1_hypervisor::session::input::Input;
use l1_hypervisor::session::sinks::{Sinks, Trace};
use l1_hypervisor::session::{Ending, RunResult, report};
use l1_protocol::boot::TRACE_OFF;
use l1_protocol::end::{EndReason, ExitStatus};
use l1_protocol::guest::{GuestStart, START_PROTECTED_MODE};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::skip;

/// Bytes of the guest's memory.
const MEMORY: u64 = 16 << 20;
/// The entry fails at once.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Exit reason 33 with bit 31, "VM-entry failure due to invalid guest state".
const INVALID_GUEST_STATE: u64 = 0x8000_0021;

/// A start that VM entry refuses.
struct Case {
    name: &'static str,
    change: fn(&mut GuestStart),
    /// What the first line of the verdict says: field and value, section, rule.
    verdict: [&'static str; 3],
    /// How many rules are broken.
    rules: usize,
}

const CASES: &[Case] = &[
    Case {
        name: "rip_above_4_gib_in_protected_mode",
        change: |start| (start.mode, start.rip) = (START_PROTECTED_MODE, 0x1_0000_0000),
        verdict: ["GUEST_RIP = 0x100000000", "SDM 3C 26.3.1.4", "[guest.rip.upper-half]"],
        rules: 1,
    },
    Case {
        name: "cr3_beyond_the_physical_addresses",
        change: |start| start.cr3 = 1 << 60,
        verdict: ["GUEST_CR3 = 0x1000000000000000", "SDM 3C 26.3.1.1", "[guest.cr3]"],
        rules: 1,
    },
    Case {
        name: "gdtr_base_that_is_not_canonical",
        change: |start| start.gdt_base = 0x8000_0000_0000_0000,
        verdict: ["GUEST_GDTR_BASE = 0x8000000000000000", "SDM 3C 26.3.1.3", "[guest.gdtr.base]"],
        rules: 1,
    },
    // All are listed; the processor gets to the one about CR3 first.
    Case {
        name: "two_rules_at_once",
        change: |start| (start.gdt_base, start.cr3) = (0x8000_0000_0000_0000, 1 << 60),
        verdict: [
            "GUEST_CR3 = 0x1000000000000000",
            "\"Checks on Guest Control Registers, Debug Registers, and MSRs\"",
            "[guest.cr3]",
        ],
        rules: 2,
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = CASES.iter().map(|case| Trial::ignorable_test(case.name, || skip::on_bochs(|| explained(case))));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn explained(case: &Case) -> Result<(), Failed> {
    let result = enter(case.change)?;
    let report = report::full(&result, &SymbolTable::default());
    let value = result.report.map(|report| report.value);
    check(result.ending == Ending::Reported(EndReason::EntryFailed) && result.exit_status() == ExitStatus::GuestCrash, &report)?;
    check(value == Some(INVALID_GUEST_STATE), &report)?;
    // The processor and the rules agree on what is reported, and the headline says which rule it was.
    let headline = report::headline(&result);
    check(headline.ends_with("-> exit reason 0x80000021 qualification 0"), &headline)?;
    check(case.verdict.iter().all(|part| headline.contains(part)), &headline)?;
    check(result.text.lines().count() == case.rules, &report)
}

/// Runs a guest whose start was changed.
fn enter(change: fn(&mut GuestStart)) -> Result<RunResult, Failed> {
    let guest = built_in::find("hello").ok_or("no built-in guest hello")?;
    let load = LoadOptions { file_name: "hello", memory_size: MEMORY, command_line: "", initrd: None, load_at: None };
    let mut loaded = loader::load(guest.elf, &load)?;
    change(&mut loaded.start);
    let target = Target::Bochs(find_model("haswell")?);
    let arguments = RunArguments { guest: "hello".to_owned(), memory: MEMORY, ..RunArguments::default() };
    let options = run::options(target, &arguments, TRACE_OFF)?;
    let mut sinks = Sinks { console: Box::new(std::io::sink()), trace: Trace::Off, statistics: None };
    Ok(run::run_with_options(target, &options, &loaded, &mut sinks, Input::none(), TIMEOUT)?)
}

fn check(holds: bool, message: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(message.into()) }
}
