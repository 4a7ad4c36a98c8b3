//! IN, OUT, INS and OUTS.

use l1_protocol::end::EndReason;
use l1_protocol::guest::{DEBUG_CONSOLE_PORT, DEBUG_EXIT_PORT};
use vmcs::event::Vector;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use super::{GP, page_fault};
use crate::context::register::{RAX, RCX, RDI, RDX, RSI};
use crate::exit::Action;
use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, Scripted, TestVcpu, handle, step};

const CONSOLE: u64 = DEBUG_CONSOLE_PORT as u64;
/// Nobody answers here.
const NOBODY: u64 = 0xd00;
/// Where strings lie.
const BUFFER: u64 = 0x2_0000;
const DF: u64 = 1 << 10;

/// Bits of the exit qualification and of the instruction information (SDM 3C tables 28-5 and 28-9).
const INPUT: u64 = 1 << 3;
const STRING: u64 = 1 << 4;
const REPEAT: u64 = 1 << 5;
const ADDRESS_16: u64 = 0;
const ADDRESS_32: u64 = 1 << 7;
const ADDRESS_64: u64 = 2 << 7;
const STACK_SEGMENT: u64 = 2 << 15;
const DATA_SEGMENT: u64 = 3 << 15;

fn size_bits(size: u64) -> u64 {
    size - 1
}

/// An exit of INS or OUTS, from what the guest has in its registers. `base` is that of the segment.
fn string(vcpu: &TestVcpu<'_>, kind: u64, size: u64, port: u64, address_size: u64, base: u64) -> Scripted {
    let mask = match address_size & 0x380 {
        ADDRESS_16 => 0xffff,
        ADDRESS_32 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let index = vcpu.context.general[if kind & INPUT != 0 { RDI } else { RSI }] & mask;
    Scripted::new(Reason::IO_INSTRUCTION)
        .qualification(size_bits(size) | STRING | kind | port << 16)
        .field(Field::VM_EXIT_INSTRUCTION_INFORMATION, address_size)
        .field(Field::GUEST_LINEAR_ADDRESS, base.wrapping_add(index))
        .length(2)
}

fn store(vcpu: &mut TestVcpu<'_>, address: u64, bytes: &[u8]) {
    vcpu.memory.write(GuestPhysical(address), bytes);
}

fn load<const N: usize>(vcpu: &mut TestVcpu<'_>, address: u64) -> [u8; N] {
    vcpu.memory.read_array(GuestPhysical(address))
}

/// Maps the first 2 MiB in pages of 4 KiB, without the one at `absent`, in the page table of `Machine::long_mode`.
fn unmap(vcpu: &mut TestVcpu<'_>, absent: u64) {
    const TABLE: u64 = 0x5000;
    for index in 0..512 {
        let entry = if index == absent >> 12 { 0 } else { index << 12 | 7 };
        store(vcpu, TABLE + index * 8, &entry.to_le_bytes());
    }
    store(vcpu, 0x3000, &(TABLE | 7).to_le_bytes());
}

#[test]
fn input_changes_as_much_of_rax_as_it_is_wide() {
    let rows = [(1, 0x1111_2222_3333_44ff), (2, 0x1111_2222_3333_ffff), (4, 0xffff_ffff)];
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for (size, after) in rows {
        let exit = Scripted::new(Reason::IO_INSTRUCTION)
            .qualification(size_bits(size) | INPUT | NOBODY << 16)
            .register(RAX, 0x1111_2222_3333_4444)
            .register(RDX, NOBODY);
        assert_eq!(handle(&mut vcpu, &exit).1, Action::Complete);
        assert_eq!(vcpu.context.general[RAX], after, "{size} bytes");
    }
}

#[test]
fn output_takes_as_much_of_rax_as_it_is_wide() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for size in [1, 2, 4] {
        let exit = Scripted::new(Reason::IO_INSTRUCTION)
            .qualification(size_bits(size) | u64::from(DEBUG_EXIT_PORT) << 16)
            .register(RAX, 0xffff_ffff_1234_5678);
        let (_, action) = handle(&mut vcpu, &exit);
        let value = 0x1234_5678 & (u64::MAX >> (64 - 8 * size));
        assert_eq!(action, Action::stop(EndReason::GuestFailure, value, ""), "{size} bytes");
    }
}

