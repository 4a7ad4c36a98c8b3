//! Effective addresses, segments, register access and the next RIP, in all code sizes.

use super::Access::{Read, Write};
use super::*;
use crate::context::register::{RBP, RBX, RSP};

#[test]
fn sixteen_bit_addresses_wrap_in_their_segment() {
    let mut guest = Guest::new(Bitness::Bits16);
    guest.segment_bases[3] = DEVICE;
    (guest.general[RBX], guest.general[RSI]) = (0x7777_fff0, 0x20);
    assert_eq!(guest.complete(&[0x8b, 0x40, 0x10]), [Read(DEVICE + 0x20, 2)], "mov ax, [bx+si+10h]");
    assert_eq!(guest.complete(&[0xa0, 0x34, 0x12]), [Read(DEVICE + 0x1234, 1)], "mov al, [1234h]");
}

#[test]
fn each_operand_is_in_its_segment() {
    let mut guest = Guest::new(Bitness::Bits32);
    guest.segment_bases = [1, 0, 2, 3, 4, 5].map(|part| if part == 0 { 0 } else { DEVICE + 0x100 * part });
    guest.general[RBP] = 8;
    assert_eq!(guest.complete(&[0x8a, 0x07]), [Read(DEVICE + 0x300, 1)], "DS");
    assert_eq!(guest.complete(&[0x8a, 0x45, 0x00]), [Read(DEVICE + 0x208, 1)], "SS with EBP");
    for (prefix, part) in [(0x26, 1), (0x36, 2), (0x3e, 3), (0x64, 4), (0x65, 5)] {
        assert_eq!(guest.complete(&[prefix, 0x8a, 0x07]), [Read(DEVICE + 0x100 * part, 1)]);
    }
    assert_eq!(guest.complete(&[0x65, 0xa4]), [Read(DEVICE + 0x500, 1), Write(DEVICE + 0x100, 1, 0)], "movsb from GS to ES");
}

#[test]
fn in_64_bit_mode_only_fs_and_gs_have_a_base() {
    let mut guest = Guest::long();
    guest.segment_bases = [7, 7, 7, 7, DEVICE, DEVICE + 0x1000];
    guest.general[RDI] = 0x10;
    assert_eq!(guest.complete(&[0x64, 0x8a, 0x07]), [Read(DEVICE + 0x10, 1)]);
    assert_eq!(guest.complete(&[0x65, 0x8a, 0x07]), [Read(DEVICE + 0x1010, 1)]);
    guest.general[RDI] = DEVICE;
    for prefix in [0x26, 0x2e, 0x36, 0x3e] {
        assert_eq!(guest.complete(&[prefix, 0x8a, 0x07]), [Read(DEVICE, 1)]);
    }
}

#[test]
fn linear_addresses_wrap_at_32_bits() {
    let mut guest = Guest::new(Bitness::Bits32);
    guest.segment_bases[3] = 0xffff_f000;
    guest.general[RBX] = 0x8000_1010;
    assert_eq!(guest.complete(&[0x8b, 0x03]), [Read(DEVICE + 0x10, 4)]);
}

#[test]
fn the_address_size_prefix() {
    let mut guest = Guest::long();
    guest.general[RDI] = 0x7_0000_0004 + DEVICE;
    assert_eq!(guest.complete(&[0x67, 0x8b, 0x07]), [Read(DEVICE + 4, 4)], "mov eax, [edi]");
    let mut guest = Guest::new(Bitness::Bits16);
    guest.general[RDI] = DEVICE + 4;
    assert_eq!(guest.complete(&[0x67, 0x8b, 0x07]), [Read(DEVICE + 4, 2)], "mov ax, [edi]");
}

#[test]
fn addresses_relative_to_rip() {
    let displacement = |length: u64| ((DEVICE - CODE - length) as u32).to_le_bytes();
    let mut guest = Guest::long();
    let [a, b, c, d] = displacement(6);
    assert_eq!(guest.complete(&[0x8b, 0x05, a, b, c, d]), [Read(DEVICE, 4)]);
    let [a, b, c, d] = displacement(10);
    assert_eq!(guest.complete(&[0xc7, 0x05, a, b, c, d, 1, 0, 0, 0]), [Write(DEVICE, 4, 1)]);
}

