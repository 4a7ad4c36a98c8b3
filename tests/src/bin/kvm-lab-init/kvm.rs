//! KVM's modules, with the parameters that a job wants.

use std::ffi::CString;
use std::fs::{self, File};
use std::time::Duration;
use std::{io, thread};

use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};
use tests::lab::modules::MODULES;

use crate::console::say;

/// Attempts to remove a module whose last user has only just gone, and the pause between them.
const REMOVE_ATTEMPTS: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// What is loaded.
#[derive(Debug, Default)]
pub struct Modules {
    shadow_vmcs: Option<bool>,
}

impl Modules {
    /// Loads KVM with the wanted parameters; a `kvm_intel` with others is removed before.
    pub fn load(&mut self, shadow_vmcs: bool) -> io::Result<()> {
        if self.shadow_vmcs == Some(shadow_vmcs) {
            return Ok(());
        }
        let Some(((vendor, _), general)) = MODULES.split_last() else { return Ok(()) };
        if self.shadow_vmcs.is_some() {
            remove(vendor)?;
        } else {
            for (name, _) in general {
                insert(name, "")?;
            }
        }
        // `dump_invalid_vmcs` says something only where a VM entry fails, and then it is wanted.
        insert(vendor, &format!("nested=1 enable_shadow_vmcs={} dump_invalid_vmcs=1", u8::from(shadow_vmcs)))?;
        self.shadow_vmcs = Some(shadow_vmcs);
        let parameter = |name: &str| fs::read_to_string(format!("/sys/module/kvm_intel/parameters/{name}")).unwrap_or_default();
        say(&format!(
            "kvm_intel loaded: nested={}, enable_shadow_vmcs={}",
            parameter("nested").trim(),
            parameter("enable_shadow_vmcs").trim()
        ));
        Ok(())
    }
}

fn insert(name: &str, parameters: &str) -> io::Result<()> {
    let failed = |error: io::Error| io::Error::other(format!("cannot load module {name}: {error}"));
    let file = File::open(format!("/modules/{name}.ko")).map_err(failed)?;
    let parameters = CString::new(parameters)?;
    finit_module(&file, &parameters, ModuleInitFlags::empty()).map_err(|error| failed(error.into()))
}

fn remove(name: &str) -> io::Result<()> {
    let kernel_name = CString::new(name.replace('-', "_"))?;
    let mut attempts = REMOVE_ATTEMPTS;
    loop {
        match delete_module(&kernel_name, DeleteModuleFlags::O_NONBLOCK) {
            Ok(()) => return Ok(()),
            Err(Errno::EAGAIN | Errno::EBUSY) if attempts > 0 => attempts -= 1,
            Err(error) => return Err(io::Error::other(format!("cannot remove module {name}: {error}"))),
        }
        thread::sleep(REMOVE_PAUSE);
    }
}
