//! Floating point: x87, SSE and AVX registers survive every kind of exit.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "the registers are loaded and stored as a whole")]

use core::arch::asm;
use core::ops::Range;

use l2_guests::control::{cr4, read_cr4, write_cr4};
use l2_guests::outcome::must_succeed;
use l2_guests::{Outcome, attempt, cpuid, ensure, println};

l2_guests::guest!(run);

/// Bytes of an XSAVE area in standard format with the x87, SSE and AVX parts.
const AREA_SIZE: usize = 832;
/// Where XSTATE_BV, the parts that an XSAVE area holds, lies.
const PARTS: usize = 512;
/// Where the upper halves of YMM0 to YMM15 lie.
const UPPER_HALVES: Range<usize> = 576..AREA_SIZE;
/// XMM0 to XMM15.
const XMM: Range<usize> = 160..416;
/// x87 and SSE, or those and AVX, as bits of XCR0 and XSTATE_BV.
const LEGACY: u64 = 3;
const WITH_AVX: u64 = 7;
/// x87 control word: round towards zero, everything masked.
const X87_CONTROL: u16 = 0x0f7f;
/// MXCSR: round towards zero, everything masked.
const SSE_CONTROL: u32 = 0x7f80;

/// The registers in memory, as FXSAVE (its first 512 bytes) and XSAVE lay them out
/// (SDM 1 10.5.1 "FXSAVE Area" and 13.4 "XSAVE Area").
#[derive(Clone)]
#[repr(C, align(64))]
struct Area([u8; AREA_SIZE]);

impl Area {
    const fn empty() -> Self {
        Self([0; AREA_SIZE])
    }

    /// Every register different, and different for every seed.
    fn pattern(seed: u8, parts: u64) -> Self {
        let mut area = Self::empty();
        let bytes = &mut area.0;
        bytes[0..2].copy_from_slice(&X87_CONTROL.to_le_bytes());
        // Abridged tag word: all eight registers are in use.
        bytes[4] = 0xff;
        bytes[24..28].copy_from_slice(&SSE_CONTROL.to_le_bytes());
        for (number, register) in (1_u8..).zip(bytes[32..160].chunks_exact_mut(16)) {
            // A number between 1 and 2: its significand has bit 63 set, its exponent is 0x3fff.
            register[..8].fill(seed.wrapping_mul(3).wrapping_add(number) | 0x80);
            register[8..10].copy_from_slice(&[0xff, 0x3f]);
        }
        for (number, byte) in (0_u8..=255).cycle().zip(&mut bytes[XMM]) {
            *byte = seed ^ number;
        }
        for (number, byte) in (0_u8..=255).cycle().zip(&mut bytes[UPPER_HALVES]) {
            *byte = seed.wrapping_sub(number);
        }
        bytes[PARTS..PARTS + 8].copy_from_slice(&parts.to_le_bytes());
        area
    }
}

/// What is compared: not the x87 instruction pointers, which processors keep in different ways.
const COMPARED: [(&str, Range<usize>); 5] = [
    ("x87 control, status and tags", 0..5),
    ("MXCSR", 24..28),
    ("an x87 register", 32..160),
    ("an XMM register", XMM),
    ("a YMM register", UPPER_HALVES),
];

/// Loads `pattern`, runs the instructions, and gives what the registers then hold.
macro_rules! carry {
    ($save:literal, $restore:literal, $parts:ident, $pattern:ident, $($instruction:literal),+) => {{
        let mut own = Area::empty();
        let mut result = Area::empty();
        // SAFETY: the registers are put back as they were, RBX too; the instructions change nothing else.
        unsafe {
            asm!(
                "mov r15, rbx",
                "xor edx, edx",
                "mov eax, r11d",
                concat!($save, " [r12]"),
                "mov eax, r11d",
                concat!($restore, " [r13]"),
                $($instruction,)+
                "xor edx, edx",
                "mov eax, r11d",
                concat!($save, " [r14]"),
                "mov eax, r11d",
                concat!($restore, " [r12]"),
                "mov rbx, r15",
                in("r11") $parts,
                in("r12") &raw mut own,
                in("r13") &raw const $pattern,
                in("r14") &raw mut result,
                out("r15") _,
                out("rax") _,
                out("rcx") _,
                out("rdx") _,
                out("rsi") _,
                out("rdi") _,
            );
        }
        result
    }};
}

