//! Memory-mapped I/O: every width and form of access to physical addresses that nobody has.
//!
//! `mmio arithmetic` adds instructions that compute with such memory.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "each form of access is wanted as it is")]

use core::arch::asm;

use l2_guests::{Outcome, ensure, fail, println};

l2_guests::guest!(run);

/// Physical addresses without memory or device, in different gigabytes' page directories and pages.
const UNCLAIMED: [u64; 2] = [0xd000_0000, 0xfd00_0000];
/// What RAX holds before a load, so that the part that it leaves alone shows.
const BEFORE: u64 = 0x1122_3344_5566_7788;

fn run(arguments: &str) -> Outcome {
    for address in UNCLAIMED {
        loads(address)?;
        stores(address)?;
        strings(address)?;
    }
    page_boundaries(UNCLAIMED[0])?;
    match arguments.trim() {
        "" => Ok(()),
        "arithmetic" => arithmetic(UNCLAIMED[0]),
        other => fail!("the argument is {other:?}, not `arithmetic`"),
    }
}

/// One instruction with its memory operand at RDX and its result in RAX.
macro_rules! load {
    ($address:expr, $instruction:literal, $expected:expr) => {{
        let (mut result, expected) = (BEFORE, $expected);
        // SAFETY: reads memory that nobody has.
        unsafe { asm!($instruction, in("rdx") $address, in("rcx") 4_u64, inout("rax") result, out("r8") _, options(nostack)) };
        ensure!(result == expected, "`{}` left RAX as {result:#x}, not {expected:#x}", $instruction);
    }};
}

fn loads(address: u64) -> Outcome {
    load!(address, "mov al, [rdx]", BEFORE | 0xff);
    load!(address, "mov ah, [rdx]", BEFORE | 0xff00);
    load!(address, "mov ax, [rdx]", BEFORE | 0xffff);
    load!(address, "mov eax, [rdx]", 0xffff_ffff);
    load!(address, "mov rax, [rdx]", u64::MAX);
    load!(address, "mov eax, [rdx + rcx*4 + 0x10]", 0xffff_ffff);
    load!(address, "mov r8, [rdx]; mov rax, r8", u64::MAX);
    load!(address, "movzx ax, byte ptr [rdx]", BEFORE & !0xffff | 0xff);
    load!(address, "movzx eax, byte ptr [rdx]", 0xff);
    load!(address, "movzx rax, byte ptr [rdx]", 0xff);
    load!(address, "movzx eax, word ptr [rdx]", 0xffff);
    load!(address, "movzx rax, word ptr [rdx]", 0xffff);
    load!(address, "movsx ax, byte ptr [rdx]", BEFORE | 0xffff);
    load!(address, "movsx eax, byte ptr [rdx]", 0xffff_ffff);
    load!(address, "movsx rax, byte ptr [rdx]", u64::MAX);
    load!(address, "movsx eax, word ptr [rdx]", 0xffff_ffff);
    load!(address, "movsx rax, word ptr [rdx]", u64::MAX);
    load!(address, "movsxd rax, dword ptr [rdx]", u64::MAX);
    // MOV EAX with the address in the instruction: opcode A1, 0xd0000000.
    load!(address, ".byte 0xa1, 0, 0, 0, 0xd0, 0, 0, 0, 0", 0xffff_ffff);
    println!("{address:#x} reads all ones, in every width");
    Ok(())
}

/// One instruction with its memory operand at RDX and its source in RAX; the address then still reads all ones.
macro_rules! store {
    ($address:expr, $instruction:literal) => {{
        let mut source = BEFORE;
        let read: u64;
        // SAFETY: writes to memory that nobody has.
        unsafe {
            asm!($instruction, "mov {read}, [rdx]", read = out(reg) read, in("rdx") $address, inout("rax") source, options(nostack))
        };
        ensure!(read == u64::MAX, "after `{}` the address reads {read:#x}", $instruction);
        ensure!(source == BEFORE, "`{}` left RAX as {source:#x}", $instruction);
    }};
}

