//! VMX operation of a guest hypervisor: the VMXON pointer, the current-VMCS pointer, and what each VMX instruction does to
//! them.
//!
//! What always holds: a VMCS that was made active keeps its place in the cache, keyed by its address, until it is given
//! up, and every way of giving it up (VMCLEAR, VMXOFF, a cache that is full, the end of VMX operation) goes through
//! [`Operation::release`]. The cache is bounded, so a guest that loads thousands of VMCSs costs no more than one that
//! loads [`SLOTS`].

mod linked;

use vmcs::capability::Capabilities;
use vmcs::controls::SecondaryProcessorBased;
use vmcs::field::{Field, Kind, Width};
use vmcs::instruction_error::InstructionError;

use crate::capability::VMCS_REVISION_IDENTIFIER;
use crate::field_set::FieldSet;
use crate::vmcs23::{LAUNCH_STATE, REGION_SIZE, SHADOW_INDICATOR, Vmcs23};

/// How many VMCSs of a guest hypervisor are kept active at a time.
pub const SLOTS: usize = 4;

/// What the state machine needs of the world around it.
pub trait Machine {
    /// Copies from L2's physical memory; what is not RAM reads as all ones.
    fn read(&mut self, address: u64, bytes: &mut [u8]);
    /// Copies to L2's physical memory; what is not RAM is lost.
    fn write(&mut self, address: u64, bytes: &[u8]);
    /// Brings the canonical copy up to date with what vmcs13 holds of L3's state.
    fn pull(&mut self, slot: usize, vmcs23: &mut Vmcs23);
    /// The VMCS of this slot has become current: its shadow VMCS may be linked.
    fn activate(&mut self, slot: usize, vmcs23: &mut Vmcs23);
    /// The VMCS of this slot is no longer current: what its shadow VMCS holds is brought home, and nothing stays linked.
    fn deactivate(&mut self, slot: usize, vmcs23: &mut Vmcs23);
    /// The VMCS of this slot is given up: vmcs13 and shadow VMCS are VMCLEARed.
    fn release(&mut self, slot: usize);
}

/// What a VMX instruction reports (SDM 3C 30.2 "Conventions").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// VMsucceed.
    Succeed,
    /// VMfailInvalid.
    FailInvalid,
    /// VMfailValid, the number being in VM_INSTRUCTION_ERROR.
    FailValid(InstructionError),
}

impl Reply {
    /// The arithmetic flags: CF, PF, AF, ZF, SF and OF.
    pub const FLAGS: u64 = 0x8d5;

    /// What those flags become.
    #[must_use]
    pub const fn flags(self) -> u64 {
        match self {
            Self::Succeed => 0,
            Self::FailInvalid => 1,
            Self::FailValid(_) => 1 << 6,
        }
    }
}

/// A place of the cache.
#[derive(Debug)]
struct Slot {
    address: u64,
    last_use: u64,
    vmcs23: Vmcs23,
}

fn existing_rows(offered: &Capabilities) -> [u8; Field::SLOTS] {
    let mut rows = [0; Field::SLOTS];
    for field in FieldSet::existing(offered).iter() {
        if let (Some(slot), Some(row)) = (field.table_slot(), field.row())
            && let Some(entry) = rows.get_mut(slot)
        {
            *entry = row as u8 + 1;
        }
    }
    rows
}

/// The VMX state of a virtual processor.
#[derive(Debug)]
pub struct Operation {
    /// The VMXON pointer; `None` outside VMX operation.
    vmxon: Option<u64>,
    current: Option<usize>,
    slots: [Option<Slot>; SLOTS],
    clock: u64,
    physical_address_width: u32,
    /// Whether VMPTRLD takes a shadow VMCS, which is the case if "VMCS shadowing" is offered.
    shadow_vmcs: bool,
    /// For each slot of an encoding the row of the field plus one; 0 where L2's processor has no field.
    rows: [u8; Field::SLOTS],
}

impl Operation {
    /// Outside VMX operation.
    #[must_use]
    pub fn new(offered: &Capabilities, physical_address_width: u32) -> Self {
        Self {
            vmxon: None,
            current: None,
            slots: [const { None }; SLOTS],
            clock: 0,
            physical_address_width,
            shadow_vmcs: offered.supports_secondary(SecondaryProcessorBased::VMCS_SHADOWING),
            rows: existing_rows(offered),
        }
    }

