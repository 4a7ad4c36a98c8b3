//! Two tasks of a guest in protected mode, and everything that can go wrong between them.

use l1_protocol::end::EndReason;
use l1_protocol::guest::START_PROTECTED_MODE;
use proptest::prelude::*;
use vmcs::event::{InterruptionInformation as Information, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::context::register::{RAX, RBX, RDI, RSP};
use crate::exit::{Action, End};
use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, START, Scripted, TestVcpu, step};

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
    for ([selector, ..], number) in super::SEGMENTS.into_iter().zip(0..) {
        vcpu.set(selector, if number == 1 { CODE.into() } else { DATA.into() });
    }
    for number in (0..8).filter(|number| *number != RSP) {
        vcpu.context.general[number] = 0xffff_ffff_0000_0000 | 0x0101_0101 * (number as u64 + 1);
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

#[test]
fn call_saves_one_task_and_loads_the_other() {
    with(
        |_| (),
        &switch(CALL, NEW_TASK),
        |vcpu, result| {
            assert_eq!(result, Ok(Action::Continue));
            // The old task, as figure 8-2 of SDM 3A has it.
            let saved: Vec<u32> = (0x20..0x48).step_by(4).map(|offset| word(vcpu, OLD + offset)).collect();
            let general = [0x0101_0101, 0x0202_0202, 0x0303_0303, 0x0404_0404, 0xabcd, 0x0606_0606, 0x0707_0707, 0x0808_0808];
            assert_eq!(saved[0], START as u32 + 7, "behind the instruction");
            assert_eq!(saved[1], 0x97);
            assert_eq!(saved[2..], general);
            let selectors: Vec<u32> = (0x48..0x60).step_by(4).map(|offset| word(vcpu, OLD + offset)).collect();
            assert_eq!(selectors, [0x10, 8, 0x10, 0x10, 0x10, 0x10]);
            assert_eq!((word(vcpu, OLD), word(vcpu, OLD + 0x1c), word(vcpu, OLD + 0x60)), (0, 0, 0), "nothing else is written");
            // The new one.
            assert_eq!(word(vcpu, NEW), OLD_TASK.into(), "the way back");
            assert_eq!((vcpu.get(Field::GUEST_RIP), vcpu.get(Field::GUEST_RFLAGS)), (0x5_0000, 0x246 | NT));
            assert_eq!(
                (vcpu.context.general[RAX], vcpu.context.general[RBX], vcpu.context.general[RDI]),
                (0x1111, 0x4444, 0x8888)
            );
            assert_eq!(vcpu.get(Field::GUEST_RSP), 0x6000);
            assert_eq!(vcpu.get(Field::GUEST_CR0) & TS, TS);
            assert_eq!(vcpu.get(Field::GUEST_DR7), 0x7ff & !0x155);
            assert_eq!(vcpu.get(Field::GUEST_CR3), 0x1000, "without paging CR3 stays");
            // Selector, base, limit, rights.
            let register = |fields: [Field; 4]| fields.map(|field| vcpu.get(field));
            let [es, cs, ss, ds, fs, gs] = super::SEGMENTS.map(register);
            assert_eq!((cs, ss), ([CODE.into(), 0, 0xffff_ffff, 0xc09b], [DATA.into(), 0, 0xffff_ffff, 0xc093]));
            assert_eq!((ds, es), (ss, ss));
            assert_eq!((fs[0], fs[3]), (0, 1 << 16), "null selectors give unusable segments");
            assert_eq!((gs[0], gs[1], gs[3]), (0xc, 0, 0xc091), "a selector of the LDT");
            assert_eq!(register(super::TASK), [NEW_TASK.into(), NEW, 0x67, 0x8b]);
            assert_eq!(vcpu.get(Field::GUEST_LDTR_SELECTOR), LOCAL.into());
            assert_eq!((vcpu.get(Field::GUEST_LDTR_BASE), vcpu.get(Field::GUEST_LDTR_LIMIT)), (LDT, 15));
            assert_eq!(get_descriptor(vcpu, CODE), flat(0x9b), "marked as accessed");
            assert_eq!(vcpu.memory.read_u64(GuestPhysical(LDT + 8)), flat(0x91), "in the LDT as well");
        },
    );
}

#[test]
fn busy_bits_nested_flags_and_links() {
    const INTERRUPT: Information = Information::external_interrupt(0x30);
    // Exit, whether the new task was busy before; NT saved and loaded, whether the old one is busy, the link.
    let rows = [
        (switch(CALL, NEW_TASK), false, NT, NT, true, OLD_TASK),
        (gate(INTERRUPT, 0), false, NT, NT, true, OLD_TASK),
        (switch(JMP, NEW_TASK), false, NT, 0, false, 0x77),
        (switch(IRET, NEW_TASK), true, 0, 0, false, 0x77),
    ];
    for (exit, was_busy, saved, loaded, stays_busy, link) in rows {
        let prepared = |vcpu: &mut TestVcpu<'_>| {
            set_descriptor(vcpu, NEW_TASK, if was_busy { busy_task(NEW) } else { task(NEW) });
            set_task(vcpu, &[(0, 0x77)]);
            vcpu.set(Field::GUEST_RFLAGS, 2 | NT);
        };
        with(prepared, &exit, |vcpu, result| {
            assert_eq!(result, Ok(Action::Continue), "{exit:?}");
            assert_eq!(u64::from(word(vcpu, OLD + 0x24)), 2 | saved, "{exit:?}");
            assert_eq!(vcpu.get(Field::GUEST_RFLAGS), 0x246 | loaded, "{exit:?}");
            assert_eq!(get_descriptor(vcpu, NEW_TASK), busy_task(NEW), "{exit:?}");
            assert_eq!(get_descriptor(vcpu, OLD_TASK), if stays_busy { busy_task(OLD) } else { task(OLD) }, "{exit:?}");
            assert_eq!(word(vcpu, NEW), link.into(), "{exit:?}");
        });
    }
}

