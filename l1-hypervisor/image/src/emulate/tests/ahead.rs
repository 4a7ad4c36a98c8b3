//! Instructions that are executed ahead: as the host's processor does, or not at all.

use core::arch::asm;

use proptest::prelude::*;

use super::native::{Case, Rcx, cases, compare, start};
use super::*;
use crate::context::register::RSP;
use crate::emulate::access::Pages;
use crate::emulate::ahead::{Decoded, Step, step};
use crate::emulate::arithmetic::AUXILIARY;

const STACK: u64 = DATA + 0x800;

impl Guest {
    fn step(&mut self, decoded: &mut Decoded) -> Option<Step> {
        let (mut state, mut memory, paging, _) = self.parts();
        step(&mut state, &mut memory, paging, &mut Pages::default(), decoded)
    }

    fn step_over(&mut self, code: &[u8]) -> Option<Step> {
        self.place(code);
        self.step(&mut Decoded::default())
    }
}

fn next_rip(step: Option<Step>) -> Option<u64> {
    match step {
        Some(Step::Done { next_rip }) => Some(next_rip),
        _ => None,
    }
}

/// Forms that only instructions executed ahead have, without an operand in memory or with a condition.
fn more_cases() -> Vec<Case> {
    let mut list = Vec::new();
    cases!(
        list,
        Rcx::Any,
        0,
        "nop",
        "nop dword ptr [rax + rax]",
        "mov rax, rdx",
        "mov eax, r9d",
        "mov cx, dx",
        "mov dl, ch",
        "mov ah, dl",
        "mov r8d, 0x89abcdef",
        "mov rcx, -2",
        "movabs r9, 0x123456789abcdef0",
        "mov ax, 0x8001",
        "mov sil, 0x80",
        "movzx eax, dl",
        "movzx rcx, dx",
        "movzx ecx, dh",
        "movsx eax, dl",
        "movsx rcx, dx",
        "movsxd r9, edx",
        "lea rax, [rcx + rdx * 4 - 0x77]",
        "lea eax, [rcx + r9 * 8 + 5]",
        "lea cx, [rdx + 1]",
        "lea rdx, [ecx + edx * 2]",
        "add rax, rdx",
        "add eax, -3",
        "add cl, ah",
        "adc r8, r9",
        "adc dx, 0x7fff",
        "sub rcx, 0x80",
        "sub eax, edx",
        "sbb r9d, r8d",
        "sbb al, 0x7f",
        "cmp rax, rdx",
        "cmp edx, 0x44",
        "cmp ax, cx",
        "cmp ch, dl",
        "inc rcx",
        "inc eax",
        "dec r8w",
        "dec dl",
        "not rdx",
        "neg eax",
        "neg cl",
    );
    cases!(
        list,
        Rcx::Any,
        AUXILIARY,
        "and rax, rdx",
        "and ecx, 0x0ff0",
        "or r8b, r9b",
        "or dx, 0x101",
        "xor eax, eax",
        "xor rcx, r9",
        "test al, cl",
        "test edx, edx",
        "test r8, -0x10",
    );
    macro_rules! conditions {
        ($($condition:literal),+) => {$(
            cases!(list, Rcx::Any, 0,
                concat!("set", $condition, " al"), concat!("set", $condition, " dh"), concat!("set", $condition, " [rdi]"),
                concat!("cmov", $condition, " rax, rdx"), concat!("cmov", $condition, " ecx, r9d"),
                concat!("cmov", $condition, " dx, [rsi]"), concat!("cmov", $condition, " r8d, [rsi]"));
        )+};
    }
    conditions!("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g");
    list
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]
    #[test]
    fn what_is_executed_ahead_agrees_with_the_processor(start in start()) {
        for case in more_cases().iter().chain(&cases()) {
            let mut known = false;
            let done = compare(case, &start, |guest, code| {
                let instruction = decode(Bitness::Bits64, CODE, code).unwrap();
                known = !instruction.has_lock_prefix() && !instruction.is_string_instruction();
                next_rip(guest.step(&mut Decoded::default()))
            })?;
            // Nothing of an instruction is done that a device would see.
            prop_assert!(!done || known, "{}", case.text);
            prop_assert!(done || !known || start.in_ram != [true, true], "{} is left to the processor", case.text);
        }
    }
}

