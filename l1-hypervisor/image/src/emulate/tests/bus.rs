//! What a device sees of an instruction.

use super::Access::{Read, Write};
use super::*;

/// A guest whose RDI points into the device.
fn at_device(offset: u64) -> Guest {
    let mut guest = Guest::long();
    guest.general[RDI] = DEVICE + offset;
    guest.device.bytes[..8].copy_from_slice(&0x8899_aabb_ccdd_eeff_u64.to_le_bytes());
    guest
}

#[test]
fn a_load_reads_once_with_its_own_size() {
    let cases: [(&[u8], usize, u64); 5] = [
        (&[0x8a, 0x07], 1, 0x1111_1111_1111_11ff),       // mov al, [rdi]
        (&[0x66, 0x8b, 0x07], 2, 0x1111_1111_1111_eeff), // mov ax, [rdi]
        (&[0x8b, 0x07], 4, 0xccdd_eeff),                 // mov eax, [rdi]
        (&[0x48, 0x8b, 0x07], 8, 0x8899_aabb_ccdd_eeff), // mov rax, [rdi]
        (&[0x0f, 0xbe, 0x07], 1, 0xffff_ffff),           // movsx eax, byte [rdi]
    ];
    for (code, size, rax) in cases {
        let mut guest = at_device(0);
        guest.general[RAX] = 0x1111_1111_1111_1111;
        assert_eq!(guest.complete(code), [Read(DEVICE, size)]);
        assert_eq!(guest.general[RAX], rax, "{code:02x?}");
    }
}

#[test]
fn a_store_writes_once_with_its_own_size() {
    let cases: [(&[u8], Access); 4] = [
        (&[0x88, 0x27], Write(DEVICE, 1, 0x55)),         // mov [rdi], ah
        (&[0x66, 0x89, 0x07], Write(DEVICE, 2, 0x5566)), // mov [rdi], ax
        (&[0x48, 0x89, 0x07], Write(DEVICE, 8, 0x5566)), // mov [rdi], rax
        (&[0x48, 0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff], Write(DEVICE, 8, 0u64.wrapping_sub(2))), // mov qword [rdi], -2
    ];
    for (code, access) in cases {
        let mut guest = at_device(0);
        guest.general[RAX] = 0x5566;
        assert_eq!(guest.complete(code), [access]);
    }
}

#[test]
fn what_changes_memory_reads_then_writes_and_what_compares_only_reads() {
    let changes: [&[u8]; 5] = [
        &[0xf0, 0x83, 0x0f, 0x00], // lock or dword [rdi], 0
        &[0x87, 0x07],             // xchg [rdi], eax
        &[0x0f, 0xb1, 0x07],       // cmpxchg [rdi], eax: written back though it is not equal
        &[0x0f, 0xba, 0x2f, 0x00], // bts dword [rdi], 0
        &[0xf7, 0x1f],             // neg dword [rdi]
    ];
    for code in changes {
        let mut guest = at_device(0);
        guest.general[RAX] = 0xccdd_eeff ^ 1;
        let log = guest.complete(code);
        assert!(matches!(log[..], [Read(DEVICE, 4), Write(DEVICE, 4, _)]), "{code:02x?}: {log:x?}");
    }
    let compares: [&[u8]; 4] = [
        &[0x83, 0x3f, 0x00],       // cmp dword [rdi], 0
        &[0x3b, 0x07],             // cmp eax, [rdi]
        &[0x85, 0x07],             // test [rdi], eax
        &[0x0f, 0xba, 0x27, 0x00], // bt dword [rdi], 0
    ];
    for code in compares {
        assert_eq!(at_device(0).complete(code), [Read(DEVICE, 4)], "{code:02x?}");
    }
}

#[test]
fn a_failed_compare_and_exchange_writes_back_what_it_read() {
    let mut guest = at_device(0);
    (guest.general[RAX], guest.general[RCX]) = (1, 2);
    assert_eq!(guest.complete(&[0x0f, 0xb1, 0x0f]), [Read(DEVICE, 4), Write(DEVICE, 4, 0xccdd_eeff)]);
    assert_eq!(guest.general[RAX], 0xccdd_eeff);
    assert_eq!(guest.complete(&[0x0f, 0xb1, 0x0f]), [Read(DEVICE, 4), Write(DEVICE, 4, 2)]);
}

#[test]
fn an_access_is_split_where_a_page_ends() {
    let mut guest = at_device(0xffd);
    guest.device.bytes[0xffd..0x1001].copy_from_slice(&[1, 2, 3, 4]);
    assert_eq!(guest.complete(&[0x8b, 0x07]), [Read(DEVICE + 0xffd, 3), Read(DEVICE + 0x1000, 1)]);
    assert_eq!(guest.general[RAX], 0x0403_0201);
    let log = guest.complete(&[0x89, 0x07]);
    assert_eq!(log, [Write(DEVICE + 0xffd, 3, 0x03_0201), Write(DEVICE + 0x1000, 1, 4)]);
}

#[test]
fn an_access_is_split_where_ram_ends() {
    let mut guest = Guest::new(Bitness::Bits32);
    guest.ram.truncate(RAM - 2);
    guest.ram[RAM - 4..].copy_from_slice(&[1, 2]);
    guest.general[RDI] = RAM as u64 - 4;
    let end = RAM as u64 - 2;
    assert_eq!(guest.complete(&[0x8b, 0x07]), [Read(end, 1), Read(end + 1, 1)]);
    assert_eq!(guest.general[RAX], 0xffff_0201);
    guest.general[RAX] = 0x0a0b_0c0d;
    assert_eq!(guest.complete(&[0x89, 0x07]), [Write(end, 1, 0x0b), Write(end + 1, 1, 0x0a)]);
    assert_eq!(guest.ram[RAM - 4..], [0x0d, 0x0c]);
}

#[test]
fn without_a_device_ones_are_read_and_writes_are_ignored() {
    let mut bus = Unclaimed;
    bus.write(GuestPhysical(DEVICE), 4, 0);
    assert_eq!(bus.read(GuestPhysical(DEVICE), 4), u64::MAX);
}
