//! L2's instructions between one VMREAD or VMWRITE that has exited and the next, executed by L1: a guest hypervisor accesses
//! fields in rows, with a handful of instructions between, and where a KVM is below L1 an exit costs more than all of these.
//!
//! What always holds: L2 gets what it would get from the processor, instruction by instruction; L1 stops before the first that
//! it does not know for certain (see [`emulate::ahead`]), and that one is the processor's. Nothing is executed ahead where
//! a breakpoint, a single step or an interrupt could come between. Work per exit is bounded.
//!
//! Only software shadowing has such exits, and only without records: these are of exits that there were.

use shadow::operation::Reply;
use vmcs::field::Field;

use super::Nested;
use super::field_access::{read_field, write_field};
use crate::context::Context;
use crate::cpuid::Features;
use crate::emulate::ahead::{Decoded, Step, step};
use crate::emulate::{Bitness, InstructionState, Pages};
use crate::guest_memory::GuestMemory;
use crate::guest_paging::PagingState;
use crate::platform::Platform;

/// Instructions from one access to the next, at most.
const GAP: u32 = 32;
/// Accesses ahead of one exit, at most.
const ACCESSES: u32 = 32;
/// Places of the memory for accesses that none follows.
const PLACES: usize = 64;
const CR4_PKE: u64 = 1 << 22;

/// What is known about L2's code. It may be wrong: then time is lost and nothing else.
#[derive(Debug)]
pub struct LookAhead {
    /// Addresses of accesses that no other followed, each in the place that its low bits choose.
    last_of_a_row: [u64; PLACES],
    decoded: Decoded,
}

/// Where L2 stands after an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) rip: u64,
    pub(super) rflags: u64,
}

impl Default for LookAhead {
    fn default() -> Self {
        // No code has an odd address that is not canonical.
        Self { last_of_a_row: [0x8000_0000_0000_0001; PLACES], decoded: Decoded::default() }
    }
}

impl LookAhead {
    /// Whether it is worth trying behind the access at `rip`.
    fn hopes(&self, rip: u64) -> bool {
        self.last_of_a_row.get(rip as usize % PLACES) != Some(&rip)
    }

    fn note_last(&mut self, rip: u64) {
        if let Some(place) = self.last_of_a_row.get_mut(rip as usize % PLACES) {
            *place = rip;
        }
    }
}

/// Executes what follows the access at `access`; `position` is behind it. Gives the position that L2 goes on at.
///
/// L2 is in 64-bit mode at CPL 0, in VMX root operation, and RFLAGS.TF and RF are 0.
#[inline(never)]
pub(super) fn run<P: Platform>(
    nested: &mut Nested,
    platform: &mut P,
    context: &mut Context,
    memory: &mut GuestMemory<'_>,
    features: &Features,
    access: u64,
    position: Position,
) -> Position {
    let Some(mut known) = nested.look_ahead.take() else { return position };
    let end = if known.hopes(access) && is_undisturbed(nested, platform) {
        execute(nested, platform, context, memory, features, &mut known, access, position)
    } else {
        position
    };
    nested.look_ahead = Some(known);
    end
}

/// Whether nothing but the instructions themselves decides what happens next: DR7 is what an exit of L3 has left, which is
/// no breakpoint; no instruction holds back interrupts; no protection key counts.
fn is_undisturbed<P: Platform>(nested: &Nested, platform: &mut P) -> bool {
    nested.host_is_loaded
        && nested.regions.guards()
        && platform.read(Field::GUEST_INTERRUPTIBILITY_STATE) == 0
        && platform.read(Field::GUEST_CR4) & CR4_PKE == 0
}

#[expect(clippy::too_many_arguments, reason = "the parts of a virtual processor, borrowed apart")]
fn execute<P: Platform>(
    nested: &mut Nested,
    platform: &mut P,
    context: &mut Context,
    memory: &mut GuestMemory<'_>,
    features: &Features,
    known: &mut LookAhead,
    mut access: u64,
    position: Position,
) -> Position {
    // What [`Vcpu::paging_state`](crate::vcpu::Vcpu::paging_state) gives, without the fields that an exit of L3 has loaded or that
    // do not count here: KVM does not shadow them, and to read them would be exits.
    let paging = PagingState {
        cr0: platform.read(Field::GUEST_CR0),
        cr3: platform.read(Field::GUEST_CR3),
        cr4: platform.read(Field::GUEST_CR4),
        efer: nested.loaded.efer,
        rflags: position.rflags,
        long_mode: true,
        physical_address_width: features.physical_address_width,
        gigabyte_pages: features.gigabyte_pages,
        ..PagingState::default()
    };
    let old_rsp = platform.read(Field::GUEST_RSP);
    let Position { mut rip, mut rflags } = position;
    let mut rsp = old_rsp;
    let mut pages = Pages::default();
    let (mut gap, mut accesses) = (0, 0);
    while gap < GAP && accesses < ACCESSES {
        let mut state = InstructionState {
            general: &mut context.general,
            rsp: &mut rsp,
            rip,
            rflags: &mut rflags,
            segment_bases: [0; 6],
            mode: Bitness::Bits64,
        };
        match step(&mut state, memory, &paging, &mut pages, &mut known.decoded) {
            None => break,
            Some(Step::Done { next_rip }) => {
                rip = next_rip;
                gap += 1;
            }
            Some(Step::FieldAccess { write, field, value, next_rip }) => {
                if !serve(nested, context, write, field, value) {
                    break;
                }
                rflags &= !Reply::FLAGS;
                (access, rip) = (rip, next_rip);
                (gap, accesses) = (0, accesses + 1);
                if !known.hopes(access) {
                    break;
                }
            }
        }
    }
    // Unless there were too many, no other follows that L1 could do.
    if accesses < ACCESSES {
        known.note_last(access);
    }
    if rsp != old_rsp {
        platform.write(Field::GUEST_RSP, rsp);
    }
    Position { rip, rflags }
}

/// VMREAD or VMWRITE, if it is one that succeeds with what is at hand; says whether it is done.
fn serve(nested: &mut Nested, context: &mut Context, write: bool, field_register: usize, value_register: usize) -> bool {
    let Ok(encoding) = u32::try_from(context.general[field_register]) else { return false };
    let field = Field(encoding);
    let Some((vmcs23, row)) = nested.operation.find_field(field) else { return false };
    let register = &mut context.general[value_register];
    if write { write_field(vmcs23, row, field, register) } else { read_field(vmcs23, row, field, register) }
}

#[cfg(test)]
#[path = "tests/look_ahead.rs"]
mod tests;