#[test]
fn the_stack() {
    let stack = |guest: &mut Guest, offset: i64| guest.memory().read_u64(GuestPhysical(STACK.wrapping_add_signed(offset)));
    // push rcx; push r9; push rsp
    for (code, value) in [(&[0x51][..], 0x1111), (&[0x41, 0x51], 0x9999), (&[0x54], STACK)] {
        let mut guest = guest_with_stack();
        assert_eq!(next_rip(guest.step_over(code)), Some(CODE + code.len() as u64));
        assert_eq!((guest.rsp, stack(&mut guest, -8)), (STACK - 8, value), "{code:02x?}");
    }
    // pop rdx; pop rsp
    for (code, number, rsp) in [(&[0x5a][..], RDX, STACK + 8), (&[0x5c], RSP, 0x5555_6666)] {
        let mut guest = guest_with_stack();
        guest.memory().write(GuestPhysical(STACK), &0x5555_6666_u64.to_le_bytes());
        assert_eq!(next_rip(guest.step_over(code)), Some(CODE + 1));
        assert_eq!(guest.rsp, rsp);
        assert!(number == RSP || guest.general[number] == 0x5555_6666);
    }
    // call +0x100; ret
    let mut guest = guest_with_stack();
    assert_eq!(next_rip(guest.step_over(&[0xe8, 0, 1, 0, 0])), Some(CODE + 0x105));
    assert_eq!((guest.rsp, stack(&mut guest, -8)), (STACK - 8, CODE + 5));
    assert_eq!(next_rip(guest.step_over(&[0xc3])), Some(CODE + 5));
    assert_eq!(guest.rsp, STACK);
}

#[test]
fn branches() {
    // jmp -2; jmp +0x1000; jz +0x10; jnz +0x10; jg, near
    let rows: [(&[u8], u64, u64); 7] = [
        (&[0xeb, 0xfc], 0, CODE - 2),
        (&[0xe9, 0, 0x10, 0, 0], 0, CODE + 0x1005),
        (&[0x74, 0x10], 0x40, CODE + 0x12),
        (&[0x74, 0x10], 0, CODE + 2),
        (&[0x75, 0x10], 0, CODE + 0x12),
        (&[0x0f, 0x8f, 0, 2, 0, 0], 0, CODE + 0x206),
        (&[0x0f, 0x8f, 0, 2, 0, 0], 0x80, CODE + 6),
    ];
    for (code, flags, expected) in rows {
        let mut guest = guest_with_stack();
        guest.rflags |= flags;
        assert_eq!(next_rip(guest.step_over(code)), Some(expected), "{code:02x?} with {flags:#x}");
    }
}

#[test]
fn addresses_relative_to_rip() {
    let mut guest = guest_with_stack();
    // lea r8, [rip + 0x1234]
    assert_eq!(next_rip(guest.step_over(&[0x4c, 0x8d, 0x05, 0x34, 0x12, 0, 0])), Some(CODE + 7));
    assert_eq!(guest.general[8], CODE + 7 + 0x1234);
    // mov rax, [rip + …], to the data
    guest.memory().write(GuestPhysical(DATA), &0x5577_u64.to_le_bytes());
    let [a, b, c, d] = ((DATA - CODE - 7) as u32).to_le_bytes();
    assert_eq!(next_rip(guest.step_over(&[0x48, 0x8b, 0x05, a, b, c, d])), Some(CODE + 7));
    assert_eq!(guest.general[RAX], 0x5577);
}

#[test]
fn accesses_to_fields_are_the_callers() {
    // vmread rdx, rax; vmread rdi, r8; vmwrite r14, rax
    let rows: [(&[u8], bool, usize, usize); 3] = [
        (&[0x0f, 0x78, 0xc2], false, RAX, RDX),
        (&[0x44, 0x0f, 0x78, 0xc7], false, 8, RDI),
        (&[0x44, 0x0f, 0x79, 0xf0], true, 14, RAX),
    ];
    for (code, write, field, value) in rows {
        let mut guest = guest_with_stack();
        let expected = Step::FieldAccess { write, field, value, next_rip: CODE + code.len() as u64 };
        assert_eq!(guest.step_over(code), Some(expected), "{code:02x?}");
    }
    // In memory; from RSP; to RSP; the encoding in RSP.
    for code in [&[0x0f, 0x78, 0x07][..], &[0x0f, 0x79, 0xc4], &[0x0f, 0x78, 0xc4], &[0x0f, 0x78, 0xe0]] {
        unchanged(guest_with_stack(), code);
    }
}

