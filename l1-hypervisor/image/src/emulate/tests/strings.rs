//! Repeated string instructions: how they stop and what they leave.

use super::Access::{Read, Write};
use super::*;
use crate::emulate::arithmetic::{CARRY, ZERO};
use crate::emulate::string::BYTES_PER_CALL;

fn guest(source: u64, destination: u64, count: u64) -> Guest {
    let mut guest = Guest::long();
    (guest.general[RSI], guest.general[RDI], guest.general[RCX]) = (source, destination, count);
    guest
}

fn pointers(guest: &Guest) -> (u64, u64, u64) {
    (guest.general[RSI], guest.general[RDI], guest.general[RCX])
}

#[test]
fn elements_go_one_by_one_from_ram_to_the_device() {
    let mut guest = guest(DATA, DEVICE, 3);
    guest.ram[DATA as usize..][..12].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    let log = guest.complete(&[0xf3, 0xa5]);
    assert_eq!(log, [Write(DEVICE, 4, 1), Write(DEVICE + 4, 4, 2), Write(DEVICE + 8, 4, 3)]);
    assert_eq!(pointers(&guest), (DATA + 12, DEVICE + 12, 0));
}

#[test]
fn a_count_of_zero_accesses_nothing() {
    for code in [0xa4, 0xa6, 0xaa, 0xac, 0xae] {
        let mut guest = guest(0, 0, 0);
        guest.rflags = 2 | CARRY;
        assert_eq!(guest.complete(&[0xf3, code]), []);
        assert_eq!((pointers(&guest), guest.rflags), ((0, 0, 0), 2 | CARRY));
    }
}

#[test]
fn work_is_bounded_and_continues() {
    let limit = BYTES_PER_CALL as u64 / 2;
    let mut guest = guest(0, DEVICE, limit + 3);
    guest.general[RAX] = 0x4142;
    assert_eq!(guest.run(&[0x66, 0xf3, 0xab]), Ok(Outcome::Repeat), "rep stosw");
    assert_eq!(pointers(&guest), (0, DEVICE + 4096, 3));
    assert_eq!(guest.device.log.len() as u64, limit);
    guest.complete(&[0x66, 0xf3, 0xab]);
    assert_eq!(pointers(&guest), (0, DEVICE + 4102, 0));
    assert!(guest.device.bytes[..4102] == *[0x42, 0x41].repeat(2051) && guest.device.bytes[4102] == 0);
    guest.general[RDI] = DEVICE;
    guest.general[RCX] = limit;
    guest.complete(&[0x66, 0xf3, 0xab]);
}

#[test]
fn flags_change_only_when_the_instruction_ends() {
    let mut guest = guest(DATA, DEVICE, 6000);
    guest.rflags = 2 | CARRY;
    assert_eq!(guest.run(&[0xf3, 0xa6]), Ok(Outcome::Repeat), "repe cmpsb");
    assert_eq!(guest.rflags, 2 | CARRY);
    guest.device.bytes[5000] = 1;
    guest.complete(&[0xf3, 0xa6]);
    assert_eq!(pointers(&guest), (DATA + 5001, DEVICE + 5001, 999));
    assert_eq!(guest.rflags & (ZERO | CARRY), CARRY, "0 - 1");
}

#[test]
fn a_fault_leaves_the_iterations_before_it() {
    let mut guest = guest(0, DEVICE + 0x1ffc, 100);
    guest.general[RAX] = 0x1122_3344;
    let fault = PageFault { address: DEVICE + 0x2000, error_code: 2 };
    assert_eq!(guest.run(&[0xf3, 0xab]), Err(fault.into()), "rep stosd");
    assert_eq!(pointers(&guest), (0, DEVICE + 0x2000, 99));
    assert_eq!(guest.device.log, [Write(DEVICE + 0x1ffc, 4, 0x1122_3344)]);
    let before = guest.rflags;
    (guest.general[RDI], guest.general[RAX], guest.general[RCX]) = (DEVICE + 0x1ff8, 0x55, 100);
    assert!(guest.run(&[0xf2, 0xae]).is_err(), "repne scasb");
    assert_eq!((guest.general[RCX], guest.rflags), (92, before));
}

#[test]
fn sixteen_bit_pointers_wrap_and_keep_their_upper_bits() {
    let mut guest = guest(0x1111_ffff, 0x2222_0001, 0x3333_0002);
    guest.mode = Bitness::Bits16;
    guest.paging = PagingState::default();
    guest.segment_bases = [DEVICE, 0, 0, DEVICE, 0, 0];
    guest.rflags |= 1 << 10;
    let log = guest.complete(&[0xf3, 0xa4]);
    assert_eq!(log, [Read(DEVICE + 0xffff, 1), Write(DEVICE + 1, 1, 0xff), Read(DEVICE + 0xfffe, 1), Write(DEVICE, 1, 0xff)]);
    assert_eq!(pointers(&guest), (0x1111_fffd, 0x2222_ffff, 0x3333_0000));
}

#[test]
fn thirty_two_bit_pointers_in_64_bit_mode() {
    let mut guest = guest(0, 7 << 32 | DEVICE, 7 << 32 | 2);
    assert_eq!(guest.complete(&[0x67, 0xf3, 0xaa]).len(), 2, "rep stosb [edi]");
    assert_eq!(pointers(&guest), (0, DEVICE + 2, 0));
}

#[test]
fn neighbouring_pages_may_lie_apart() {
    let mut guest = guest(DATA + 4090, DEVICE + 4090, 12);
    guest.map(DATA + 4096, 0xc000, PRESENT);
    guest.ram[DATA as usize + 4090..][..6].copy_from_slice(&[1, 2, 3, 4, 5, 6]);
    guest.ram[0xc000..0xc006].copy_from_slice(&[7, 8, 9, 10, 11, 12]);
    guest.complete(&[0xf3, 0xa4]);
    assert_eq!(guest.device.bytes[4090..4102], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
}
