//! Switches that fault, before or after the old task is left; and page tables, which make some of them.

use l1_protocol::end::EndReason;
use proptest::prelude::*;
use vmcs::event::{InterruptionInformation as Information, Vector};
use vmcs::field::Field;

use super::*;
use crate::testing::START;

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
            assert_eq!(vcpu.get(Field::GUEST_TR_SELECTOR), u64::from(NEW_TASK));
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
                for [selector, base, limit, rights] in SEGMENTS {
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