#[test]
fn ways_to_end_the_run() {
    // Port, value, reason.
    let rows = [
        (DEBUG_EXIT_PORT.into(), 0, EndReason::GuestSuccess),
        (DEBUG_EXIT_PORT.into(), 0x10, EndReason::GuestSuccess),
        (DEBUG_EXIT_PORT.into(), 1, EndReason::GuestFailure),
        (0x64, 0xfe, EndReason::Reset),
        (0xcf9, 6, EndReason::Reset),
    ];
    for (port, value, reason) in rows {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        let exit = Scripted::new(Reason::IO_INSTRUCTION).qualification(port << 16).register(RAX, value).length(1);
        let end = step(&mut vcpu, &exit).expect_err("the run ends");
        assert_eq!(end.reason, reason, "port {port:#x} value {value:#x}");
    }
}

#[test]
fn strings_go_up_and_down() {
    // Size, direction flag, where SI starts, what is printed, where SI ends. Wider elements print their low byte, as
    // the port behind the console is nobody's.
    let rows = [
        (1, 0, BUFFER, "abcdef", BUFFER + 6),
        (2, 0, BUFFER, "ace", BUFFER + 6),
        (1, DF, BUFFER + 5, "fedcba", BUFFER - 1),
        (2, DF, BUFFER + 4, "eca", BUFFER - 2),
    ];
    for (size, direction, start, printed, end) in rows {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        store(&mut vcpu, BUFFER, b"abcdef");
        vcpu.context.general[RSI] = start;
        vcpu.context.general[RCX] = 6 / size;
        vcpu.set(Field::GUEST_RFLAGS, 2 | direction);
        let exit = string(&vcpu, REPEAT, size, CONSOLE, ADDRESS_64 | DATA_SEGMENT, 0);
        assert_eq!(step(&mut vcpu, &exit), Ok(Action::Complete));
        assert_eq!((vcpu.context.general[RSI], vcpu.context.general[RCX]), (end, 0));
        drop(vcpu);
        assert_eq!(String::from_utf8_lossy(&machine.host.printed), printed);
    }
}

#[test]
fn input_strings() {
    for (size, direction, start, end) in [(1, 0, BUFFER, BUFFER + 4), (2, DF, BUFFER + 2, BUFFER - 2), (4, 0, BUFFER, BUFFER + 4)]
    {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        vcpu.context.general[RDI] = start;
        vcpu.context.general[RCX] = 4 / size;
        vcpu.set(Field::GUEST_RFLAGS, 2 | direction);
        let exit = string(&vcpu, INPUT | REPEAT, size, NOBODY, ADDRESS_64, 0);
        assert_eq!(step(&mut vcpu, &exit), Ok(Action::Complete));
        assert_eq!((vcpu.context.general[RDI], vcpu.context.general[RCX]), (end, 0));
        assert_eq!(load::<6>(&mut vcpu, BUFFER - 1), [0, 0xff, 0xff, 0xff, 0xff, 0]);
    }
}

#[test]
fn without_a_prefix_one_element_is_moved_and_the_count_does_not_matter() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    store(&mut vcpu, BUFFER, b"ab");
    vcpu.context.general[RSI] = BUFFER;
    vcpu.context.general[RCX] = 0;
    let exit = string(&vcpu, 0, 1, CONSOLE, ADDRESS_64, 0);
    assert_eq!(step(&mut vcpu, &exit), Ok(Action::Complete));
    assert_eq!((vcpu.context.general[RSI], vcpu.context.general[RCX]), (BUFFER + 1, 0));
    // With the prefix and nothing to do.
    let exit = string(&vcpu, REPEAT, 1, CONSOLE, ADDRESS_64, 0);
    assert_eq!(step(&mut vcpu, &exit), Ok(Action::Complete));
    drop(vcpu);
    assert_eq!(machine.host.printed, b"a");
}

#[test]
fn long_strings_are_executed_again_until_they_are_done() {
    for (size, count) in [(1_u64, 3000_u64), (4, 700)] {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        let text: Vec<u8> = (0..size * count).map(|index| b'a' + (index / size % 26) as u8).collect();
        store(&mut vcpu, BUFFER, &text);
        vcpu.context.general[RSI] = BUFFER;
        vcpu.context.general[RCX] = count;
        let rip = vcpu.get(Field::GUEST_RIP);
        let mut exits = 1;
        loop {
            let exit = string(&vcpu, REPEAT, size, CONSOLE, ADDRESS_64, 0);
            match step(&mut vcpu, &exit) {
                Ok(Action::Complete) => break,
                action => assert_eq!((action, vcpu.get(Field::GUEST_RIP)), (Ok(Action::Continue), rip)),
            }
            assert_eq!(vcpu.context.general[RCX], count - exits * 1024 / size);
            exits += 1;
        }
        assert_eq!(exits, 3);
        assert_eq!((vcpu.context.general[RCX], vcpu.get(Field::GUEST_RIP)), (0, rip + 2));
        drop(vcpu);
        let expected: Vec<u8> = text.into_iter().step_by(size as usize).collect();
        assert_eq!(machine.host.printed, expected);
    }
}