#[test]
fn where_the_old_task_goes_on() {
    let behind = START as u32 + 7;
    // Exit, EIP saved, whether RF is saved.
    let rows = [
        (switch(JMP, NEW_TASK), behind, false),
        (gate(Information::software_interrupt(0x80), 0), behind, false),
        (gate(Information::software_exception(Vector::BP), 0), behind, false),
        (gate(Information::external_interrupt(0x80), 0), START as u32, true),
        (gate(Information::hardware_exception(Vector::UD, false), 0), START as u32, true),
    ];
    for (exit, instruction, resumes) in rows {
        with(
            |vcpu| vcpu.set(Field::GUEST_RFLAGS, 2 | RF),
            &exit,
            |vcpu, result| {
                assert_eq!(result, Ok(Action::Continue));
                assert_eq!(word(vcpu, OLD + 0x20), instruction, "{exit:?}");
                assert_eq!(word(vcpu, OLD + 0x24), 2 | if resumes { RF as u32 } else { 0 }, "{exit:?}");
                assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), 0, "the event has been delivered");
            },
        );
    }
}

#[test]
fn error_codes_are_pushed_on_the_new_stack() {
    let fault_event = Information::hardware_exception(Vector::GP, true);
    with(
        |_| (),
        &gate(fault_event, 0x1234),
        |vcpu, result| {
            assert_eq!(result, Ok(Action::Continue));
            assert_eq!((vcpu.get(Field::GUEST_RSP), word(vcpu, 0x5ffc)), (0x5ffc, 0x1234));
        },
    );
    // A 16-bit stack segment: only SP counts.
    let prepared = |vcpu: &mut TestVcpu<'_>| {
        set_descriptor(vcpu, SPARE, descriptor(0x1_0000, 0xffff, 0x92, 0));
        set_task(vcpu, &[(0x38, 0x55_0002), (0x50, SPARE.into())]);
    };
    with(prepared, &gate(fault_event, 0x1234), |vcpu, result| {
        assert_eq!(result, Ok(Action::exception(Vector::SS, Some(1))), "it does not fit between 0xfffe and the end");
        assert_eq!(vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) as u8, Vector::DF, "and two contributory faults are one");
    });
    let prepared = |vcpu: &mut TestVcpu<'_>| {
        set_descriptor(vcpu, SPARE, descriptor(0x1_0000, 0xffff, 0x92, 0));
        set_task(vcpu, &[(0x38, 0x55_0000), (0x50, SPARE.into())]);
    };
    with(prepared, &gate(fault_event, 0x1234), |vcpu, result| {
        assert_eq!(result, Ok(Action::Continue));
        assert_eq!((vcpu.get(Field::GUEST_RSP), word(vcpu, 0x1_fffc)), (0x55_fffc, 0x1234));
    });
    // A stack that expands down.
    for (limit, fits) in [(0x5ffb, true), (0x5ffc, false)] {
        let prepared = |vcpu: &mut TestVcpu<'_>| {
            set_descriptor(vcpu, SPARE, descriptor(0, limit, 0x96, 4));
            set_task(vcpu, &[(0x50, SPARE.into())]);
        };
        with(prepared, &gate(Information::hardware_exception(Vector::AC, true), 0), |_, result| {
            assert_eq!(result == Ok(Action::Continue), fits, "limit {limit:#x}");
        });
    }
    // No error code, nothing pushed.
    with(|_| (), &gate(Information::external_interrupt(0x21), 0), |vcpu, _| assert_eq!(vcpu.get(Field::GUEST_RSP), 0x6000));
}

