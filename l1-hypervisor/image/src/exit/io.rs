//! IN, OUT, INS and OUTS. Every port exits, as all of L2's devices are L1's.

use vmcs::event::Vector;
use vmcs::field::Field;

use super::Action;
use super::information::Exit;
use super::segment::{Offsets, STACK};
use crate::context::register::{RAX, RCX, RDI, RSI};
use crate::device::{AccessSize, EndRequest};
use crate::guest_paging::{AccessKind, check, is_canonical, read_linear, write_linear};
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use l1_protocol::end::EndReason;
use l1_protocol::guest::debug_exit_succeeded;

/// Bytes that one exit of a string instruction moves at most. What is left exits again, so that interrupts are not
/// held up and no guest decides how long L1 works.
const STRING_CHUNK: usize = 1024;
/// Number of ES, where INS stores, among the segment registers.
const EXTRA_SEGMENT: usize = 0;
const RFLAGS_DF: u64 = 1 << 10;

/// An I/O instruction, from the exit qualification (SDM 3C table 28-5 "Exit Qualification for I/O Instructions").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access {
    size: AccessSize,
    input: bool,
    string: bool,
    repeat: bool,
    port: u16,
}

impl Access {
    const fn decode(qualification: u64) -> Self {
        Self {
            size: match qualification & 7 {
                0 => AccessSize::One,
                1 => AccessSize::Two,
                _ => AccessSize::Four,
            },
            input: qualification & 1 << 3 != 0,
            string: qualification & 1 << 4 != 0,
            repeat: qualification & 1 << 5 != 0,
            port: (qualification >> 16) as u16,
        }
    }
}

/// Does the access.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    let access = Access::decode(exit.qualification(&mut vcpu.platform));
    let now = vcpu.now();
    let action = if access.string {
        string(vcpu, exit, access, now)
    } else if access.input {
        let value = vcpu.devices.read(access.port, access.size, now);
        let old = vcpu.context.general[RAX];
        // A 32-bit result clears the upper half, narrower ones keep it (SDM 1 3.4.1.1).
        vcpu.context.general[RAX] = match access.size {
            AccessSize::One => old & !0xff | u64::from(value & 0xff),
            AccessSize::Two => old & !0xffff | u64::from(value & 0xffff),
            AccessSize::Four => value.into(),
        };
        Action::Complete
    } else {
        let value = access.size.truncate(vcpu.context.general[RAX] as u32);
        vcpu.devices.write(access.port, access.size, value, now, &mut *vcpu.console);
        Action::Complete
    };
    vcpu.devices_changed();
    match vcpu.devices.take_end() {
        Some(end) => end_of_run(end, vcpu.devices.status()),
        None => action,
    }
}

/// `status` is what the guest has said on its status line before it switched itself off or reset the machine.
fn end_of_run(end: EndRequest, status: Option<u32>) -> Action {
    let with_status = |reason| match status {
        None => Action::stop(reason, 0, ""),
        Some(0) => Action::stop(EndReason::GuestSuccess, 0, ""),
        Some(value) => Action::stop(EndReason::GuestFailure, value.into(), ""),
    };
    match end {
        EndRequest::DebugExit { value } => {
            let reason = if debug_exit_succeeded(value) { EndReason::GuestSuccess } else { EndReason::GuestFailure };
            Action::stop(reason, value.into(), "")
        }
        EndRequest::PowerOff => with_status(EndReason::PowerOff),
        EndRequest::Reset => with_status(EndReason::Reset),
    }
}

