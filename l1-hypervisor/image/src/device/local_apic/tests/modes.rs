//! IA32_APIC_BASE, and who may access what in which mode.

use super::*;

#[test]
fn it_starts_in_virtual_wire_mode() {
    let mut machine = Machine::xapic();
    assert_eq!(machine.apic.base(), BASE);
    assert_eq!(machine.apic.page(), Some(0xfee0_0000));
    assert_eq!(machine.read(0x20), 0, "identifier");
    assert_eq!(machine.read(0x30), 0x5_0014, "version 0x14, six entries");
    assert_eq!(machine.read(SPURIOUS), 0x1ff);
    assert_eq!(machine.read(LINT0), 0x700, "ExtINT");
    assert_eq!(machine.read(LINT1), 0x400, "NMI");
    assert_eq!([TIMER, 0x330, 0x340, ERROR].map(|offset| machine.read(offset)), [MASKED; 4]);
    assert_eq!(machine.read(DESTINATION_FORMAT), u32::MAX);
    assert!(machine.apic.passes_external());
}

/// SDM 3A figure 11-27 "Local x2APIC State Transitions with IA32_APIC_BASE, INIT, and Reset": from each state to each.
#[test]
fn state_transitions() {
    let reached_by: [&[u64]; 3] = [&[0xfee0_0100], &[], &[BASE | EXTENDED]];
    let values = [0xfee0_0100, BASE, BASE | EXTENDED, 0xfee0_0100 | EXTENDED];
    let allowed = [[true, true, false, false], [true, true, true, false], [true, false, true, false]];
    for (way, allowed) in reached_by.into_iter().zip(allowed) {
        for (value, allowed) in values.into_iter().zip(allowed) {
            let mut apic = LocalApic::new();
            for step in way {
                assert_eq!(apic.set_base(*step, WIDTH), Ok(()));
            }
            let before = apic.base();
            assert_eq!(apic.set_base(value, WIDTH).is_ok(), allowed, "{before:#x} to {value:#x}");
            assert_eq!(apic.base(), if allowed { value } else { before });
        }
    }
}

#[test]
fn reserved_bits_of_the_base_are_refused() {
    for bit in (0..8).chain([9]).chain(39..64) {
        assert_eq!(LocalApic::new().set_base(BASE | 1 << bit, WIDTH), Err(Refused), "bit {bit}");
    }
    let mut apic = LocalApic::new();
    assert_eq!(apic.set_base(0x40_0000_0800, WIDTH), Ok(()), "elsewhere, not the bootstrap processor");
    assert_eq!(apic.page(), Some(0x40_0000_0000));
    for width in [36, 52, 64] {
        assert_eq!(LocalApic::new().set_base(1 << 35 | ENABLE, width), Ok(()), "{width}");
    }
}

#[test]
fn disabling_resets() {
    let mut machine = Machine::x2apic();
    machine.write(TASK_PRIORITY, 0x20);
    machine.send(0x40);
    machine.write(TIMER, 0x50);
    machine.write(INITIAL_COUNT, 1000);
    assert!(machine.apic.interrupt_pending());
    assert_eq!(machine.apic.set_base(0xfee0_0000, WIDTH), Ok(()));
    assert!(!machine.apic.interrupt_pending());
    assert_eq!(machine.apic.next_deadline(), None);
    assert!(machine.apic.passes_external(), "without APIC the 8259 pair interrupts the processor");
    assert_eq!((machine.apic.page(), machine.rdmsr(TASK_PRIORITY)), (None, Err(Refused)));
    assert_eq!(machine.apic.set_base(BASE, WIDTH), Ok(()));
    assert_eq!((machine.read(TASK_PRIORITY), machine.read(SPURIOUS), machine.read(LINT0)), (0, 0xff, MASKED));
    assert!(!machine.apic.passes_external(), "LINT0 is masked after reset");
}

