//! The MSR areas of vmcs23: loaded for L3 at an entry, stored for L3 and loaded for L2 at an exit.
//!
//! What always holds: a list does to an MSR what RDMSR and WRMSR of the guest would do, through the same table or to the same
//! register of the processor; the processor itself never sees a list of L2's. IA32_TIME_STAMP_COUNTER in a list is L2's counter:
//! lists are gone through in VMX root operation, where no TSC offset counts.
//!
//! Source: SDM 3C 26.4 "Loading MSRs", 27.4 "Saving MSRs", 27.6 "Loading MSRs", 27.7 "VMX Aborts".

use l1_protocol::end::EndReason;
use shadow::exit::ExitInformation;
use shadow::field_set::FieldSet;
use shadow::msr_list::{MsrList, MsrMachine};
use shadow::vmcs23::Vmcs23;
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;
use vmcs::msr;

use super::{Nested, exit};
use crate::exit::msr::{CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE, LSTAR, PASSED_THROUGH, SYSCALL_MASK, TSC_AUX};
use crate::exit::{End, EndText};
use crate::guest_memory::GuestPhysical;
use crate::guest_paging::is_canonical;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// Bit 31 of the exit reason: VM-entry failure.
const ENTRY_FAILURE: u32 = 1 << 31;

/// Fields of vmcs13 that a list can change.
const LOADABLE: FieldSet = FieldSet::of(&[
    Field::GUEST_IA32_SYSENTER_CS,
    Field::GUEST_IA32_SYSENTER_ESP,
    Field::GUEST_IA32_SYSENTER_EIP,
    Field::GUEST_IA32_DEBUGCTL,
    Field::GUEST_IA32_PAT,
    Field::GUEST_IA32_EFER,
]);

/// A VMX abort, by its indicator. The processor shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Abort {
    /// An MSR of the VM-exit MSR-store area could not be saved.
    SavingGuestMsrs = 1,
    /// A PDPTE of L2's host CR3 has reserved bits set.
    LoadingHostPdptes = 2,
    /// An MSR of the VM-exit MSR-load area could not be loaded.
    LoadingHostMsrs = 4,
}

impl Abort {
    /// What that means for the run. The machine has one processor, so nobody is left to go on.
    #[must_use]
    pub const fn end(self) -> End {
        let text = match self {
            Self::SavingGuestMsrs => {
                "VMX abort 1: an exit of L3 met an entry of L2's VM-exit MSR-store area that cannot be stored"
            }
            Self::LoadingHostPdptes => "VMX abort 2: an exit of L3 met a host CR3 of L2's whose PDPTEs have reserved bits set",
            Self::LoadingHostMsrs => {
                "VMX abort 4: an exit of L3 met an entry of L2's VM-exit MSR-load area that cannot be loaded"
            }
        };
        End { reason: EndReason::TripleFault, value: 0, text: EndText::Words(text) }
    }
}

/// One list of the current vmcs23; `None` if it is empty.
#[inline]
fn list<P>(vcpu: &Vcpu<'_, P>, nested: &mut Nested, address: Field, count: Field) -> Option<MsrList> {
    const X2APIC_MODE: u64 = 1 << 10;
    let misc = nested.offered.misc();
    let list = |vmcs23: &mut Vmcs23| MsrList {
        address: vmcs23.get(address),
        count: vmcs23.get_u32(count),
        misc,
        x2apic_mode: vcpu.devices.local_apic_base() & X2APIC_MODE != 0,
    };
    nested.operation.current().map(list).filter(|list| list.count != 0)
}

/// The VM-entry MSR-load area. vmcs13 is current, and L3 is about to run; if an entry is bad L2 is current and sees a failed entry.
#[inline]
pub fn load_on_entry<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    if let Some(list) = list(vcpu, nested, Field::VM_ENTRY_MSR_LOAD_ADDRESS, Field::VM_ENTRY_MSR_LOAD_COUNT) {
        load_for_l3(vcpu, nested, list);
    }
}

#[cold]
fn load_for_l3<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, list: MsrList) {
    // What L3's last run has left of these in vmcs13 alone must survive a failure.
    if let Some(vmcs23) = nested.operation.current() {
        let fields = vmcs23.in_vmcs13.intersection(&LOADABLE);
        for field in fields.iter() {
            vmcs23.record(field, vcpu.platform.read(field));
        }
        vmcs23.in_vmcs13 = vmcs23.in_vmcs13.difference(&LOADABLE);
        vmcs23.registers_touched = true;
    }
    if let Err(bad) = list.load_on_entry(&mut Msrs { vcpu }) {
        exit::unwind(vcpu, nested);
        let reason = u32::from(BasicExitReason::ENTRY_FAILURE_MSR_LOADING.0) | ENTRY_FAILURE;
        exit::fail(vcpu, nested, &ExitInformation { reason, qualification: bad.number.into(), ..ExitInformation::default() });
    }
}

