//! EPT violations: the guest touched an address without RAM. The instruction is emulated: the local APIC has a page,
//! and elsewhere reads give all ones and writes are lost.

use l1_protocol::end::EndReason;
use vmcs::event::Vector;
use vmcs::field::Field;

use super::information::Exit;
use super::segment::BASES;
use super::{Action, End, EndText};
use crate::device::{Devices, Nanoseconds};
use crate::emulate::{self, EmulationError, InstructionState, MmioBus, Outcome};
use crate::guest_memory::GuestPhysical;
use crate::guest_paging::AccessKind;
use crate::nested::physical::{self, L3Memory};
use crate::nested::shadowing;
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use iced_x86::Mnemonic;

/// Bits of the exit qualification for EPT violations (SDM 3C table 28-7).
mod qualification {
    pub const WRITE: u64 = 1 << 1;
    pub const FETCH: u64 = 1 << 2;
    pub const LINEAR_ADDRESS_VALID: u64 = 1 << 7;
    pub const TRANSLATED: u64 = 1 << 8;
}

/// The guest's devices, as an instruction finds them in its physical memory.
struct DeviceMemory<'a> {
    devices: &'a mut Devices,
    now: Nanoseconds,
    changed: bool,
}

impl MmioBus for DeviceMemory<'_> {
    fn read(&mut self, address: GuestPhysical, size: usize) -> u64 {
        self.devices.read_memory(address.0, size, self.now)
    }

    fn write(&mut self, address: GuestPhysical, size: usize, value: u64) {
        self.changed |= self.devices.write_memory(address.0, size, value, self.now);
    }
}

/// An EPT violation.
pub fn handle_violation<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    let bits = exit.qualification(&mut vcpu.platform);
    if exit.idt_vectoring(&mut vcpu.platform) >> 31 != 0 {
        return Action::stop(
            EndReason::UnhandledExit,
            exit.reason.0.into(),
            "an event was to be delivered through memory that does not exist (IDT, GDT, TSS or stack)",
        );
    }
    if bits & qualification::LINEAR_ADDRESS_VALID != 0 && bits & qualification::TRANSLATED == 0 {
        return access_through_missing_table(vcpu, exit, bits);
    }
    if bits & qualification::FETCH != 0 {
        // What is fetched is FF FF …, which is no instruction.
        return Action::INVALID_OPCODE;
    }
    emulate(vcpu, exit)
}

/// The guest's page tables lie where nothing is. An entry of all ones has reserved bits set, except with 32-bit paging,
/// where it may map a page: walking through the tables as they read shows which.
fn access_through_missing_table<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &Exit, bits: u64) -> Action {
    let kind = if bits & qualification::FETCH != 0 {
        AccessKind::Execute
    } else if bits & qualification::WRITE != 0 {
        AccessKind::Write
    } else {
        AccessKind::Read
    };
    let address = vcpu.platform.read(Field::GUEST_LINEAR_ADDRESS);
    let paging = vcpu.paging_state();
    match physical::check(vcpu, &paging, address, 1, kind) {
        Err(action) => action,
        Ok(()) if kind == AccessKind::Execute => Action::INVALID_OPCODE,
        Ok(()) => emulate(vcpu, exit),
    }
}

fn emulate<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &Exit) -> Action {
    let paging = vcpu.paging_state();
    let mode = vcpu.code_size();
    let segment_bases = BASES.map(|field| vcpu.platform.read(field));
    let old_rflags = vcpu.platform.read(Field::GUEST_RFLAGS);
    let old_rsp = vcpu.platform.read(Field::GUEST_RSP);
    let (mut rflags, mut rsp) = (old_rflags, old_rsp);
    let now = vcpu.now();
    let mut state = InstructionState {
        general: &mut vcpu.context.general,
        rsp: &mut rsp,
        rip: exit.rip,
        rflags: &mut rflags,
        segment_bases,
        mode,
    };
    let mut bus = DeviceMemory { devices: &mut vcpu.devices, now, changed: false };
    let l3 = if vcpu.runs_l3 { vcpu.nested.as_mut().and_then(|nested| L3Memory::new(nested, &mut vcpu.memory)) } else { None };
    let (outcome, refusal) = match l3 {
        Some(mut memory) => {
            let outcome = emulate::emulate(&mut state, &mut memory, &paging, &mut bus);
            (outcome, memory.refusal())
        }
        None => (emulate::emulate(&mut state, &mut vcpu.memory, &paging, &mut bus), None),
    };
    if bus.changed {
        vcpu.devices_changed();
    }
    if rflags != old_rflags {
        vcpu.platform.write(Field::GUEST_RFLAGS, rflags);
    }
    if rsp != old_rsp {
        vcpu.platform.write(Field::GUEST_RSP, rsp);
    }
    match outcome {
        Ok(Outcome::Completed { next_rip }) => {
            vcpu.finish_at(exit.rip, next_rip);
            Action::Continue
        }
        Ok(Outcome::Repeat) => Action::Continue,
        Err(EmulationError::PageFault(fault)) => match refusal {
            Some(refusal) => physical::refuse(vcpu, refusal),
            None => vcpu.page_fault(fault),
        },
        Err(EmulationError::GeneralProtection) => Action::GENERAL_PROTECTION,
        Err(EmulationError::StackFault) => Action::exception(Vector::SS, Some(0)),
        Err(EmulationError::Undecodable) => Action::INVALID_OPCODE,
        // Here operands may lie anywhere.
        Err(EmulationError::OutsideRam) => Action::stop(EndReason::Bug, exit.rip, "an emulated operand was refused"),
        Err(EmulationError::Unsupported { mnemonic: Mnemonic::Vmread | Mnemonic::Vmwrite }) if shadowing::suspend(vcpu) => {
            Action::Resume
        }
        Err(EmulationError::Unsupported { mnemonic }) => Action::Stop(End {
            reason: EndReason::UnhandledExit,
            value: exit.reason.0.into(),
            text: EndText::Instruction(mnemonic),
        }),
    }
}

/// An EPT misconfiguration: the tables are L1's own, so this is a bug in L1.
pub fn handle_misconfiguration<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    let address = vcpu.platform.read(Field::GUEST_PHYSICAL_ADDRESS);
    Action::stop(EndReason::Bug, address, "EPT misconfiguration: an EPT entry of L1 is invalid for this guest-physical address")
}
