//! `/init` of the KVM lab: the first and only program that Debian's kernel starts there.
//!
//! It mounts what programs expect, loads KVM's modules, runs the jobs of `/jobs.json` one after the other and sends
//! what came of them through Bochs's debug console. See `tests::lab`. It always ends the machine, whatever happens.

mod console;
mod jobs;
mod kernel_log;
mod kvm;

use std::error::Error;
use std::fs;

use nix::mount::{MsFlags, mount};
use tests::lab::job::{JOBS, Job};
use tests::lab::stream::Kind;

fn main() {
    if let Err(error) = console::open() {
        // Without the console nobody can be told more than a panicking kernel says.
        panic!("no access to ports: {error}");
    }
    if let Err(error) = run() {
        console::send(Kind::Failure, error.to_string().as_bytes());
    }
    console::send(Kind::End, &[]);
    console::end_machine();
}

fn run() -> Result<(), Box<dyn Error>> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp")] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .map_err(|error| format!("cannot mount {place}: {error}"))?;
    }
    // Only a kernel in despair may write between our bytes: both use the same port.
    fs::write("/proc/sys/kernel/printk", "1")?;
    let list: Vec<Job> = serde_json::from_slice(&fs::read(JOBS)?)?;
    let mut modules = kvm::Modules::default();
    for job in &list {
        modules.load(job.shadow_vmcs)?;
        jobs::run(job)?;
    }
    Ok(())
}
