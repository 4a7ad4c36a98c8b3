//! Multiboot 1 guests. Source: "Multiboot Specification version 0.6.96", sections by number below.
//!
//! The guest starts in flat 32-bit protected mode with EAX and EBX as section 3.2 "Machine state" says. The information
//! structure, with everything it points to but the module, lies at [`LOADER_END`] or above it in low memory; the
//! module (the initrd) lies on the first page above the guest where there is room, as GRUB does it.

pub mod header;
mod information;

use super::error::Offence;
use super::layout::{LOW_MEMORY_END, Layout};
use super::{GuestFormat, LoadOptions, LoadedGuest, elf, processor};
use header::Header;
use information::{Information, Module};
use l1_protocol::guest::{GuestStart, LOADER_END, LOADER_GDT, START_PROTECTED_MODE};
use l1_protocol::memory_map::PAGE_SIZE;

/// Section 3.2: what EAX holds when the guest starts.
const LOADER_MAGIC: u64 = 0x2bad_b002;

/// Loads `file`, whose ELF contents are `program` if it is an ELF file.
pub fn load<'a>(
    file: &'a [u8],
    program: Option<elf::Program<'a>>,
    options: &LoadOptions<'a>,
    mut layout: Layout<'a>,
) -> Result<LoadedGuest<'a>, Offence> {
    let header = Header::find(file)?.ok_or(Offence::Elf32WithoutMultiboot)?;
    header.check_flags()?;
    let symbols = program.as_ref().map_or_else(Vec::new, |program| program.symbols.clone());
    // Section 3.1.2: with flag bit 16 the fields of the header are used instead of those of the ELF header.
    let program = match program {
        Some(program) if !header.has_addresses() => program,
        _ => header.program()?,
    };
    program.add_to(&mut layout)?;
    processor::add_gdt(&mut layout, false)?;
    let module = add_module(options, &mut layout)?;
    let information = Information::new(options, module, layout.memory())?;
    let size = information.size();
    let range = LOADER_END..LOW_MEMORY_END;
    let what = "the Multiboot information";
    let address = layout.lowest(range.clone(), size, 16).ok_or(Offence::NoRoom { what, size, range })?;
    layout.add_all(what, address, information.to_bytes(address as u32))?;
    let start = GuestStart {
        mode: START_PROTECTED_MODE,
        rip: program.entry_address()?,
        gdt_base: LOADER_GDT,
        gdt_limit: processor::GDT_LIMIT,
        rax: LOADER_MAGIC,
        rbx: address,
        ..GuestStart::default()
    };
    let load_base = program.base();
    Ok(LoadedGuest { format: GuestFormat::Multiboot, start, segments: layout.into_segments()?, symbols, load_base })
}

