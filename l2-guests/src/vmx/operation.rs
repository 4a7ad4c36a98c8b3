//! Into VMX operation and out of it: what the processor must have, IA32_FEATURE_CONTROL, CR0, CR4, VMXON.
#![expect(unsafe_code, reason = "VMXON, and registers that VMX operation wants otherwise")]

use vmcs::capability::Capabilities;

use super::instruction::{Answer, vmclear, vmxoff, vmxon};
use super::region;
use crate::control::{cr0, cr4, read_cr0, read_cr4, write_cr0, write_cr4};
use crate::outcome::must_succeed;
use crate::{Failure, Outcome, cpuid, ensure, fail, msr, println};

/// IA32_FEATURE_CONTROL (SDM 3C 23.7 "Enabling and Entering VMX Operation").
const FEATURE_CONTROL: u32 = vmcs::msr::IA32_FEATURE_CONTROL;
/// Its lock bit.
const LOCK: u64 = 1;
/// VMXON outside SMX operation.
const OUTSIDE_SMX: u64 = 1 << 2;
/// Bit 31 of a VMCS revision identifier: a shadow VMCS.
pub const SHADOW: u32 = 1 << 31;

/// A processor in VMX operation.
#[derive(Debug, Clone, Copy)]
pub struct Vmx {
    /// What it offers.
    pub capabilities: Capabilities,
    /// Where its VMXON region is.
    pub vmxon_region: u64,
}

/// Whether CPUID shows VMX; says so if not.
///
/// # Errors
/// If it does not.
pub fn check_offered() -> Outcome {
    ensure!(cpuid::VMX.is_shown(), "this processor has no VMX: CPUID.1:ECX.VMX is 0");
    Ok(())
}

/// The capability MSRs.
///
/// # Errors
/// If one is missing that must be there; it has been printed.
pub fn capabilities() -> Result<Capabilities, Failure> {
    match Capabilities::read(|number| msr::read(number).ok()) {
        Ok(capabilities) => Ok(capabilities),
        Err(missing) => {
            println!("FAILED: {missing}");
            Err(Failure::CHECK)
        }
    }
}

/// Allows VMXON by IA32_FEATURE_CONTROL, unless that is locked.
///
/// # Errors
/// If it is locked the other way; it has been printed.
pub fn allow() -> Outcome {
    let Ok(value) = msr::read(FEATURE_CONTROL) else {
        fail!("this processor has no VMX that can be used: no IA32_FEATURE_CONTROL")
    };
    if value & LOCK == 0 {
        // SAFETY: allows VMXON, nothing else.
        must_succeed("WRMSR of IA32_FEATURE_CONTROL", unsafe { msr::write(FEATURE_CONTROL, LOCK | OUTSIDE_SMX) })?;
    } else {
        ensure!(
            value & OUTSIDE_SMX != 0,
            "this processor has no VMX that can be used: IA32_FEATURE_CONTROL is locked without it"
        );
    }
    Ok(())
}

/// Gives CR0 and CR4 the values that VMX operation wants, VMXE included.
///
/// # Errors
/// If the processor refuses them; it has been printed.
pub fn prepare_control_registers(capabilities: &Capabilities) -> Outcome {
    let wanted = |value, fixed: vmcs::capability::AllowedSettings| (value | fixed.required) & fixed.allowed;
    // SAFETY: adds NE, and keeps what is on.
    must_succeed("CR0", unsafe { write_cr0(wanted(read_cr0() | cr0::NE, capabilities.cr0_fixed())) })?;
    // SAFETY: adds VMXE, and keeps what is on.
    must_succeed("CR4", unsafe { write_cr4(wanted(read_cr4() | cr4::VMXE, capabilities.cr4_fixed())) })
}

/// A page with a VMCS revision identifier (or VMXON region) in its first 4 bytes.
#[must_use]
pub fn region_with_revision(revision: u32) -> u64 {
    let page = region::allocate(1);
    region::write(page, revision.into());
    page
}

/// Enters VMX operation.
///
/// # Errors
/// If the processor has no VMX, or refuses; it has been printed.
pub fn enable() -> Result<Vmx, Failure> {
    check_offered()?;
    allow()?;
    let capabilities = capabilities()?;
    prepare_control_registers(&capabilities)?;
    let vmxon_region = region_with_revision(capabilities.basic().vmcs_revision_identifier());
    // SAFETY: the region is used for nothing else.
    let answer = unsafe { vmxon(vmxon_region) };
    ensure!(answer == Answer::Succeed, "VMXON: {answer}");
    Ok(Vmx { capabilities, vmxon_region })
}

impl Vmx {
    /// The VMCS revision identifier.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.capabilities.basic().vmcs_revision_identifier()
    }

    /// A new VMCS: cleared, not current.
    ///
    /// # Errors
    /// If VMCLEAR fails; it has been printed.
    pub fn new_vmcs(&self) -> Result<u64, Failure> {
        let page = region_with_revision(self.revision());
        // SAFETY: the region is used for nothing else.
        let answer = unsafe { vmclear(page) };
        ensure!(answer == Answer::Succeed, "VMCLEAR of a new VMCS: {answer}");
        Ok(page)
    }

    /// Leaves VMX operation.
    ///
    /// # Errors
    /// If VMXOFF fails; it has been printed.
    pub fn disable(self) -> Outcome {
        // SAFETY: no VMCS is used after it.
        let answer = unsafe { vmxoff() };
        ensure!(answer == Answer::Succeed, "VMXOFF: {answer}");
        // SAFETY: VMX operation is over.
        must_succeed("CR4 without VMXE", unsafe { write_cr4(read_cr4() & !cr4::VMXE) })
    }
}
