//! ELF64 guests: long mode with 4 GiB mapped one to one or, if our note asks for it, real mode.
//!
//! In long mode the guest starts as if its entry point had been called as a C function of the System V ABI: RSP is 8
//! below a multiple of 16 with a return address of 0 on the stack, RDI and RSI point to the command line at
//! [`ARGUMENTS`], interrupts are off. The stack has [`STACK_SIZE`] bytes, as high in low memory as the guest's segments
//! leave room, else as high in memory as they do. Memory below [`LOADER_END`] is the loader's.

use super::error::Offence;
use super::layout::{EXTENDED_MEMORY, LOW_MEMORY_END, Layout};
use super::{GuestFormat, LoadOptions, LoadedGuest, elf, flat, processor};
use l1_protocol::guest::{
    ARGUMENTS, ARGUMENTS_MAXIMUM, GuestStart, LOADER_END, LOADER_GDT, LOADER_PAGE_TABLES, START_LONG_MODE, START_REAL_MODE,
};
use l1_protocol::memory_map::PAGE_SIZE;

/// Bytes of the stack of a long-mode guest.
const STACK_SIZE: u64 = 64 << 10;

/// Loads an ELF64 file.
pub fn load<'a>(
    program: elf::Program<'a>,
    options: &LoadOptions<'a>,
    mut layout: Layout<'a>,
) -> Result<LoadedGuest<'a>, Offence> {
    options.refuse_initrd(GuestFormat::Elf64)?;
    let length = options.command_line.len();
    if length >= ARGUMENTS_MAXIMUM {
        let maximum = ARGUMENTS_MAXIMUM - 1;
        return Err(Offence::CommandLineLength { length, maximum, format: GuestFormat::Elf64 });
    }
    program.add_to(&mut layout)?;
    let start = match program.start_mode.unwrap_or(START_LONG_MODE) {
        START_LONG_MODE => start_in_long_mode(&program, &mut layout)?,
        START_REAL_MODE => start_in_real_mode(&program, &mut layout)?,
        unknown => return Err(Offence::StartMode(unknown)),
    };
    // The zero that ends it is there already; the whole page is taken so that what fits does not depend on its length.
    layout.add("the command line", ARGUMENTS, options.command_line.as_bytes(), ARGUMENTS_MAXIMUM as u64)?;
    let load_base = program.base();
    Ok(LoadedGuest { format: GuestFormat::Elf64, start, segments: layout.into_segments()?, symbols: program.symbols, load_base })
}

fn start_in_long_mode(program: &elf::Program<'_>, layout: &mut Layout<'_>) -> Result<GuestStart, Offence> {
    processor::add_gdt(layout, true)?;
    processor::add_page_tables(layout)?;
    // Both ranges keep the stack off the last bytes of low memory and off the loader's own.
    let found = layout.highest(LOADER_END..LOW_MEMORY_END, STACK_SIZE, PAGE_SIZE);
    let found = found.or_else(|| layout.highest(EXTENDED_MEMORY..layout.memory(), STACK_SIZE, PAGE_SIZE));
    let range = LOADER_END..layout.memory();
    let bottom = found.ok_or(Offence::NoRoom { what: "a stack", size: STACK_SIZE, range })?;
    layout.reserve("the stack", bottom, STACK_SIZE)?;
    Ok(GuestStart {
        mode: START_LONG_MODE,
        rip: program.entry_address()?,
        rsp: bottom + STACK_SIZE - 8,
        cr3: LOADER_PAGE_TABLES,
        gdt_base: LOADER_GDT,
        gdt_limit: processor::GDT_LIMIT,
        rdi: ARGUMENTS,
        rsi: ARGUMENTS,
        ..GuestStart::default()
    })
}

