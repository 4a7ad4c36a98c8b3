//! The same machine code on the host's processor and in the emulation: registers, flags and memory must agree.
//!
//! Each case is assembled into this file, runs natively on two pages of the host, and its bytes are then emulated on
//! the same linear addresses, which the guest's tables map to RAM or to the device, in swapped order.

use super::*;
use crate::emulate::arithmetic::{AUXILIARY, OVERFLOW, PARITY, SIGN, STATUS};
use core::arch::asm;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
pub(super) struct Registers {
    pub(super) rax: u64,
    pub(super) rcx: u64,
    pub(super) rdx: u64,
    pub(super) rsi: u64,
    pub(super) rdi: u64,
    pub(super) r8: u64,
    pub(super) r9: u64,
    pub(super) rflags: u64,
}

/// What RCX may be, so that the instruction stays in the two pages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rcx {
    Any,
    /// From -1000 to 1000: an index, or the number of a bit.
    Small,
    /// From 0 to 12: a count.
    Count,
}

pub(super) struct Case {
    pub(super) text: &'static str,
    pub(super) rcx: Rcx,
    /// Flags that the SDM leaves undefined.
    pub(super) undefined: u64,
    /// Executes the instruction and returns its bytes.
    pub(super) run: fn(&mut Registers) -> &'static [u8],
}

macro_rules! case {
    ($rcx:expr, $undefined:expr, $text:expr) => {
        Case { text: $text, rcx: $rcx, undefined: $undefined, run: |registers| {
            let (start, end): (usize, usize);
            // SAFETY: the instruction reads and writes only what its RSI, RDI and RCX reach, which the test keeps in its
            // two pages; the direction flag is cleared again; the bytes between the labels are code of this program.
            #[expect(unsafe_code, reason = "the host's processor is the reference")]
            unsafe {
                asm!(
                    "push {flags}", "popfq", "2:", $text, "3:", "pushfq", "cld", "pop {flags}",
                    "lea {start}, [rip + 2b]", "lea {end}, [rip + 3b]",
                    flags = inout(reg) registers.rflags, start = out(reg) start, end = out(reg) end,
                    inout("rax") registers.rax, inout("rcx") registers.rcx, inout("rdx") registers.rdx,
                    inout("rsi") registers.rsi, inout("rdi") registers.rdi,
                    inout("r8") registers.r8, inout("r9") registers.r9,
                );
                core::slice::from_raw_parts(start as *const u8, end - start)
            }
        } }
    };
}

macro_rules! cases {
    ($list:ident, $rcx:expr, $undefined:expr, $($text:expr),+ $(,)?) => {
        $($list.push(case!($rcx, $undefined, $text));)+
    };
}

macro_rules! binary_cases {
    ($list:ident, $undefined:expr, $($name:literal),+) => {$(
        cases!($list, Rcx::Any, $undefined,
            concat!($name, " [rdi], al"), concat!($name, " [rdi], ch"), concat!($name, " [rdi], cx"),
            concat!($name, " [rdi], edx"), concat!($name, " [rdi], r8"),
            concat!($name, " dl, [rdi]"), concat!($name, " ax, [rdi]"), concat!($name, " r9d, [rdi]"),
            concat!($name, " r9, [rdi]"), concat!($name, " byte ptr [rdi], 0x80"),
            concat!($name, " word ptr [rdi], 0x7fff"), concat!($name, " dword ptr [rdi], -3"),
            concat!($name, " dword ptr [rdi], 0x89abcdef"), concat!($name, " qword ptr [rdi], -0x12345678"));
    )+};
}

macro_rules! sized_cases {
    ($list:ident, $rcx:expr, $undefined:expr, $($name:literal),+) => {$(
        cases!($list, $rcx, $undefined,
            concat!($name, " [rdi], r8b"), concat!($name, " [rdi], r9w"),
            concat!($name, " [rdi], ecx"), concat!($name, " [rdi], rdx"));
    )+};
}

