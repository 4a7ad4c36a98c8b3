//! The MSR areas of vmcs23, which L1 goes through in the processor's place: L2's lists must never reach the processor, which would
//! load L1's own MSRs from them.
//!
//! What always holds: each entry is read once; at most as many entries are processed as IA32_VMX_MISC recommends, whatever the
//! count says; an MSR is loaded and stored only the way RDMSR and WRMSR of that guest are emulated, so a list can do nothing that
//! the guest cannot do by itself.

use vmcs::capability::Misc;
use vmcs::msr_area::{ENTRY_SIZE, MsrArea, MsrAreaMistake};

/// The machine that an area is loaded into or stored from: L2's memory, and the MSRs of the guest.
pub trait MsrMachine {
    /// Reads 8 bytes of L2's memory, at a multiple of 8; all ones where L2 has no RAM.
    fn read_u64(&mut self, address: u64) -> u64;

    /// Writes 8 bytes of L2's memory, at a multiple of 8; lost where L2 has no RAM.
    fn write_u64(&mut self, address: u64, value: u64);

    /// Does what RDMSR does for the guest whose MSRs are stored; `None` if it raises an exception.
    fn read_msr(&mut self, number: u32) -> Option<u64>;

    /// Does what WRMSR does for the guest whose MSRs are loaded; `false` if it raises an exception.
    fn write_msr(&mut self, number: u32, value: u64) -> bool;
}

/// One area of vmcs23, with what its entries are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrList {
    /// L2's physical address. VM entry has checked that it is a multiple of 16 and that the end is within the physical-address width.
    pub address: u64,
    /// Number of entries, as vmcs23 says.
    pub count: u32,
    /// IA32_VMX_MISC as L2 sees it.
    pub misc: Misc,
    /// Whether the guest's local APIC is in x2APIC mode.
    pub x2apic_mode: bool,
}

/// The first entry that was refused. The ones before it were processed, and stay so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entry {number} of the MSR area is refused: {mistake:?}")]
pub struct BadEntry {
    /// Its number, from 1: the exit qualification of "VM-entry failure due to MSR loading".
    pub number: u32,
    /// Why.
    pub mistake: MsrAreaMistake,
}

impl MsrList {
    /// Loads the MSRs of the VM-entry MSR-load area. `Ok` is the number of entries.
    ///
    /// # Errors
    /// [`BadEntry`]: the VM entry fails with exit reason 34 (SDM 3C 26.8 "VM-Entry Failures During or After Loading Guest State").
    pub fn load_on_entry(&self, machine: &mut impl MsrMachine) -> Result<u32, BadEntry> {
        self.load(MsrArea::EntryLoad, machine)
    }

    /// Stores the MSRs of the VM-exit MSR-store area. `Ok` is the number of entries.
    ///
    /// # Errors
    /// [`BadEntry`]: a VMX abort with indicator 1 (SDM 3C 27.7 "VMX Aborts").
    pub fn store_on_exit(&self, machine: &mut impl MsrMachine) -> Result<u32, BadEntry> {
        self.each(MsrArea::ExitStore, machine, |machine, address, number| {
            let Some(value) = machine.read_msr(number) else { return false };
            machine.write_u64(address.wrapping_add(8), value);
            true
        })
    }

    /// Loads the MSRs of the VM-exit MSR-load area. `Ok` is the number of entries.
    ///
    /// # Errors
    /// [`BadEntry`]: a VMX abort with indicator 4 (SDM 3C 27.7 "VMX Aborts").
    pub fn load_on_exit(&self, machine: &mut impl MsrMachine) -> Result<u32, BadEntry> {
        self.load(MsrArea::ExitLoad, machine)
    }

    fn load(&self, area: MsrArea, machine: &mut impl MsrMachine) -> Result<u32, BadEntry> {
        self.each(area, machine, |machine, address, number| {
            let value = machine.read_u64(address.wrapping_add(8));
            machine.write_msr(number, value)
        })
    }

    /// Goes through the area in order. `process` gets the address of the entry and the number of the MSR, and says whether it could.
    fn each<M: MsrMachine>(
        &self,
        area: MsrArea,
        machine: &mut M,
        mut process: impl FnMut(&mut M, u64, u32) -> bool,
    ) -> Result<u32, BadEntry> {
        let maximum = self.misc.recommended_msr_list_maximum();
        let mut address = self.address & !(ENTRY_SIZE - 1);
        for number in 1..=self.count {
            if number > maximum {
                return Err(BadEntry { number, mistake: MsrAreaMistake::BeyondMaximum });
            }
            let first = machine.read_u64(address);
            // L1 offers no dual-monitor treatment, so no guest is ever in SMM as VMX sees it.
            if let Some(mistake) = area.mistake(first, self.x2apic_mode, false) {
                return Err(BadEntry { number, mistake });
            }
            if !process(machine, address, first as u32) {
                return Err(BadEntry { number, mistake: MsrAreaMistake::Refused });
            }
            address = address.wrapping_add(ENTRY_SIZE);
        }
        Ok(self.count)
    }
}

#[cfg(test)]
mod tests;
