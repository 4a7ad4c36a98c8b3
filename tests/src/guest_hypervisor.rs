//! Debian's kernel with KVM as a guest hypervisor: an initramfs for L2 that loads KVM's modules and runs programs on
//! `/dev/kvm`.
//!
//! The guests of that KVM are L3 under our L1. The same programs in the KVM lab, where KVM is the only hypervisor, shows
//! what they must do.

use std::fs;
use std::path::Path;

use crate::lab::LabError;
use crate::lab::initramfs::Initramfs;
use crate::lab::modules::{self, MODULES};
use crate::packages::{self, LinuxKernel};

/// The module that has the processor's side of KVM, and the parameters.
const KVM_INTEL: &str = "kvm-intel";
/// What the kernel is told so that it starts quickly and prints the same in every run.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet nokaslr mitigations=off cryptomgr.notests";
/// The line that the init script prints after each run, before the program's exit status.
pub const STATUS: &str = "the program's exit status is ";

/// A run of a program in the guest.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Parameters with which `kvm_intel` is loaded for it.
    pub parameters: &'a str,
    /// The program, and its arguments.
    pub command: &'a str,
}

/// The initramfs: busybox, KVM's modules, and programs in its root folder. The init script makes the runs one after the
/// other, hands the exit status of the last run that failed, or 0, to L1 over the second serial line, and switches the
/// machine off.
///
/// # Errors
/// [`LabError`].
pub fn initramfs(kernel: &LinuxKernel, programs: &[&Path], runs: &[Run<'_>]) -> Result<Vec<u8>, LabError> {
    let mut archive = ["bin", "dev", "proc", "sys", "tmp", "modules"].into_iter().fold(Initramfs::new(), Initramfs::folder);
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         for program in mount insmod rmmod poweroff; do /bin/busybox ln -s busybox /bin/$program; done\n\
         mount -t devtmpfs none /dev; mount -t proc none /proc; mount -t sysfs none /sys\n\
         failure=0\n",
    );
    for (name, file) in MODULES {
        archive = archive.file(&format!("modules/{name}.ko"), &modules::strip(&kernel.modules.join(file))?);
        if *name != KVM_INTEL {
            script.push_str(&format!("insmod /modules/{name}.ko || echo 'no module {name}'\n"));
        }
    }
    for Run { parameters, command } in runs {
        script.push_str(&format!(
            "echo '{KVM_INTEL} {parameters}: {command}'\n\
             insmod /modules/{KVM_INTEL}.ko {parameters} || echo 'no module {KVM_INTEL}'\n\
             /{command}; status=$?\n\
             echo \"{STATUS}$status\"; [ $status = 0 ] || failure=$status\n\
             rmmod {KVM_INTEL}\n"
        ));
    }
    script.push_str("echo $failure > /dev/ttyS1\npoweroff -f\n");
    let busybox = packages::busybox()?;
    let busybox = fs::read(&busybox).map_err(|error| LabError::File { file: busybox.display().to_string(), error })?;
    archive = archive.file("bin/busybox", &busybox);
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive = archive.file(&name, &modules::strip(program)?);
    }
    Ok(archive.file("init", script.as_bytes()).finish())
}
