//! The processor in VMX operation: vmcs12 is current, and every access to it is counted.
#![expect(unsafe_code, reason = "VMX operation")]

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use l1_protocol::frame::FIELD_ENCODINGS;
use shadow::operation::SLOTS;
use vmcs::access::VmcsAccess;
use vmcs::field::Field;

use super::page::Pages;
use super::vmx::{self, VmxFailure};
use super::{processor, world_switch};
use crate::context::Context;
use crate::exit::msr::{PASSED_THROUGH, TSC_AUX};
use crate::platform::{CpuidResult, DebugRegister, EntryFailure, Platform, RandomSource, Region};

/// Whether there is a current VMCS, for the report of a failure.
static VMCS_IS_CURRENT: AtomicBool = AtomicBool::new(false);

/// How many VMX instructions L1 has executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccessCounts {
    /// VMREAD.
    pub vmreads: u64,
    /// VMWRITE.
    pub vmwrites: u64,
    /// VMPTRLD.
    pub vmptrlds: u64,
    /// VMCLEAR.
    pub vmclears: u64,
}

/// The processor with a current VMCS. `NOTES` is [`Platform::NOTES`]: everything that runs on it is compiled once with and
/// once without.
#[derive(Debug)]
pub struct CurrentVmcs<const NOTES: bool = false> {
    /// Number of the current VMCS among the `REGIONS`.
    current: usize,
    launched: [bool; NUMBERS],
    regions: [u64; REGIONS],
    counts: AccessCounts,
}

/// vmcs12, and a vmcs13 and a shadow VMCS for each place of the cache.
const REGIONS: usize = 1 + 2 * SLOTS;
/// A power of 2, so that a number is brought into range by an AND.
const NUMBERS: usize = REGIONS.next_power_of_two();

/// Number of a region among the `REGIONS`.
const fn number(region: Region) -> usize {
    match region {
        Region::Vmcs12 => 0,
        Region::Vmcs13(slot) => 1 + slot as usize % SLOTS,
        Region::Shadow(slot) => 1 + SLOTS + slot as usize % SLOTS,
    }
}

/// The regions that nesting needs beside vmcs12, in the order of [`Region`].
static NESTED: Pages<{ REGIONS - 1 }> = Pages::new();

impl<const NOTES: bool> CurrentVmcs<NOTES> {
    /// Clears the VMCS region at `region` and makes it current.
    ///
    /// # Safety
    /// The processor must be in VMX operation; `region` must be the physical address of a page that holds the VMCS
    /// revision identifier and is used for nothing else. There may be only one `CurrentVmcs`.
    ///
    /// # Errors
    /// As the processor says.
    pub unsafe fn load(region: u64) -> Result<Self, VmxFailure> {
        // SAFETY: by this function's contract.
        unsafe {
            vmx::vmclear(region)?;
            vmx::vmptrld(region)?;
        }
        VMCS_IS_CURRENT.store(true, Ordering::Relaxed);
        let mut regions = [region; REGIONS];
        for (index, address) in regions.iter_mut().skip(1).enumerate() {
            *address = NESTED.address(index);
        }
        Ok(Self {
            current: number(Region::Vmcs12),
            launched: [false; NUMBERS],
            regions,
            counts: AccessCounts { vmptrlds: 1, vmclears: 1, ..AccessCounts::default() },
        })
    }

    /// Prepares the regions of nesting: each holds the revision identifier, shadow VMCSs with bit 31 set, and is clear.
    ///
    /// # Safety
    /// Called once, before any of these regions is made current. With `shadow` the processor must offer "VMCS shadowing".
    ///
    /// # Errors
    /// As the processor says.
    pub unsafe fn prepare_nested(&mut self, revision: u32, shadow: bool) -> Result<(), VmxFailure> {
        const SHADOW_INDICATOR: u64 = 1 << 31;
        // SAFETY: by this function's contract nobody else refers to the pages.
        let pages = unsafe { NESTED.get() };
        for (index, page) in pages.iter_mut().enumerate() {
            let is_shadow = index >= SLOTS;
            page[0] = u64::from(revision) | if is_shadow { SHADOW_INDICATOR } else { 0 };
            if is_shadow && !shadow {
                continue;
            }
            // SAFETY: the page holds the revision identifier and is used for nothing else.
            unsafe { vmx::vmclear(NESTED.address(index)) }?;
            self.counts.vmclears += 1;
        }
        Ok(())
    }