#[test]
fn an_end_in_the_middle_of_a_string_counts() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    store(&mut vcpu, BUFFER, &[5, 0, 0]);
    vcpu.context.general[RSI] = BUFFER;
    vcpu.context.general[RCX] = 3;
    let exit = string(&vcpu, REPEAT, 1, DEBUG_EXIT_PORT.into(), ADDRESS_64, 0);
    let end = step(&mut vcpu, &exit).expect_err("the first byte ends the run");
    assert_eq!((end.reason, end.value), (EndReason::GuestFailure, 5));
}

#[test]
fn a_page_fault_in_the_middle_leaves_what_was_done() {
    // Input, size, direction, first, last element that is there, error code.
    let rows = [
        (0, 1, 0, BUFFER + 0xffd, 3, 0),
        (0, 2, 0, BUFFER + 0xffc, 2, 0),
        (0, 1, DF, BUFFER + 0x2002, 3, 0),
        (INPUT, 1, 0, BUFFER + 0xffd, 3, 2),
        (INPUT, 4, 0, BUFFER + 0xff8, 2, 2),
        (INPUT, 2, DF, BUFFER + 0x2002, 2, 2),
    ];
    for (input, size, direction, start, moved, error_code) in rows {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        unmap(&mut vcpu, BUFFER + 0x1000);
        let index = if input == 0 { RSI } else { RDI };
        vcpu.context.general[index] = start;
        vcpu.context.general[RCX] = 10;
        vcpu.set(Field::GUEST_RFLAGS, 2 | direction);
        let rip = vcpu.get(Field::GUEST_RIP);
        let exit = string(&vcpu, input | REPEAT, size, NOBODY, ADDRESS_64, 0);
        assert_eq!(step(&mut vcpu, &exit), Ok(page_fault(error_code)), "{input} {size} {direction}");
        let step = if direction == 0 { size } else { size.wrapping_neg() };
        assert_eq!(vcpu.context.general[index], start.wrapping_add(step.wrapping_mul(moved)));
        assert_eq!(vcpu.context.general[RCX], 10 - moved);
        assert_eq!(vcpu.get(Field::GUEST_RIP), rip, "a fault");
        assert_eq!(vcpu.platform.cr2 >> 12, (BUFFER + 0x1000) >> 12);
    }
}

#[test]
fn a_port_is_not_read_for_memory_that_cannot_take_it() {
    let mut machine = Machine::long_mode();
    machine.host.input.extend(*b"xy");
    let mut vcpu = machine.vcpu();
    unmap(&mut vcpu, BUFFER);
    // What was typed arrives with the first look at the host.
    vcpu.platform.tsc += 1 << 40;
    vcpu.prepare_entry().expect("the guest goes on");
    vcpu.context.general[RDI] = BUFFER;
    let exit = string(&vcpu, INPUT, 1, 0x3f8, ADDRESS_64, 0);
    assert_eq!(step(&mut vcpu, &exit), Ok(page_fault(2)));
    let exit = Scripted::new(Reason::IO_INSTRUCTION).qualification(INPUT | 0x3f8 << 16).length(1);
    assert_eq!(step(&mut vcpu, &exit), Ok(Action::Complete));
    assert_eq!(vcpu.context.general[RAX] as u8, b'x', "the byte is still there");
}

