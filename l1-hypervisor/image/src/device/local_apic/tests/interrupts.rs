//! Requests, priorities, service, LINT0 and errors.

use super::*;

fn both() -> [Machine; 2] {
    [Machine::xapic(), Machine::x2apic()]
}

#[test]
fn a_request_is_served_and_ended() {
    for mut machine in both() {
        machine.send(0x41);
        assert_eq!(machine.read(REQUESTS + 0x20), 2);
        assert_eq!(machine.interrupt(), Some(0x41));
        assert_eq!((machine.read(REQUESTS + 0x20), machine.read(IN_SERVICE + 0x20)), (0, 2));
        assert_eq!(machine.read(PROCESSOR_PRIORITY), 0x40);
        machine.send(0x4f);
        assert_eq!(machine.interrupt(), None, "the same priority class");
        machine.send(0x50);
        assert_eq!(machine.interrupt(), Some(0x50), "a higher one nests");
        machine.write(END_OF_INTERRUPT, 0);
        assert_eq!(machine.read(PROCESSOR_PRIORITY), 0x40);
        assert_eq!(machine.interrupt(), None);
        machine.write(END_OF_INTERRUPT, 0);
        assert_eq!(machine.interrupt(), Some(0x4f));
        machine.write(END_OF_INTERRUPT, 0);
        machine.write(END_OF_INTERRUPT, 0);
        assert_eq!((machine.interrupt(), machine.read(PROCESSOR_PRIORITY)), (None, 0));
    }
}

#[test]
fn the_highest_vector_comes_first() {
    for mut machine in both() {
        for vector in [0x31, 0xfe, 0x10, 0x9f] {
            machine.send(vector);
        }
        for expected in [0xfe, 0x9f, 0x31, 0x10] {
            assert_eq!(machine.interrupt(), Some(expected));
            machine.write(END_OF_INTERRUPT, 0);
        }
        assert_eq!(machine.interrupt(), None);
    }
}

#[test]
fn the_task_priority_holds_back() {
    for mut machine in both() {
        machine.send(0x5f);
        machine.write(TASK_PRIORITY, 0x50);
        assert_eq!((machine.interrupt(), machine.read(PROCESSOR_PRIORITY)), (None, 0x50));
        machine.apic.set_task_priority_class(4);
        assert_eq!(machine.read(TASK_PRIORITY), 0x40, "CR8 is bits 7:4");
        assert_eq!(machine.interrupt(), Some(0x5f));
        machine.write(TASK_PRIORITY, 0x53);
        assert_eq!(machine.read(PROCESSOR_PRIORITY), 0x53, "SDM 3A 11.8.3.1: with equal classes it is the TPR");
        assert_eq!(machine.apic.task_priority_class(), 5);
    }
}

#[test]
fn nothing_to_acknowledge_gives_the_spurious_vector() {
    let mut machine = Machine::xapic();
    machine.write(SPURIOUS, 0x1ef);
    assert_eq!(machine.apic.acknowledge(), 0xef);
    assert_eq!(machine.read(IN_SERVICE + 0x70), 0);
    machine.send(0x40);
    machine.write(TASK_PRIORITY, 0xf0);
    assert_eq!(machine.apic.acknowledge(), 0xef, "held back in between");
}

#[test]
fn disabled_by_software_it_takes_nothing_new() {
    for mut machine in both() {
        machine.send(0x40);
        machine.write(SPURIOUS, 0xff);
        machine.send(0x50);
        assert_eq!(machine.read(REQUESTS + 0x20), 1, "what was there stays, nothing is added");
        assert_eq!([TIMER, LINT0, LINT1, ERROR].map(|offset| machine.read(offset) & MASKED), [MASKED; 4]);
        machine.write(LINT0, 0x700);
        assert_eq!(machine.read(LINT0), MASKED | 0x700);
        assert!(!machine.apic.passes_external());
        machine.write(SPURIOUS, 0x1ff);
        machine.write(LINT0, 0x700);
        assert!(machine.apic.passes_external());
    }
}