    /// The encodings that VMREAD takes, whatever the capabilities promise, in ascending order.
    ///
    /// An encoding that it does not take leaves an error in VM_INSTRUCTION_ERROR and nothing else.
    pub fn fields(&self) -> impl Iterator<Item = u16> {
        // SAFETY: a `CurrentVmcs` exists only in VMX operation.
        (0..FIELD_ENCODINGS).filter(|&encoding| unsafe { vmx::vmread(Field(encoding.into())) }.is_ok())
    }

    /// Makes the launch state clear again; the fields keep their values.
    ///
    /// # Safety
    /// `region` must be the one that this value was made with.
    ///
    /// # Errors
    /// As the processor says.
    pub unsafe fn clear(&mut self, region: u64) -> Result<(), VmxFailure> {
        // SAFETY: by this function's contract.
        unsafe {
            vmx::vmclear(region)?;
            vmx::vmptrld(region)?;
        }
        self.launched = [false; NUMBERS];
        self.counts.vmclears = self.counts.vmclears.wrapping_add(1);
        self.counts.vmptrlds = self.counts.vmptrlds.wrapping_add(1);
        Ok(())
    }

    /// What was counted so far.
    #[must_use]
    pub const fn access_counts(&self) -> AccessCounts {
        self.counts
    }
}

impl<const NOTES: bool> VmcsAccess for CurrentVmcs<NOTES> {
    #[inline(always)]
    fn read(&mut self, field: Field) -> u64 {
        // Counting to 2^64 takes centuries; a check would cost two instructions at every access.
        self.counts.vmreads = self.counts.vmreads.wrapping_add(1);
        // SAFETY: a `CurrentVmcs` exists only in VMX operation.
        unsafe { vmx::vmread_existing(field) }
    }

    #[inline(always)]
    fn write(&mut self, field: Field, value: u64) {
        self.counts.vmwrites = self.counts.vmwrites.wrapping_add(1);
        // SAFETY: a `CurrentVmcs` exists only in VMX operation. Host state and addresses are written by `vmcs12`, `nested`
        // and `start`, with values of L1, and by `oracle` under the promises of crate `l1-oracle`.
        unsafe { vmx::vmwrite_existing(field, value) }
    }
}

impl<const NOTES: bool> Platform for CurrentVmcs<NOTES> {
    const NOTES: bool = NOTES;

    #[inline]
    fn enter(&mut self, context: &mut Context) -> Result<(), EntryFailure> {
        let launched = &mut self.launched[self.current % NUMBERS];
        // SAFETY: `start` has written HOST_RSP and HOST_RIP for the one context there is, and host state and EPT that
        // keep L1 apart from the guest; `nested` writes the same host state to every VMCS that it makes current.
        let flags = unsafe { world_switch::enter_guest(context, *launched) };
        if flags == 0 {
            *launched = true;
            return Ok(());
        }
        const CARRY: u64 = 1;
        if flags & CARRY != 0 {
            Err(EntryFailure::Invalid)
        } else {
            Err(EntryFailure::Valid(self.read(Field::VM_INSTRUCTION_ERROR) as u32))
        }
    }

    #[inline]
    fn make_current(&mut self, region: Region) {
        let number = number(region);
        if number == self.current {
            return;
        }
        self.counts.vmptrlds = self.counts.vmptrlds.wrapping_add(1);
        // SAFETY: in VMX operation; the regions are prepared pages of L1 that are used for nothing else.
        if let Err(failure) = unsafe { vmx::vmptrld(self.regions[number]) } {
            panic!("VMPTRLD of {region:?} failed: {failure:?}");
        }
        self.current = number;
    }

    fn clear(&mut self, region: Region) {
        self.counts.vmclears = self.counts.vmclears.wrapping_add(1);
        // SAFETY: as above.
        if let Err(failure) = unsafe { vmx::vmclear(self.regions[number(region)]) } {
            panic!("VMCLEAR of {region:?} failed: {failure:?}");
        }
        self.launched[number(region)] = false;
    }

    fn address(&self, region: Region) -> u64 {
        self.regions[number(region)]
    }

