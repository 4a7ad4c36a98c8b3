//! A guest that nobody here wrote: Debian's unmodified kernel with busybox boots as L2 on Bochs, runs an init script, and
//! the script's exit status comes back as ours.

use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::lab::initramfs::Initramfs;
use tests::skip::skipped;
use tests::{packages, program};

/// Makes the kernel quick to start and its output the same in every run: no self-tests, no address randomization.
const COMMAND_LINE: &str = "console=ttyS0 quiet nokaslr mitigations=off cryptomgr.notests";

/// How an init script ends, and what must come of it.
struct Ending {
    name: &'static str,
    commands: &'static str,
    status: i32,
    message: &'static str,
    /// What `commands` print.
    prints: &'static [&'static str],
}

/// The clock event device is the local APIC's timer in TSC-deadline mode, its interrupts come in, and the other devices'
/// come through the I/O APIC. The kernel stays in xAPIC mode, as every Linux does without interrupt remapping.
const LOCAL_APIC: Ending = Ending {
    name: "local_apic",
    commands: "mount -t proc none /proc; mount -t sysfs none /sys\n\
               echo \"timer: $(cat /sys/devices/system/clockevents/clockevent0/current_device)\"\n\
               before=$(grep LOC: /proc/interrupts | tr -dc 0-9); sleep 0.1\n\
               after=$(grep LOC: /proc/interrupts | tr -dc 0-9)\n\
               test \"$after\" -gt \"$before\" && echo 'local timer interrupts come'\n\
               grep -q 'IO-APIC *4-edge *ttyS0' /proc/interrupts && echo 'serial interrupts come through the I/O APIC'\n\
               poweroff -f",
    status: 0,
    message: "switched itself off",
    prints: &["timer: lapic-deadline", "local timer interrupts come", "serial interrupts come through the I/O APIC"],
};

const fn ending(name: &'static str, commands: &'static str, status: i32, message: &'static str) -> Ending {
    Ending { name, commands, status, message, prints: &[] }
}

const ENDINGS: &[Ending] = &[
    ending("poweroff", "poweroff -f", 0, "switched itself off"),
    ending("reboot", "reboot -f", 0, "reset the machine"),
    ending("failure", "echo 3 > /dev/ttyS1; poweroff -f", 1, "reported failure: status 3"),
    ending("success", "echo 0 > /dev/ttyS1; reboot -f", 0, "reported success"),
    LOCAL_APIC,
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = ENDINGS.iter().map(|ending| Trial::ignorable_test(ending.name, || test(ending))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn test(ending: &Ending) -> Result<Completion, Failed> {
    if let Err(problem) = l1_hypervisor::machine::bochs::process::is_installed() {
        return skipped(problem);
    }
    let (kernel, busybox) = match packages::linux_kernel().and_then(|kernel| Ok((kernel, packages::busybox()?))) {
        Ok(packages) => packages,
        Err(problem) => return skipped(problem),
    };
    let folder = tempfile::tempdir()?;
    let initrd = folder.path().join("initrd.cpio");
    std::fs::write(&initrd, initramfs(&busybox, ending.commands)?)?;
    let output = run(&kernel.image, &initrd)?;
    let (printed, messages) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let expected = format!("init runs on {} with 2 + 2 = 4", kernel.release);
    let prints_all = printed.contains(&expected) && ending.prints.iter().all(|line| printed.contains(line));
    if output.status.code() != Some(ending.status) || !messages.contains(ending.message) || !prints_all {
        return Err(format!("exit status {:?}\n--- output\n{printed}\n--- messages\n{messages}", output.status.code()).into());
    }
    Ok(Completion::Completed)
}

fn initramfs(busybox: &Path, commands: &str) -> Result<Vec<u8>, Failed> {
    let script = format!(
        "#!/bin/busybox sh\n\
         for program in mount uname poweroff reboot sleep cat grep tr; do /bin/busybox ln -s busybox /bin/$program; done\n\
         mount -t devtmpfs none /dev\n\
         echo \"init runs on $(uname -r) with 2 + 2 = $((2 + 2))\"\n\
         {commands}\n\
         sleep 60\n"
    );
    let archive = Initramfs::new().folder("bin").folder("dev").folder("proc").folder("sys");
    Ok(archive.file("bin/busybox", &std::fs::read(busybox)?).file("init", script.as_bytes()).finish())
}

fn run(kernel: &Path, initrd: &Path) -> Result<Output, Failed> {
    Ok(Command::new(program::l1_hypervisor()?)
        .args(["run", "--machine", "bochs", "--timeout", "300s", "--append", COMMAND_LINE, "--initrd"])
        .arg(initrd)
        .arg(kernel)
        .stdin(Stdio::null())
        .output()?)
}