#[test]
fn what_is_not_known_changes_nothing() {
    let codes: &[&[u8]] = &[
        &[0xf4],                                     // hlt
        &[0xfa],                                     // cli
        &[0xfb],                                     // sti
        &[0x9c],                                     // pushf
        &[0x9d],                                     // popf
        &[0xcc],                                     // int3
        &[0x0f, 0xa2],                               // cpuid
        &[0x0f, 0x31],                               // rdtsc
        &[0x0f, 0x01, 0xc3],                         // vmresume
        &[0x0f, 0x0b],                               // ud2
        &[0x0f, 0x22, 0xd8],                         // mov cr3, rax
        &[0x8e, 0xd8],                               // mov ds, eax
        &[0x8c, 0xd8],                               // mov eax, ds
        &[0xff, 0xe0],                               // jmp rax
        &[0xff, 0xd0],                               // call rax
        &[0xff, 0x31],                               // push [rcx]
        &[0x66, 0x50],                               // push ax
        &[0x6a, 0x01],                               // push 1
        &[0xc2, 8, 0],                               // ret 8
        &[0xcb],                                     // retf
        &[0x48, 0xcf],                               // iretq
        &[0xf3, 0xc3],                               // rep ret
        &[0xf0, 0x48, 0x01, 0x07],                   // lock add [rdi], rax
        &[0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0], // mov rax, gs:[0]
        &[0x64, 0x48, 0x89, 0x07],                   // mov fs:[rdi], rax
        &[0xf3, 0x48, 0xa5],                         // rep movsq
        &[0x48, 0xa5],                               // movsq
        &[0x0f, 0x6f, 0xc1],                         // movq mm0, mm1
        &[0x48, 0xf7, 0xf1],                         // div rcx
        &[0x06],                                     // nothing in 64-bit mode
    ];
    for code in codes {
        unchanged(guest_with_stack(), code);
    }
}

#[test]
fn what_would_fault_or_reach_a_device_changes_nothing() {
    let not_canonical = 0x8000_0000_0000_0000_u64;
    let unmapped = 0x7777_0000;
    for address in [not_canonical, unmapped, DEVICE, DATA + 0x1ffc] {
        let mut guest = guest_with_stack();
        guest.general[RDI] = address;
        guest.general[RSI] = address;
        // mov [rdi], rax; add rax, [rsi]; setz [rdi]; cmovz rax, [rsi]. The last address reaches an unmapped page by half.
        for code in [&[0x48, 0x89, 0x07][..], &[0x48, 0x03, 0x06], &[0x48, 0x0f, 0x44, 0x06]] {
            unchanged(guest.clone_for_test(), code);
        }
        guest.rsp = address;
        // pop rax; ret
        for code in [&[0x58][..], &[0xc3]] {
            unchanged(guest.clone_for_test(), code);
        }
        guest.rsp = address.wrapping_add(8);
        // push rax; call +0
        for code in [&[0x50][..], &[0xe8, 0, 0, 0, 0]] {
            unchanged(guest.clone_for_test(), code);
        }
    }
    // A return to an address that is not canonical; that was read, which the tables show.
    let mut guest = guest_with_stack();
    guest.memory().write(GuestPhysical(STACK), &not_canonical.to_le_bytes());
    assert!(guest.clone_for_test().step_over(&[0xc3]).is_none());
    assert_eq!(next_rip(guest.step_over(&[0x48, 0x8b, 0x04, 0x24])), Some(CODE + 4));
    guest.general[RAX] = 0;
    unchanged(guest, &[0xc3]);
    // A page that is read-only.
    let mut guest = guest_with_stack();
    guest.map(DATA, DATA, PRESENT);
    guest.general[RDI] = DATA;
    unchanged(guest, &[0x48, 0x89, 0x07]);
    // Code that goes on in the next page.
    let mut guest = guest_with_stack();
    guest.rip = CODE + 0xffe;
    unchanged(guest, &[0x48, 0x89, 0xc2]);
}

#[test]
fn changed_code_is_decoded_again() {
    let mut decoded = Decoded::default();
    let mut guest = guest_with_stack();
    // mov eax, 1; mov eax, 2
    for number in [1, 2, 1] {
        guest.place(&[0xb8, number, 0, 0, 0]);
        assert_eq!(next_rip(guest.step(&mut decoded)), Some(CODE + 5));
        assert_eq!(guest.general[RAX], u64::from(number));
    }
}

fn guest_with_stack() -> Guest {
    let mut guest = Guest::long();
    guest.rsp = STACK;
    guest.general[RCX] = 0x1111;
    guest.general[9] = 0x9999;
    guest.general[RDI] = DATA;
    guest.general[RSI] = DATA;
    guest
}

impl Guest {
    fn clone_for_test(&self) -> Self {
        Self {
            ram: self.ram.clone(),
            paging: self.paging,
            next_table: self.next_table,
            general: self.general,
            rsp: self.rsp,
            rip: self.rip,
            rflags: self.rflags,
            segment_bases: self.segment_bases,
            mode: self.mode,
            device: Device { bytes: self.device.bytes.clone(), log: Vec::new() },
        }
    }
}

fn unchanged(mut guest: Guest, code: &[u8]) {
    guest.place(code);
    guest.note_fetch();
    let old = guest.snapshot();
    assert_eq!(guest.step(&mut Decoded::default()), None, "{code:02x?}");
    assert!(guest.snapshot() == old, "{code:02x?} has changed something");
}
