//! Whether KVM here can host L1, and if not, why and what to do about it.

use std::fs;
use std::io;
use std::path::Path;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;
use vmcs::capability::{Capabilities, MissingMsr};
use vmcs::controls::SecondaryProcessorBased;

/// CPUID.1:ECX.VMX.
const CPUID_VMX: u32 = 1 << 5;
const DEVICE: &str = "/dev/kvm";

/// Why KVM cannot host L1.
#[derive(Debug, Error)]
pub enum KvmProblem {
    /// There is no device, although the processor has VMX or SVM.
    #[error(
        "{DEVICE} does not exist, though the processor offers {0}: the kernel module is not loaded, or the firmware has switched it off"
    )]
    NoModule(&'static str),
    /// There is no device, and the processor offers nothing to make one.
    #[error("{DEVICE} does not exist, and the processor (or the hypervisor that runs this machine) offers no VMX")]
    NoHardware,
    /// The user may not open the device.
    #[error("{DEVICE} may not be opened by this user")]
    NotPermitted,
    /// The device cannot be opened for another reason.
    #[error("{DEVICE} cannot be opened: {0}")]
    Open(io::Error),
    /// The kernel's KVM is not the one that this program knows.
    #[error("{DEVICE} has version {0} of KVM's interface, this program needs {KVM_API_VERSION}")]
    ApiVersion(i32),
    /// KVM_CREATE_VM failed.
    #[error("KVM cannot create a virtual machine: {0}")]
    NoVirtualMachine(io::Error),
    /// KVM_GET_SUPPORTED_CPUID failed.
    #[error("KVM does not tell the CPUID it supports: {0}")]
    NoCpuid(io::Error),
    /// KVM runs without the processor's virtualization.
    #[error("this KVM is paravirtual (kvm_pvm): it runs guests without the processor's virtualization and offers them no VMX")]
    Paravirtual,
    /// The processor is not Intel's.
    #[error("the processor is from {0}: its KVM offers guests SVM, not VMX")]
    NotIntel(String),
    /// kvm_intel hides VMX from its guests.
    #[error("nested virtualization is off (/sys/module/kvm_intel/parameters/nested is {0:?})")]
    NestedOff(String),
    /// No VMX for guests, and nothing says why.
    #[error("KVM offers its guests no VMX (CPUID.1:ECX.VMX is 0), and nothing here says why")]
    NoVmx,
    /// KVM offers VMX but not its capability MSRs.
    #[error("KVM offers its guests VMX, but {0}")]
    Capabilities(#[from] MissingMsr),
    /// KVM's VMX lacks something that L1 cannot do without.
    #[error("the VMX that KVM offers its guests lacks \"{0}\"")]
    Control(&'static str),
}

impl KvmProblem {
    /// What a user can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoModule("SVM") | Self::NotIntel(_) => "none on this processor; use --machine bochs",
            Self::NoModule(_) => {
                "`modprobe kvm_intel nested=1` as root; if that fails, switch virtualization on in the firmware; \
                 in a container, hand the device in (--device /dev/kvm)"
            }
            Self::NoHardware => {
                "switch on nested virtualization in the hypervisor that runs this machine, or use --machine bochs"
            }
            Self::NotPermitted => {
                "`usermod -aG kvm USER` as root and log in again; or for all users a udev rule \
                 (KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0666\", OPTIONS+=\"static_node=kvm\") in /etc/udev/rules.d/99-kvm.rules, \
                 then `udevadm control --reload-rules` and `udevadm trigger --name-match=kvm`"
            }
            Self::Open(_) => "see the kernel's log (dmesg)",
            Self::ApiVersion(_) | Self::NoCpuid(_) | Self::Capabilities(_) => "a newer kernel, or --machine bochs",
            Self::NoVirtualMachine(_) => {
                "end other hypervisors that use the processor's virtualization (VirtualBox, VMware), see dmesg"
            }
            Self::Paravirtual => "a machine whose hypervisor offers nested virtualization with VMX, or --machine bochs",
            Self::NestedOff(_) => {
                "`modprobe -r kvm_intel` and `modprobe kvm_intel nested=1` as root; for good: \
                 `options kvm_intel nested=1` in /etc/modprobe.d/kvm.conf"
            }
            Self::NoVmx => "nested virtualization in all hypervisors below this machine, or --machine bochs",
            Self::Control(_) => "kvm_intel with ept=1 and unrestricted_guest=1 on a processor that has both, or --machine bochs",
        }
    }
}

