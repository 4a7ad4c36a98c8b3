//! The memory and register operands of VMX instructions that L2 has executed.
//!
//! What always holds: the checks are those that the processor makes when it executes the instruction in VMX root
//! operation: canonical addresses in 64-bit mode, else the segment's limit, then the guest's page tables. A fault leaves
//! memory as it is.

use vmcs::event::Vector;
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;
use vmcs::instruction_information::{InstructionInformation, MemoryOperand, Operands};

use super::physical;
use crate::exit::Action;
use crate::exit::information::Exit;
use crate::exit::segment::{BASES, Offsets, RIGHTS, STACK};
use crate::guest_paging::is_canonical;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// FS and GS keep their bases in 64-bit mode.
const FIRST_WITH_BASE: usize = 4;
const CODE_SEGMENT: u64 = 1 << 3;
const WRITABLE_OR_READABLE: u64 = 1 << 1;

/// The operands of the instruction that exited.
pub fn decode<P: Platform>(vcpu: &mut Vcpu<'_, P>, reason: BasicExitReason) -> Option<Operands> {
    let information = vcpu.platform.read(Field::VM_EXIT_INSTRUCTION_INFORMATION) as u32;
    InstructionInformation(information).decode(reason)
}

/// Where a memory operand lies, once the segment allows the access.
///
/// # Errors
/// The exception to deliver.
pub fn linear_address<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    exit: &mut Exit,
    operand: &MemoryOperand,
    size: u64,
    write: bool,
) -> Result<u64, Action> {
    let qualification = exit.qualification(&mut vcpu.platform);
    // The displacement is sign-extended from the address size; outside 64-bit mode registers have 32 bits.
    let displacement = qualification & operand.address_size.mask();
    let offset = operand.effective_address(displacement, |register| vcpu.operand(register.number().into()));
    let segment = usize::from(operand.segment.number()).min(5);
    if vcpu.is_64_bit_code() {
        let base = if segment >= FIRST_WITH_BASE { vcpu.platform.read(BASES[segment]) } else { 0 };
        let linear = base.wrapping_add(offset);
        return if is_canonical(linear) && is_canonical(linear.wrapping_add(size - 1)) {
            Ok(linear)
        } else {
            Err(segment_fault(segment))
        };
    }
    let rights = vcpu.platform.read(RIGHTS[segment]);
    let code = rights & CODE_SEGMENT != 0;
    let allowed = match (write, code) {
        (true, true) => false,
        (true, false) => rights & WRITABLE_OR_READABLE != 0,
        (false, true) => rights & WRITABLE_OR_READABLE != 0,
        (false, false) => true,
    };
    if !allowed || !Offsets::of(vcpu, segment).hold(offset, size) {
        return Err(segment_fault(segment));
    }
    Ok(vcpu.platform.read(BASES[segment]).wrapping_add(offset) & 0xffff_ffff)
}

fn segment_fault(segment: usize) -> Action {
    if segment == STACK { Action::exception(Vector::SS, Some(0)) } else { Action::GENERAL_PROTECTION }
}

/// Reads a memory operand of `N` bytes.
///
/// # Errors
/// The exception to deliver.
pub fn read<const N: usize, P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    exit: &mut Exit,
    operand: &MemoryOperand,
) -> Result<[u8; N], Action> {
    let linear = linear_address(vcpu, exit, operand, N as u64, false)?;
    let paging = vcpu.paging_state();
    let mut bytes = [0; N];
    physical::read(vcpu, &paging, linear, &mut bytes)?;
    Ok(bytes)
}

/// Writes a memory operand.
///
/// # Errors
/// The exception to deliver.
pub fn write<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit, operand: &MemoryOperand, bytes: &[u8]) -> Result<(), Action> {
    let linear = linear_address(vcpu, exit, operand, bytes.len() as u64, true)?;
    let paging = vcpu.paging_state();
    physical::write(vcpu, &paging, linear, bytes)
}
