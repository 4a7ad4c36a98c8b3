//! What is saved, what is loaded, and what else a switch changes.

use vmcs::event::{InterruptionInformation as Information, Vector};
use vmcs::field::Field;

use super::*;
use crate::context::register::{RAX, RBX, RDI};
use crate::exit::task_switch::segment_register::TASK;
use crate::testing::START;

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
            assert_eq!(word(vcpu, NEW), u32::from(OLD_TASK), "the way back");
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
            let [es, cs, ss, ds, fs, gs] = SEGMENTS.map(register);
            assert_eq!((cs, ss), ([CODE.into(), 0, 0xffff_ffff, 0xc09b], [DATA.into(), 0, 0xffff_ffff, 0xc093]));
            assert_eq!((ds, es), (ss, ss));
            assert_eq!((fs[0], fs[3]), (0, 1 << 16), "null selectors give unusable segments");
            assert_eq!((gs[0], gs[1], gs[3]), (0xc, 0, 0xc091), "a selector of the LDT");
            assert_eq!(register(TASK), [NEW_TASK.into(), NEW, 0x67, 0x8b]);
            assert_eq!(vcpu.get(Field::GUEST_LDTR_SELECTOR), u64::from(LOCAL));
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
            assert_eq!(word(vcpu, NEW), u32::from(link), "{exit:?}");
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
        let selectors = SEGMENTS.map(|[selector, ..]| vcpu.get(selector) as u16);
        assert_eq!(selectors, [DATA, CODE, DATA, 0, 0, 0]);
        assert_eq!(vcpu.get(Field::GUEST_LDTR_SELECTOR), u64::from(LOCAL));
        // And back: the way is the same, the old task is saved in 16 bits.
        vcpu.context.general[RAX] = 0x5678_9abc;
        assert_eq!(step(vcpu, &switch(IRET, OLD_TASK)), Ok(Action::Continue));
        assert_eq!(word(vcpu, NEW + 0x0e), (0x246 << 16) | (0x1234 + 7), "NT is not saved");
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
        let code = SEGMENTS[1].map(|field| vcpu.get(field));
        let fs = SEGMENTS[4].map(|field| vcpu.get(field));
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
