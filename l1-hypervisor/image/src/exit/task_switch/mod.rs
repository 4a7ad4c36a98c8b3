//! Task switches (SDM 3A 8.3 "Task Switching"). They always exit (SDM 3C 26.4.2 "Treatment of Task Switches"), so L1
//! performs them: CALL and JMP to a task, IRET from a nested one, and task gates in the IDT.
//!
//! What always holds: until the old task is saved nothing of the guest has changed, and everything that is written or
//! read up to there has been checked before; from then on a fault is one of the new task, whose state can be entered
//! whatever its segments are. The processor has checked privilege levels before the exit.

mod descriptor;
mod fault;
mod segment_register;
mod state;
#[cfg(test)]
mod tests;

use vmcs::event::{InterruptionInformation, Vector};
use vmcs::field::Field;
use vmcs::qualification::{TaskSwitch, TaskSwitchSource};

use super::Action;
use super::control_register::load_pdptes;
use super::information::Exit;
use super::segment::{Offsets, STACK};
use crate::guest_paging::{AccessKind, PagingState, check, read_linear, write_linear};
use crate::platform::{DebugRegister, Platform};
use crate::vcpu::Vcpu;
use crate::vmcs12::{CR0_PE, CR0_PG, CR0_TS, CR4_PAE};
use descriptor::{Descriptor, TABLE_INDICATOR, entry_address};
use fault::Fault;
use segment_register::{SEGMENTS, TASK};
use state::{Format, TaskState};

const EFER_LMA: u64 = 1 << 10;
const NESTED_TASK: u32 = 1 << 14;
const RESUME_FLAG: u32 = 1 << 16;
const VIRTUAL_8086: u32 = 1 << 17;
/// The flags that exist (SDM 1 3.4.3 "EFLAGS Register").
const FLAGS: u32 = 0x3f_7fd5;
/// L0 to L3 and LE of DR7, which every task switch clears (SDM 3B 18.2.4 "Debug Control Register (DR7)").
const DR7_LOCAL: u64 = 0x155;
/// DR6.BT: the T flag of a TSS raised #DB.
const DR6_TASK_SWITCH: u64 = 1 << 15;

/// Where a task is.
#[derive(Debug, Clone, Copy)]
struct Task {
    selector: u16,
    base: u64,
    limit: u32,
    rights: u32,
    format: Format,
}

/// Performs the switch.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    let switch = TaskSwitch(exit.qualification(&mut vcpu.platform));
    match perform(vcpu, exit, switch) {
        Ok(action) => action,
        Err(Fault::Page(fault)) => vcpu.page_fault(fault),
        Err(Fault::Exception { vector, error_code }) => Action::exception(vector, Some(error_code)),
    }
}

fn perform<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit, switch: TaskSwitch) -> Result<Action, Fault> {
    let source = switch.source();
    let event = match source {
        TaskSwitchSource::TaskGate => InterruptionInformation(exit.idt_vectoring(&mut vcpu.platform)),
        _ => InterruptionInformation(0),
    };
    let by_instruction = !event.is_valid() || event.event_type().has_instruction_length();
    // EXT in the error codes: the cause came from outside the program (SDM 3A 7.13 "Error Code").
    let external = u32::from(!by_instruction);

    let paging = system_access(vcpu);
    let (old, new) = (current_task(vcpu), find_new_task(vcpu, &paging, switch, external)?);
    if old.limit < old.format.smallest_limit() {
        return Err(Fault::selector(Vector::TS, new.selector, external));
    }
    check_accesses(vcpu, &paging, &old, &new, source)?;
    let next = new.format.load(&mut vcpu.memory, &paging, new.base)?;

    save_old_task(vcpu, exit, &paging, &old, source, by_instruction)?;
    let leaves_old = matches!(source, TaskSwitchSource::Jmp | TaskSwitchSource::Iret);
    if leaves_old {
        set_busy(vcpu, &paging, old.selector, false)?;
    }
    let is_nested = matches!(source, TaskSwitchSource::Call | TaskSwitchSource::TaskGate);
    if is_nested {
        write_linear(&mut vcpu.memory, &paging, new.base, &old.selector.to_le_bytes())?;
    }
    if source != TaskSwitchSource::Iret {
        set_busy(vcpu, &paging, new.selector, true)?;
    }

    enter_new_task(vcpu, &new, &next, is_nested);
    let loads_page_tables = load_page_tables(vcpu, &next);
    segment_register::load_all(vcpu, &next, external, loads_page_tables)?;
    if event.has_error_code() && event.is_valid() {
        let error_code = vcpu.platform.read(Field::IDT_VECTORING_ERROR_CODE) as u32;
        push_error_code(vcpu, new.format, error_code, external)?;
    }
    if next.trap {
        let dr6 = vcpu.platform.debug_register(DebugRegister::Dr6);
        vcpu.platform.set_debug_register(DebugRegister::Dr6, dr6 | DR6_TASK_SWITCH);
        return Ok(Action::exception(Vector::DB, None));
    }
    Ok(Action::Continue)
}