/// Whether L1 can run in a KVM guest here.
///
/// # Errors
/// Why not.
pub fn check() -> Result<(), KvmProblem> {
    let kvm = Kvm::new().map_err(|error| not_opened(error.into(), hardware()))?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(KvmProblem::ApiVersion(version));
    }
    kvm.create_vm().map_err(|error| KvmProblem::NoVirtualMachine(error.into()))?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|error| KvmProblem::NoCpuid(error.into()))?;
    if !offers_vmx(&cpuid) {
        return Err(without_vmx(&Clues::collect(&cpuid, Path::new("/sys/module"))));
    }
    // Kernels before 4.17 do not tell; there L1 finds out.
    if kvm.check_extension(Cap::GetMsrFeatures) {
        fit(&Capabilities::read(|number| read_feature_msr(&kvm, number))?)?;
    }
    Ok(())
}

/// The virtualization that the processor this program runs on offers, by its name.
fn hardware() -> Option<&'static str> {
    let cpuid = raw_cpuid::CpuId::new();
    if cpuid.get_feature_info().is_some_and(|features| features.has_vmx()) {
        Some("VMX")
    } else {
        cpuid.get_svm_info().map(|_| "SVM")
    }
}

fn not_opened(error: io::Error, hardware: Option<&'static str>) -> KvmProblem {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::PermissionDenied, _) => KvmProblem::NotPermitted,
        // A device file that no driver serves.
        (io::ErrorKind::NotFound, _) | (_, Some(nix::libc::ENXIO | nix::libc::ENODEV)) => {
            hardware.map_or(KvmProblem::NoHardware, KvmProblem::NoModule)
        }
        _ => KvmProblem::Open(error),
    }
}

fn offers_vmx(cpuid: &CpuId) -> bool {
    cpuid.as_slice().iter().any(|entry| entry.function == 1 && entry.ecx & CPUID_VMX != 0)
}

/// What tells why there is no VMX.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clues {
    /// The processor's vendor, as CPUID leaf 0 names it.
    vendor: String,
    /// Whether the paravirtual KVM is loaded.
    has_kvm_pvm: bool,
    /// kvm_intel's parameter `nested`, if the module is loaded.
    nested: Option<String>,
}