/// INS and OUTS. The processor reports the linear address of the first element; the following ones lie beside it.
fn string<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit, access: Access, now: u64) -> Action {
    // SDM 3C table 28-9 "Format of the VM-Exit Instruction-Information Field as Used for INS and OUTS": 9:7 address size,
    // 17:15 segment of OUTS.
    let information = vcpu.platform.read(Field::VM_EXIT_INSTRUCTION_INFORMATION);
    let address_mask: u64 = match information >> 7 & 7 {
        0 => 0xffff,
        1 => 0xffff_ffff,
        _ => !0,
    };
    let size = u64::from(access.size.bytes());
    let count = if access.repeat { vcpu.context.general[RCX] & address_mask } else { 1 };
    let elements = count.min(STRING_CHUNK as u64 / size) as usize;
    if elements == 0 {
        return Action::Complete;
    }
    let paging = vcpu.paging_state();
    let downwards = vcpu.platform.read(Field::GUEST_RFLAGS) & RFLAGS_DF != 0;
    let step = if downwards { size.wrapping_neg() } else { size };
    let index = if access.input { RDI } else { RSI };
    let first_offset = vcpu.context.general[index] & address_mask;
    let first_linear = vcpu.platform.read(Field::GUEST_LINEAR_ADDRESS);

    let segment = if access.input { EXTRA_SEGMENT } else { (information >> 15 & 7) as usize };
    let offsets = Offsets::of(vcpu, segment);

    let mut done = 0;
    let mut action = Action::Complete;
    // Upwards the elements are one piece of memory: one copy serves them all.
    let mut buffer = [0; STRING_CHUNK];
    let piece = elements * size as usize;
    let in_one_piece =
        !downwards && !access.input && first_offset.checked_add(piece as u64).is_some_and(|end| end <= address_mask);
    let copied = in_one_piece
        && offsets.hold(first_offset, piece as u64)
        && is_canonical(first_linear)
        && is_canonical(first_linear.wrapping_add(piece as u64 - 1))
        && read_linear(&mut vcpu.memory, &paging, first_linear, &mut buffer[..piece]).is_ok();
    if copied && access.size == AccessSize::One {
        done = elements as u64;
        for &byte in &buffer[..piece] {
            vcpu.devices.write(access.port, AccessSize::One, byte.into(), now, &mut *vcpu.console);
        }
    } else {
        for element in 0..elements as u64 {
            let offset = first_offset.wrapping_add(step.wrapping_mul(element)) & address_mask;
            let linear = first_linear.wrapping_add(offset.wrapping_sub(first_offset));
            if !offsets.hold(offset, size) || !is_canonical(linear) {
                action = Action::exception(if segment == STACK { Vector::SS } else { Vector::GP }, Some(0));
                break;
            }
            let mut bytes = [0; 4];
            let bytes = &mut bytes[..size as usize];
            let moved = if access.input {
                // The port is read only if the value can be stored.
                check(&mut vcpu.memory, &paging, linear, AccessKind::Write)
                    .and_then(|_| check(&mut vcpu.memory, &paging, linear.wrapping_add(size - 1), AccessKind::Write))
                    .and_then(|_| {
                        let value = vcpu.devices.read(access.port, access.size, now).to_le_bytes();
                        write_linear(&mut vcpu.memory, &paging, linear, &value[..size as usize])
                    })
            } else {
                read_linear(&mut vcpu.memory, &paging, linear, bytes).map(|()| {
                    let mut value = [0; 4];
                    value[..bytes.len()].copy_from_slice(bytes);
                    vcpu.devices.write(access.port, access.size, u32::from_le_bytes(value), now, &mut *vcpu.console);
                })
            };
            match moved {
                Ok(()) => done += 1,
                Err(fault) => {
                    action = vcpu.page_fault(fault);
                    break;
                }
            }
        }
    }
    let moved = |old: u64, change: u64| replace(old, old.wrapping_add(change), address_mask);
    vcpu.context.general[index] = moved(vcpu.context.general[index], step.wrapping_mul(done));
    if access.repeat {
        vcpu.context.general[RCX] = moved(vcpu.context.general[RCX], done.wrapping_neg());
    }
    // Faults come after the elements before them; unfinished repetitions execute the instruction again.
    if action == Action::Complete && done < count {
        let _ = exit.instruction_length(&mut vcpu.platform);
        return Action::Continue;
    }
    action
}

/// `old` with the bits of the address size replaced; a 32-bit result clears the upper half.
const fn replace(old: u64, new: u64, mask: u64) -> u64 {
    if mask == 0xffff { old & !mask | new & mask } else { new & mask }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualifications() {
        let access = Access::decode(0x00e9_0030);
        assert_eq!(access, Access { size: AccessSize::One, input: false, string: true, repeat: true, port: 0xe9 });
        let access = Access::decode(0x0cfc_000b);
        assert_eq!(access, Access { size: AccessSize::Four, input: true, string: false, repeat: false, port: 0xcfc });
    }

    #[test]
    fn registers_wrap_by_address_size() {
        assert_eq!(replace(0x1234_ffff, 0x1235_0000, 0xffff), 0x1234_0000);
        assert_eq!(replace(0xffff_ffff_ffff_fffc, 0, 0xffff_ffff), 0);
    }
}