#[test]
fn tasks_of_the_80286() {
    let prepared = |vcpu: &mut TestVcpu<'_>| {
        set_descriptor(vcpu, NEW_TASK, descriptor(NEW, 0x2b, 0x81, 0));
        let words: [u16; 15] = [0x1234, 0x246, 1, 2, 3, 4, 0x6000, 6, 7, 8, DATA, CODE, DATA, 0, LOCAL];
        for (offset, value) in (0x0e..).step_by(2).zip(words) {
            store(vcpu, NEW + offset, &value.to_le_bytes());
        }
    };
    with(prepared, &switch(CALL, NEW_TASK), |vcpu, result| {
        assert_eq!(result, Ok(Action::Continue));
        assert_eq!((vcpu.get(Field::GUEST_RIP), vcpu.get(Field::GUEST_RFLAGS)), (0x1234, 0x246 | NT));
        assert_eq!((vcpu.context.general[RAX], vcpu.context.general[RDI], vcpu.get(Field::GUEST_RSP)), (1, 8, 0x6000));
        assert_eq!((vcpu.get(Field::GUEST_TR_ACCESS_RIGHTS), vcpu.get(Field::GUEST_TR_LIMIT)), (0x83, 0x2b));
        let selectors = super::SEGMENTS.map(|[selector, ..]| vcpu.get(selector) as u16);
        assert_eq!(selectors, [DATA, CODE, DATA, 0, 0, 0]);
        assert_eq!(vcpu.get(Field::GUEST_LDTR_SELECTOR), LOCAL.into());
        // And back: the way is the same, the old task is saved in 16 bits.
        vcpu.context.general[RAX] = 0x5678_9abc;
        assert_eq!(step(vcpu, &switch(IRET, OLD_TASK)), Ok(Action::Continue));
        assert_eq!(word(vcpu, NEW + 0x0e), (0x246 << 16) | 0x1234 + 7, "NT is not saved");
        assert_eq!(word(vcpu, NEW + 0x12) & 0xffff, 0x9abc);
        assert_eq!((vcpu.get(Field::GUEST_RIP), vcpu.context.general[RAX]), (START + 7, 0x0101_0101));
        assert_eq!(get_descriptor(vcpu, NEW_TASK), descriptor(NEW, 0x2b, 0x81, 0), "no longer busy");
    });
}

#[test]
fn virtual_8086_tasks() {
    let prepared = |vcpu: &mut TestVcpu<'_>| {
        set_task(vcpu, &[(0x24, VM as u32 | 0x202), (0x4c, 0x2000), (0x50, 0x3000), (0x58, 0xffff)]);
    };
    with(prepared, &switch(JMP, NEW_TASK), |vcpu, result| {
        assert_eq!(result, Ok(Action::Continue));
        let code = super::SEGMENTS[1].map(|field| vcpu.get(field));
        let fs = super::SEGMENTS[4].map(|field| vcpu.get(field));
        assert_eq!(code, [0x2000, 0x2_0000, 0xffff, 0xf3]);
        assert_eq!(fs, [0xffff, 0xf_fff0, 0xffff, 0xf3]);
        // An exception through a task gate leads back to the task in protected mode.
        let back = switch(GATE, OLD_TASK).vectoring(Information::hardware_exception(Vector::GP, true), 0x18);
        assert_eq!(step(vcpu, &back), Ok(Action::Continue));
        assert_eq!((vcpu.get(Field::GUEST_RFLAGS), vcpu.get(Field::GUEST_RIP)), (0x97 | NT, START + 7));
        assert_eq!((vcpu.get(Field::GUEST_RSP), word(vcpu, 0xabc9)), (0xabc9, 0x18));
        assert_eq!((word(vcpu, NEW + 0x24), word(vcpu, NEW + 0x4c)), (VM as u32 | 0x202, 0x2000));
    });
    with(prepared, &switch(JMP, NEW_TASK), |vcpu, result| {
        assert_eq!(result, Ok(Action::Continue));
        store(vcpu, OLD + 0x4c, &DATA.to_le_bytes());
        let back = switch(GATE, OLD_TASK).vectoring(Information::external_interrupt(0x20), 0);
        assert_eq!(step(vcpu, &back), fault(Vector::TS, DATA | 1), "no code segment");
        assert_eq!(vcpu.get(Field::GUEST_RFLAGS) & VM, 0);
    });
}