    fn invalidate_ept(&mut self) {
        // SAFETY: in VMX operation; `fitness` has checked that INVEPT of all contexts is offered.
        let _ = unsafe { vmx::invept_all() };
    }

    #[inline]
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        processor::cpuid(leaf, subleaf)
    }

    #[inline]
    fn time_stamp_counter(&mut self) -> u64 {
        processor::time_stamp_counter()
    }

    fn set_extended_control(&mut self, value: u64) {
        // SAFETY: the guest can execute XSETBV only if the processor has XSAVE; the value was checked against what the
        // processor offers.
        unsafe { processor::set_extended_control(value) };
    }

    fn set_cr2(&mut self, value: u64) {
        processor::write_cr2(value);
    }

    fn debug_register(&mut self, number: DebugRegister) -> u64 {
        match number {
            DebugRegister::Dr0 => processor::read_dr0(),
            DebugRegister::Dr1 => processor::read_dr1(),
            DebugRegister::Dr2 => processor::read_dr2(),
            DebugRegister::Dr3 => processor::read_dr3(),
            DebugRegister::Dr6 => processor::read_dr6(),
        }
    }

    fn set_debug_register(&mut self, number: DebugRegister, value: u64) {
        match number {
            DebugRegister::Dr0 => processor::write_dr0(value),
            DebugRegister::Dr1 => processor::write_dr1(value),
            DebugRegister::Dr2 => processor::write_dr2(value),
            DebugRegister::Dr3 => processor::write_dr3(value),
            DebugRegister::Dr6 => processor::write_dr6(value),
        }
    }

    fn passed_through_msr(&mut self, number: u32) -> u64 {
        assert!(PASSED_THROUGH.contains(&number), "{number:#x} is not the guest's");
        // SAFETY: reading one of these MSRs has no effect, and the caller has seen that the processor has it.
        unsafe { processor::read_msr(number) }
    }

    fn set_passed_through_msr(&mut self, number: u32, value: u64) {
        assert!(PASSED_THROUGH.contains(&number), "{number:#x} is not the guest's");
        // SAFETY: L1 itself depends on none of these MSRs, and the caller has seen that the processor takes the value.
        unsafe { processor::write_msr(number, value) }
    }

    fn tsc_auxiliary(&mut self) -> u64 {
        // SAFETY: RDTSCP exits only where the control for it is set, so the processor has RDTSCP and this MSR.
        unsafe { processor::read_msr(TSC_AUX) }
    }

    fn invalidate_translations(&mut self) {
        // SAFETY: in VMX operation; the control "enable VPID" is offered only with INVVPID, and without it every exit
        // invalidates anyway and the instruction's failure says only that.
        let _ = unsafe { vmx::invvpid_all() };
    }

    fn write_back_caches(&mut self) {
        processor::write_back_caches();
    }

    fn random(&mut self, source: RandomSource) -> Option<u64> {
        // SAFETY: the exit happens only where the processor has the instruction.
        unsafe { processor::random(source) }
    }
}

/// Writes the exit fields of the current VMCS, for the report of a failure.
///
/// # Errors
/// As `out` says.
pub fn describe(out: &mut dyn fmt::Write) -> fmt::Result {
    const FIELDS: &[Field] = &[
        Field::EXIT_REASON,
        Field::EXIT_QUALIFICATION,
        Field::VM_EXIT_INSTRUCTION_LENGTH,
        Field::VM_EXIT_INTERRUPTION_INFORMATION,
        Field::IDT_VECTORING_INFORMATION,
        Field::VM_INSTRUCTION_ERROR,
        Field::GUEST_RIP,
        Field::GUEST_RSP,
        Field::GUEST_RFLAGS,
        Field::GUEST_CR0,
        Field::GUEST_CR3,
        Field::GUEST_CR4,
    ];
    if !VMCS_IS_CURRENT.load(Ordering::Relaxed) {
        return writeln!(out, "no current VMCS");
    }
    for &field in FIELDS {
        // SAFETY: there is a current VMCS, so the processor is in VMX operation.
        if let Ok(value) = unsafe { vmx::vmread(field) } {
            writeln!(out, "{field} {value:#x}")?;
        }
    }
    Ok(())
}
