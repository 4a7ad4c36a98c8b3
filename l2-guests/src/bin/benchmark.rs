//! Times an operation: `benchmark OPERATION COUNT [NUMBER]` prints its ticks and those of the loop without it.
//!
//! OPERATION is cpuid, vmcall, rdmsr, wrmsr, out or ept-violation. NUMBER is the MSR (IA32_EFER unless given) or the
//! port (0x80 unless given), decimal or hexadecimal with 0x. The output is two lines, `OPERATION COUNT TICKS` and
//! `empty COUNT TICKS`: their difference is what the operation itself took. WRMSR writes what RDMSR read before.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "the loops are assembly, so that nothing but the operation is timed")]

use core::arch::asm;

use l2_guests::{Outcome, ensure, fail, msr, println};

l2_guests::guest!(run);

/// A physical address that nobody has.
const UNCLAIMED: u64 = 0xd000_0000;
/// A port that nobody listens at: the POST code display of PCs.
const PORT: u32 = 0x80;

/// What the registers hold at each turn of a loop.
#[derive(Clone, Copy, Default)]
struct Input {
    /// Loaded at each turn, as CPUID, VMCALL and RDMSR change it.
    eax: u32,
    ecx: u32,
    edx: u32,
    rdi: u64,
}

/// TSC ticks that `$count` turns of the operation and three more instructions take.
macro_rules! time {
    ($count:expr, $input:expr, $operation:literal) => {{
        let input: Input = $input;
        let ticks: u64;
        // SAFETY: the operations change the registers named and no memory; RBX is put back.
        unsafe {
            asm!(
                "mov r10, rbx",
                // The start goes into R8; EDX, which RDTSC changes, comes from R12.
                "lfence",
                "rdtsc",
                "shl rdx, 32",
                "or rax, rdx",
                "mov r8, rax",
                "mov edx, r12d",
                ".balign 16",
                "2:",
                "mov eax, r11d",
                $operation,
                "dec r9",
                "jnz 2b",
                "lfence",
                "rdtsc",
                "shl rdx, 32",
                "or rax, rdx",
                "sub rax, r8",
                "mov rbx, r10",
                out("r8") _,
                inout("r9") $count => _,
                out("r10") _,
                in("r11") u64::from(input.eax),
                in("r12") u64::from(input.edx),
                inout("rcx") u64::from(input.ecx) => _,
                out("rdx") _,
                in("rsi") 0_u64,
                in("rdi") input.rdi,
                out("rax") ticks,
            );
        }
        ticks
    }};
}

/// A decimal number, or a hexadecimal one with 0x.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn run(arguments: &str) -> Outcome {
    let mut words = arguments.split_ascii_whitespace();
    let (Some(operation), Some(count), given, None) = (words.next(), words.next(), words.next(), words.next()) else {
        fail!("usage: benchmark OPERATION COUNT [NUMBER]");
    };
    let Some(count) = number(count).filter(|&count| count > 0) else { fail!("{count:?} is no count") };
    let given = match given.map(number) {
        Some(None) => fail!("{arguments:?} does not end with a number"),
        Some(number) => number,
        None => None,
    };
    let turns = u64::from(count);
    // Each operation once before it is timed, for the caches of a real processor and the page tables of L1.
    let ticks = match operation {
        "cpuid" => {
            let _ = time!(1_u64, Input::default(), "cpuid");
            time!(turns, Input::default(), "cpuid")
        }
        "vmcall" => {
            let _ = time!(1_u64, Input::default(), "vmcall");
            time!(turns, Input::default(), "vmcall")
        }
        "rdmsr" | "wrmsr" => {
            let index = given.unwrap_or(msr::EFER);
            let Ok(value) = msr::read(index) else { fail!("there is no MSR {index:#x}") };
            let input = Input { ecx: index, eax: value as u32, edx: (value >> 32) as u32, ..Input::default() };
            if operation == "rdmsr" {
                time!(turns, input, "rdmsr")
            } else {
                // SAFETY: the value it has.
                ensure!(unsafe { msr::write(index, value) }.is_ok(), "MSR {index:#x} cannot be written with its own value");
                time!(turns, input, "wrmsr")
            }
        }
        "out" => {
            let port = given.unwrap_or(PORT);
            ensure!(port <= 0xffff, "{port:#x} is no port");
            let input = Input { edx: port, ..Input::default() };
            let _ = time!(1_u64, input, "out dx, al");
            time!(turns, input, "out dx, al")
        }
        "ept-violation" => {
            let input = Input { rdi: UNCLAIMED, ..Input::default() };
            let _ = time!(1_u64, input, "mov eax, [rdi]");
            time!(turns, input, "mov eax, [rdi]")
        }
        other => fail!("{other:?} is none of cpuid, vmcall, rdmsr, wrmsr, out and ept-violation"),
    };
    let empty = time!(turns, Input::default(), "");
    println!("{operation} {count} {ticks}");
    println!("empty {count} {empty}");
    Ok(())
}