/// One kind of exit, with FXSAVE or XSAVE.
macro_rules! survive {
    ($name:literal, $seed:literal, $parts:ident, $($instruction:literal),+) => {{
        let pattern = Area::pattern($seed, $parts);
        let result = if $parts == WITH_AVX {
            carry!("xsave64", "xrstor64", $parts, pattern, $($instruction),+)
        } else {
            carry!("fxsave64", "fxrstor64", $parts, pattern, $($instruction),+)
        };
        for (what, range) in COMPARED {
            if range == UPPER_HALVES && $parts != WITH_AVX {
                continue;
            }
            let (found, expected) = (&result.0[range.clone()], &pattern.0[range]);
            ensure!(found == expected, "{} changed {what}: {found:x?}, not {expected:x?}", $name);
        }
        println!("{} survive {}", if $parts == WITH_AVX { "x87, SSE and AVX" } else { "x87 and SSE" }, $name);
    }};
}

/// Every kind of exit that an instruction makes. The memory that nobody has is at 0xd0000000, the port at 0xd00.
fn exits(parts: u64) -> Outcome {
    survive!("no exit", 0x11, parts, "nop");
    survive!("CPUID", 0x23, parts, "xor eax, eax", "xor ecx, ecx", "cpuid");
    survive!("VMCALL", 0x35, parts, "xor eax, eax", "xor edi, edi", "xor esi, esi", "vmcall");
    survive!("OUT", 0x47, parts, "mov edx, 0xd00", "out dx, al");
    survive!("IN", 0x59, parts, "mov edx, 0xd00", "in eax, dx");
    survive!("RDMSR", 0x6b, parts, "mov ecx, 0xc0000080", "rdmsr");
    survive!("a load that nobody answers", 0x7d, parts, "mov eax, 0xd0000000", "mov eax, [rax]");
    survive!("MOV to CR0", 0x8f, parts, "mov rax, cr0", "xor eax, 0x20", "mov cr0, rax", "xor eax, 0x20", "mov cr0, rax");
    survive!("WBINVD", 0xa1, parts, "wbinvd");
    Ok(())
}

fn run(_arguments: &str) -> Outcome {
    exits(LEGACY)?;
    if !(cpuid::XSAVE.is_shown() && cpuid::AVX.is_shown()) {
        println!("AVX is not offered");
        return Ok(());
    }
    let before = read_cr4();
    // SAFETY: enables XSETBV and XSAVE.
    must_succeed("CR4.OSXSAVE", unsafe { write_cr4(before | cr4::OSXSAVE) })?;
    // SAFETY: enables AVX.
    let attempted = unsafe { attempt!("xsetbv"; in("ecx") 0, in("eax") WITH_AVX as u32, in("edx") 0) };
    must_succeed("XSETBV", attempted)?;
    exits(WITH_AVX)?;
    avx_instructions()
}

/// The upper half of a YMM register as AVX instructions see it, over an exit.
fn avx_instructions() -> Outcome {
    let pattern = [0x0123_4567_89ab_cdef_u64, 1, 2, 0xfedc_ba98_7654_3210];
    let mut result = [0_u64; 4];
    // SAFETY: reads and writes the two arrays; RBX is put back.
    unsafe {
        asm!(
            "mov r8, rbx",
            "vmovups ymm15, [{pattern}]",
            "xor eax, eax",
            "cpuid",
            "vmovups [{result}], ymm15",
            "vzeroupper",
            "mov rbx, r8",
            pattern = in(reg) &raw const pattern,
            result = in(reg) &raw mut result,
            out("r8") _,
            out("eax") _,
            out("ecx") _,
            out("edx") _,
            out("xmm15") _,
        );
    }
    ensure!(result == pattern, "YMM15 is {result:x?} after CPUID, not {pattern:x?}");
    println!("YMM15 survives CPUID");
    Ok(())
}
