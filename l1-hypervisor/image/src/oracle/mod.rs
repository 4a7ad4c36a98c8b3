//! The oracle mode: instead of hosting a guest, L1 tries VM entries with near-valid states and sends what the processor says.
//!
//! The states come from crate `l1-oracle`; the host program makes the same ones and asks `vmcs::entry_check` about them.
//!
//! What always holds: a state is tried with VMLAUNCH on a clear VMCS that holds nothing of the case before; memory that a rule looks
//! at is as the generator says when the entry is tried.
#![expect(unsafe_code, reason = "VM entry with states that are wrong on purpose")]

mod memory;
mod trial;

use alloc::vec::Vec;
use core::ptr;

use l1_oracle::{Generator, Machine, machine};
use l1_protocol::boot::BootInformation;
use l1_protocol::frame::{FrameKind, PAYLOAD_MAXIMUM};
use l1_protocol::oracle::Verdict;
use thiserror::Error;
use vmcs::capability::Capabilities;
use zerocopy::IntoBytes;

use crate::channel::Channel;
use crate::context::Context;
use crate::hardware::processor;
use crate::hardware::vmx::{self, VmxFailure};
use crate::hardware::vmx_state::CurrentVmcs;
use crate::page_table::MapError;
use crate::vmcs12::HostState;
use trial::Trial;

/// Verdicts of one frame.
const BATCH: usize = 512;
const _: () = assert!(BATCH * size_of::<Verdict>() <= PAYLOAD_MAXIMUM);

/// CPUID leaf of feature flags, and x2APIC among them.
const FEATURES: u32 = 1;
const FEATURES_X2APIC: u32 = 1 << 21;
/// CPUID leaf of the address widths.
const ADDRESS_WIDTHS: u32 = 0x8000_0008;

/// Physical addresses of regions that VMX operation uses.
#[derive(Debug, Clone, Copy)]
pub struct Regions {
    /// The VMCS.
    pub vmcs: u64,
    /// The VMXON region.
    pub vmxon: u64,
}

/// Why the cases could not be tried.
#[derive(Debug, Clone, Copy, Error)]
pub enum OracleError {
    /// The EPT could not be built.
    #[error("EPT of the oracle: {0}")]
    Ept(#[from] MapError),
    /// VMCLEAR or VMPTRLD failed.
    #[error("VMCLEAR or VMPTRLD failed: {0:?}")]
    Region(VmxFailure),
    /// VM entry failed with a basic exit reason that no failed entry has.
    #[error("case {case}: VM entry failed with the exit reason {reason:#x}")]
    Reason {
        /// Number of the case.
        case: u64,
        /// The exit reason.
        reason: u32,
    },
}

impl From<VmxFailure> for OracleError {
    fn from(failure: VmxFailure) -> Self {
        Self::Region(failure)
    }
}

/// Tries all cases and returns how many there were.
///
/// # Safety
/// The processor must be in VMX operation, with `host` what it runs with, and the VMCS region must hold the revision identifier and
/// be used for nothing else.
///
/// # Errors
/// [`OracleError`].
pub unsafe fn run(
    channel: &mut Channel,
    information: &BootInformation,
    capabilities: &Capabilities,
    host: &HostState,
    regions: Regions,
) -> Result<u64, OracleError> {
    let mut context = Context::new();
    let ept_pointer = memory::build_ept()?;
    // SAFETY: in VMX operation; `fitness` has checked that INVEPT is offered.
    let _ = unsafe { vmx::invept_all() };
    let widths = processor::cpuid(ADDRESS_WIDTHS, 0).eax;
    let machine = Machine {
        scratch: memory::address(),
        vmcs: regions.vmcs,
        vmxon: regions.vmxon,
        ept_pointer,
        physical_address_width: (widths & 0xff).into(),
        linear_address_width: (widths >> 8 & 0xff).into(),
        has_x2apic: (processor::cpuid(FEATURES, 0).ecx & FEATURES_X2APIC != 0).into(),
        host: host_state(host, ptr::from_ref(&context).addr() as u64),
    };
    memory::fill(&machine, capabilities.basic().vmcs_revision_identifier());
    channel.frame(FrameKind::OracleMachine, &[machine.as_bytes()]);
    channel.flush();

    // SAFETY: by this function's contract.
    let vmcs = unsafe { CurrentVmcs::load(regions.vmcs)? };
    let generator = Generator::new(&machine, capabilities, information.oracle_seed);
    let mut trial = Trial::new(vmcs, &machine, capabilities);
    let mut verdicts = Vec::with_capacity(BATCH);
    let mut tried = 0;
    while tried < information.oracle_cases {
        // SAFETY: HOST_RSP is the address of the context, the rest is as the generator promises.
        let verdict = unsafe { trial.run(&generator, information.oracle_first.wrapping_add(tried), &mut context)? };
        verdicts.push(verdict);
        tried += 1;
        if verdicts.len() == BATCH || tried == information.oracle_cases {
            channel.frame(FrameKind::OracleVerdicts, &[verdicts.as_bytes()]);
            channel.flush();
            verdicts.clear();
        }
    }
    Ok(tried)
}

fn host_state(host: &HostState, rsp: u64) -> machine::HostState {
    machine::HostState {
        cr0: host.cr0,
        cr3: host.cr3,
        cr4: host.cr4,
        efer: host.efer,
        pat: host.pat,
        code_selector: host.code_selector.into(),
        data_selector: host.data_selector.into(),
        task_selector: host.task_selector.into(),
        task_base: host.task_base,
        gdtr_base: host.gdtr_base,
        idtr_base: host.idtr_base,
        rsp,
        rip: host.rip,
    }
}
