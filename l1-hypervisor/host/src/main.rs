//! The program `l1-hypervisor`.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use l1_hypervisor::command::{bench, doctor, explain, finish, guests, oracle, run};
use l1_hypervisor::command_line::{Command, CommandLine};
use l1_hypervisor::session::INTERRUPTED;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    catch_signals();
    match command_line.command {
        Command::Run(arguments) => finish(run::run(&arguments)),
        Command::Guests => finish(guests::guests(&mut io::stdout().lock())),
        Command::Bench(arguments) => finish(bench::bench(&arguments)),
        Command::Oracle(arguments) => finish(oracle::oracle(&arguments, &mut io::stdout().lock())),
        Command::Doctor(arguments) => finish(doctor::doctor(&arguments, &mut io::stdout().lock())),
        Command::Explain(arguments) => finish(explain::explain(&arguments, &mut io::stdout().lock())),
    }
}

/// The first SIGINT or SIGTERM ends the run in order, so that what was captured is kept; the second ends the program.
fn catch_signals() {
    for signal in [SIGINT, SIGTERM] {
        // In this order: at the first signal the flag is still down when the default action looks at it.
        let caught = flag::register_conditional_default(signal, &INTERRUPTED).and_then(|_| flag::register(signal, &INTERRUPTED));
        if let Err(error) = caught {
            eprintln!("warning: cannot catch signal {signal}: {error}");
        }
    }
}