#[test]
fn lint0_as_ext_int_fixed_and_nmi() {
    for mut machine in both() {
        machine.apic.set_external(true);
        assert_eq!((machine.interrupt(), machine.apic.nmi_pending()), (None, false), "ExtINT is not for the APIC");
        machine.write(LINT0, 0x61);
        assert!(!machine.apic.passes_external());
        assert_eq!(machine.interrupt(), None, "no edge");
        machine.apic.set_external(false);
        machine.apic.set_external(true);
        machine.apic.set_external(true);
        assert_eq!(machine.interrupt(), Some(0x61));
        machine.write(END_OF_INTERRUPT, 0);
        assert_eq!(machine.interrupt(), None, "one edge, one interrupt");
        machine.apic.set_external(false);
        machine.write(LINT0, 0x400);
        machine.apic.set_external(true);
        assert!(machine.apic.nmi_pending() && machine.apic.takes_external_as_nmi());
        machine.apic.take_nmi();
        machine.apic.set_external(true);
        assert!(!machine.apic.nmi_pending());
        machine.write(LINT0, MASKED | 0x400);
        machine.apic.set_external(false);
        machine.apic.set_external(true);
        assert!(!machine.apic.nmi_pending() && !machine.apic.takes_external());
    }
}

#[test]
fn lint0_level_triggered_asks_again_while_the_level_stands() {
    const REMOTE_REQUEST: u32 = 1 << 14;
    for mut machine in both() {
        machine.apic.set_external(true);
        machine.write(LINT0, 1 << 15 | 0x62);
        assert_eq!(machine.read(LINT0) & REMOTE_REQUEST, REMOTE_REQUEST);
        assert_eq!(machine.read(TRIGGER_MODE + 0x30), 4);
        assert_eq!(machine.interrupt(), Some(0x62));
        machine.apic.set_external(true);
        assert_eq!(machine.read(REQUESTS + 0x30), 0, "not before its end");
        machine.write(END_OF_INTERRUPT, 0);
        assert_eq!(machine.interrupt(), Some(0x62));
        machine.apic.set_external(false);
        machine.write(END_OF_INTERRUPT, 0);
        assert_eq!((machine.interrupt(), machine.read(LINT0) & REMOTE_REQUEST), (None, 0));
        machine.write(LINT0, REMOTE_REQUEST | 1 << 12 | 0x62);
        assert_eq!(machine.read(LINT0), 0x62, "delivery status and remote IRR are read-only");
    }
}

#[test]
fn errors_are_shown_after_a_write_and_interrupt_once() {
    for mut machine in both() {
        machine.write(ERROR, 0x70);
        machine.send(0x0f);
        assert_eq!(machine.read(ERROR_STATUS), 0, "not yet");
        assert_eq!(machine.interrupt(), Some(0x70));
        machine.write(END_OF_INTERRUPT, 0);
        machine.send(0x01);
        assert_eq!(machine.interrupt(), None, "not armed again");
        assert_eq!(machine.errors(), 1 << 5, "send illegal vector");
        machine.write(TIMER, 3);
        machine.write(INITIAL_COUNT, 1);
        machine.pass(1000);
        assert_eq!(machine.interrupt(), Some(0x70), "armed by the write");
        assert_eq!(machine.errors(), 1 << 6, "receive illegal vector");
        assert_eq!(machine.read(REQUESTS), 0, "vectors 0 to 15 are never requested");
    }
}

#[test]
fn an_error_interrupt_with_an_illegal_vector_ends_there() {
    let mut machine = Machine::xapic();
    machine.write(ERROR, 5);
    machine.send(1);
    assert_eq!(machine.errors(), 1 << 5 | 1 << 6);
    assert_eq!(machine.interrupt(), None);
}
