//! L3's physical memory, for what L1 does on behalf of L3.
//!
//! What always holds: with EPT of L2's every physical address of L3 goes through EPT23 before it is accessed, be it an entry of
//! L3's paging structures, an instruction or an operand; where EPT23 does not allow the access, it becomes the VM exit for L2 that
//! it would be on a processor, and nothing was accessed. Without EPT23, and for L2, it is L2's memory.

use shadow::ept::{Access, Fault, Permissions, Rules};
use shadow::exit::ExitInformation;
use shadow::reflect::secondary_controls;
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::event::InterruptionInformation;
use vmcs::field::Field;
use vmcs::qualification::EptViolation;

use super::memory::Outside;
use super::{Nested, exit, with};
use crate::exit::Action;
use crate::guest_memory::{GuestMemory, GuestPhysical};
use crate::guest_paging::{self, AccessKind, PageFault, PagingState, PhysicalAccess, PhysicalMemory};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// An access that EPT23 does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    fault: Fault,
    /// L3's physical address.
    address: u64,
    /// The linear address, unless there is none.
    linear: Option<u64>,
}

/// The memory of an L3 with EPT of L2's.
#[derive(Debug)]
pub struct L3Memory<'a, 'm> {
    outside: Outside<'a, 'm>,
    rules: &'a Rules,
    eptp23: u64,
    refusal: Option<Refusal>,
}

impl<'a, 'm> L3Memory<'a, 'm> {
    /// That of the L3 which runs; `None` if L2 uses no EPT for it.
    pub fn new(nested: &'a mut Nested, memory: &'a mut GuestMemory<'m>) -> Option<Self> {
        let vmcs23 = nested.operation.current()?;
        if !secondary_controls(vmcs23).contains(Secondary::ENABLE_EPT) {
            return None;
        }
        let eptp23 = vmcs23.get(Field::EPT_POINTER);
        let outside = Outside { memory, base: nested.regions.constants.memory_base };
        Some(Self { outside, rules: nested.composition.rules(), eptp23, refusal: None })
    }

    /// The access that ended a walk, if it was one that EPT23 does not allow.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }
}

/// The bits of an exit qualification for EPT violations (SDM 3C table 27-7).
pub(super) const fn qualification(access: PhysicalAccess) -> u64 {
    const READ: u64 = Permissions::READ.bits();
    const WRITE: u64 = Permissions::WRITE.bits();
    const LINEAR: u64 = EptViolation::LINEAR_ADDRESS_VALID;
    const FINAL: u64 = LINEAR | EptViolation::FINAL_TRANSLATION;
    match access {
        PhysicalAccess::Pdpte => READ,
        PhysicalAccess::Entry => READ | LINEAR,
        PhysicalAccess::EntryFlags => READ | WRITE | LINEAR,
        PhysicalAccess::Data(AccessKind::Read) => READ | FINAL,
        PhysicalAccess::Data(AccessKind::Write) => WRITE | FINAL,
        PhysicalAccess::Data(AccessKind::Execute) => Permissions::EXECUTE.bits() | FINAL,
    }
}

