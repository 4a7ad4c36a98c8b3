//! The VMREADs and VMWRITEs that exit most often, on the shortest way: 64-bit code at CPL 0, register operands, a field
//! whose value is at hand.
//!
//! What always holds: this way does exactly what [`super::instruction`] does, or nothing: whatever is unusual (an operand in
//! memory, RSP, a field that does not exist or is still in vmcs13, an interrupt or a trap that waits) is found before
//! anything has changed, and left to the other way.

use shadow::operation::Reply;
use shadow::vmcs23::Vmcs23;
use vmcs::field::{Field, Kind};

use super::look_ahead::{self, Position};
use crate::context::register::RSP;
use crate::exit::information::Exit;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

const CODE_SEGMENT_LONG: u64 = 1 << 13;
const PRIVILEGE_LEVEL: u64 = 0b11 << 5;
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_RF: u64 = 1 << 16;
/// Instruction information of VMREAD and VMWRITE (SDM 3C table 27-14): the other operand is a register.
const REGISTER_OPERAND: u64 = 1 << 10;

/// VMREAD; says whether it is done.
#[inline(never)]
pub fn read<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &Exit) -> bool {
    access(vcpu, exit, read_field)
}

/// VMWRITE; says whether it is done.
#[inline(never)]
pub fn write<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &Exit) -> bool {
    access(vcpu, exit, write_field)
}

/// VMREAD to a register; says whether it is done.
#[inline(always)]
pub(super) fn read_field(vmcs23: &mut Vmcs23, row: usize, field: Field, register: &mut u64) -> bool {
    if vmcs23.in_vmcs13.contains_row(row) {
        return false;
    }
    let value = vmcs23.row(row);
    *register = if field.is_high() { value >> 32 } else { value };
    true
}

/// VMWRITE from a register; says whether it is done.
#[inline(always)]
pub(super) fn write_field(vmcs23: &mut Vmcs23, row: usize, field: Field, register: &mut u64) -> bool {
    if field.is_high() || field.kind() == Kind::ReadOnly {
        return false;
    }
    vmcs23.write_known(row, field, *register);
    true
}

#[inline(always)]
fn access<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    exit: &Exit,
    work: impl FnOnce(&mut Vmcs23, usize, Field, &mut u64) -> bool,
) -> bool {
    // An interrupt that waits ends blocking by STI, which is not done here.
    if vcpu.devices.event_pending() {
        return false;
    }
    let Vcpu { nested: Some(nested), platform, context, memory, features, .. } = vcpu else { return false };
    if !nested.operation.is_on()
        || !nested.long_mode
        || platform.read(Field::GUEST_CS_ACCESS_RIGHTS) & CODE_SEGMENT_LONG == 0
        || platform.read(Field::GUEST_SS_ACCESS_RIGHTS) & PRIVILEGE_LEVEL != 0
    {
        return false;
    }
    let information = platform.read(Field::VM_EXIT_INSTRUCTION_INFORMATION);
    let field_register = (information >> 28 & 15) as usize;
    let value_register = (information >> 3 & 15) as usize;
    let rflags = platform.read(Field::GUEST_RFLAGS);
    let usual = information & REGISTER_OPERAND != 0 && rflags & (RFLAGS_TF | RFLAGS_RF) == 0;
    if !usual || field_register == RSP || value_register == RSP {
        return false;
    }
    let Ok(encoding) = u32::try_from(context.general[field_register]) else { return false };
    let field = Field(encoding);
    let Some((vmcs23, row)) = nested.operation.find_field(field) else { return false };
    // A field that the shadow VMCS serves must be carried there, too.
    if nested.regions.hardware.as_ref().is_some_and(|hardware| hardware.serves_row(row)) {
        return false;
    }
    if !work(vmcs23, row, field, &mut context.general[value_register]) {
        return false;
    }
    let length = platform.read(Field::VM_EXIT_INSTRUCTION_LENGTH);
    let mut end = Position { rip: exit.rip.wrapping_add(length), rflags: rflags & !Reply::FLAGS };
    if nested.look_ahead.is_some() {
        end = look_ahead::run(nested, platform, context, memory, features, exit.rip, end);
    }
    platform.write(Field::GUEST_RIP, end.rip);
    if end.rflags != rflags {
        platform.write(Field::GUEST_RFLAGS, end.rflags);
    }
    true
}