    /// Whether the processor is in VMX operation.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.vmxon.is_some()
    }

    /// The VMXON pointer; all ones outside VMX operation.
    #[must_use]
    pub fn vmxon_pointer(&self) -> u64 {
        self.vmxon.unwrap_or(u64::MAX)
    }

    /// The slot of the current VMCS.
    #[must_use]
    #[inline]
    pub const fn current_slot(&self) -> Option<usize> {
        self.current
    }

    /// The current-VMCS pointer; all ones if there is none.
    #[must_use]
    pub fn current_pointer(&self) -> u64 {
        self.current.and_then(|slot| self.slots.get(slot)?.as_ref()).map_or(u64::MAX, |slot| slot.address)
    }

    /// The current VMCS.
    #[must_use]
    #[inline]
    pub fn current(&mut self) -> Option<&mut Vmcs23> {
        self.slots.get_mut(self.current?)?.as_mut().map(|slot| &mut slot.vmcs23)
    }

    /// What VMfail(`error`) is: VMfailInvalid without a current VMCS.
    pub fn fail(&mut self, error: InstructionError) -> Reply {
        match self.current() {
            Some(vmcs23) => {
                vmcs23.record(Field::VM_INSTRUCTION_ERROR, error.0.into());
                Reply::FailValid(error)
            }
            None => Reply::FailInvalid,
        }
    }

    fn is_region(&self, address: u64) -> bool {
        address.is_multiple_of(REGION_SIZE as u64) && address >> self.physical_address_width == 0
    }

    fn identifier(machine: &mut impl Machine, address: u64) -> u32 {
        let mut bytes = [0; 4];
        machine.read(address, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// VMXON outside VMX operation, once the processor's state allows it.
    pub fn vmxon(&mut self, region: u64, machine: &mut impl Machine) -> Reply {
        if !self.is_region(region) || Self::identifier(machine, region) != VMCS_REVISION_IDENTIFIER {
            return Reply::FailInvalid;
        }
        self.vmxon = Some(region);
        self.current = None;
        Reply::Succeed
    }

    /// VMXON in VMX operation.
    pub fn vmxon_again(&mut self) -> Reply {
        self.fail(InstructionError::VMXON_IN_VMX_ROOT_OPERATION)
    }

    /// VMXOFF. Also what INIT and the end of a virtual processor do.
    pub fn vmxoff(&mut self, machine: &mut impl Machine) -> Reply {
        for slot in 0..SLOTS {
            self.release(slot, machine);
        }
        self.vmxon = None;
        Reply::Succeed
    }

    /// VMCLEAR.
    pub fn vmclear(&mut self, address: u64, machine: &mut impl Machine) -> Reply {
        if !self.is_region(address) {
            return self.fail(InstructionError::VMCLEAR_WITH_INVALID_PHYSICAL_ADDRESS);
        }
        if self.vmxon == Some(address) {
            return self.fail(InstructionError::VMCLEAR_WITH_VMXON_POINTER);
        }
        if let Some(slot) = self.find(address) {
            self.release(slot, machine);
        }
        machine.write(address.wrapping_add(LAUNCH_STATE as u64), &[0; 4]);
        Reply::Succeed
    }

    /// VMPTRLD.
    pub fn vmptrld(&mut self, address: u64, machine: &mut impl Machine) -> Reply {
        if !self.is_region(address) {
            return self.fail(InstructionError::VMPTRLD_WITH_INVALID_PHYSICAL_ADDRESS);
        }
        if self.vmxon == Some(address) {
            return self.fail(InstructionError::VMPTRLD_WITH_VMXON_POINTER);
        }
        let identifier = Self::identifier(machine, address);
        let indicator_allowed = if self.shadow_vmcs { SHADOW_INDICATOR } else { 0 };
        if identifier & !indicator_allowed != VMCS_REVISION_IDENTIFIER {
            return self.fail(InstructionError::VMPTRLD_WITH_INCORRECT_VMCS_REVISION_IDENTIFIER);
        }
        let found = self.find(address);
        if found.is_some() && found == self.current {
            return Reply::Succeed;
        }
        self.leave_current(machine);
        let slot = found.unwrap_or_else(|| self.load(address, machine));
        self.clock = self.clock.wrapping_add(1);
        if let Some(Some(entry)) = self.slots.get_mut(slot) {
            entry.last_use = self.clock;
            entry.vmcs23.is_shadow = identifier & SHADOW_INDICATOR != 0;
            entry.vmcs23.unsent = FieldSet::ALL;
            machine.activate(slot, &mut entry.vmcs23);
            self.current = Some(slot);
        }
        Reply::Succeed
    }

    fn leave_current(&mut self, machine: &mut impl Machine) {
        if let Some(slot) = self.current.take()
            && let Some(Some(entry)) = self.slots.get_mut(slot)
        {
            machine.deactivate(slot, &mut entry.vmcs23);
        }
    }

    fn find(&self, address: u64) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|slot| slot.address == address))
    }

    /// Reads a region into a free slot, or into that whose last use is longest ago.
    fn load(&mut self, address: u64, machine: &mut impl Machine) -> usize {
        let age = |slot: &Option<Slot>| slot.as_ref().map_or(0, |slot| slot.last_use);
        let oldest = (0..SLOTS).min_by_key(|&slot| self.slots.get(slot).map_or(0, age)).unwrap_or(0);
        self.release(oldest, machine);
        let mut region = [0; REGION_SIZE];
        machine.read(address, &mut region);
        let mut vmcs23 = Vmcs23::new();
        vmcs23.load(&region);
        if let Some(slot) = self.slots.get_mut(oldest) {
            *slot = Some(Slot { address, last_use: self.clock, vmcs23 });
        }
        oldest
    }

    /// The one way out of the cache: what the processor and the shadow VMCS hold is brought home, the canonical copy is
    /// written to the guest's page, and the hardware's regions are VMCLEARed.
    fn release(&mut self, slot: usize, machine: &mut impl Machine) {
        if self.current == Some(slot) {
            self.leave_current(machine);
        }
        let Some(mut entry) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        machine.pull(slot, &mut entry.vmcs23);
        machine.release(slot);
        let mut region = [0; REGION_SIZE];
        let from = entry.vmcs23.store(&mut region);
        machine.write(entry.address.wrapping_add(from as u64), &region[from..]);
    }

    /// The current VMCS and the row of a field that L2's processor has; `None` if there is no such VMCS or field.
    #[inline(always)]
    pub fn find_field(&mut self, field: Field) -> Option<(&mut Vmcs23, usize)> {
        if field.is_high() && field.width() != Width::Bits64 {
            return None;
        }
        let row = usize::from(*self.rows.get(field.table_slot()?)?).checked_sub(1)?;
        Some((self.current()?, row))
    }

    /// Whether L2's processor has the field.
    fn exists(&self, field: Field) -> bool {
        let valid = !field.is_high() || field.width() == Width::Bits64;
        valid && field.table_slot().and_then(|slot| self.rows.get(slot)).is_some_and(|row| *row != 0)
    }

    /// The same: what VMREAD and VMWRITE begin with.
    ///
    /// # Errors
    /// The [`Reply`] that says why not.
    pub fn access(&mut self, field: Field) -> Result<(&mut Vmcs23, usize), Reply> {
        if self.find_field(field).is_none() {
            return Err(self.fail(InstructionError::VMREAD_VMWRITE_UNSUPPORTED_VMCS_COMPONENT));
        }
        self.find_field(field).ok_or(Reply::FailInvalid)
    }

    /// VMREAD of `field`. The value is as in 64-bit mode.
    ///
    /// # Errors
    /// The [`Reply`] that says why not.
    #[inline(always)]
    pub fn vmread(&mut self, field: Field) -> Result<u64, Reply> {
        let (vmcs23, row) = self.access(field)?;
        let value = vmcs23.row(row);
        Ok(if field.is_high() { value >> 32 } else { value })
    }

    /// VMWRITE. Read-only fields can be written: `IA32_VMX_MISC[29]` is offered.
    #[inline]
    pub fn vmwrite(&mut self, field: Field, value: u64) -> Reply {
        match self.access(field) {
            Ok((vmcs23, _)) if field.kind() == Kind::ReadOnly => vmcs23.record(field, value),
            Ok((vmcs23, _)) => vmcs23.write(field, value),
            Err(reply) => return reply,
        }
        Reply::Succeed
    }
}

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;
