//! L3's memory at linear addresses, for operands of instructions that L1 executes in L3's name.
//!
//! What always holds: an address goes through L3's own page tables, and with EPT23 each physical address of that walk, and
//! the one it ends at, goes through EPT23. An access that EPT23 forbids becomes L2's VM exit, as if the processor had made
//! it; nothing is read or written where it was forbidden.

use core::cell::Cell;

use shadow::ept::{Access, Fault, PageModificationLog, Rules};
use shadow::exit::ExitInformation;
use shadow::reflect::secondary_controls;
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::field::Field;

use super::memory::Outside;
use super::{Nested, exit, physical};
use crate::exit::Action;
use crate::guest_memory::{GuestMemory, GuestPhysical};
use crate::guest_paging::{PageFault, PhysicalAccess, PhysicalMemory, read_linear, write_linear};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// What EPT23 forbids: the reason, and L3's physical address.
type Forbidden = (Fault, u64);

/// L3's physical memory behind EPT23.
struct Behind<'a, 'm> {
    rules: &'a Rules,
    pointer: u64,
    outside: Outside<'a, 'm>,
    /// L2's page-modification log, if it has one.
    log: &'a Cell<Option<PageModificationLog>>,
    /// The access that EPT23 forbade, which is the last one.
    forbidden: &'a Cell<Option<Forbidden>>,
}

impl Behind<'_, '_> {
    /// L2's physical address, if EPT23 allows the access.
    fn translate(&mut self, address: GuestPhysical, kind: u64) -> Option<GuestPhysical> {
        let log_is_full = self.log.get().is_some_and(PageModificationLog::is_full);
        let access = Access { log_is_full, ..Access::new(address.0, kind) };
        match self.rules.translate(&mut self.outside, self.pointer, access) {
            Ok(translation) => {
                if let Some(mut log) = self.log.get().filter(|_| translation.newly_dirty) {
                    let memory = &mut self.outside.memory;
                    log.record(address.0, |place, entry| memory.write(GuestPhysical(place), &entry.to_le_bytes()));
                    self.log.set(Some(log));
                }
                Some(GuestPhysical(translation.address))
            }
            Err(fault) => {
                self.forbidden.set(self.forbidden.get().or(Some((fault, address.0))));
                None
            }
        }
    }
}

impl PhysicalMemory for Behind<'_, '_> {
    fn locate(&mut self, address: GuestPhysical, _linear: u64, access: PhysicalAccess) -> Option<GuestPhysical> {
        if self.forbidden.get().is_some() {
            return None;
        }
        self.translate(address, physical::qualification(access))
    }

    fn read(&mut self, address: GuestPhysical, buffer: &mut [u8]) {
        self.outside.memory.read(address, buffer);
    }

    fn write(&mut self, address: GuestPhysical, bytes: &[u8]) {
        self.outside.memory.write(address, bytes);
    }

    fn is_ram(&mut self, address: GuestPhysical, length: usize) -> bool {
        self.outside.memory.is_ram(address, length)
    }
}

/// Reads data of L3.
///
/// # Errors
/// What follows instead: an exception for L3, or an exit that became L2's.
pub fn read<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, linear: u64, buffer: &mut [u8]) -> Result<(), Action> {
    let paging = vcpu.paging_state();
    access(vcpu, nested, linear, |memory| match memory {
        Memory::Own(memory) => read_linear(memory, &paging, linear, buffer),
        Memory::Behind(memory) => read_linear(memory, &paging, linear, buffer),
    })
}

/// Writes data of L3.
///
/// # Errors
/// As [`read`].
pub fn write<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, linear: u64, bytes: &[u8]) -> Result<(), Action> {
    let paging = vcpu.paging_state();
    access(vcpu, nested, linear, |memory| match memory {
        Memory::Own(memory) => write_linear(memory, &paging, linear, bytes),
        Memory::Behind(memory) => write_linear(memory, &paging, linear, bytes),
    })
}

/// L3's physical memory: L2's own where L2 uses no EPT.
enum Memory<'a, 'b, 'm> {
    Own(&'a mut GuestMemory<'m>),
    Behind(&'a mut Behind<'b, 'm>),
}

fn access<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    nested: &mut Nested,
    linear: u64,
    work: impl FnOnce(Memory<'_, '_, '_>) -> Result<(), PageFault>,
) -> Result<(), Action> {
    let pointer = nested
        .operation
        .current()
        .filter(|vmcs23| secondary_controls(vmcs23).contains(Secondary::ENABLE_EPT))
        .map(|vmcs23| vmcs23.get(Field::EPT_POINTER));
    let forbidden = Cell::new(None);
    let log = Cell::new(nested.operation.current().and_then(|vmcs23| PageModificationLog::of(vmcs23)));
    let result = match pointer {
        None => work(Memory::Own(&mut vcpu.memory)),
        Some(pointer) => work(Memory::Behind(&mut Behind {
            rules: nested.composition.rules(),
            pointer,
            outside: Outside { memory: &mut vcpu.memory, base: nested.regions.constants.memory_base },
            log: &log,
            forbidden: &forbidden,
        })),
    };
    if let Some((log, vmcs23)) = log.get().zip(nested.operation.current()) {
        vmcs23.record(Field::PML_INDEX, log.index.into());
    }
    match (forbidden.get(), result) {
        (Some((fault, address)), _) => {
            leave(vcpu, nested, fault, linear, address);
            Err(Action::Reflect)
        }
        (None, Err(fault)) => Err(vcpu.page_fault(fault)),
        (None, Ok(())) => Ok(()),
    }
}

/// The exit that the processor's own access would have caused.
fn leave<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, fault: Fault, linear: u64, address: u64) {
    let violation = matches!(fault, Fault::Violation { .. });
    let log_full = matches!(fault, Fault::PageModificationLogFull { .. });
    let information = ExitInformation {
        reason: fault.exit_reason().0.into(),
        qualification: fault.qualification(),
        guest_linear_address: violation.then_some(linear),
        guest_physical_address: (!log_full).then_some(address),
        ..ExitInformation::default()
    };
    let rip = vcpu.platform.read(Field::GUEST_RIP);
    exit::leave(vcpu, nested, &information, rip);
}