fn stores(address: u64) -> Outcome {
    store!(address, "mov [rdx], al");
    store!(address, "mov [rdx], ah");
    store!(address, "mov [rdx], ax");
    store!(address, "mov [rdx], eax");
    store!(address, "mov [rdx], rax");
    store!(address, "mov byte ptr [rdx], 0x12");
    store!(address, "mov word ptr [rdx], 0x1234");
    store!(address, "mov dword ptr [rdx], 0x12345678");
    store!(address, "mov qword ptr [rdx], -2");
    println!("{address:#x} takes every write");
    Ok(())
}

/// One string instruction: pointers and count must have moved as the instruction moves them.
macro_rules! string {
    ($instruction:literal, $to:expr, $from:expr, $count:literal, moves $to_moves:expr, $from_moves:expr) => {{
        let (to, from): (u64, u64) = ($to, $from);
        let (mut rdi, mut rsi, mut rcx) = (to, from, $count as u64);
        // SAFETY: reads and writes the buffers given, or memory that nobody has.
        unsafe { asm!($instruction, "cld", inout("rdi") rdi, inout("rsi") rsi, inout("rcx") rcx, inout("rax") BEFORE => _) };
        let moved = (rdi.wrapping_sub(to) as i64, rsi.wrapping_sub(from) as i64);
        let expected: (i64, i64) = ($to_moves, $from_moves);
        ensure!(moved == expected && rcx == 0, "`{}` moved RDI and RSI by {moved:?}, left RCX {rcx}", $instruction);
    }};
}

fn strings(address: u64) -> Outcome {
    string!("rep stosb", address, 0, 5, moves 5, 0);
    string!("rep stosw", address, 0, 5, moves 10, 0);
    string!("rep stosd", address, 0, 5, moves 20, 0);
    string!("rep stosq", address, 0, 5, moves 40, 0);
    string!("std; rep stosd", address + 0x20, 0, 5, moves - 20, 0);
    string!("rep stosb", address, 0, 0, moves 0, 0);
    string!("stosb; dec rcx", address, 0, 1, moves 1, 0);
    string!("stosq; dec rcx", address, 0, 1, moves 8, 0);

    let mut buffer = [0_u8; 64];
    let memory = (&raw mut buffer).expose_provenance() as u64;
    string!("rep movsb", memory, address, 16, moves 16, 16);
    string!("rep movsw", memory + 16, address, 8, moves 16, 16);
    string!("rep movsd", memory + 32, address, 4, moves 16, 16);
    string!("std; rep movsq", memory + 48, address + 8, 1, moves - 8, -8);
    ensure!(buffer[..56] == [0xff; 56] && buffer[56..] == [0; 8], "REP MOVS left the buffer as {buffer:x?}");
    string!("rep movsb", address, memory, 16, moves 16, 16);
    string!("rep movsq", address, memory, 4, moves 32, 32);
    string!("movsd; dec rcx", address, memory, 1, moves 4, 4);
    string!("rep movsd", address, address + 0x100, 3, moves 12, 12);

    // LODS takes its pointer in RSI and its count, with REP, in RCX.
    let (mut rsi, mut rcx, mut rax) = (address, 3_u64, BEFORE);
    // SAFETY: reads memory that nobody has.
    unsafe { asm!("lodsb", "rep lodsd", inout("rsi") rsi, inout("rcx") rcx, inout("rax") rax) };
    ensure!((rsi, rcx, rax) == (address + 13, 0, 0xffff_ffff), "LODS left RSI {rsi:#x}, RCX {rcx}, RAX {rax:#x}");
    println!("{address:#x} works with string instructions");
    Ok(())
}

/// Two pages.
#[repr(align(4096))]
struct Pages([u8; 8192]);