fn add_module<'a>(options: &LoadOptions<'a>, layout: &mut Layout<'a>) -> Result<Option<Module<'a>>, Offence> {
    let Some(initrd) = options.initrd else { return Ok(None) };
    let what = format!("the module {}", initrd.file_name);
    let (size, above) = (initrd.bytes.len() as u64, layout.end());
    let Some(start) = layout.lowest(above..layout.memory(), size, PAGE_SIZE) else {
        let end = above.next_multiple_of(PAGE_SIZE).saturating_add(size);
        return Err(Offence::Memory { what, end, memory: layout.memory() });
    };
    layout.add_all(&what, start, initrd.bytes)?;
    Ok(Some(Module { start: start as u32, end: (start + size) as u32, name: initrd.file_name }))
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{ElfFile, MEMORY, load, memory_at, multiboot_header, options, word_at};
    use super::*;
    use crate::loader::Initrd;
    use l1_protocol::guest::{NOTE_OWNER, NOTE_START_MODE, START_LONG_MODE};

    const NO_ADDRESSES: [u32; 5] = [0; 5];

    fn elf(flags: u32) -> Vec<u8> {
        ElfFile::multiboot(&multiboot_header(flags, NO_ADDRESSES)).build()
    }

    #[test]
    fn an_elf_file_starts_in_protected_mode() {
        let file = elf(3);
        let guest = load(&file, &options()).expect("valid");
        let expected = GuestStart {
            mode: START_PROTECTED_MODE,
            rip: 0x10_0000,
            gdt_base: LOADER_GDT,
            gdt_limit: 0x1f,
            rax: 0x2bad_b002,
            rbx: LOADER_END,
            ..GuestStart::default()
        };
        assert_eq!((guest.format, guest.start, guest.load_base), (GuestFormat::Multiboot, expected, 0x10_0000));
    }

    #[test]
    fn the_information_says_what_the_specification_wants() {
        let file = elf(0);
        let initrd = Some(Initrd { file_name: "disk.img", bytes: &[7; 0x1001] });
        let guest = load(&file, &LoadOptions { command_line: "a b", initrd, ..options() }).expect("valid");
        let field = |offset: u64| word_at(&guest, guest.start.rbx + offset);
        let text = |address: u32, length| String::from_utf8(memory_at(&guest, address.into(), length)).expect("text");
        assert_eq!(field(0), 0b10_0100_1101);
        assert_eq!((field(4), field(8)), (639, (MEMORY / 1024) as u32 - 1024));
        assert_eq!(text(field(16), 10), "guest a b\0");
        assert_eq!(text(field(64), 14), "l1-hypervisor\0");

        assert_eq!(field(20), 1);
        let module = |offset: u64| word_at(&guest, u64::from(field(24)) + offset);
        assert_eq!((module(0), module(4), module(12)), (0x10_1000, 0x10_2001, 0));
        assert_eq!(text(module(8), 9), "disk.img\0");
        assert_eq!(memory_at(&guest, 0x10_1000, 0x1002), [vec![7; 0x1001], vec![0]].concat());

        let (map, length) = (u64::from(field(48)), field(44));
        let entry = |index: u64| {
            let word = |offset: u64| word_at(&guest, map + 24 * index + offset);
            (word(0), word(4), word(12), word(20))
        };
        assert_eq!(length, 4 * 24);
        assert_eq!(entry(0), (20, 0, 0x9_fc00, 1));
        assert_eq!(entry(1), (20, 0x9_fc00, 0x400, 2));
        assert_eq!(entry(2), (20, 0xe_0000, 0x2_0000, 2));
        assert_eq!(entry(3), (20, 0x10_0000, MEMORY as u32 - 0x10_0000, 1));
    }

    #[test]
    fn class_64_with_a_header_is_multiboot_unless_our_note_is_there() {
        let header = multiboot_header(0, NO_ADDRESSES);
        let mut file = ElfFile { class: 2, machine: 62, ..ElfFile::multiboot(&header) };
        assert_eq!(load(&file.build(), &options()).expect("valid").format, GuestFormat::Multiboot);
        file.notes = vec![(NOTE_OWNER, NOTE_START_MODE, START_LONG_MODE.to_le_bytes().to_vec())];
        assert_eq!(load(&file.build(), &options()).expect("valid").format, GuestFormat::Elf64);
        (file.class, file.machine) = (1, 3);
        assert_eq!(load(&file.build(), &options()).expect("valid").format, GuestFormat::Multiboot);
    }

    #[test]
    fn the_module_and_the_command_line_must_fit() {
        let file = elf(0);
        let large = vec![1; MEMORY as usize];
        let initrd = Some(Initrd { file_name: "large", bytes: &large });
        let refused = load(&file, &LoadOptions { initrd, ..options() }).expect_err("refused");
        assert_eq!(refused, Offence::Memory { what: "the module large".into(), end: MEMORY + 0x10_1000, memory: MEMORY });
        assert!(refused.to_string().ends_with("give --memory 34M"), "{refused}");
        let long = "x".repeat(4096);
        let refused = load(&file, &LoadOptions { command_line: &long, ..options() });
        assert!(matches!(refused, Err(Offence::CommandLineLength { .. })));
        let name = "n".repeat(1 << 20);
        let initrd = Some(Initrd { file_name: &name, bytes: b"x" });
        assert!(matches!(load(&file, &LoadOptions { initrd, ..options() }), Err(Offence::NoRoom { .. })));
    }
}
