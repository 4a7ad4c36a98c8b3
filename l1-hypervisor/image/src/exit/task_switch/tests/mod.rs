//! Two tasks of a guest in protected mode, and everything that can go wrong between them.

mod faults;
mod state;

use l1_protocol::guest::START_PROTECTED_MODE;
use vmcs::event::InterruptionInformation as Information;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use super::segment_register::SEGMENTS;
use crate::context::register::RSP;
use crate::exit::{Action, End};
use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, Scripted, TestVcpu, step};

const GDT: u64 = 0x9000;
const LDT: u64 = 0x9800;
const OLD: u64 = 0xa000;
const NEW: u64 = 0xb010;

/// Selectors in the GDT below.
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const OLD_TASK: u16 = 0x18;
const NEW_TASK: u16 = 0x20;
const LOCAL: u16 = 0x28;
const USER_CODE: u16 = 0x33;
const USER_DATA: u16 = 0x3b;
/// Each test may put something else here.
const SPARE: u16 = 0x40;
const CONFORMING: u16 = 0x48;

const NT: u64 = 1 << 14;
const RF: u64 = 1 << 16;
const VM: u64 = 1 << 17;
const TS: u64 = 1 << 3;

/// Sources, bits 31:30 of the exit qualification.
const CALL: u64 = 0;
const IRET: u64 = 1;
const JMP: u64 = 2;
const GATE: u64 = 3;

const fn descriptor(base: u64, limit: u64, access: u64, flags: u64) -> u64 {
    limit & 0xffff | (base & 0xff_ffff) << 16 | access << 40 | (limit >> 16 & 0xf) << 48 | flags << 52 | (base >> 24) << 56
}

const fn busy_task(base: u64) -> u64 {
    descriptor(base, 0x67, 0x8b, 0)
}

const fn task(base: u64) -> u64 {
    descriptor(base, 0x67, 0x89, 0)
}

const fn flat(access: u64) -> u64 {
    descriptor(0, 0xf_ffff, access, 0xc)
}

fn store(vcpu: &mut TestVcpu<'_>, address: u64, bytes: &[u8]) {
    vcpu.memory.write(GuestPhysical(address), bytes);
}

fn word(vcpu: &mut TestVcpu<'_>, address: u64) -> u32 {
    vcpu.memory.read_u32(GuestPhysical(address))
}

fn set_descriptor(vcpu: &mut TestVcpu<'_>, selector: u16, descriptor: u64) {
    store(vcpu, GDT + u64::from(selector & !7), &descriptor.to_le_bytes());
}

fn get_descriptor(vcpu: &mut TestVcpu<'_>, selector: u16) -> u64 {
    vcpu.memory.read_u64(GuestPhysical(GDT + u64::from(selector & !7)))
}

/// Writes 32-bit words of the new task's TSS.
fn set_task(vcpu: &mut TestVcpu<'_>, words: &[(u64, u32)]) {
    for (offset, value) in words {
        store(vcpu, NEW + offset, &value.to_le_bytes());
    }
}

/// A guest that runs the old task; the new one has numbers that tell where they come from.
fn prepare(vcpu: &mut TestVcpu<'_>) {
    let table = [
        0,
        flat(0x9a),
        flat(0x92),
        busy_task(OLD),
        task(NEW),
        descriptor(LDT, 15, 0x82, 0),
        flat(0xfa),
        flat(0xf2),
        0,
        flat(0x9e),
    ];
    for (selector, descriptor) in (0..).step_by(8).zip(table) {
        set_descriptor(vcpu, selector, descriptor);
    }
    store(vcpu, LDT + 8, &flat(0x90).to_le_bytes());
    set_task(
        vcpu,
        &[(0x1c, 0x7000), (0x20, 0x5_0000), (0x24, 0x246), (0x48, DATA.into()), (0x4c, CODE.into()), (0x50, DATA.into())],
    );
    set_task(vcpu, &[(0x54, DATA.into()), (0x58, 0), (0x5c, u32::from(LOCAL | 4) & 0xc), (0x60, LOCAL.into()), (0x64, 0)]);
    for (number, offset) in (0..8).zip((0x28..).step_by(4)) {
        set_task(vcpu, &[(offset, if offset == 0x38 { 0x6000 } else { 0x1111 * (number + 1) })]);
    }
    let rows = [
        (Field::GUEST_GDTR_BASE, GDT),
        (Field::GUEST_GDTR_LIMIT, 0x4f),
        (Field::GUEST_TR_SELECTOR, OLD_TASK.into()),
        (Field::GUEST_TR_BASE, OLD),
        (Field::GUEST_TR_LIMIT, 0x67),
        (Field::GUEST_TR_ACCESS_RIGHTS, 0x8b),
        (Field::GUEST_RFLAGS, 0x97),
        (Field::GUEST_DR7, 0x7ff),
        (Field::GUEST_RSP, 0xabcd),
    ];
    for (field, value) in rows {
        vcpu.set(field, value);
    }
    for ([selector, ..], number) in SEGMENTS.into_iter().zip(0..) {
        vcpu.set(selector, if number == 1 { CODE.into() } else { DATA.into() });
    }
    for number in (0..8).filter(|number| *number != RSP) {
        vcpu.context.general[number] = 0xffff_ffff_0000_0000 | (0x0101_0101 * (number as u64 + 1));
    }
}

fn switch(source: u64, selector: u16) -> Scripted {
    Scripted::new(Reason::TASK_SWITCH).qualification(source << 30 | u64::from(selector)).length(7)
}

/// A switch through a task gate for this event.
fn gate(event: Information, error_code: u32) -> Scripted {
    switch(GATE, NEW_TASK).vectoring(event, error_code)
}

fn run(
    machine: &mut Machine,
    prepared: impl FnOnce(&mut TestVcpu<'_>),
    exit: &Scripted,
    examine: impl FnOnce(&mut TestVcpu<'_>, Result<Action, End>),
) {
    let mut vcpu = machine.vcpu();
    prepare(&mut vcpu);
    prepared(&mut vcpu);
    let result = step(&mut vcpu, exit);
    examine(&mut vcpu, result);
}

/// A switch in a fresh guest, with something changed before.
fn with(prepared: impl FnOnce(&mut TestVcpu<'_>), exit: &Scripted, examine: impl FnOnce(&mut TestVcpu<'_>, Result<Action, End>)) {
    run(&mut Machine::new(START_PROTECTED_MODE), prepared, exit, examine);
}

fn fault(vector: u8, error_code: u16) -> Result<Action, End> {
    Ok(Action::exception(vector, Some(error_code.into())))
}