#[test]
fn page_tables_are_switched_with_the_task() {
    let with_paging = |vcpu: &mut TestVcpu<'_>| {
        // Both directories map the first 4 MiB with one page.
        for directory in [0x1000, 0x7000] {
            store(vcpu, directory, &0x83_u32.to_le_bytes());
        }
        vcpu.set(Field::GUEST_CR0, 0x8000_0031);
        let cr4 = vcpu.get(Field::GUEST_CR4);
        vcpu.set(Field::GUEST_CR4, cr4 | 1 << 4);
    };
    with(with_paging, &switch(CALL, NEW_TASK), |vcpu, result| {
        assert_eq!(result, Ok(Action::Continue));
        assert_eq!((vcpu.get(Field::GUEST_CR3), vcpu.platform.invalidations), (0x7000, 1));
    });
    // Faults before the switch leave everything as it was; read or write, and where.
    let missing = |page: u64| {
        move |vcpu: &mut TestVcpu<'_>| {
            with_paging(vcpu);
            store(vcpu, 0x1000, &0x8007_u32.to_le_bytes());
            for index in 0..1024 {
                let entry = if index == page >> 12 { 0 } else { index << 12 | 7 } as u32;
                store(vcpu, 0x8000 + index * 4, &entry.to_le_bytes());
            }
        }
    };
    for (page, error_code) in [(GDT, 0), (OLD, 2), (NEW, 0)] {
        with(missing(page & !0xfff), &switch(CALL, NEW_TASK), |vcpu, result| {
            assert_eq!(result, fault(Vector::PF, error_code), "{page:#x}");
            assert_eq!(vcpu.platform.cr2 >> 12, page >> 12);
            assert_eq!((vcpu.get(Field::GUEST_RIP), vcpu.get(Field::GUEST_TR_SELECTOR)), (START, OLD_TASK.into()));
            assert_eq!((word(vcpu, OLD + 0x20), get_descriptor(vcpu, NEW_TASK)), (0, task(NEW)));
        });
    }
}

#[test]
fn pae_page_tables_are_switched_with_the_task() {
    for (entry, taken) in [(0x8001_u64, true), (0x8003, false)] {
        let prepared = |vcpu: &mut TestVcpu<'_>| {
            // Both tables lead to the same directory of one 2 MiB page.
            store(vcpu, 0x7000, &entry.to_le_bytes());
            store(vcpu, 0x8000, &0x83_u64.to_le_bytes());
            vcpu.set(Field::GUEST_PDPTE0, 0x8001);
            vcpu.set(Field::GUEST_CR0, 0x8000_0031);
            let cr4 = vcpu.get(Field::GUEST_CR4);
            vcpu.set(Field::GUEST_CR4, cr4 | 1 << 5);
        };
        with(prepared, &switch(CALL, NEW_TASK), |vcpu, result| {
            if taken {
                assert_eq!((result, vcpu.get(Field::GUEST_CR3)), (Ok(Action::Continue), 0x7000));
            } else {
                assert_eq!((result, vcpu.get(Field::GUEST_CR3)), (fault(Vector::GP, 0), 0x1000));
                assert_eq!(vcpu.get(Field::GUEST_RIP), 0x5_0000, "a fault of the new task");
            }
        });
    }
}

#[test]
fn the_trap_flag_of_a_task_raises_debug_exception() {
    with(
        |vcpu| set_task(vcpu, &[(0x64, 1)]),
        &switch(CALL, NEW_TASK),
        |vcpu, result| {
            assert_eq!(result, Ok(Action::exception(Vector::DB, None)));
            assert_eq!(vcpu.platform.debug[4], 0xffff_0ff0 | 1 << 15);
            assert_eq!(vcpu.get(Field::GUEST_RIP), 0x5_0000, "before the first instruction of the new task");
        },
    );
}

