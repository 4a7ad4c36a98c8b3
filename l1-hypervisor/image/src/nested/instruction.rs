//! VMX instructions that L2 executes in VMX root operation.
//!
//! What always holds: the order of the checks is that of the SDM's pseudocode: the mode (#UD), the privilege level (#GP),
//! then what the instruction itself demands. An instruction that fails or faults leaves VMX operation as it was.
//!
//! Source: SDM 3C chapter 30 "VMX Instruction Reference".

use shadow::operation::Reply;
use vmcs::capability::EptVpid;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;
use vmcs::instruction_error::InstructionError;
use vmcs::instruction_information::{MemoryOperand, Operands, RegisterOrMemory};

use super::regions::World;
use super::{Nested, entry, operand, shadowing, with};
use crate::exit::Action;
use crate::exit::information::Exit;
use crate::guest_paging::is_canonical;
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vmcs12::{CR0_PE, CR4_VMXE};

const RFLAGS_VM: u64 = 1 << 17;
const EFER_LMA: u64 = 1 << 10;

/// An instruction that L2 executed.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    let reason = exit.reason.basic();
    with(vcpu, |vcpu, nested| execute(vcpu, nested, exit, reason).unwrap_or_else(|fault| fault)).unwrap_or(Action::INVALID_OPCODE)
}

/// Whether VMCALL is the instruction of VMX root operation, and not a call of a guest to L1.
#[must_use]
pub fn is_in_vmx_operation<P>(vcpu: &Vcpu<'_, P>) -> bool {
    vcpu.nested.as_ref().is_some_and(|nested| nested.operation.is_on())
}

fn execute<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit, reason: Reason) -> Result<Action, Action> {
    check_mode(vcpu, nested, reason)?;
    if vcpu.privilege_level() > 0 {
        return Err(Action::GENERAL_PROTECTION);
    }
    let reply = match reason {
        Reason::VMXON => vmxon(vcpu, nested, exit)?,
        Reason::VMXOFF => {
            let (operation, mut world) = world(vcpu, nested);
            let reply = operation.vmxoff(&mut world);
            vcpu.set_vmx_operation(false);
            reply
        }
        Reason::VMCLEAR => {
            let address = pointer(vcpu, exit)?;
            let (operation, mut world) = world(vcpu, nested);
            operation.vmclear(address, &mut world)
        }
        Reason::VMPTRLD => {
            let address = pointer(vcpu, exit)?;
            let (operation, mut world) = world(vcpu, nested);
            operation.vmptrld(address, &mut world)
        }
        Reason::VMPTRST => {
            let memory = memory_operand(vcpu, exit)?;
            operand::write(vcpu, exit, &memory, &nested.operation.current_pointer().to_le_bytes())?;
            Reply::Succeed
        }
        Reason::VMREAD => vmread(vcpu, nested, exit)?,
        Reason::VMWRITE => vmwrite(vcpu, nested, exit)?,
        Reason::VMCALL => nested.operation.fail(InstructionError::VMCALL_IN_VMX_ROOT_OPERATION),
        Reason::VMLAUNCH | Reason::VMRESUME => match entry::enter(vcpu, nested, reason == Reason::VMLAUNCH) {
            Ok(()) => return Ok(Action::Continue),
            Err(reply) => reply,
        },
        Reason::INVEPT => invept(vcpu, nested, exit)?,
        Reason::INVVPID => invvpid(vcpu, nested, exit)?,
        _ => return Err(Action::INVALID_OPCODE),
    };
    let rflags = vcpu.platform.read(Field::GUEST_RFLAGS);
    let new = rflags & !Reply::FLAGS | reply.flags();
    if new != rflags {
        vcpu.platform.write(Field::GUEST_RFLAGS, new);
    }
    Ok(Action::Complete)
}

/// The state machine and the world it works on, borrowed apart.
fn world<'a, 'm, P>(
    vcpu: &'a mut Vcpu<'m, P>,
    nested: &'a mut Nested,
) -> (&'a mut shadow::operation::Operation, World<'a, 'm, P>) {
    let world = World { memory: &mut vcpu.memory, platform: &mut vcpu.platform, regions: &mut nested.regions };
    (&mut nested.operation, world)
}

