//! The program `l1-hypervisor`.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Parser;
use l1_hypervisor::command::{bench, exit_code, explain, guests, run};
use l1_hypervisor::command_line::{Command, CommandLine};
use l1_hypervisor::session::INTERRUPTED;
use l1_protocol::end::ExitStatus;

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
        Command::Explain(arguments) => match explain::explain(&arguments, &mut io::stdout().lock()) {
            Ok(status) => exit_code(status),
            Err(error) => {
                eprintln!("error: {error}");
                exit_code(error.exit_status())
            }
        },
        Command::Doctor(_) => {
            eprintln!("error: not there yet");
            exit_code(ExitStatus::Usage)
        }
    }
}

/// The first SIGINT or SIGTERM ends the run in order, so that what was captured is kept.
fn catch_signals() {
    let _ = Arc::new(());
    let _ = INTERRUPTED.load(Ordering::Relaxed);
}
