//! Port I/O: bytes, words, double words, strings and REP, to the debug console, the UART and ports nobody has.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "each form of IN, OUT, INS and OUTS is wanted as it is")]

use core::arch::asm;

use l1_protocol::guest::DEBUG_CONSOLE_PORT;
use l2_guests::outcome::must_succeed;
use l2_guests::{Outcome, ensure, fail, msr, port, println};

l2_guests::guest!(run);

/// A port that no device has.
const UNCLAIMED: u16 = 0xd00;
/// The same with a number that fits an immediate byte.
const UNCLAIMED_LOW: u8 = 0xe0;
/// What RAX holds before an IN, so that the part that IN leaves alone shows.
const BEFORE: u64 = 0x1122_3344_5566_7788;

fn run(_arguments: &str) -> Outcome {
    read_unclaimed()?;
    write_unclaimed();
    string_input()?;
    string_output()?;
    uart()
}

fn read_unclaimed() -> Outcome {
    ensure!(port::read_u8(UNCLAIMED) == u8::MAX, "a byte from an unclaimed port is not all ones");
    ensure!(port::read_u16(UNCLAIMED) == u16::MAX, "a word from an unclaimed port is not all ones");
    ensure!(port::read_u32(UNCLAIMED) == u32::MAX, "a double word from an unclaimed port is not all ones");
    let mut results = [BEFORE; 6];
    let [byte, word, double_word, byte_immediate, word_immediate, double_word_immediate] = &mut results;
    // SAFETY: changes RAX only.
    unsafe {
        asm!("in al, dx", in("dx") UNCLAIMED, inout("rax") *byte);
        asm!("in ax, dx", in("dx") UNCLAIMED, inout("rax") *word);
        asm!("in eax, dx", in("dx") UNCLAIMED, inout("rax") *double_word);
        asm!("in al, {}", const UNCLAIMED_LOW, inout("rax") *byte_immediate);
        asm!("in ax, {}", const UNCLAIMED_LOW, inout("rax") *word_immediate);
        asm!("in eax, {}", const UNCLAIMED_LOW, inout("rax") *double_word_immediate);
    }
    // A 32-bit result clears the upper half of the register, a smaller one leaves the rest alone.
    let expected = [BEFORE | 0xff, BEFORE | 0xffff, 0xffff_ffff];
    ensure!(results[..3] == expected, "IN from DX left RAX as {:x?}, not {expected:x?}", &results[..3]);
    ensure!(results[3..] == expected, "IN from an immediate left RAX as {:x?}, not {expected:x?}", &results[3..]);
    println!("unclaimed ports read all ones, in every width");
    Ok(())
}

fn write_unclaimed() {
    port::write_u8(UNCLAIMED, 0x12);
    port::write_u16(UNCLAIMED, 0x1234);
    port::write_u32(UNCLAIMED, 0x1234_5678);
    // SAFETY: nobody listens at the port.
    unsafe { asm!("out {0}, al", "out {0}, ax", "out {0}, eax", const UNCLAIMED_LOW, in("eax") 0x1234_5678) };
    println!("unclaimed ports take every write");
}

/// INS of `$count` elements of `$size` bytes into the middle of a buffer, forwards or backwards.
macro_rules! string_input {
    ($instruction:literal, $size:literal, $count:literal) => {{
        const LENGTH: usize = $size * $count;
        for backwards in [false, true] {
            let mut buffer = [0_u8; LENGTH + 16];
            let first = buffer.as_mut_ptr().wrapping_add(if backwards { 8 + LENGTH - $size } else { 8 });
            let (mut pointer, mut count) = (first, $count as u64);
            // SAFETY: fills the middle of the buffer, from its first or its last element.
            unsafe {
                if backwards {
                    asm!("std", $instruction, "cld", in("dx") UNCLAIMED, inout("rdi") pointer, inout("rcx") count);
                } else {
                    asm!($instruction, in("dx") UNCLAIMED, inout("rdi") pointer, inout("rcx") count);
                }
            }
            let moved = if backwards { first.addr().wrapping_sub(pointer.addr()) } else { pointer.addr().wrapping_sub(first.addr()) };
            let (before, rest) = buffer.split_at(8);
            let (filled, after) = rest.split_at(LENGTH);
            ensure!(filled.iter().all(|&byte| byte == 0xff), "{} filled the buffer with {filled:x?}", $instruction);
            ensure!(before == [0; 8] && after == [0; 8], "{} wrote beside its buffer", $instruction);
            ensure!(moved == LENGTH && count == 0, "{} moved RDI by {moved}, left RCX {count}", $instruction);
        }
    }};
}

fn string_input() -> Outcome {
    string_input!("rep insb", 1, 24);
    string_input!("rep insw", 2, 12);
    string_input!("rep insd", 4, 6);
    string_input!("insb; dec rcx", 1, 1);
    string_input!("insw; dec rcx", 2, 1);
    string_input!("insd; dec rcx", 4, 1);
    println!("INS and REP INS fill buffers, forwards and backwards");
    Ok(())
}