macro_rules! unary_cases {
    ($list:ident, $($name:literal),+) => {$(
        cases!($list, Rcx::Any, 0,
            concat!($name, " byte ptr [rdi]"), concat!($name, " word ptr [rdi]"),
            concat!($name, " dword ptr [rdi]"), concat!("lock ", $name, " qword ptr [rdi]"));
    )+};
}

macro_rules! bit_cases {
    ($list:ident, $($name:literal),+) => {$(
        cases!($list, Rcx::Small, OVERFLOW | SIGN | AUXILIARY | PARITY,
            concat!($name, " [rdi], cx"), concat!($name, " [rdi], ecx"), concat!($name, " [rdi], rcx"),
            concat!($name, " word ptr [rdi], 0x17"), concat!($name, " dword ptr [rdi], 0x2b"),
            concat!($name, " qword ptr [rdi], 0x3f"));
    )+};
}

macro_rules! string_cases {
    ($list:ident, $($name:literal),+) => {$(
        cases!($list, Rcx::Count, 0,
            concat!($name, "b"), concat!($name, "w"), concat!($name, "d"), concat!($name, "q"),
            concat!("rep ", $name, "b"), concat!("rep ", $name, "w"),
            concat!("rep ", $name, "d"), concat!("rep ", $name, "q"),
            concat!("repne ", $name, "b"), concat!("repne ", $name, "w"),
            concat!("repne ", $name, "d"), concat!("repne ", $name, "q"));
    )+};
}

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    cases!(
        list,
        Rcx::Any,
        0,
        "mov [rdi], al",
        "mov [rdi], ah",
        "mov [rdi], dh",
        "mov [rdi], sil",
        "mov [rdi], cx",
        "mov [rdi], edx",
        "mov [rdi], r8",
        "mov al, [rdi]",
        "mov ah, [rdi]",
        "mov r9b, [rdi]",
        "mov cx, [rdi]",
        "mov edx, [rdi]",
        "mov r8d, [rdi]",
        "mov r9, [rdi]",
        "mov byte ptr [rdi], 0x5a",
        "mov word ptr [rdi], 0x89ab",
        "mov dword ptr [rdi], 0x89abcdef",
        "mov qword ptr [rdi], -0x7654321",
        "mov rdi, [rdi]",
        "movzx ax, byte ptr [rdi]",
        "movzx ecx, byte ptr [rdi]",
        "movzx rdx, byte ptr [rdi]",
        "movzx r8d, word ptr [rdi]",
        "movzx r9, word ptr [rdi]",
        "movsx ax, byte ptr [rdi]",
        "movsx ecx, byte ptr [rdi]",
        "movsx rdx, byte ptr [rdi]",
        "movsx r8d, word ptr [rdi]",
        "movsx r9, word ptr [rdi]",
        "movsxd rax, dword ptr [rdi]",
        "movnti [rdi], edx",
        "movnti [rdi], r8",
    );
    cases!(list, Rcx::Small, 0, "mov [rdi + rcx], rdx", "mov eax, [rsi + rcx * 2 - 100]", "mov [rdi + rcx * 1 + 0x120], ax");
    if std::is_x86_feature_detected!("movbe") {
        sized_movbe(&mut list);
    }
    binary_cases!(list, 0, "add", "adc", "sub", "sbb", "cmp");
    binary_cases!(list, AUXILIARY, "and", "or", "xor");
    sized_cases!(list, Rcx::Any, AUXILIARY, "test", "lock and", "lock xor");
    cases!(list, Rcx::Any, AUXILIARY, "test byte ptr [rdi], 0x81", "test qword ptr [rdi], -0x10");
    sized_cases!(list, Rcx::Any, 0, "xchg", "xadd", "lock xadd", "cmpxchg", "lock cmpxchg", "lock add");
    cases!(list, Rcx::Any, 0, "xchg [rdi], ah", "xadd [rdi], al", "cmpxchg [rdi], ah", "cmpxchg [rdi], rax");
    unary_cases!(list, "inc", "dec", "not", "neg");
    bit_cases!(list, "bt", "bts", "btr", "btc", "lock bts");
    string_cases!(list, "movs", "stos", "lods", "cmps", "scas");
    list
}