/// #UD: not in VMX operation (or, for VMXON, CR4.VMXE = 0), real mode, virtual-8086 mode, compatibility mode.
fn check_mode<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &Nested, reason: Reason) -> Result<(), Action> {
    let usable = if reason == Reason::VMXON {
        vcpu.platform.read(Field::CR4_READ_SHADOW) & CR4_VMXE != 0
    } else {
        nested.operation.is_on()
    };
    let compatibility =
        |vcpu: &mut Vcpu<'_, P>| vcpu.platform.read(Field::GUEST_IA32_EFER) & EFER_LMA != 0 && !vcpu.is_64_bit_code_segment();
    let undefined = !usable
        || vcpu.platform.read(Field::GUEST_CR0) & CR0_PE == 0
        || vcpu.platform.read(Field::GUEST_RFLAGS) & RFLAGS_VM != 0
        || compatibility(vcpu);
    if undefined { Err(Action::INVALID_OPCODE) } else { Ok(()) }
}

fn memory_operand<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &Exit) -> Result<MemoryOperand, Action> {
    match operand::decode(vcpu, exit.reason.basic()) {
        Some(Operands::Memory(memory)) => Ok(memory),
        _ => Err(Action::INVALID_OPCODE),
    }
}

fn pointer<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Result<u64, Action> {
    let memory = memory_operand(vcpu, exit)?;
    operand::read::<8, P>(vcpu, exit, &memory).map(u64::from_le_bytes)
}

fn vmxon<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Result<Reply, Action> {
    if nested.operation.is_on() {
        return Ok(nested.operation.vmxon_again());
    }
    // CR0 and CR4 must hold what VMX operation fixes (SDM 3C 23.8 "Restrictions on VMX Operation"). The guest's CR0.NE is
    // in the read shadow.
    let (cr0, cr4) = (vcpu.seen_cr0(), vcpu.seen_cr4());
    let (fixed0, fixed4) = (nested.offered.cr0_fixed(), nested.offered.cr4_fixed());
    let bad_cr0 = fixed0.required & !cr0 != 0 || cr0 & !fixed0.allowed != 0;
    let bad_cr4 = fixed4.required & !cr4 != 0 || cr4 & !fixed4.allowed != 0;
    // IA32_FEATURE_CONTROL is locked with VMXON allowed.
    if bad_cr0 || bad_cr4 {
        return Err(Action::GENERAL_PROTECTION);
    }
    let address = pointer(vcpu, exit)?;
    let (operation, mut world) = world(vcpu, nested);
    let reply = operation.vmxon(address, &mut world);
    vcpu.set_vmx_operation(reply == Reply::Succeed);
    Ok(reply)
}

/// The encoding in the register operand of VMREAD and VMWRITE: 64 bits in 64-bit mode, else 32.
fn encoding<P: Platform>(vcpu: &mut Vcpu<'_, P>, number: u8) -> Field {
    let value = vcpu.operand(number.into());
    // An encoding with one of bits 63:32 set is no field; the table knows none with bit 31 set.
    Field(u32::try_from(value).unwrap_or(u32::MAX))
}

fn vmread<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Result<Reply, Action> {
    let Some(Operands::VmreadVmwrite { field, value }) = operand::decode(vcpu, Reason::VMREAD) else {
        return Err(Action::INVALID_OPCODE);
    };
    let field = encoding(vcpu, field.number());
    let wide = vcpu.is_64_bit_code();
    shadowing::before_access(vcpu, nested, field);
    let read = match nested.operation.vmread(field) {
        Ok(read) => read,
        Err(reply) => return Ok(reply),
    };
    match value {
        RegisterOrMemory::Register(register) => {
            let read = if wide { read } else { read & 0xffff_ffff };
            vcpu.set_general(register.number().into(), read);
        }
        // The operand has the processor's width, whatever the field's.
        RegisterOrMemory::Memory(memory) => {
            let bytes = read.to_le_bytes();
            operand::write(vcpu, exit, &memory, if wide { &bytes } else { &bytes[..4] })?;
        }
    }
    Ok(Reply::Succeed)
}