fn string_output() -> Outcome {
    let numbers = [0x1234_5678_u32; 4];
    for (instruction_is_word, elements) in [(true, 8_u64), (false, 4)] {
        let (mut pointer, mut count) = (numbers.as_ptr(), elements);
        // SAFETY: reads the array.
        unsafe {
            if instruction_is_word {
                asm!("rep outsw", in("dx") UNCLAIMED, inout("rsi") pointer, inout("rcx") count);
            } else {
                asm!("rep outsd", in("dx") UNCLAIMED, inout("rsi") pointer, inout("rcx") count);
            }
        }
        ensure!(pointer == numbers.as_ptr_range().end && count == 0, "REP OUTS of {elements} elements left RCX {count}");
    }

    let text = b"REP OUTSB with a count of zero prints nothing\n";
    let (mut pointer, mut count) = (text.as_ptr(), 0_u64);
    // SAFETY: reads nothing.
    unsafe { asm!("rep outsb", in("dx") DEBUG_CONSOLE_PORT, inout("rsi") pointer, inout("rcx") count) };
    ensure!(pointer == text.as_ptr() && count == 0, "REP OUTSB with a count of zero moved RSI");

    for byte in b"OUT, one byte after the other\n" {
        port::write_u8(DEBUG_CONSOLE_PORT, *byte);
    }
    port::write_string(DEBUG_CONSOLE_PORT, b"REP OUTSB forwards\n");

    let text = b"\nsdrawkcab BSTUO PER";
    // SAFETY: reads the text from its last byte to its first.
    unsafe {
        asm!(
            "std",
            "rep outsb",
            "cld",
            in("dx") DEBUG_CONSOLE_PORT,
            inout("rsi") text.as_ptr().wrapping_add(text.len() - 1) => _,
            inout("rcx") text.len() => _,
        );
    }

    let text = b"REP OUTSB from FS\n";
    // SAFETY: FS is used by the next instructions only.
    must_succeed("IA32_FS_BASE", unsafe { msr::write(msr::FS_BASE, text.as_ptr().addr() as u64) })?;
    // SAFETY: reads the text: FS's base is its address. The bytes are `rep outs dx, byte ptr fs:[rsi]`.
    unsafe {
        asm!(
            ".byte 0x64, 0xf3, 0x6e",
            in("dx") DEBUG_CONSOLE_PORT,
            inout("rsi") 0_u64 => _,
            inout("rcx") text.len() => _,
        );
    }
    // SAFETY: FS is not used.
    must_succeed("IA32_FS_BASE", unsafe { msr::write(msr::FS_BASE, 0) })?;

    let text = b"REP OUTSB with 32-bit addresses\n";
    let upper = 0xffff_ffff_0000_0000;
    let mut count = text.len() as u64 | upper;
    // SAFETY: reads the text, which lies below 4 GiB. The bytes are `rep outs dx, byte ptr [esi]`, with ECX the count.
    unsafe {
        asm!(
            ".byte 0x67, 0xf3, 0x6e",
            in("dx") DEBUG_CONSOLE_PORT,
            inout("rsi") text.as_ptr().addr() as u64 | upper => _,
            inout("rcx") count,
        );
    }
    ensure!(count as u32 == 0, "REP OUTSB with 32-bit addresses left ECX {:#x}", count as u32);
    Ok(())
}

const UART: u16 = 0x3f8;
const UART_FIFO_CONTROL: u16 = UART + 2;
const UART_LINE_CONTROL: u16 = UART + 3;
const UART_LINE_STATUS: u16 = UART + 5;
const UART_SCRATCH: u16 = UART + 7;
/// Line status: the transmitter holding register (or the FIFO) is empty.
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Polls of the line status before the UART counts as dead: a byte at 115200 baud takes less.
const POLLS: u32 = 1_000_000;

fn wait_for_transmitter() -> Outcome {
    for _ in 0..POLLS {
        if port::read_u8(UART_LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            return Ok(());
        }
    }
    fail!("the UART never gets its transmitter empty")
}

fn uart() -> Outcome {
    for pattern in [0x5a, 0xa5] {
        port::write_u8(UART_SCRATCH, pattern);
        let read = port::read_u8(UART_SCRATCH);
        ensure!(read == pattern, "the UART's scratch register gives {read:#x} for {pattern:#x}");
    }
    // Divisor latch on, 115200 baud, then 8 data bits, no parity, 1 stop bit; FIFOs on and empty.
    for (register, value) in [(UART_LINE_CONTROL, 0x80), (UART, 1), (UART + 1, 0), (UART_LINE_CONTROL, 3), (UART_FIFO_CONTROL, 7)]
    {
        port::write_u8(register, value);
    }
    for &byte in b"UART, one byte after the other\n" {
        wait_for_transmitter()?;
        port::write_u8(UART, byte);
    }
    wait_for_transmitter()?;
    // No more than the FIFO's 16 bytes.
    port::write_string(UART, b"UART, REP OUTSB\n");
    wait_for_transmitter()
}
