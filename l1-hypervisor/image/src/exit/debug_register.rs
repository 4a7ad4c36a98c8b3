//! MOV from and to debug registers, where the user asked for these exits: the guest keeps them in the processor.

use vmcs::field::Field;

use super::Action;
use super::information::Exit;
use crate::platform::{DebugRegister, Platform};
use crate::vcpu::Vcpu;

const CR4_DE: u64 = 1 << 3;
/// Bits of DR6 that are always 1, and those software can set (SDM 3B 18.2.3 "Debug Status Register (DR6)").
const DR6_FIXED: u64 = 0xffff_0ff0;
const DR6_WRITABLE: u64 = 0xe00f;
/// DR7: bit 10 is always 1; bits 11, 12, 14 and 15 are 0 (SDM 3B 18.2.4 "Debug Control Register (DR7)").
const DR7_FIXED: u64 = 0x400;
const DR7_WRITABLE: u64 = 0xffff_23ff;
/// General detect: an access to a debug register raises #DB. Every #DB clears it for its handler.
pub(crate) const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// DR6.BD: that is what happened.
const DR6_ACCESS_DETECTED: u64 = 1 << 13;

/// Does the access.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    // SDM 3C table 28-4 "Exit Qualification for MOV DR": 2:0 register, 4 direction, 11:8 general register.
    let qualification = exit.qualification(&mut vcpu.platform);
    let mut number = (qualification & 7) as u8;
    let from_debug_register = qualification & 1 << 4 != 0;
    let general = (qualification >> 8 & 15) as usize;

    if number == 4 || number == 5 {
        // DR4 and DR5 are DR6 and DR7 unless debugging extensions are on (SDM 3B 18.2.2).
        if vcpu.platform.read(Field::GUEST_CR4) & CR4_DE != 0 {
            return Action::INVALID_OPCODE;
        }
        number += 2;
    }
    // This exit comes before the check of CPL (SDM 3C 26.1.3 "Instructions That Cause VM Exits Conditionally").
    if vcpu.privilege_level() != 0 {
        return Action::GENERAL_PROTECTION;
    }
    let dr7 = vcpu.platform.read(Field::GUEST_DR7);
    if dr7 & DR7_GENERAL_DETECT != 0 {
        return vcpu.debug_exception(DR6_ACCESS_DETECTED);
    }
    let register = match number {
        0 => Some(DebugRegister::Dr0),
        1 => Some(DebugRegister::Dr1),
        2 => Some(DebugRegister::Dr2),
        3 => Some(DebugRegister::Dr3),
        6 => Some(DebugRegister::Dr6),
        _ => None,
    };
    if from_debug_register {
        let value = register.map_or(dr7, |register| vcpu.platform.debug_register(register));
        vcpu.set_general(general, value);
        return Action::Complete;
    }
    let value = vcpu.operand(general);
    match register {
        // In 64-bit mode a value with upper bits set raises #GP for DR6 and DR7.
        Some(DebugRegister::Dr6) | None if value >> 32 != 0 => return Action::GENERAL_PROTECTION,
        Some(DebugRegister::Dr6) => {
            vcpu.platform.set_debug_register(DebugRegister::Dr6, value & DR6_WRITABLE | DR6_FIXED);
        }
        Some(register) => vcpu.platform.set_debug_register(register, value),
        None => vcpu.platform.write(Field::GUEST_DR7, value & DR7_WRITABLE | DR7_FIXED),
    }
    Action::Complete
}