/// Accesses to descriptor tables and task-state segments are the supervisor's, whatever CPL is, and RFLAGS.AC does not
/// count for them (SDM 3A 4.6.1 "Determination of Access Rights": implicit supervisor-mode accesses).
fn system_access<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> PagingState {
    PagingState { cpl: 0, rflags: 0, ..vcpu.paging_state() }
}

/// The task that TR names.
fn current_task<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> Task {
    let [selector, base, limit, rights] = TASK.map(|field| vcpu.platform.read(field));
    let format = if rights & 0xf == 3 { Format::Bits16 } else { Format::Bits32 };
    Task { selector: selector as u16, base, limit: limit as u32, rights: rights as u32, format }
}

/// The task that is asked for. The processor has made these checks (SDM 3A table 8-1 "Exception Conditions Checked
/// During a Task Switch"); the descriptor is read again, and what is read now is used.
fn find_new_task<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    paging: &PagingState,
    switch: TaskSwitch,
    external: u32,
) -> Result<Task, Fault> {
    let selector = switch.selector();
    let returns = switch.source() == TaskSwitchSource::Iret;
    let invalid = Fault::selector(if returns { Vector::TS } else { Vector::GP }, selector, external);
    let efer = vcpu.platform.read(Field::GUEST_IA32_EFER);
    if efer & EFER_LMA != 0 || paging.cr0 & CR0_PE == 0 || selector & TABLE_INDICATOR != 0 {
        return Err(invalid);
    }
    let Some(address) = entry_address(vcpu, selector) else { return Err(invalid) };
    let descriptor = Descriptor::read(&mut vcpu.memory, paging, address)?;
    let Some(format) = descriptor.task_format(returns) else { return Err(invalid) };
    if !descriptor.is_present() {
        return Err(Fault::selector(Vector::NP, selector, external));
    }
    // Whatever the source, TR is busy in the end.
    let rights = descriptor.access_rights() & !0xf | format.busy_type();
    let task = Task { selector, base: descriptor.base(), limit: descriptor.limit(), rights, format };
    if task.limit < format.smallest_limit() {
        return Err(Fault::selector(Vector::TS, selector, external));
    }
    Ok(task)
}

/// Checks everything that is read and written until the old task is left.
fn check_accesses<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    paging: &PagingState,
    old: &Task,
    new: &Task,
    source: TaskSwitchSource,
) -> Result<(), Fault> {
    let saved = old.format.saved();
    let mut ranges = [
        Some((old.base.wrapping_add(saved.start), saved.end - saved.start, AccessKind::Write)),
        Some((new.base, u64::from(new.format.smallest_limit()) + 1, AccessKind::Read)),
        None,
        None,
        None,
    ];
    if matches!(source, TaskSwitchSource::Call | TaskSwitchSource::TaskGate) {
        ranges[2] = Some((new.base, 2, AccessKind::Write));
    }
    // The bytes that hold the busy bits.
    if source != TaskSwitchSource::Iret {
        ranges[3] = entry_address(vcpu, new.selector).map(|address| (address + 5, 1, AccessKind::Write));
    }
    if matches!(source, TaskSwitchSource::Jmp | TaskSwitchSource::Iret) {
        ranges[4] = entry_address(vcpu, old.selector).map(|address| (address + 5, 1, AccessKind::Write));
    }
    for (start, length, kind) in ranges.into_iter().flatten() {
        check(&mut vcpu.memory, paging, start, kind)?;
        check(&mut vcpu.memory, paging, start.wrapping_add(length - 1), kind)?;
    }
    Ok(())
}

fn save_old_task<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    exit: &mut Exit,
    paging: &PagingState,
    old: &Task,
    source: TaskSwitchSource,
    by_instruction: bool,
) -> Result<(), Fault> {
    let mut flags = vcpu.platform.read(Field::GUEST_RFLAGS) as u32;
    let mut instruction = exit.rip as u32;
    if by_instruction {
        // The old task goes on behind the instruction, of which RF lets only one pass.
        instruction = instruction.wrapping_add(exit.instruction_length(&mut vcpu.platform));
        flags &= !RESUME_FLAG;
    }
    if source == TaskSwitchSource::Iret {
        flags &= !NESTED_TASK;
    }
    let state = TaskState {
        instruction,
        flags,
        general: core::array::from_fn(|number| vcpu.general(number) as u32),
        selectors: SEGMENTS.map(|[selector, ..]| vcpu.platform.read(selector) as u16),
        ..TaskState::default()
    };
    old.format.save(&state, &mut vcpu.memory, paging, old.base)?;
    Ok(())
}