/// SDM 3A table 11-6 "Local APIC Register Address Map Supported by x2APIC".
#[test]
fn msrs_exist_in_x2apic_mode_only() {
    let readable = (0x10..=0x27).chain([0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0f, 0x28, 0x30]).chain(0x32..=0x39).chain([0x3e]);
    let readable: std::vec::Vec<u64> = readable.collect();
    let writable = [0x08, 0x0b, 0x0f, 0x28, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e];
    for number in 0..0x100_u64 {
        let mut machine = Machine::x2apic();
        assert_eq!(machine.rdmsr(number << 4).is_ok(), readable.contains(&number), "RDMSR {number:#x}");
        // 0 is a vector that a self IPI cannot have, but a value that the register takes.
        let expected = writable.contains(&number) || number == 0x3f;
        assert_eq!(machine.wrmsr(number << 4, 0).is_ok(), expected, "WRMSR {number:#x}");
        let mut machine = Machine::xapic();
        assert_eq!(machine.rdmsr(number << 4), Err(Refused), "RDMSR {number:#x} in xAPIC mode");
        assert_eq!(machine.wrmsr(number << 4, 0), Err(Refused), "WRMSR {number:#x} in xAPIC mode");
    }
}

#[test]
fn reserved_bits_are_refused_in_x2apic_mode_and_ignored_in_xapic_mode() {
    let rows: [(u64, u64); 7] = [
        (TASK_PRIORITY, 0x100),
        (END_OF_INTERRUPT, 1),
        (SPURIOUS, 0x1000),
        (ERROR_STATUS, 1),
        (TIMER, 1 << 19),
        (LINT0, 1 << 17),
        (DIVIDE_CONFIGURATION, 4),
    ];
    for (offset, bit) in rows {
        assert_eq!(Machine::x2apic().wrmsr(offset, bit), Err(Refused), "{offset:#x}");
        assert_eq!(Machine::x2apic().wrmsr(offset, 1 << 32), Err(Refused), "{offset:#x}");
        let mut machine = Machine::xapic();
        machine.write(offset, bit as u32);
        if offset != END_OF_INTERRUPT {
            assert_eq!(machine.read(offset) & bit as u32, 0, "{offset:#x}");
        }
        assert_eq!(machine.errors(), 0, "{offset:#x}: the register is there");
    }
    assert_eq!(Machine::x2apic().wrmsr(COMMAND_LOW, 1 << 13), Err(Refused));
    assert_eq!(Machine::x2apic().wrmsr(COMMAND_LOW, 0x1234_5678_0000_0040), Ok(()), "64 bits");
}

#[test]
fn reserved_registers_are_errors_in_xapic_mode() {
    for offset in [0, 0x90, 0xc0, 0x2f0, 0x3f0, 0xff0] {
        let mut machine = Machine::xapic();
        assert_eq!(machine.read(offset), 0);
        assert_eq!(machine.errors(), 1 << 7, "reading {offset:#x}");
        machine.write(offset, 0);
        assert_eq!(machine.errors(), 1 << 7, "writing {offset:#x}");
        assert_eq!(machine.errors(), 0, "shown once");
    }
}

#[test]
fn only_aligned_accesses_of_four_bytes_write() {
    let mut machine = Machine::xapic();
    for (offset, size) in [(TASK_PRIORITY, 1), (TASK_PRIORITY, 2), (TASK_PRIORITY, 8), (TASK_PRIORITY + 4, 4), (0x7e, 4)] {
        machine.apic.write_page(offset, size, 0x50, 0);
        assert_eq!(machine.read(TASK_PRIORITY), 0, "{size} bytes at {offset:#x}");
    }
    assert_eq!(machine.apic.read_page(0x30, 1, 0), 0x14);
    assert_eq!(machine.apic.read_page(0x32, 2, 0), 5);
    assert_eq!(machine.apic.read_page(0x30, 8, 0), 0x5_0014);
    assert_eq!(machine.apic.read_page(0x34, 4, 0), 0);
}

#[test]
fn logical_destination() {
    let mut machine = Machine::xapic();
    machine.write(LOGICAL_DESTINATION, 0x12ff_ffff);
    assert_eq!(machine.read(LOGICAL_DESTINATION), 0x1200_0000);
    let mut machine = Machine::x2apic();
    assert_eq!(machine.read(LOGICAL_DESTINATION), 1, "derived from the identifier 0");
    assert_eq!(machine.wrmsr(LOGICAL_DESTINATION, 1), Err(Refused));
}