/// Accesses that lie in two pages: RAM must not care, and memory that nobody has must read all ones.
fn page_boundaries(address: u64) -> Outcome {
    let mut pages = Pages([0; 8192]);
    let first = pages.0.as_mut_ptr();
    let middle = first.wrapping_add(4092).cast::<u64>();
    // SAFETY: inside the two pages.
    unsafe { middle.write_unaligned(0x0123_4567_89ab_cdef) };
    // SAFETY: as above.
    let read = unsafe { middle.read_unaligned() };
    ensure!(read == 0x0123_4567_89ab_cdef, "8 bytes over a page boundary read {read:#x}");
    let memory = first.expose_provenance() as u64;
    string!("rep movsd", memory + 4090, address, 4, moves 16, 16);
    let filled = &pages.0[4088..4108];
    ensure!(filled[2..18] == [0xff; 16], "REP MOVSD over a page boundary left {filled:x?}");
    ensure!(filled[..2] == [0; 2] && filled[18..] == [0; 2], "REP MOVSD wrote beside its buffer: {filled:x?}");
    load!(address + 0xffc, "mov rax, [rdx]", u64::MAX);
    store!(address + 0xffe, "mov [rdx], eax");
    println!("page boundaries make no difference");
    Ok(())
}

/// ZF of the flags.
const ZERO_FLAG: u64 = 1 << 6;
/// CF of the flags.
const CARRY_FLAG: u64 = 1 << 0;

/// One instruction with its memory operand at RDX: RAX and the two flags after it.
macro_rules! compute {
    ($address:expr, $instruction:literal, $expected:expr, $flags:expr) => {{
        let (mut result, expected): (u64, u64) = (BEFORE, $expected);
        let flags: u64;
        // SAFETY: memory that nobody has.
        unsafe { asm!($instruction, "pushfq", "pop {flags}", flags = out(reg) flags, in("rdx") $address, inout("rax") result) };
        let (flags, expected_flags) = (flags & (ZERO_FLAG | CARRY_FLAG), $flags);
        ensure!(
            result == expected && flags == expected_flags,
            "`{}` left RAX {result:#x}, flags {flags:#x}, not {expected:#x}, {expected_flags:#x}",
            $instruction
        );
    }};
}

fn arithmetic(address: u64) -> Outcome {
    compute!(address, "cmp byte ptr [rdx], 0xff", BEFORE, ZERO_FLAG);
    compute!(address, "cmp eax, [rdx]", BEFORE, CARRY_FLAG);
    compute!(address, "cmp [rdx], rax", BEFORE, 0);
    compute!(address, "test dword ptr [rdx], 1", BEFORE, 0);
    compute!(address, "test [rdx], eax", BEFORE, 0);
    compute!(address, "and rax, [rdx]", BEFORE, 0);
    compute!(address, "or ax, [rdx]", BEFORE | 0xffff, 0);
    compute!(address, "xor eax, [rdx]", u64::from(!(BEFORE as u32)), 0);
    compute!(address, "add eax, [rdx]", u64::from(BEFORE as u32 - 1), CARRY_FLAG);
    compute!(address, "sub rax, [rdx]", BEFORE + 1, CARRY_FLAG);
    compute!(address, "add dword ptr [rdx], 1", BEFORE, ZERO_FLAG | CARRY_FLAG);
    compute!(address, "or [rdx], eax", BEFORE, 0);
    compute!(address, "and byte ptr [rdx], 0", BEFORE, ZERO_FLAG);
    compute!(address, "clc; inc dword ptr [rdx]", BEFORE, ZERO_FLAG);
    compute!(address, "clc; not qword ptr [rdx]; test al, al", BEFORE, 0);
    compute!(address, "xchg [rdx], eax; test eax, eax", 0xffff_ffff, 0);
    compute!(address, "bt dword ptr [rdx], 3; test al, al", BEFORE, 0);
    println!("instructions that compute with it work");
    Ok(())
}