/// The VM-exit MSR-store area. vmcs13 is current.
#[inline]
pub fn store_on_exit<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    if let Some(list) = list(vcpu, nested, Field::VM_EXIT_MSR_STORE_ADDRESS, Field::VM_EXIT_MSR_STORE_COUNT)
        && list.store_on_exit(&mut Msrs { vcpu }).is_err()
    {
        abort(vcpu, nested, Abort::SavingGuestMsrs);
    }
}

/// The VM-exit MSR-load area. vmcs12 is current and holds the rest of L2's host state.
#[inline]
pub fn load_on_exit<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    if let Some(list) = list(vcpu, nested, Field::VM_EXIT_MSR_LOAD_ADDRESS, Field::VM_EXIT_MSR_LOAD_COUNT) {
        nested.host_is_loaded = false;
        if list.load_on_exit(&mut Msrs { vcpu }).is_err() {
            abort(vcpu, nested, Abort::LoadingHostMsrs);
        }
    }
}

/// A VMX abort: the indicator goes into the VMCS region, and the run ends before anything runs again. The first one counts.
#[cold]
pub fn abort<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, abort: Abort) {
    if nested.end.is_none() {
        let region = nested.operation.current_pointer();
        let place = GuestPhysical(region.wrapping_add(Vmcs23::abort_indicator_offset() as u64));
        vcpu.memory.write(place, &(abort as u32).to_le_bytes());
    }
    nested.end_run(vcpu, abort.end());
}

/// The MSRs of the guest whose VMCS is current, and L2's memory.
struct Msrs<'a, 'm, P> {
    vcpu: &'a mut Vcpu<'m, P>,
}

impl<P: Platform> Msrs<'_, '_, P> {
    /// The field that holds an MSR which the processor loads and saves, while the guest reads and writes it without an exit.
    fn field(number: u32) -> Option<Field> {
        match number {
            FS_BASE => Some(Field::GUEST_FS_BASE),
            GS_BASE => Some(Field::GUEST_GS_BASE),
            _ => None,
        }
    }

    /// Whether the MSR is one that the processor holds for the guest, and has.
    fn in_processor(&self, number: u32) -> bool {
        let exists = number != TSC_AUX || self.vcpu.controls.secondary.contains(Secondary::ENABLE_RDTSCP);
        PASSED_THROUGH.contains(&number) && exists
    }
}

impl<P: Platform> MsrMachine for Msrs<'_, '_, P> {
    fn read_u64(&mut self, address: u64) -> u64 {
        self.vcpu.memory.read_u64(GuestPhysical(address))
    }

    fn write_u64(&mut self, address: u64, value: u64) {
        self.vcpu.memory.write(GuestPhysical(address), &value.to_le_bytes());
    }

    fn read_msr(&mut self, number: u32) -> Option<u64> {
        if let Some(field) = Self::field(number) {
            return Some(self.vcpu.platform.read(field));
        }
        if number == msr::IA32_TIME_STAMP_COUNTER {
            return Some(self.vcpu.platform.time_stamp_counter().wrapping_add(self.vcpu.tsc_offset));
        }
        if self.in_processor(number) {
            return Some(self.vcpu.platform.passed_through_msr(number));
        }
        crate::exit::msr::read(self.vcpu, number)
    }

    fn write_msr(&mut self, number: u32, value: u64) -> bool {
        if let Some(field) = Self::field(number) {
            self.vcpu.platform.write(field, value);
            return true;
        }
        if self.in_processor(number) {
            let value = match number {
                LSTAR | CSTAR | KERNEL_GS_BASE if !is_canonical(value) => return false,
                // Registers of 32 bits.
                SYSCALL_MASK | TSC_AUX => value & 0xffff_ffff,
                _ => value,
            };
            self.vcpu.platform.set_passed_through_msr(number, value);
            return true;
        }
        crate::exit::msr::write(self.vcpu, number, value)
    }
}

#[cfg(test)]
#[path = "tests/msr_lists.rs"]
mod tests;