#[test]
fn tasks_that_cannot_be_switched_to() {
    // Source, descriptor, exception.
    let rows = [
        (CALL, busy_task(NEW), Vector::GP),
        (JMP, flat(0x92), Vector::GP),
        (GATE, descriptor(NEW, 0x67, 0x82, 0), Vector::GP),
        (IRET, task(NEW), Vector::TS),
        (CALL, descriptor(NEW, 0x67, 0x09, 0), Vector::NP),
        (CALL, descriptor(NEW, 0x66, 0x89, 0), Vector::TS),
        (CALL, descriptor(NEW, 0x2a, 0x81, 0), Vector::TS),
    ];
    for (source, found, vector) in rows {
        with(
            |vcpu| set_descriptor(vcpu, NEW_TASK, found),
            &switch(source, NEW_TASK),
            |vcpu, result| {
                assert_eq!(result, fault(vector, NEW_TASK), "{source} {found:#x}");
                assert_eq!(vcpu.get(Field::GUEST_RIP), START);
            },
        );
    }
    for (source, selector, vector) in [(CALL, 0x50, Vector::GP), (CALL, NEW_TASK | 4, Vector::GP), (IRET, 0xfff8, Vector::TS)] {
        with(|_| (), &switch(source, selector), |_, result| assert_eq!(result, fault(vector, selector), "{selector:#x}"));
    }
    // EXT says that no instruction asked for it.
    let interrupt = gate(Information::external_interrupt(0x20), 0);
    with(
        |vcpu| set_descriptor(vcpu, NEW_TASK, busy_task(NEW)),
        &interrupt,
        |_, result| {
            assert_eq!(result, fault(Vector::GP, NEW_TASK | 1));
        },
    );
    // The old TSS must have room.
    with(
        |vcpu| vcpu.set(Field::GUEST_TR_LIMIT, 0x5f),
        &switch(CALL, NEW_TASK),
        |_, result| {
            assert_eq!(result, fault(Vector::TS, NEW_TASK));
        },
    );
    // While a double fault was delivered there is nothing left.
    let double_fault = gate(Information::hardware_exception(Vector::DF, true), 0);
    with(
        |vcpu| set_descriptor(vcpu, NEW_TASK, busy_task(NEW)),
        &double_fault,
        |_, result| {
            assert_eq!(result.expect_err("shutdown").reason, EndReason::TripleFault);
        },
    );
}

#[test]
fn segments_of_the_new_task_that_cannot_be_loaded() {
    const CS: u64 = 0x4c;
    const SS: u64 = 0x50;
    const DS: u64 = 0x54;
    const ES: u64 = 0x48;
    const TABLE: u64 = 0x60;
    // Offset in the TSS, selector, descriptor at `SPARE`, exception and its error code.
    let rows = [
        (TABLE, LOCAL | 4, 0, Vector::TS, LOCAL | 4),
        (TABLE, 0x50, 0, Vector::TS, 0x50),
        (TABLE, DATA, 0, Vector::TS, DATA),
        (TABLE, SPARE, descriptor(LDT, 15, 0x02, 0), Vector::TS, SPARE),
        (CS, 0, 0, Vector::TS, 0),
        (CS, 0x50, 0, Vector::TS, 0x50),
        (CS, DATA, 0, Vector::TS, DATA),
        (CS, CODE | 3, 0, Vector::TS, CODE),
        (CS, USER_CODE & !3, 0, Vector::TS, USER_CODE & !3),
        (CS, SPARE, flat(0x1a), Vector::NP, SPARE),
        (CS, SPARE, flat(0xde), Vector::TS, SPARE),
        (SS, 0, 0, Vector::TS, 0),
        (SS, 0x14, 0, Vector::TS, 0x14),
        (SS, CODE, 0, Vector::TS, CODE),
        (SS, SPARE, flat(0x90), Vector::TS, SPARE),
        (SS, DATA | 1, 0, Vector::TS, DATA),
        (SS, USER_DATA & !3, 0, Vector::TS, USER_DATA & !3),
        (SS, SPARE, flat(0x12), Vector::SS, SPARE),
        (DS, 0x58, 0, Vector::TS, 0x58),
        (DS, SPARE, flat(0x98), Vector::TS, SPARE),
        (DS, SPARE, flat(0x12), Vector::NP, SPARE),
        (DS, DATA | 3, 0, Vector::TS, DATA),
        (ES, NEW_TASK, 0, Vector::TS, NEW_TASK),
    ];
    for (offset, selector, spare, vector, error_code) in rows {
        let prepared = |vcpu: &mut TestVcpu<'_>| {
            set_descriptor(vcpu, SPARE, spare);
            set_task(vcpu, &[(offset, selector.into())]);
        };
        with(prepared, &switch(JMP, NEW_TASK), |vcpu, result| {
            assert_eq!(result, fault(vector, error_code), "{selector:#x} at {offset:#x}");
            assert_eq!(vcpu.get(Field::GUEST_RIP), 0x5_0000, "a fault of the new task");
            assert_eq!(vcpu.get(Field::GUEST_TR_SELECTOR), NEW_TASK.into());
        });
    }
}

