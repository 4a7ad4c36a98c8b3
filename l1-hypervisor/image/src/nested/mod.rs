//! Nested VMX: L2 as a guest hypervisor that runs L3.
//!
//! What always holds: while L2 runs vmcs12 is current, while L3 runs vmcs13 is ([`Nested::running`] says which); between
//! the two only [`entry`] and [`exit`] switch. Every other handler works on whichever VMCS is current, so what L1 does on
//! behalf of a guest it does for L3 by the same code as for L2.
//!
//! The rules are in crate `shadow`; here are the hands: VMCS regions, memory, the clock, and L2's registers.

mod activity;
pub mod control_register;
pub mod entry;
pub mod events;
mod exception;
pub mod exit;
pub mod field_access;
pub mod guarded;
pub mod instruction;
pub mod interrupt;
mod linked;
pub mod look_ahead;
pub mod memory;
pub mod msr_lists;
pub mod operand;
mod pdptes;
pub mod physical;
pub mod regions;
pub mod shadowing;
mod virtual_apic;
mod vm_function;

use alloc::boxed::Box;

use shadow::ept::Composition;
use shadow::exit::HostState;
use shadow::field_set::FieldSet;
use shadow::merge::{Outer, Owned};
use shadow::operation::{Operation, SLOTS};
use vmcs::capability::Capabilities;
use vmcs::controls::PrimaryProcessorBased;
use vmcs::field::Field;

use look_ahead::LookAhead;

use crate::exit::End;
use crate::platform::{Platform, Region};
use crate::vcpu::Vcpu;
use crate::vmcs12::{self, CR0_CD, CR0_HOST_OWNED, CR0_NW, CR0_PE, CR0_PG};

/// What a virtual processor needs to be a guest hypervisor's.
#[derive(Debug)]
pub struct Nested {
    /// What L2 may read in its capability MSRs, which is what L1 does for it.
    pub offered: Capabilities,
    /// L2's VMX state.
    pub operation: Operation,
    /// EPT13.
    pub composition: Composition<'static>,
    /// The slot whose vmcs13 is current, while L3 runs.
    running: Option<usize>,
    regions: regions::Regions,
    /// The primary controls of vmcs12 while L3 runs.
    primary12: PrimaryProcessorBased,
    /// Those of vmcs13 as the last merge has made them.
    primary13: PrimaryProcessorBased,
    /// Time-stamp counter at which L2's VMX-preemption timer expires.
    timer: Option<u64>,
    /// Whether L2 was in IA-32e mode at its VMXON; it cannot change before VMXOFF.
    long_mode: bool,
    /// The controls of vmcs12 that L3 is to run with, too.
    base: vmcs12::Controls,
    /// Whether vmcs12 holds L2's registers as the last exit of L3 has loaded them, but for those that L2 changes all the
    /// time; what L2 does to the others goes through [`guarded`].
    host_is_loaded: bool,
    /// What that exit has loaded.
    loaded: HostState,
    /// From the vmcs23 in which slot.
    loaded_from: Option<usize>,
    /// L2's interruptibility state when it entered L3.
    interruptibility12: u64,
    /// Whether the translations of all VPIDs were dropped at the last exit to L2, and L3 has not run since.
    translations_dropped: bool,
    /// L2's VPID of the L3 that ran last.
    vpid23: u32,
    /// Fields that no rule of VM entry looks at.
    free: FieldSet,
    /// If L1 executes what follows a VMREAD or VMWRITE of L2.
    pub look_ahead: Option<Box<LookAhead>>,
    /// The end of the run, if there is no going on.
    end: Option<End>,
}

/// What of L1 goes into every vmcs13.
#[derive(Debug, Clone, Copy)]
pub struct Constants {
    /// L1's host state, with the stack pointer.
    pub host: vmcs12::HostState,
    /// Physical address of the I/O bitmaps, both of all ones.
    pub io_bitmaps: [u64; 2],
    /// EPT pointer of L2.
    pub ept_pointer: u64,
    /// Exceptions that exit for L1.
    pub exception_bitmap: u32,
    /// First byte of L2's memory.
    pub memory_base: u64,
}

impl Nested {
    /// Outside VMX operation.
    #[must_use]
    pub fn new(
        offered: Capabilities,
        physical_address_width: u32,
        composition: Composition<'static>,
        msr_bitmap: regions::MergedBitmap,
        constants: Constants,
        hardware: Option<regions::Hardware>,
        base: vmcs12::Controls,
    ) -> Self {
        Self {
            offered,
            operation: Operation::new(&offered, physical_address_width),
            composition,
            running: None,
            regions: regions::Regions::new(msr_bitmap, constants, hardware, base.secondary),
            long_mode: false,
            base,
            primary12: PrimaryProcessorBased::empty(),
            primary13: PrimaryProcessorBased::empty(),
            timer: None,
            host_is_loaded: false,
            loaded: HostState::default(),
            loaded_from: None,
            interruptibility12: 0,
            translations_dropped: false,
            vpid23: entry::NO_VPID,
            free: free_fields(),
            look_ahead: None,
            end: None,
        }
    }

