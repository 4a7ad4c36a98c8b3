//! Runs small guests on `/dev/kvm` and checks what they do, exit by exit: real mode, long mode, port I/O, memory-mapped
//! I/O, exceptions, time, and interrupts of KVM's own devices.
//!
//! Under a KVM that is a guest hypervisor they are nested guests. Exit status: 0 if each did what it must; a line each
//! tells.

mod code;
mod guests;
mod virtual_machine;

use std::process::ExitCode;

use guests::GUESTS;

fn main() -> ExitCode {
    let mut failed = 0;
    for guest in GUESTS {
        match virtual_machine::run(guest) {
            Ok(events) if events == guest.expected => println!("{}: {} exits as expected", guest.name, events.len()),
            Ok(events) => {
                failed += 1;
                println!("{}: FAILED: {events:?} and not {:?}", guest.name, guest.expected);
            }
            Err(error) => {
                failed += 1;
                println!("{}: FAILED: {error}", guest.name);
            }
        }
    }
    println!("{} guests, {failed} failed", GUESTS.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