/// CS selects the 64-KiB block of the entry point, so that IP is the low half of an address as a linker computes it.
fn start_in_real_mode(program: &elf::Program<'_>, layout: &mut Layout<'_>) -> Result<GuestStart, Offence> {
    let address = program.entry_address()?;
    if address >= EXTENDED_MEMORY {
        return Err(Offence::RealModeAddress { address });
    }
    Ok(GuestStart {
        mode: START_REAL_MODE,
        code_segment: ((address & 0xf_0000) >> 4) as u32,
        rip: address & 0xffff,
        rsp: flat::stack(layout)?,
        rdi: ARGUMENTS,
        rsi: ARGUMENTS,
        ..GuestStart::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{ElfFile, Load, MEMORY, load, memory_at, options};
    use super::*;
    use crate::loader::Initrd;
    use l1_protocol::guest::{NOTE_OWNER, NOTE_START_MODE};

    fn real_mode(entry: u64, loads: Vec<Load>) -> ElfFile {
        let notes = vec![(NOTE_OWNER, NOTE_START_MODE, START_REAL_MODE.to_le_bytes().to_vec())];
        ElfFile { entry, loads, notes, ..ElfFile::class_64() }
    }

    #[test]
    fn long_mode_starts_at_the_entry_point() {
        let mut file = ElfFile::class_64();
        file.loads[0].memory_size = 0x8000;
        let file = file.build();
        let guest = load(&file, &LoadOptions { command_line: "one two", ..options() }).expect("valid");
        assert_eq!((guest.format, guest.load_base), (GuestFormat::Elf64, 0x10_0000));
        let expected = GuestStart {
            mode: START_LONG_MODE,
            rip: 0x10_0000,
            rsp: 0x9_f000 - 8,
            cr3: LOADER_PAGE_TABLES,
            gdt_base: LOADER_GDT,
            gdt_limit: 0x1f,
            rdi: ARGUMENTS,
            rsi: ARGUMENTS,
            ..GuestStart::default()
        };
        assert_eq!(guest.start, expected);
        assert_eq!(memory_at(&guest, ARGUMENTS, 8), b"one two\0");
        assert_eq!(memory_at(&guest, 0x10_0000, 0x1000), vec![0xf4; 0x1000]);
    }

    #[test]
    fn the_stack_makes_room_for_the_guest() {
        let stack = |loads: Vec<Load>| {
            let file = ElfFile { loads: [ElfFile::class_64().loads, loads].concat(), ..ElfFile::class_64() }.build();
            load(&file, &options()).map(|guest| guest.start.rsp)
        };
        assert_eq!(stack(vec![Load::at(0x9_0000, vec![1; 0x1000])]), Ok(0x9_0000 - 8));
        assert_eq!(stack(vec![Load::at(0x9000, vec![1; 0x9_6000])]), Ok(MEMORY - 8));
        let all = Load { memory_size: MEMORY - 0x10_1000, ..Load::at(0x10_1000, [1]) };
        assert!(matches!(stack(vec![Load::at(0x9000, vec![1; 0x9_6000]), all]), Err(Offence::NoRoom { .. })));
    }

    #[test]
    fn the_loaders_own_memory_is_kept_free() {
        for address in [LOADER_GDT, LOADER_PAGE_TABLES + 0x5000, ARGUMENTS + 0xfff] {
            let file = ElfFile { loads: vec![Load::at(address, [0xf4])], entry: address, ..ElfFile::class_64() }.build();
            assert!(matches!(load(&file, &options()), Err(Offence::Overlap { .. })), "{address:#x}");
        }
        let above = ElfFile { loads: vec![Load::at(LOADER_END, [0xf4])], entry: LOADER_END, ..ElfFile::class_64() }.build();
        load(&above, &options()).expect("free");
    }

    #[test]
    fn a_note_asks_for_real_mode() {
        let file = real_mode(0x1_2345, vec![Load::at(0x1_2000, vec![0xf4; 0x1000])]).build();
        let guest = load(&file, &LoadOptions { command_line: "x", ..options() }).expect("valid");
        let expected = GuestStart {
            mode: START_REAL_MODE,
            code_segment: 0x1000,
            rip: 0x2345,
            rsp: 0x7c00,
            rdi: ARGUMENTS,
            rsi: ARGUMENTS,
            ..GuestStart::default()
        };
        assert_eq!(guest.start, expected);
        assert_eq!(guest.segments.iter().map(|segment| segment.guest_address).collect::<Vec<_>>(), [ARGUMENTS, 0x1_2000]);
    }

    #[test]
    fn real_mode_reaches_1_mib() {
        let file = real_mode(0x10_0000, ElfFile::class_64().loads).build();
        assert_eq!(load(&file, &options()), Err(Offence::RealModeAddress { address: 0x10_0000 }));
    }

    #[test]
    fn options_are_checked() {
        let file = ElfFile::class_64().build();
        let longest = "x".repeat(ARGUMENTS_MAXIMUM - 1);
        let with = |command_line| load(&file, &LoadOptions { command_line, ..options() });
        assert_eq!(memory_at(&with(&longest).expect("fits"), ARGUMENTS, ARGUMENTS_MAXIMUM).last(), Some(&0));
        let longer = "x".repeat(ARGUMENTS_MAXIMUM);
        assert!(matches!(with(&longer), Err(Offence::CommandLineLength { length: 4096, maximum: 4095, .. })));
        assert_eq!(with("a\0b"), Err(Offence::CommandLineZero));
        let initrd = Some(Initrd { file_name: "initrd", bytes: b"x" });
        let refused = load(&file, &LoadOptions { initrd, ..options() });
        assert_eq!(refused, Err(Offence::Option { option: "--initrd", format: GuestFormat::Elf64 }));
        let refused = load(&file, &LoadOptions { load_at: Some(0x7c00), ..options() });
        assert_eq!(refused, Err(Offence::Option { option: "--load-at", format: GuestFormat::Elf64 }));
    }
}
