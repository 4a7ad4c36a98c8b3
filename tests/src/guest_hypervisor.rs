//! Debian's kernel with KVM as a guest hypervisor: an initramfs for L2 that loads KVM's modules and runs a program on
//! `/dev/kvm`.
//!
//! The guests of that KVM are L3 under our L1. The same program on the KVM lab, where KVM is the only hypervisor, shows
//! what they must do.

use std::fs;
use std::path::Path;

use crate::lab::LabError;
use crate::lab::initramfs::Initramfs;
use crate::lab::modules::{self, MODULES};
use crate::packages::{self, LinuxKernel};

/// What the kernel is told so that it starts quickly and prints the same in every run.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet nokaslr mitigations=off cryptomgr.notests";
/// The line that the init script prints last, before the exit status of the program.
pub const STATUS: &str = "the program's exit status is ";

/// The initramfs: busybox, KVM's modules with these parameters of `kvm_intel`, and the program. The init script hands
/// the program's exit status to L1 over the second serial line and switches the machine off.
///
/// # Errors
/// [`LabError`].
pub fn initramfs(kernel: &LinuxKernel, program: &Path, parameters: &str) -> Result<Vec<u8>, LabError> {
    let mut archive = ["bin", "dev", "proc", "sys", "modules"].into_iter().fold(Initramfs::new(), Initramfs::folder);
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         for program in mount insmod poweroff; do /bin/busybox ln -s busybox /bin/$program; done\n\
         mount -t devtmpfs none /dev; mount -t proc none /proc; mount -t sysfs none /sys\n",
    );
    for (place, (name, file)) in MODULES.iter().enumerate() {
        archive = archive.file(&format!("modules/{name}.ko"), &modules::strip(&kernel.modules.join(file))?);
        let parameters = if place + 1 == MODULES.len() { parameters } else { "" };
        script.push_str(&format!("insmod /modules/{name}.ko {parameters} || echo 'no module {name}'\n"));
    }
    script.push_str(&format!("/program\nstatus=$?\necho \"{STATUS}$status\"\necho $status > /dev/ttyS1\npoweroff -f\n"));
    let busybox = packages::busybox()?;
    let busybox = fs::read(&busybox).map_err(|error| LabError::File { file: busybox.display().to_string(), error })?;
    archive = archive.file("bin/busybox", &busybox).file("program", &modules::strip(program)?);
    Ok(archive.file("init", script.as_bytes()).finish())
}
