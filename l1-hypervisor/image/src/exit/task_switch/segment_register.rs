//! The segment registers of the new task (SDM 3A table 8-1 "Exception Conditions Checked During a Task Switch").
//!
//! What always holds: a register that cannot be loaded leaves a state that can be entered. Selectors are the new task's
//! from the beginning; data segments that are not loaded yet cannot be used, CS and SS go on as they were until they are
//! loaded.

use vmcs::event::Vector;
use vmcs::field::Field;

use super::descriptor::{Descriptor, TABLE_INDICATOR, UNUSABLE, entry_address};
use super::fault::Fault;
use super::state::TaskState;
use super::{VIRTUAL_8086, system_access};
use crate::guest_paging::write_linear;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// Selector, base, limit and access rights of a segment register.
type Register = [Field; 4];

/// ES, CS, SS, DS, FS, GS: by number, and in the order of a TSS.
pub(super) const SEGMENTS: [Register; 6] = [
    [Field::GUEST_ES_SELECTOR, Field::GUEST_ES_BASE, Field::GUEST_ES_LIMIT, Field::GUEST_ES_ACCESS_RIGHTS],
    [Field::GUEST_CS_SELECTOR, Field::GUEST_CS_BASE, Field::GUEST_CS_LIMIT, Field::GUEST_CS_ACCESS_RIGHTS],
    [Field::GUEST_SS_SELECTOR, Field::GUEST_SS_BASE, Field::GUEST_SS_LIMIT, Field::GUEST_SS_ACCESS_RIGHTS],
    [Field::GUEST_DS_SELECTOR, Field::GUEST_DS_BASE, Field::GUEST_DS_LIMIT, Field::GUEST_DS_ACCESS_RIGHTS],
    [Field::GUEST_FS_SELECTOR, Field::GUEST_FS_BASE, Field::GUEST_FS_LIMIT, Field::GUEST_FS_ACCESS_RIGHTS],
    [Field::GUEST_GS_SELECTOR, Field::GUEST_GS_BASE, Field::GUEST_GS_LIMIT, Field::GUEST_GS_ACCESS_RIGHTS],
];
const CODE: usize = 1;
const STACK: usize = 2;
/// DS, ES, FS, GS.
const DATA: [usize; 4] = [3, 0, 4, 5];

/// LDTR.
const LOCAL_TABLE: Register =
    [Field::GUEST_LDTR_SELECTOR, Field::GUEST_LDTR_BASE, Field::GUEST_LDTR_LIMIT, Field::GUEST_LDTR_ACCESS_RIGHTS];
/// TR.
pub(super) const TASK: Register =
    [Field::GUEST_TR_SELECTOR, Field::GUEST_TR_BASE, Field::GUEST_TR_LIMIT, Field::GUEST_TR_ACCESS_RIGHTS];

/// Rights of every segment in virtual-8086 mode, of code of that mode, and of an LDT.
const VIRTUAL_8086_RIGHTS: u64 = 0xf3;
const VIRTUAL_8086_CODE_RIGHTS: u64 = 0xfb;
const LDT: u32 = 2;
const ACCESSED: u32 = 1;

/// Takes the old task's data segments away. CS as virtual-8086 mode has it is no code segment of any other mode.
pub(super) fn leave_old_task<P: Platform>(vcpu: &mut Vcpu<'_, P>, was_virtual_8086: bool) {
    for [.., rights] in DATA.map(|number| SEGMENTS[number]) {
        vcpu.platform.write(rights, UNUSABLE);
    }
    if was_virtual_8086 {
        vcpu.platform.write(Field::GUEST_CS_ACCESS_RIGHTS, VIRTUAL_8086_CODE_RIGHTS);
    }
}

/// Loads LDTR and all segment registers. Without page tables to read their descriptors from (#GP) nothing is loaded but
/// what virtual-8086 mode needs.
pub(super) fn load_all<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    state: &TaskState,
    external: u32,
    has_page_tables: bool,
) -> Result<(), Fault> {
    let is_virtual_8086 = state.flags & VIRTUAL_8086 != 0;
    if is_virtual_8086 {
        for (register, selector) in SEGMENTS.into_iter().zip(state.selectors) {
            set(vcpu, register, [selector.into(), u64::from(selector) << 4, 0xffff, VIRTUAL_8086_RIGHTS]);
        }
    }
    set(vcpu, LOCAL_TABLE, [state.local_table.into(), 0, 0, UNUSABLE]);
    if !has_page_tables {
        return Err(Fault::Exception { vector: Vector::GP, error_code: 0 });
    }
    load_local_table(vcpu, state.local_table, external)?;
    if is_virtual_8086 {
        return Ok(());
    }
    let privilege_level = state.selectors[CODE] & 3;
    load_code_and_stack(vcpu, state, privilege_level, external)?;
    for number in DATA {
        load_data(vcpu, SEGMENTS[number], state.selectors[number], privilege_level, external)?;
    }
    Ok(())
}