#[test]
fn index_and_count_wrap_by_the_size_of_addresses() {
    const BASE: u64 = 0x3_0000;
    let mut machine = super::protected_mode();
    let mut vcpu = machine.vcpu();
    store(&mut vcpu, BASE + 0xffff, b"a");
    store(&mut vcpu, BASE, b"bc");
    vcpu.context.general[RSI] = 0x1234_ffff;
    vcpu.context.general[RCX] = 0x5678_0003;
    let exit = string(&vcpu, REPEAT, 1, CONSOLE, ADDRESS_16, BASE);
    assert_eq!(step(&mut vcpu, &exit), Ok(Action::Complete));
    assert_eq!((vcpu.context.general[RSI], vcpu.context.general[RCX]), (0x1234_0002, 0x5678_0000));
    // 32 bits: offset 0 of a segment follows offset 0xffff_ffff, and the linear address wraps likewise.
    store(&mut vcpu, 0xfffe, b"de");
    vcpu.context.general[RSI] = 0xffff_fffe;
    vcpu.context.general[RCX] = 3;
    let exit = string(&vcpu, REPEAT, 1, CONSOLE, ADDRESS_32, 0x1_0000).field(Field::GUEST_LINEAR_ADDRESS, 0xfffe);
    assert_eq!(step(&mut vcpu, &exit), Ok(Action::Complete));
    assert_eq!((vcpu.context.general[RSI], vcpu.context.general[RCX]), (1, 0));
    drop(vcpu);
    assert_eq!(machine.host.printed, b"abcde\0");
}

/// The exit comes before these checks (SDM 3C 26.1.1 "Relative Priority of Faults and VM Exits").
#[test]
fn segments_end_where_their_limit_says() {
    const UNUSABLE: u64 = 1 << 16;
    const EXPANDS_DOWN: u64 = 0xc097;
    let stack_fault = Action::exception(Vector::SS, Some(0));
    // Input, segment, access rights, limit, offset, elements of four bytes that fit, exception.
    let rows = [
        (INPUT, 0, 0xc093, 0xffff_ffff, 0x100, 3, None),
        (INPUT, 0, 0x4093, 0x10b, 0x100, 3, None),
        (INPUT, 0, 0x4093, 0x10a, 0x100, 2, Some(GP)),
        (INPUT, 0, UNUSABLE, 0xffff_ffff, 0x100, 0, Some(GP)),
        (0, DATA_SEGMENT, 0x4093, 0x104, 0x100, 1, Some(GP)),
        (0, STACK_SEGMENT, 0x4093, 0x102, 0x100, 0, Some(stack_fault)),
        (0, DATA_SEGMENT, EXPANDS_DOWN, 0xff, 0x100, 3, None),
        (0, DATA_SEGMENT, EXPANDS_DOWN, 0x100, 0x100, 0, Some(GP)),
    ];
    for (input, segment, rights, limit, offset, moved, exception) in rows {
        let mut machine = super::protected_mode();
        let mut vcpu = machine.vcpu();
        let [limit_field, rights_field] = match (input, segment) {
            (INPUT, _) => [Field::GUEST_ES_LIMIT, Field::GUEST_ES_ACCESS_RIGHTS],
            (_, STACK_SEGMENT) => [Field::GUEST_SS_LIMIT, Field::GUEST_SS_ACCESS_RIGHTS],
            _ => [Field::GUEST_DS_LIMIT, Field::GUEST_DS_ACCESS_RIGHTS],
        };
        vcpu.set(limit_field, limit);
        vcpu.set(rights_field, rights);
        for index in [RSI, RDI] {
            vcpu.context.general[index] = offset;
        }
        vcpu.context.general[RCX] = 3;
        let exit = string(&vcpu, input | REPEAT, 4, NOBODY, ADDRESS_32 | segment, 0);
        let (_, action) = handle(&mut vcpu, &exit);
        assert_eq!(action, exception.unwrap_or(Action::Complete), "limit {limit:#x} rights {rights:#x}");
        assert_eq!(vcpu.context.general[RCX], 3 - moved, "limit {limit:#x} rights {rights:#x}");
    }
}

#[test]
fn addresses_that_are_not_canonical() {
    // Input, segment, exception.
    let rows = [(INPUT, 0, GP), (0, DATA_SEGMENT, GP), (0, STACK_SEGMENT, Action::exception(Vector::SS, Some(0)))];
    for (input, segment, expected) in rows {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        for index in [RSI, RDI] {
            vcpu.context.general[index] = 0x0000_8000_0000_0000;
        }
        vcpu.context.general[RCX] = 2;
        let exit = string(&vcpu, input | REPEAT, 1, NOBODY, ADDRESS_64 | segment, 0);
        assert_eq!(step(&mut vcpu, &exit), Ok(expected));
        assert_eq!(vcpu.context.general[RCX], 2);
    }
}