#[test]
fn absolute_addresses_and_scaled_indices() {
    let mut guest = Guest::long();
    guest.general[RAX] = 0x42;
    assert_eq!(guest.complete(&[0xa2, 0x08, 0, 0, 0x80, 0, 0, 0, 0]), [Write(DEVICE + 8, 1, 0x42)], "mov [moffs64], al");
    assert_eq!(guest.complete(&[0x67, 0xa1, 0x08, 0, 0, 0x80]), [Read(DEVICE + 8, 4)], "mov eax, [moffs32]");
    (guest.general[RDI], guest.general[RCX]) = (DEVICE, 2);
    assert_eq!(guest.complete(&[0x88, 0x44, 0xcf, 0x10]), [Write(DEVICE + 0x20, 1, 0x42)], "mov [rdi+rcx*8+10h], al");
}

#[test]
fn the_stack_pointer_is_not_in_its_slot() {
    let mut guest = Guest::long();
    guest.general[RSP] = 0x1234;
    guest.rsp = DEVICE;
    guest.device.bytes[8..12].copy_from_slice(&0x8000_0020_u32.to_le_bytes());
    assert_eq!(guest.complete(&[0x8b, 0x64, 0x24, 0x08]), [Read(DEVICE + 8, 4)], "mov esp, [rsp+8]");
    assert_eq!((guest.rsp, guest.general[RSP]), (0x8000_0020, 0x1234));
    assert_eq!(guest.complete(&[0x48, 0x89, 0x24, 0x24]), [Write(DEVICE + 0x20, 8, 0x8000_0020)], "mov [rsp], rsp");
}

#[test]
fn registers_8_to_15() {
    let mut guest = Guest::long();
    guest.general[13] = DEVICE;
    guest.device.bytes[0] = 0x99;
    assert_eq!(guest.complete(&[0x4d, 0x8b, 0x65, 0x00]), [Read(DEVICE, 8)], "mov r12, [r13]");
    assert_eq!(guest.general[12], 0x99);
}

#[test]
fn a_bit_string_wraps_at_the_address_size() {
    let mut guest = Guest::long();
    (guest.general[RDI], guest.general[RCX]) = (0, u64::MAX - 31);
    let fault = PageFault { address: 0xffff_fffc, error_code: 0 };
    assert_eq!(guest.run(&[0x67, 0x0f, 0xa3, 0x0f]), Err(EmulationError::PageFault(fault)), "bt [edi], ecx");
    let mut guest = Guest::new(Bitness::Bits16);
    guest.segment_bases[3] = DEVICE;
    guest.general[RCX] = 0xfff0;
    assert_eq!(guest.complete(&[0x0f, 0xa3, 0x0d]), [Read(DEVICE + 0xfffe, 2)], "bt [di], cx");
}

#[test]
fn rip_is_in_the_code_segment_and_wraps() {
    let mut guest = Guest::new(Bitness::Bits16);
    (guest.rip, guest.segment_bases[1]) = (0x10, CODE);
    guest.general[RDI] = 0;
    assert_eq!(guest.run(&[0x8a, 0x05]), Ok(Outcome::Completed { next_rip: 0x12 }));
    let mut guest = Guest::new(Bitness::Bits32);
    (guest.rip, guest.segment_bases[1]) = (0xffff_ffff, CODE + 1);
    assert_eq!(guest.run(&[0x8a, 0x07]), Ok(Outcome::Completed { next_rip: 1 }));
}

#[test]
fn a_completed_instruction_clears_the_resume_flag_and_only_that() {
    let mut guest = Guest::long();
    guest.general[RDI] = DEVICE;
    guest.rflags = 0x1_0ad7 | 1 << 21;
    guest.complete(&[0x8b, 0x07]);
    assert_eq!(guest.rflags, 0xad7 | 1 << 21);
}