impl PhysicalMemory for L3Memory<'_, '_> {
    fn locate(&mut self, address: GuestPhysical, linear: u64, access: PhysicalAccess) -> Option<GuestPhysical> {
        if self.refusal.is_some() {
            return None;
        }
        let asked = Access::new(address.0, qualification(access));
        match self.rules.translate(&mut self.outside, self.eptp23, asked) {
            Ok(translation) => Some(GuestPhysical(translation.address)),
            Err(fault) => {
                let linear = (access != PhysicalAccess::Pdpte).then_some(linear);
                self.refusal = Some(Refusal { fault, address: address.0, linear });
                None
            }
        }
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

/// The exit to L2 that the access is. What L3 was delivered when it exited to L1 is handed over.
#[cold]
pub fn refuse<P: Platform>(vcpu: &mut Vcpu<'_, P>, refusal: Refusal) -> Action {
    let vectoring = InterruptionInformation(vcpu.platform.read(Field::IDT_VECTORING_INFORMATION) as u32);
    let mut information = ExitInformation {
        reason: refusal.fault.exit_reason().0.into(),
        qualification: refusal.fault.qualification(),
        idt_vectoring: vectoring.0,
        guest_physical_address: Some(refusal.address),
        guest_linear_address: refusal.linear.filter(|_| !matches!(refusal.fault, Fault::Misconfiguration)),
        ..ExitInformation::default()
    };
    if vectoring.is_valid() && vectoring.has_error_code() {
        information.idt_vectoring_error_code = vcpu.platform.read(Field::IDT_VECTORING_ERROR_CODE) as u32;
    }
    if vectoring.is_valid() && vectoring.event_type().has_instruction_length() {
        information.instruction_length = Some(vcpu.platform.read(Field::VM_EXIT_INSTRUCTION_LENGTH) as u32);
    }
    let rip = vcpu.platform.read(Field::GUEST_RIP);
    with(vcpu, |vcpu, nested| exit::leave(vcpu, nested, &information, rip));
    Action::Reflect
}

/// Calls `$work` with the memory of the guest that runs, and makes of a page fault what it is: an exception of the guest's, or an
/// exit to L2.
macro_rules! on_memory {
    ($vcpu:ident, |$memory:ident| $work:expr) => {{
        let l3 =
            if $vcpu.runs_l3 { $vcpu.nested.as_mut().and_then(|nested| L3Memory::new(nested, &mut $vcpu.memory)) } else { None };
        let (result, refusal) = match l3 {
            Some(mut l3) => {
                let $memory = &mut l3;
                let result = $work;
                (result, l3.refusal())
            }
            None => {
                let $memory = &mut $vcpu.memory;
                ($work, None)
            }
        };
        match (result, refusal) {
            (Ok(value), _) => Ok(value),
            (Err(_), Some(refusal)) => Err(refuse($vcpu, refusal)),
            (Err(fault), None) => {
                let fault: PageFault = fault;
                Err($vcpu.page_fault(fault))
            }
        }
    }};
}

/// See [`guest_paging::read_linear`].
///
/// # Errors
/// What follows instead.
pub fn read<P: Platform>(vcpu: &mut Vcpu<'_, P>, paging: &PagingState, linear: u64, buffer: &mut [u8]) -> Result<(), Action> {
    on_memory!(vcpu, |memory| guest_paging::read_linear(memory, paging, linear, buffer))
}

/// See [`guest_paging::write_linear`].
///
/// # Errors
/// What follows instead.
pub fn write<P: Platform>(vcpu: &mut Vcpu<'_, P>, paging: &PagingState, linear: u64, bytes: &[u8]) -> Result<(), Action> {
    on_memory!(vcpu, |memory| guest_paging::write_linear(memory, paging, linear, bytes))
}

/// See [`guest_paging::check`]; `length` bytes, which may lie in two pages.
///
/// # Errors
/// What follows instead.
pub fn check<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    paging: &PagingState,
    linear: u64,
    length: u64,
    kind: AccessKind,
) -> Result<(), Action> {
    let last = linear.wrapping_add(length.saturating_sub(1));
    on_memory!(vcpu, |memory| guest_paging::check(memory, paging, linear, kind)
        .and_then(|_| guest_paging::check(memory, paging, last, kind))
        .map(drop))
}

/// The four PDPTEs of a table, which does not cross a page.
///
/// # Errors
/// What follows instead.
pub fn pdptes<P: Platform>(vcpu: &mut Vcpu<'_, P>, table: u64) -> Result<[u64; 4], Action> {
    fn read(memory: &mut impl PhysicalMemory, table: u64) -> Result<[u64; 4], PageFault> {
        let Some(place) = memory.locate(GuestPhysical(table), 0, PhysicalAccess::Pdpte) else {
            return Err(PageFault { address: 0, error_code: 0 });
        };
        let bytes: [u8; 32] = memory.read_array(place);
        let mut entries = [0; 4];
        for (entry, bytes) in entries.iter_mut().zip(bytes.as_chunks().0) {
            *entry = u64::from_le_bytes(*bytes);
        }
        Ok(entries)
    }
    on_memory!(vcpu, |memory| read(memory, table))
}

#[cfg(test)]
#[path = "tests/physical.rs"]
mod tests;
