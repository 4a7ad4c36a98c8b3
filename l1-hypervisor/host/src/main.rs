//! The program `l1-hypervisor`.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use l1_hypervisor::command::{bench, doctor, exit_code, explain, guests, oracle, run};
use l1_hypervisor::command_line::{Command, CommandLine};
use l1_hypervisor::session::INTERRUPTED;
use l1_protocol::end::ExitStatus;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    catch_signals();
    match command_line.command {
        Command::Run(arguments) => match run::run(&arguments) {
            Ok(status) => exit_code(status),
            Err(error) => {
                eprintln!("error: {error}");
                exit_code(error.exit_status())
            }
        },
        Command::Guests => match guests::guests(&mut io::stdout().lock()) {
            Ok(()) => exit_code(ExitStatus::Success),
            Err(error) => {
                eprintln!("error: cannot print the list: {error}");
                exit_code(ExitStatus::Usage)
            }
        },
        Command::Bench(arguments) => match bench::bench(&arguments) {
            Ok(status) => exit_code(status),
            Err(error) => {
                eprintln!("error: {error}");
                exit_code(error.exit_status())
            }
        },
        Command::Oracle(arguments) => match oracle::oracle(&arguments, &mut io::stdout().lock()) {
            Ok(status) => exit_code(status),
            Err(error) => {
                eprintln!("error: {error}");
                exit_code(error.exit_status())
            }
        },
        Command::Doctor(arguments) => match doctor::doctor(&arguments, &mut io::stdout().lock()) {
            Ok(status) => exit_code(status),
            Err(error) => {
                eprintln!("error: {error}");
                exit_code(error.exit_status())
            }
        },
        Command::Explain(arguments) => match explain::explain(&arguments, &mut io::stdout().lock()) {
            Ok(status) => exit_code(status),
            Err(error) => {
                eprintln!("error: {error}");
                exit_code(error.exit_status())
            }
        },
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