fn sized_movbe(list: &mut Vec<Case>) {
    cases!(
        list,
        Rcx::Any,
        0,
        "movbe [rdi], ax",
        "movbe [rdi], ecx",
        "movbe [rdi], rdx",
        "movbe ax, [rdi]",
        "movbe ecx, [rdi]",
        "movbe rdx, [rdi]"
    );
}

#[repr(C, align(4096))]
struct TwoPages([u8; 8192]);

/// What a run begins with. Everything is derived from it, so a failure can be repeated.
#[derive(Debug, Clone)]
pub(super) struct Start {
    values: [u64; 5],
    small: i64,
    count: u64,
    /// Offsets of RSI and RDI from the boundary between the pages.
    offsets: (i64, i64),
    flags: u64,
    pattern: Vec<u8>,
    /// Makes operands equal often.
    pattern_mask: u8,
    rax_from_memory: bool,
    /// Whether each page is RAM; otherwise it is the device.
    pub(super) in_ram: [bool; 2],
}

pub(super) fn start() -> impl Strategy<Value = Start> {
    let numbers = (any::<[u64; 5]>(), -1000_i64..=1000, 0_u64..=12, (-20_i64..20, -20_i64..20), any::<u64>());
    let pattern = (prop::collection::vec(any::<u8>(), 61), prop_oneof![Just(0xff), Just(1), Just(0)]);
    (numbers, pattern, any::<bool>(), any::<[bool; 2]>()).prop_map(
        |((values, small, count, offsets, flags), (pattern, pattern_mask), rax_from_memory, in_ram)| Start {
            values,
            small,
            count,
            offsets,
            flags,
            pattern,
            pattern_mask,
            rax_from_memory,
            in_ram,
        },
    )
}

const DIRECTION: u64 = 1 << 10;

impl Start {
    fn fill(&self, pages: &mut TwoPages) {
        let bytes = self.pattern.iter().map(|byte| byte & self.pattern_mask).cycle();
        pages.0.iter_mut().zip(bytes).for_each(|(target, byte)| *target = byte);
    }

    fn registers(&self, pages: &TwoPages, rcx: Rcx) -> Registers {
        let middle = pages.0.as_ptr() as u64 + 4096;
        let [rax, any, rdx, r8, r9] = self.values;
        let at_rdi = (4096 + self.offsets.1) as usize;
        let rax = if self.rax_from_memory { u64::from_le_bytes(pages.0[at_rdi..at_rdi + 8].try_into().unwrap()) } else { rax };
        Registers {
            rax,
            rcx: match rcx {
                Rcx::Any => any,
                Rcx::Small => self.small as u64,
                Rcx::Count => self.count,
            },
            rdx,
            rsi: middle.wrapping_add_signed(self.offsets.0),
            rdi: middle.wrapping_add_signed(self.offsets.1),
            r8,
            r9,
            rflags: self.flags & (STATUS | DIRECTION) | 2,
        }
    }

    /// Physical addresses of the two pages.
    fn physical(&self) -> [u64; 2] {
        let place = |in_ram, offset| if in_ram { DATA + offset } else { DEVICE + offset };
        [place(self.in_ram[0], 4096), place(self.in_ram[1], 0)]
    }
}

fn page_of(guest: &mut Guest, physical: u64) -> &mut [u8] {
    if physical >= DEVICE {
        let start = (physical - DEVICE) as usize;
        &mut guest.device.bytes[start..start + 4096]
    } else {
        &mut guest.ram[physical as usize..physical as usize + 4096]
    }
}

