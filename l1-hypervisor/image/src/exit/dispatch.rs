//! Who handles which exit.

use l1_protocol::end::EndReason;
use vmcs::exit_reason::BasicExitReason as Reason;

use super::information::Exit;
use super::{Action, control_register, cpuid, debug_register, exception, halt, io, memory, msr, task_switch, time, xsetbv};
use crate::context::register::RAX;
use crate::nested;
use crate::platform::{Platform, RandomSource};
use crate::vcpu::Vcpu;

/// Handles one exit. The most frequent reason is handled in the loop itself, all others in a function of their own.
#[inline(always)]
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    if exit.reason.0 == u32::from(Reason::CPUID.0) { cpuid::handle(vcpu) } else { handle_other(vcpu, exit) }
}

#[inline(never)]
fn handle_other<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    if exit.reason.is_entry_failure() {
        return Action::stop(EndReason::EntryFailed, exit.reason.0.into(), "");
    }
    match exit.reason.basic() {
        Reason::EXCEPTION_OR_NMI => exception::handle(vcpu, exit),
        // The machine's interrupts are none of the guest's; acknowledging one on exit has dealt with it.
        Reason::EXTERNAL_INTERRUPT => Action::Resume,
        Reason::TRIPLE_FAULT => Action::stop(EndReason::TripleFault, 0, ""),
        Reason::INTERRUPT_WINDOW => {
            vcpu.close_interrupt_window();
            Action::Resume
        }
        Reason::NMI_WINDOW => {
            vcpu.close_nmi_window();
            Action::Resume
        }
        Reason::TASK_SWITCH => {
            nested::guarded::register_changes(vcpu);
            task_switch::handle(vcpu, exit)
        }
        Reason::HLT => halt::handle(vcpu, exit),
        // INVD would throw away what the guest (and L1) wrote: it is WBINVD here, as in every hypervisor.
        Reason::INVD | Reason::WBINVD_OR_WBNOINVD => {
            vcpu.platform.write_back_caches();
            Action::Complete
        }
        Reason::INVLPG => {
            vcpu.platform.invalidate_translations();
            Action::Complete
        }
        Reason::RDTSC => time::handle_rdtsc(vcpu),
        Reason::RDTSCP => time::handle_rdtscp(vcpu),
        // No performance counters are shown: every index is invalid.
        Reason::RDPMC => Action::GENERAL_PROTECTION,
        Reason::VMCALL if !nested::instruction::is_in_vmx_operation(vcpu) => vmcall(vcpu),
        // Where L2 is shown no VMX these instructions do not exist for it.
        Reason::VMCALL
        | Reason::VMCLEAR
        | Reason::VMLAUNCH
        | Reason::VMPTRLD
        | Reason::VMPTRST
        | Reason::VMREAD
        | Reason::VMRESUME
        | Reason::VMWRITE
        | Reason::VMXOFF
        | Reason::VMXON
        | Reason::INVEPT
        | Reason::INVVPID => nested::instruction::handle(vcpu, exit),
        Reason::VMFUNC | Reason::GETSEC => Action::INVALID_OPCODE,
        // MONITOR and MWAIT are not shown either.
        Reason::MONITOR | Reason::MWAIT => Action::INVALID_OPCODE,
        Reason::CONTROL_REGISTER_ACCESS => {
            nested::guarded::register_changes(vcpu);
            control_register::handle(vcpu, exit)
        }
        Reason::MOV_DR if nested::guarded::register_changes(vcpu) => Action::Resume,
        Reason::MOV_DR => debug_register::handle(vcpu, exit),
        // L1 asks for these exits only where it guards what an exit of L3 has loaded.
        Reason::ACCESS_TO_GDTR_OR_IDTR | Reason::ACCESS_TO_LDTR_OR_TR => {
            nested::guarded::register_changes(vcpu);
            Action::Resume
        }
        Reason::IO_INSTRUCTION => io::handle(vcpu, exit),
        Reason::RDMSR => msr::handle_read(vcpu),
        Reason::WRMSR => msr::handle_write(vcpu),
        Reason::PAUSE => Action::Complete,
        Reason::EPT_VIOLATION => memory::handle_violation(vcpu, exit),
        Reason::EPT_MISCONFIGURATION => memory::handle_misconfiguration(vcpu),
        Reason::VMX_PREEMPTION_TIMER_EXPIRED => Action::Resume,
        Reason::RDRAND => random(vcpu, RandomSource::Rdrand),
        Reason::RDSEED => random(vcpu, RandomSource::Rdseed),
        Reason::XSETBV => xsetbv::handle(vcpu),
        _ => Action::stop(EndReason::UnhandledExit, exit.reason.0.into(), ""),
    }
}

/// VMCALL: a call that does nothing but count and answer, so that guests and benchmarks can measure an exit. RAX is the
/// call's number: 0 gives 0; every other one is unknown and gives −1.
fn vmcall<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Action {
    let known = vcpu.context.general[RAX] == 0;
    vcpu.context.general[RAX] = if known { 0 } else { u64::MAX };
    Action::Complete
}

/// RDRAND and RDSEED, where the user asked for these exits.
fn random<P: Platform>(vcpu: &mut Vcpu<'_, P>, source: RandomSource) -> Action {
    use vmcs::field::Field;
    // SDM 3C table 28-14: 6:3 destination register, 12:11 operand size. SDM 2 "RDRAND": CF tells whether there is a
    // number, the destination is zero if not; OF, SF, ZF, AF and PF are cleared.
    const FLAGS: u64 = 0x8d5;
    const CARRY: u64 = 1;
    let information = vcpu.platform.read(Field::VM_EXIT_INSTRUCTION_INFORMATION);
    let register = (information >> 3 & 15) as usize;
    let number = vcpu.platform.random(source);
    let value = number.unwrap_or(0);
    match information >> 11 & 3 {
        0 => {
            let old = vcpu.general(register);
            vcpu.set_general(register, old & !0xffff | value & 0xffff);
        }
        1 => vcpu.set_general(register, value & 0xffff_ffff),
        _ => vcpu.set_general(register, value),
    }
    let rflags = vcpu.platform.read(Field::GUEST_RFLAGS) & !FLAGS | if number.is_some() { CARRY } else { 0 };
    vcpu.platform.write(Field::GUEST_RFLAGS, rflags);
    Action::Complete
}