fn set<P: Platform>(vcpu: &mut Vcpu<'_, P>, register: Register, values: [u64; 4]) {
    for (field, value) in register.into_iter().zip(values) {
        vcpu.platform.write(field, value);
    }
}

/// Selector 4 is not null: it names the first entry of the LDT.
const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// Reads the descriptor of a selector, with its address. A null selector and one beyond the end of the table raise #TS.
fn find<P: Platform>(vcpu: &mut Vcpu<'_, P>, selector: u16, external: u32) -> Result<(u64, Descriptor), Fault> {
    let address = if is_null(selector) { None } else { entry_address(vcpu, selector) };
    let Some(address) = address else { return Err(Fault::selector(Vector::TS, selector, external)) };
    let paging = system_access(vcpu);
    Ok((address, Descriptor::read(&mut vcpu.memory, &paging, address)?))
}

/// Marks a descriptor as accessed, which comes before its register is loaded.
fn mark_accessed<P: Platform>(vcpu: &mut Vcpu<'_, P>, (address, descriptor): (u64, Descriptor)) -> Result<(), Fault> {
    let rights = descriptor.access_rights();
    if rights & ACCESSED == 0 {
        let paging = system_access(vcpu);
        write_linear(&mut vcpu.memory, &paging, address + 5, &[(rights | ACCESSED) as u8])?;
    }
    Ok(())
}

fn load<P: Platform>(vcpu: &mut Vcpu<'_, P>, register: Register, selector: u16, descriptor: Descriptor) {
    let rights = descriptor.access_rights() | ACCESSED;
    set(vcpu, register, [selector.into(), descriptor.base(), descriptor.limit().into(), rights.into()]);
}

fn load_local_table<P: Platform>(vcpu: &mut Vcpu<'_, P>, selector: u16, external: u32) -> Result<(), Fault> {
    if is_null(selector) {
        return Ok(());
    }
    let invalid = Fault::selector(Vector::TS, selector, external);
    if selector & TABLE_INDICATOR != 0 {
        return Err(invalid);
    }
    let (_, descriptor) = find(vcpu, selector, external)?;
    if descriptor.is_code_or_data() || descriptor.kind() != LDT || !descriptor.is_present() {
        return Err(invalid);
    }
    let rights = descriptor.access_rights();
    set(vcpu, LOCAL_TABLE, [selector.into(), descriptor.base(), descriptor.limit().into(), rights.into()]);
    Ok(())
}

/// CS and SS change together: their privilege levels must agree whenever the guest can be entered.
fn load_code_and_stack<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    state: &TaskState,
    privilege_level: u16,
    external: u32,
) -> Result<(), Fault> {
    let selector = state.selectors[CODE];
    let code = find(vcpu, selector, external)?;
    let level = code.1.privilege_level();
    let level_fits = if code.1.is_conforming() { level <= privilege_level } else { level == privilege_level };
    if !code.1.is_code() || !level_fits {
        return Err(Fault::selector(Vector::TS, selector, external));
    }
    if !code.1.is_present() {
        return Err(Fault::selector(Vector::NP, selector, external));
    }
    let stack_selector = state.selectors[STACK];
    let stack = find(vcpu, stack_selector, external)?;
    if !stack.1.is_writable() || stack_selector & 3 != privilege_level || stack.1.privilege_level() != privilege_level {
        return Err(Fault::selector(Vector::TS, stack_selector, external));
    }
    if !stack.1.is_present() {
        return Err(Fault::selector(Vector::SS, stack_selector, external));
    }
    mark_accessed(vcpu, code)?;
    mark_accessed(vcpu, stack)?;
    load(vcpu, SEGMENTS[CODE], selector, code.1);
    load(vcpu, SEGMENTS[STACK], stack_selector, stack.1);
    Ok(())
}

fn load_data<P: Platform>(
    vcpu: &mut Vcpu<'_, P>,
    register: Register,
    selector: u16,
    privilege_level: u16,
    external: u32,
) -> Result<(), Fault> {
    if is_null(selector) {
        return Ok(());
    }
    let found = find(vcpu, selector, external)?;
    let descriptor = found.1;
    let level_fits = descriptor.is_conforming() || descriptor.privilege_level() >= privilege_level.max(selector & 3);
    if !descriptor.is_readable() || !level_fits {
        return Err(Fault::selector(Vector::TS, selector, external));
    }
    if !descriptor.is_present() {
        return Err(Fault::selector(Vector::NP, selector, external));
    }
    mark_accessed(vcpu, found)?;
    load(vcpu, register, selector, descriptor);
    Ok(())
}