/// Executes the case on the host's processor, and with `execute`, which says where the guest goes on, or `None` if it has done
/// nothing at all.
pub(super) fn compare(
    case: &Case,
    start: &Start,
    execute: impl FnOnce(&mut Guest, &[u8]) -> Option<u64>,
) -> Result<bool, TestCaseError> {
    let mut pages = std::boxed::Box::new(TwoPages([0; 8192]));
    start.fill(&mut pages);
    let before = start.registers(&pages, case.rcx);
    let linear = pages.0.as_ptr() as u64;

    let mut guest = Guest::long();
    for (index, physical) in start.physical().into_iter().enumerate() {
        guest.map(linear + 4096 * index as u64, physical, PRESENT | WRITABLE);
        page_of(&mut guest, physical).copy_from_slice(&pages.0[4096 * index..][..4096]);
    }
    (guest.general[RAX], guest.general[RCX], guest.general[RDX]) = (before.rax, before.rcx, before.rdx);
    (guest.general[RSI], guest.general[RDI]) = (before.rsi, before.rdi);
    (guest.general[8], guest.general[9], guest.rflags) = (before.r8, before.r9, before.rflags);

    let mut expected = before;
    let code = (case.run)(&mut expected);
    guest.place(code);
    guest.note_fetch();
    let old = guest.snapshot();
    let next_rip = execute(&mut guest, code);
    let what = case.text;
    if next_rip.is_none() {
        prop_assert!(guest.snapshot() == old, "{} has changed something", what);
        return Ok(false);
    }
    prop_assert_eq!(next_rip, Some(CODE + code.len() as u64), "{}", what);
    let [rax, rcx, rdx, ..] = guest.general;
    prop_assert_eq!((rax, rcx, rdx), (expected.rax, expected.rcx, expected.rdx), "RAX, RCX, RDX of {}", what);
    prop_assert_eq!((guest.general[RSI], guest.general[RDI]), (expected.rsi, expected.rdi), "RSI, RDI of {}", what);
    prop_assert_eq!((guest.general[8], guest.general[9]), (expected.r8, expected.r9), "R8, R9 of {}", what);
    let flags = (STATUS | DIRECTION) & !case.undefined;
    prop_assert_eq!(guest.rflags & flags, expected.rflags & flags, "RFLAGS of {}", what);
    for (index, physical) in start.physical().into_iter().enumerate() {
        let equal = page_of(&mut guest, physical) == &pages.0[4096 * index..][..4096];
        prop_assert!(equal, "memory of {}", what);
    }
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]
    #[test]
    fn the_emulation_agrees_with_the_processor(start in start()) {
        for case in cases() {
            let done = compare(&case, &start, |guest, _| match guest.emulate() {
                Ok(Outcome::Completed { next_rip }) => Some(next_rip),
                _ => None,
            })?;
            prop_assert!(done, "{} is emulated", case.text);
        }
    }
}

#[test]
fn every_emulated_mnemonic_is_compared() {
    let mut pages = std::boxed::Box::new(TwoPages([0; 8192]));
    let middle = pages.0.as_mut_ptr() as u64 + 4096;
    let seen: Vec<_> = cases()
        .iter()
        .map(|case| {
            let mut registers = Registers { rax: 0, rcx: 0, rdx: 0, rsi: middle, rdi: middle, r8: 0, r9: 0, rflags: 2 };
            decode(Bitness::Bits64, 0, (case.run)(&mut registers)).unwrap().mnemonic()
        })
        .collect();
    for mnemonic in Mnemonic::values() {
        let emulated = instruction::Operation::of(mnemonic).is_some() || string::Operation::of(mnemonic).is_some();
        let here = mnemonic != Mnemonic::Movbe || std::is_x86_feature_detected!("movbe");
        assert_eq!(seen.contains(&mnemonic), emulated && here, "{mnemonic:?}");
    }
}