    /// Whether L3 runs, or would.
    #[must_use]
    pub const fn runs_l3(&self) -> bool {
        self.running.is_some()
    }

    /// VMXON and VMPTRLD, for tests.
    #[cfg(test)]
    pub(crate) fn turn_on<P: Platform>(&mut self, vcpu: &mut Vcpu<'_, P>, vmxon_region: u64, region: u64) {
        use shadow::operation::Reply;
        let mut world = regions::World { memory: &mut vcpu.memory, platform: &mut vcpu.platform, regions: &mut self.regions };
        assert_eq!(self.operation.vmxon(vmxon_region, &mut world), Reply::Succeed);
        assert_eq!(self.operation.vmptrld(region, &mut world), Reply::Succeed);
    }

    /// Hardware VMCS shadowing of the current VMCS, for tests.
    #[cfg(test)]
    pub(crate) fn turn_shadowing_on<P: Platform>(&mut self, vcpu: &mut Vcpu<'_, P>, hardware: regions::Hardware) {
        use shadow::operation::Machine as _;
        self.regions.hardware = Some(hardware);
        let slot = self.operation.current_slot().unwrap_or(0);
        let mut world = regions::World { memory: &mut vcpu.memory, platform: &mut vcpu.platform, regions: &mut self.regions };
        if let Some(vmcs23) = self.operation.current() {
            world.activate(slot, vmcs23);
        }
    }

    /// The end of the run, if L2 or L3 has got to where there is no going on.
    #[must_use]
    pub const fn end(&self) -> Option<End> {
        self.end
    }

    /// Ends the run before anything runs again. The first end counts.
    #[cold]
    fn end_run<P: Platform>(&mut self, vcpu: &mut Vcpu<'_, P>, end: End) {
        self.end = self.end.or(Some(end));
        // The next thing the loop does is to look at the devices, and before them at this.
        vcpu.devices_changed();
    }

    /// What is noted down for the recorder.
    pub const fn events(&mut self) -> &mut events::Events {
        &mut self.regions.events
    }

    /// When L2's VMX-preemption timer ends L3's run.
    #[must_use]
    pub const fn timer(&self) -> Option<u64> {
        self.timer
    }
}

/// The fields that no rule of VM entry looks at: a change of them needs no check.
fn free_fields() -> FieldSet {
    let mut free = FieldSet::ALL;
    for rule in vmcs::entry_check::groups().flat_map(|group| group.rules) {
        for field in rule.fields {
            free.remove(*field);
        }
    }
    free
}

/// What L1 wants of vmcs13.
fn outer<P: Platform>(vcpu: &Vcpu<'_, P>, nested: &Nested) -> Outer {
    Outer {
        pin_based: nested.base.pin_based,
        primary: nested.base.primary,
        secondary: nested.base.secondary,
        entry: nested.base.entry,
        exception_bitmap: nested.regions.constants.exception_bitmap,
        owned: owned(vcpu),
        cr0_required: vcpu.capabilities.cr0_fixed().required & !(CR0_PE | CR0_PG),
        cr0_allowed: vcpu.capabilities.cr0_fixed().allowed & !(CR0_CD | CR0_NW),
        cr4_required: vcpu.capabilities.cr4_fixed().required,
        tpr_shadow: false,
        tsc_offset: vcpu.tsc_offset,
    }
}

fn owned<P>(vcpu: &Vcpu<'_, P>) -> Owned {
    Owned { cr0: CR0_HOST_OWNED, cr4: !vcpu.features.cr4 }
}

/// Gives `work` the state of nesting beside the rest of the virtual processor; `None` if L2 has no VMX.
pub fn with<P: Platform, T>(vcpu: &mut Vcpu<'_, P>, work: impl FnOnce(&mut Vcpu<'_, P>, &mut Nested) -> T) -> Option<T> {
    let mut nested = vcpu.nested.take()?;
    let result = work(vcpu, &mut nested);
    vcpu.nested = Some(nested);
    Some(result)
}

/// Makes a VMCS current and sets its preemption timer to what is left.
fn switch<P: Platform>(vcpu: &mut Vcpu<'_, P>, region: Region) {
    vcpu.platform.make_current(region);
}

/// The slots that there are, as regions.
fn vmcs13(slot: usize) -> Region {
    debug_assert!(slot < SLOTS, "the cache has no more");
    Region::Vmcs13(slot as u8)
}

/// L2's EFER, PAT and debug controls, for what L3 inherits.
fn inherited<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> shadow::merge::Inherited {
    let mut read = |field| vcpu.platform.read(field);
    shadow::merge::Inherited {
        efer: read(Field::GUEST_IA32_EFER),
        pat: read(Field::GUEST_IA32_PAT),
        debugctl: read(Field::GUEST_IA32_DEBUGCTL),
        dr7: read(Field::GUEST_DR7),
    }
}

#[cfg(test)]
#[path = "tests/cve_classes.rs"]
mod cve_classes;

#[cfg(test)]
#[path = "tests/round_trip.rs"]
mod round_trip;