#[test]
fn tasks_of_other_privilege_levels() {
    let rows = [(USER_CODE, USER_DATA, USER_DATA, 3), (CODE, DATA, USER_DATA, 0), (CONFORMING | 3, USER_DATA, USER_DATA, 3)];
    for (code, stack, data, privilege_level) in rows {
        let prepared = |vcpu: &mut TestVcpu<'_>| {
            let [code, stack, data] = [code, stack, data].map(u32::from);
            set_task(vcpu, &[(0x4c, code), (0x50, stack), (0x48, data), (0x54, data), (0x5c, CONFORMING.into())]);
        };
        with(prepared, &switch(JMP, NEW_TASK), |vcpu, result| {
            assert_eq!(result, Ok(Action::Continue), "{code:#x}");
            assert_eq!(vcpu.privilege_level(), privilege_level);
            assert_eq!(vcpu.get(Field::GUEST_GS_ACCESS_RIGHTS), 0xc09f, "conforming code can be read from anywhere");
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_lies_in_the_tables_the_guest_can_be_entered(
        source in 0_u64..4,
        paging in any::<bool>(),
        old_mode in 0_u8..3,
        entries in prop::collection::vec((1_u16..10, any::<u64>(), prop::sample::select(vec![0x92_u64, 0x9a, 0xf2, 0xfa, 0x82, 0x89, 0x8b, 0x81, 0x83])), 0..4),
        words in prop::collection::vec((prop::sample::select(vec![0x1c_u64, 0x20, 0x24, 0x38, 0x48, 0x4c, 0x50, 0x54, 0x58, 0x5c, 0x60, 0x64]), prop_oneof![any::<u32>(), 0_u32..0x50]), 0..6),
        event in prop::sample::select(vec![
            Information::external_interrupt(0x30),
            Information::software_interrupt(0x30),
            Information::hardware_exception(Vector::GP, true),
            Information::hardware_exception(Vector::DF, true),
        ]),
    ) {
        let mut machine = Machine::new(START_PROTECTED_MODE);
        let mut vcpu = machine.vcpu();
        prepare(&mut vcpu);
        if source == IRET {
            set_descriptor(&mut vcpu, NEW_TASK, busy_task(NEW));
        }
        for (index, raw, access) in entries {
            set_descriptor(&mut vcpu, index << 3, raw & !(0xff << 40) | access << 40);
        }
        set_task(&mut vcpu, &words);
        if paging {
            store(&mut vcpu, 0x1000, &0x83_u32.to_le_bytes());
            store(&mut vcpu, 0x7000, &0x83_u32.to_le_bytes());
            vcpu.set(Field::GUEST_CR0, 0x8000_0031);
            vcpu.set(Field::GUEST_CR4, 0x2010);
        }
        match old_mode {
            1 => {
                vcpu.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xc0fb);
                vcpu.set(Field::GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
            }
            2 => {
                vcpu.set(Field::GUEST_RFLAGS, VM | 2);
                for [selector, base, limit, rights] in super::SEGMENTS {
                    for (field, value) in [(selector, 0x1000), (base, 0x1_0000), (limit, 0xffff), (rights, 0xf3)] {
                        vcpu.set(field, value);
                    }
                }
            }
            _ => {}
        }
        let exit = if source == GATE { gate(event, 0x18) } else { switch(source, NEW_TASK) };
        // `step` checks the entry. The run may end in a triple fault.
        let _ = step(&mut vcpu, &exit);
    }
}
