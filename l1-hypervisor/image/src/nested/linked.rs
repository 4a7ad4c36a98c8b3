//! VMREAD and VMWRITE of L3 that L2's VMCS shadowing serves: the hands of [`shadow::operation`]'s linked VMCS.
//!
//! What always holds: only what vmcs23 does not intercept comes here, so the processor has already raised #UD for a wrong
//! mode; the privilege level is checked before anything else (SDM 3C 30.3 "VMREAD", "VMWRITE"). An operand is L3's, so its
//! address goes through L3's page tables and EPT23, and the exception or the exit that it causes is L3's or L2's.

use shadow::operation::Reply;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;
use vmcs::instruction_information::{Operands, RegisterOrMemory};

use super::regions::World;
use super::{Nested, l3_memory, operand, switch, vmcs13};
use crate::exit::Action;
use crate::exit::information::Exit;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// An instruction of L3 that goes to the shadow VMCS of L2.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Action {
    serve(vcpu, nested, exit).unwrap_or_else(|fault| fault)
}

fn serve<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested, exit: &mut Exit) -> Result<Action, Action> {
    if vcpu.privilege_level() > 0 {
        return Err(Action::GENERAL_PROTECTION);
    }
    let reason = exit.reason.basic();
    let Some(Operands::VmreadVmwrite { field, value }) = operand::decode(vcpu, reason) else {
        return Err(Action::INVALID_OPCODE);
    };
    // Wider encodings are intercepted whatever the bitmaps say.
    let field = Field(vcpu.operand(field.number().into()) as u32);
    let reply = if reason == Reason::VMREAD {
        vmread(vcpu, nested, exit, field, value)?
    } else {
        vmwrite(vcpu, nested, exit, field, value)?
    };
    let rflags = vcpu.platform.read(Field::GUEST_RFLAGS) & !Reply::FLAGS | reply.flags();
    vcpu.platform.write(Field::GUEST_RFLAGS, rflags);
    Ok(Action::Complete)
}

fn vmread<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    nested: &mut Nested,
    exit: &mut Exit,
    field: Field,
    destination: RegisterOrMemory,
) -> Result<Reply, Action> {
    let read = with_operation(vcpu, nested, |operation, world| operation.linked_vmread(field, world));
    let read = match read {
        Ok(read) => read,
        Err(reply) => return Ok(reply),
    };
    let wide = vcpu.is_64_bit_code();
    match destination {
        RegisterOrMemory::Register(register) => {
            vcpu.set_general(register.number().into(), if wide { read } else { read & 0xffff_ffff });
        }
        RegisterOrMemory::Memory(memory) => {
            let bytes = read.to_le_bytes();
            let bytes = if wide { &bytes[..] } else { &bytes[..4] };
            let linear = operand::linear_address(vcpu, exit, &memory, bytes.len() as u64, true)?;
            l3_memory::write(vcpu, nested, linear, bytes)?;
        }
    }
    Ok(Reply::Succeed)
}

fn vmwrite<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    nested: &mut Nested,
    exit: &mut Exit,
    field: Field,
    source: RegisterOrMemory,
) -> Result<Reply, Action> {
    let has_link = nested.operation.current().is_some_and(|vmcs23| vmcs23.get(Field::VMCS_LINK_POINTER) != u64::MAX);
    if !has_link {
        return Ok(Reply::FailInvalid);
    }
    let value = match source {
        RegisterOrMemory::Register(register) => vcpu.operand(register.number().into()),
        RegisterOrMemory::Memory(memory) => {
            let mut bytes = [0; 8];
            let length = if vcpu.is_64_bit_code() { 8 } else { 4 };
            let linear = operand::linear_address(vcpu, exit, &memory, length as u64, false)?;
            l3_memory::read(vcpu, nested, linear, &mut bytes[..length])?;
            u64::from_le_bytes(bytes)
        }
    };
    Ok(with_operation(vcpu, nested, |operation, world| operation.linked_vmwrite(field, value, world)))
}

/// The state machine's work, after which vmcs13 is current again.
fn with_operation<P: Platform, T>(
    vcpu: &mut Vcpu<'_, P>,
    nested: &mut Nested,
    work: impl FnOnce(&mut shadow::operation::Operation, &mut World<'_, '_, P>) -> T,
) -> T {
    let mut world = World { memory: &mut vcpu.memory, platform: &mut vcpu.platform, regions: &mut nested.regions };
    let result = work(&mut nested.operation, &mut world);
    if let Some(slot) = nested.running {
        switch(vcpu, vmcs13(slot));
    }
    result
}
