//! Interprocessor interrupts of the only processor.

use super::*;

/// Delivery modes, bits 10:8.
const LOWEST_PRIORITY: u32 = 1 << 8;
const SMI: u32 = 2 << 8;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;
const LOGICAL: u32 = 1 << 11;
const ITSELF: u32 = 1 << 18;
const EVERYBODY: u32 = 2 << 18;
const OTHERS: u32 = 3 << 18;

fn reaches(machine: &mut Machine, high: u32, low: u32) -> bool {
    if machine.apic.mode() == Mode::X2apic {
        assert_eq!(machine.wrmsr(COMMAND_LOW, u64::from(high) << 32 | u64::from(low)), Ok(()));
        assert_eq!(machine.rdmsr(COMMAND_LOW), Ok(u64::from(high) << 32 | u64::from(low & !(1 << 12))));
    } else {
        machine.write(COMMAND_HIGH, high);
        machine.write(COMMAND_LOW, low);
        assert_eq!((machine.read(COMMAND_HIGH), machine.read(COMMAND_LOW)), (high, low & !(1 << 12)));
    }
    let got = machine.interrupt();
    machine.write(END_OF_INTERRUPT, 0);
    assert!(got.is_none_or(|vector| vector == low as u8));
    got.is_some()
}

#[test]
fn shorthands() {
    for mut machine in [Machine::xapic(), Machine::x2apic()] {
        assert!(reaches(&mut machine, 0, 0x40 | ITSELF));
        assert!(reaches(&mut machine, 0, 0x40 | EVERYBODY | 1 << 12));
        assert!(!reaches(&mut machine, 0, 0x40 | OTHERS));
        for mode in [LOWEST_PRIORITY, SMI, INIT, START_UP, NMI] {
            assert!(!reaches(&mut machine, 0, 0x40 | mode | ITSELF), "invalid or without effect: {mode:#x}");
        }
        assert!(!machine.apic.nmi_pending());
        assert_eq!(machine.errors(), 0);
    }
}

#[test]
fn destinations_in_xapic_mode() {
    let mut machine = Machine::xapic();
    for (destination, reached) in [(0, true), (1, false), (0xfe, false), (0xff, true)] {
        assert_eq!(reaches(&mut machine, destination << 24, 0x40), reached, "physical {destination:#x}");
        assert_eq!(reaches(&mut machine, destination << 24, 0x40 | LOWEST_PRIORITY), reached, "physical {destination:#x}");
    }
    machine.write(LOGICAL_DESTINATION, 0x2100_0000);
    for (destination, reached) in [(0x21, true), (1, true), (0x20, true), (0x1e, false), (0, false), (0xff, true)] {
        assert_eq!(reaches(&mut machine, destination << 24, 0x40 | LOGICAL), reached, "flat {destination:#x}");
    }
    machine.write(DESTINATION_FORMAT, 0);
    for (destination, reached) in [(0x21, true), (0x23, true), (0x22, false), (0x31, false), (0xf1, true), (0xff, true)] {
        assert_eq!(reaches(&mut machine, destination << 24, 0x40 | LOGICAL), reached, "cluster {destination:#x}");
    }
}

#[test]
fn destinations_in_x2apic_mode() {
    let mut machine = Machine::x2apic();
    for (destination, reached) in [(0, true), (1, false), (0xff, false), (u32::MAX, true)] {
        assert_eq!(reaches(&mut machine, destination, 0x40), reached, "physical {destination:#x}");
    }
    for (destination, reached) in [(1, true), (3, true), (2, false), (0x1_0001, false), (0, false), (u32::MAX, true)] {
        assert_eq!(reaches(&mut machine, destination, 0x40 | LOGICAL), reached, "logical {destination:#x}");
    }
}

#[test]
fn nmis() {
    for mut machine in [Machine::xapic(), Machine::x2apic()] {
        assert!(!reaches(&mut machine, 0, NMI), "an NMI is no request");
        assert!(machine.apic.nmi_pending());
        machine.apic.take_nmi();
        assert!(!machine.apic.nmi_pending());
        machine.write(SPURIOUS, 0xff);
        assert!(!reaches(&mut machine, 0, NMI));
        assert!(machine.apic.nmi_pending(), "also of an APIC that software has disabled");
    }
}

#[test]
fn messages_to_nobody_with_an_illegal_vector_are_errors() {
    let mut machine = Machine::xapic();
    assert!(!reaches(&mut machine, 5 << 24, 0x0f));
    assert_eq!(machine.errors(), 1 << 5);
    assert!(!reaches(&mut machine, 5 << 24, 0x0f | NMI), "the vector of an NMI means nothing");
    assert_eq!(machine.errors(), 0);
}

#[test]
fn self_ipi_register() {
    let mut machine = Machine::x2apic();
    assert_eq!(machine.wrmsr(0x3f0, 0x55), Ok(()));
    assert_eq!(machine.interrupt(), Some(0x55));
    assert_eq!(machine.wrmsr(0x3f0, 0x100), Err(Refused));
    assert_eq!(machine.wrmsr(0x3f0, 0xf), Ok(()));
    assert_eq!(machine.errors(), 1 << 5);
    assert_eq!(machine.interrupt(), None);
}