impl Clues {
    fn collect(cpuid: &CpuId, modules: &Path) -> Self {
        let vendor = cpuid.as_slice().iter().find(|entry| entry.function == 0).map_or_else(String::new, |leaf| {
            let bytes = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self {
            vendor,
            has_kvm_pvm: modules.join("kvm_pvm").exists(),
            nested: fs::read_to_string(modules.join("kvm_intel/parameters/nested")).ok().map(|text| text.trim().to_owned()),
        }
    }
}

fn without_vmx(clues: &Clues) -> KvmProblem {
    match &clues.nested {
        // A kernel may hold both; the one with a parameter has claimed the processor.
        Some(nested) if !matches!(nested.as_str(), "Y" | "1") => KvmProblem::NestedOff(nested.clone()),
        None if clues.has_kvm_pvm => KvmProblem::Paravirtual,
        None if clues.vendor != "GenuineIntel" => KvmProblem::NotIntel(clues.vendor.clone()),
        _ => KvmProblem::NoVmx,
    }
}

/// A capability MSR as KVM gives it to its guests.
fn read_feature_msr(kvm: &Kvm, number: u32) -> Option<u64> {
    let mut list = Msrs::from_entries(&[kvm_msr_entry { index: number, ..kvm_msr_entry::default() }]).ok()?;
    match kvm.get_msrs(&mut list) {
        Ok(1) => list.as_slice().first().map(|entry| entry.data),
        _ => None,
    }
}

/// Whether the two things are there that KVM lacks on old processors or by its parameters. The rest L1 checks itself.
fn fit(capabilities: &Capabilities) -> Result<(), KvmProblem> {
    let needs = [
        (SecondaryProcessorBased::ENABLE_EPT, "enable EPT"),
        (SecondaryProcessorBased::UNRESTRICTED_GUEST, "unrestricted guest"),
    ];
    match needs.into_iter().find(|(control, _)| !capabilities.supports_secondary(*control)) {
        Some((_, name)) => Err(KvmProblem::Control(name)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;
    use vmcs::msr;

    fn error(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn why_the_device_cannot_be_opened() {
        use nix::libc::{EACCES, EIO, ENODEV, ENOENT};
        assert!(matches!(not_opened(error(EACCES), Some("VMX")), KvmProblem::NotPermitted));
        assert!(matches!(not_opened(error(ENOENT), Some("VMX")), KvmProblem::NoModule("VMX")));
        assert!(matches!(not_opened(error(ENODEV), None), KvmProblem::NoHardware));
        assert!(matches!(not_opened(error(EIO), None), KvmProblem::Open(_)));
    }

    #[test]
    fn why_there_is_no_vmx() {
        let clues = |vendor: &str, has_kvm_pvm, nested: Option<&str>| Clues {
            vendor: vendor.to_owned(),
            has_kvm_pvm,
            nested: nested.map(str::to_owned),
        };
        let intel = "GenuineIntel";
        assert!(matches!(without_vmx(&clues(intel, false, Some("N"))), KvmProblem::NestedOff(_)));
        assert!(matches!(without_vmx(&clues(intel, false, Some("0"))), KvmProblem::NestedOff(_)));
        assert!(matches!(without_vmx(&clues(intel, false, Some("Y"))), KvmProblem::NoVmx));
        assert!(matches!(without_vmx(&clues(intel, true, None)), KvmProblem::Paravirtual));
        assert!(matches!(without_vmx(&clues("AuthenticAMD", true, None)), KvmProblem::Paravirtual));
        assert!(matches!(without_vmx(&clues("AuthenticAMD", false, None)), KvmProblem::NotIntel(v) if v == "AuthenticAMD"));
        assert!(matches!(without_vmx(&clues(intel, false, None)), KvmProblem::NoVmx));
    }

    #[test]
    fn clues_come_from_cpuid_and_sysfs() {
        let folder = tempfile::tempdir().unwrap();
        let [b, d, c] = [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes);
        let entry = |function, ecx| kvm_cpuid_entry2 { function, ebx: b, edx: d, ecx, ..kvm_cpuid_entry2::default() };
        let cpuid = CpuId::from_entries(&[entry(0, c), entry(1, 0)]).unwrap();
        assert!(!offers_vmx(&cpuid));
        let expected = Clues { vendor: "GenuineIntel".to_owned(), has_kvm_pvm: false, nested: None };
        assert_eq!(Clues::collect(&cpuid, folder.path()), expected);
        fs::create_dir_all(folder.path().join("kvm_intel/parameters")).unwrap();
        fs::create_dir(folder.path().join("kvm_pvm")).unwrap();
        fs::write(folder.path().join("kvm_intel/parameters/nested"), "N\n").unwrap();
        let expected = Clues { has_kvm_pvm: true, nested: Some("N".to_owned()), ..expected };
        assert_eq!(Clues::collect(&cpuid, folder.path()), expected);
        assert!(offers_vmx(&CpuId::from_entries(&[entry(1, CPUID_VMX)]).unwrap()));
    }

    #[test]
    fn ept_and_unrestricted_guest_are_needed() {
        let with_secondary = |allowed: u64| {
            Capabilities::read(|number| {
                Some(match number {
                    msr::IA32_VMX_PROCBASED_CTLS => 1 << 63,
                    msr::IA32_VMX_PROCBASED_CTLS2 => allowed << 32,
                    _ => 0,
                })
            })
            .unwrap()
        };
        assert!(matches!(fit(&with_secondary(0x80)), Err(KvmProblem::Control("enable EPT"))));
        assert!(matches!(fit(&with_secondary(0x02)), Err(KvmProblem::Control("unrestricted guest"))));
        assert!(fit(&with_secondary(0x82)).is_ok());
        assert!(matches!(Capabilities::read(|_| None).map_err(KvmProblem::from), Err(KvmProblem::Capabilities(_))));
    }
}