/// Sets or clears the busy bit of a TSS descriptor in the GDT. One that is no longer there has none.
fn set_busy<P: Platform>(vcpu: &mut Vcpu<'_, P>, paging: &PagingState, selector: u16, busy: bool) -> Result<(), Fault> {
    const BUSY: u8 = 1 << 1;
    let Some(address) = entry_address(vcpu, selector) else { return Ok(()) };
    let mut byte = [0];
    read_linear(&mut vcpu.memory, paging, address + 5, &mut byte)?;
    byte[0] = if busy { byte[0] | BUSY } else { byte[0] & !BUSY };
    write_linear(&mut vcpu.memory, paging, address + 5, &byte)?;
    Ok(())
}

/// Loads TR, the flags, the instruction pointer, the general registers and the selectors.
fn enter_new_task<P: Platform>(vcpu: &mut Vcpu<'_, P>, new: &Task, state: &TaskState, is_nested: bool) {
    let task_register = [new.selector.into(), new.base, new.limit.into(), new.rights.into()];
    for (field, value) in TASK.into_iter().zip(task_register) {
        vcpu.platform.write(field, value);
    }
    let nested = if is_nested { NESTED_TASK } else { 0 };
    let flags = (state.flags & FLAGS) | 2 | nested;
    let was_virtual_8086 = vcpu.platform.read(Field::GUEST_RFLAGS) & u64::from(VIRTUAL_8086) != 0;
    segment_register::leave_old_task(vcpu, was_virtual_8086);
    vcpu.platform.write(Field::GUEST_RFLAGS, flags.into());
    vcpu.platform.write(Field::GUEST_RIP, state.instruction.into());
    for (number, value) in state.general.into_iter().enumerate() {
        vcpu.set_general(number, value.into());
    }
    for ([selector, ..], value) in SEGMENTS.into_iter().zip(state.selectors) {
        vcpu.platform.write(selector, value.into());
    }
    let cr0 = vcpu.platform.read(Field::GUEST_CR0);
    vcpu.platform.write(Field::GUEST_CR0, cr0 | CR0_TS);
    let dr7 = vcpu.platform.read(Field::GUEST_DR7);
    if dr7 & DR7_LOCAL != 0 {
        vcpu.platform.write(Field::GUEST_DR7, dr7 & !DR7_LOCAL);
    }
    vcpu.clear_instruction_blocking();
}

/// Loads CR3 if the guest uses paging; a 16-bit TSS has none. False if a PDPTE has reserved bits set.
fn load_page_tables<P: Platform>(vcpu: &mut Vcpu<'_, P>, state: &TaskState) -> bool {
    let Some(cr3) = state.cr3.map(u64::from) else { return true };
    if vcpu.platform.read(Field::GUEST_CR0) & CR0_PG == 0 {
        return true;
    }
    if vcpu.platform.read(Field::GUEST_CR4) & CR4_PAE != 0 && !load_pdptes(vcpu, cr3) {
        return false;
    }
    vcpu.platform.write(Field::GUEST_CR3, cr3);
    vcpu.platform.invalidate_translations();
    true
}

/// Pushes the error code of an exception on the new task's stack, as wide as its TSS.
fn push_error_code<P: Platform>(vcpu: &mut Vcpu<'_, P>, format: Format, error_code: u32, external: u32) -> Result<(), Fault> {
    const BIG: u64 = 1 << 14;
    let rights = vcpu.platform.read(Field::GUEST_SS_ACCESS_RIGHTS);
    let mask = if rights & BIG != 0 { 0xffff_ffff } else { 0xffff };
    let size = format.word_size();
    let old = vcpu.platform.read(Field::GUEST_RSP);
    let offset = old.wrapping_sub(size) & mask;
    if !Offsets::of(vcpu, STACK).hold(offset, size) {
        return Err(Fault::Exception { vector: Vector::SS, error_code: external });
    }
    let base = vcpu.platform.read(Field::GUEST_SS_BASE);
    let paging = vcpu.paging_state();
    write_linear(&mut vcpu.memory, &paging, base.wrapping_add(offset), &error_code.to_le_bytes()[..size as usize])?;
    vcpu.platform.write(Field::GUEST_RSP, old & !mask | offset);
    Ok(())
}