fn vmwrite<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Result<Reply, Action> {
    let Some(Operands::VmreadVmwrite { field, value }) = operand::decode(vcpu, Reason::VMWRITE) else {
        return Err(Action::INVALID_OPCODE);
    };
    if nested.operation.current_slot().is_none() {
        return Ok(Reply::FailInvalid);
    }
    let wide = vcpu.is_64_bit_code();
    let value = match value {
        RegisterOrMemory::Register(register) => vcpu.operand(register.number().into()),
        RegisterOrMemory::Memory(memory) if wide => u64::from_le_bytes(operand::read::<8, P>(vcpu, exit, &memory)?),
        RegisterOrMemory::Memory(memory) => u32::from_le_bytes(operand::read::<4, P>(vcpu, exit, &memory)?).into(),
    };
    let field = encoding(vcpu, field.number());
    shadowing::before_access(vcpu, nested, field);
    let reply = nested.operation.vmwrite(field, value);
    shadowing::after_write(vcpu, nested, field);
    Ok(reply)
}

/// The type of invalidation, and the descriptor.
fn invalidation<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Result<(u64, MemoryOperand), Action> {
    match operand::decode(vcpu, exit.reason.basic()) {
        Some(Operands::Invalidation { memory, register }) => Ok((vcpu.operand(register.number().into()), memory)),
        _ => Err(Action::INVALID_OPCODE),
    }
}

fn descriptor<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit, memory: &MemoryOperand) -> Result<[u64; 2], Action> {
    let bytes = operand::read::<16, P>(vcpu, exit, memory)?;
    let number = u128::from_le_bytes(bytes);
    Ok([number as u64, (number >> 64) as u64])
}

fn invept<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Result<Reply, Action> {
    const SINGLE_CONTEXT: u64 = 1;
    const ALL_CONTEXTS: u64 = 2;
    let offered = nested.offered.ept_vpid();
    if !offered.contains(EptVpid::INVEPT) {
        return Err(Action::INVALID_OPCODE);
    }
    let (kind, memory) = invalidation(vcpu, exit)?;
    let supported = match kind {
        SINGLE_CONTEXT => offered.contains(EptVpid::SINGLE_CONTEXT_INVEPT),
        ALL_CONTEXTS => offered.contains(EptVpid::ALL_CONTEXT_INVEPT),
        _ => false,
    };
    if !supported {
        return Ok(nested.operation.fail(InstructionError::INVALID_OPERAND_TO_INVEPT_INVVPID));
    }
    let [pointer, _] = descriptor(vcpu, exit, &memory)?;
    if kind == SINGLE_CONTEXT {
        if !super::memory::is_ept_pointer(pointer, offered, vcpu.features.physical_address_width) {
            return Ok(nested.operation.fail(InstructionError::INVALID_OPERAND_TO_INVEPT_INVVPID));
        }
        nested.composition.invalidate_single(pointer);
    } else {
        nested.composition.invalidate_all();
    }
    vcpu.platform.invalidate_ept();
    Ok(Reply::Succeed)
}

fn invvpid<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Result<Reply, Action> {
    const INDIVIDUAL_ADDRESS: u64 = 0;
    const ALL_CONTEXTS: u64 = 2;
    let offered = nested.offered.ept_vpid();
    if !offered.contains(EptVpid::INVVPID) {
        return Err(Action::INVALID_OPCODE);
    }
    let (kind, memory) = invalidation(vcpu, exit)?;
    let supported = [
        EptVpid::INDIVIDUAL_ADDRESS_INVVPID,
        EptVpid::SINGLE_CONTEXT_INVVPID,
        EptVpid::ALL_CONTEXT_INVVPID,
        EptVpid::SINGLE_CONTEXT_RETAINING_GLOBALS_INVVPID,
    ];
    if !usize::try_from(kind).is_ok_and(|kind| supported.get(kind).is_some_and(|bit| offered.contains(*bit))) {
        return Ok(nested.operation.fail(InstructionError::INVALID_OPERAND_TO_INVEPT_INVVPID));
    }
    let [low, address] = descriptor(vcpu, exit, &memory)?;
    let vpid = low & 0xffff;
    let invalid = low >> 16 != 0 || kind != ALL_CONTEXTS && vpid == 0 || kind == INDIVIDUAL_ADDRESS && !is_canonical(address);
    if invalid {
        return Ok(nested.operation.fail(InstructionError::INVALID_OPERAND_TO_INVEPT_INVVPID));
    }
    vcpu.platform.invalidate_translations();
    Ok(Reply::Succeed)
}
