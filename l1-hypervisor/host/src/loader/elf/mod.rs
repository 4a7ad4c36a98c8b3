//! What an ELF file holds, of either class: pieces to load, entry point, symbols, and the notes that matter here.
//!
//! What always holds: nothing is believed that the file's size contradicts, and reading takes time in proportion to
//! the file, whatever its tables say.

mod symbols;

use super::GuestSymbol;
use super::error::Offence;
use super::layout::Layout;
use l1_protocol::guest::{NOTE_OWNER, NOTE_START_MODE};
use object::elf;
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, ProgramHeader};

/// Owner of the notes in a Linux kernel, and the type that each kernel has (`LINUX_ELFNOTE_BUILD_SALT`).
const LINUX_NOTE: (&[u8], u32) = (b"Linux", 0x100);

/// What an ELF file holds.
#[derive(Debug)]
pub struct Program<'a> {
    /// Whether the file has ELF class 32.
    pub is_32_bit: bool,
    /// The entry point as the file says it.
    pub entry: u64,
    /// What is to be loaded, in the order of the file.
    pub pieces: Vec<Piece<'a>>,
    /// By ascending address.
    pub symbols: Vec<GuestSymbol>,
    /// The start mode that our note asks for.
    pub start_mode: Option<u32>,
    /// Whether it is a Linux kernel.
    pub is_linux: bool,
}

/// A segment of type `PT_LOAD`.
#[derive(Debug)]
pub struct Piece<'a> {
    /// What messages call it.
    pub what: String,
    /// `p_paddr`.
    pub physical_address: u64,
    /// `p_vaddr`.
    pub virtual_address: u64,
    /// What the file has of it.
    pub bytes: &'a [u8],
    /// `p_memsz`, not less than `bytes` are.
    pub memory_size: u64,
}

impl<'a> Program<'a> {
    /// Adds all pieces to `layout`.
    pub fn add_to(&self, layout: &mut Layout<'a>) -> Result<(), Offence> {
        // The highest first, so that a message about memory says how much is needed in all.
        let end = |piece: &&Piece<'a>| piece.physical_address.saturating_add(piece.memory_size);
        let highest = self.pieces.iter().max_by_key(end).ok_or(Offence::ElfNothingToLoad)?;
        layout.require(&highest.what, end(&highest))?;
        self.pieces.iter().try_for_each(|piece| layout.add(&piece.what, piece.physical_address, piece.bytes, piece.memory_size))
    }

    /// The entry point as a physical address. Where the linker gave a segment different virtual and physical
    /// addresses, `e_entry` may be either: it is virtual if no segment has it as a physical address.
    pub fn entry_address(&self) -> Result<u64, Offence> {
        let entry = self.entry;
        let offset_in =
            |piece: &Piece<'_>, start: u64| entry.checked_sub(start).filter(|offset| *offset < piece.bytes.len() as u64);
        let physical = self.pieces.iter().find_map(|piece| offset_in(piece, piece.physical_address).map(|_| entry));
        let translate = |piece: &Piece<'_>| piece.physical_address.checked_add(offset_in(piece, piece.virtual_address)?);
        physical.or_else(|| self.pieces.iter().find_map(translate)).ok_or(Offence::Entry { address: entry })
    }

    /// Lowest guest-physical address of a piece.
    pub fn base(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.physical_address).min().unwrap_or(0)
    }
}

/// Whether `file` claims to be an ELF file.
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(&elf::ELFMAG)
}

/// Reads an ELF file of either class.
pub fn read(file: &[u8]) -> Result<Program<'_>, Offence> {
    let header_size = size_of::<elf::Ident>() as u64;
    let Some([class, order]) = file.get(4..6) else {
        return Err(truncated("the ELF header", header_size, file));
    };
    if *order == elf::ELFDATA2MSB.0 {
        return Err(Offence::ElfByteOrder);
    }
    match elf::FileClass(*class) {
        elf::ELFCLASS32 => read_class::<elf::FileHeader32<LittleEndian>>(file, elf::EM_386),
        elf::ELFCLASS64 => read_class::<elf::FileHeader64<LittleEndian>>(file, elf::EM_X86_64),
        _ => Err(Offence::ElfMalformed(format!("unknown class {class}"))),
    }
}

fn read_class<Header: FileHeader<Endian = LittleEndian>>(file: &[u8], machine: elf::Machine) -> Result<Program<'_>, Offence> {
    if file.len() < size_of::<Header>() {
        return Err(truncated("the ELF header", size_of::<Header>() as u64, file));
    }
    let header = Header::parse(file).map_err(malformed)?;
    check_header(header, file, machine)?;
    let mut program = Program {
        is_32_bit: header.is_class_32(),
        entry: header.e_entry(LittleEndian).into(),
        pieces: Vec::new(),
        symbols: Vec::new(),
        start_mode: None,
        is_linux: false,
    };
    let mut note_bytes = 0u64;
    for (index, segment) in header.program_headers(LittleEndian, file).map_err(malformed)?.iter().enumerate() {
        match segment.p_type(LittleEndian) {
            elf::PT_LOAD => program.pieces.extend(read_piece(index, segment, file)?),
            elf::PT_NOTE => {
                // Many program headers that all point to the same notes would take time with the square of the file.
                note_bytes = note_bytes.saturating_add(segment.p_filesz(LittleEndian).into());
                if note_bytes > file.len() as u64 {
                    return Err(Offence::ElfMalformed("the notes are larger than the file".to_owned()));
                }
                read_notes(segment, file, &mut program)?;
            }
            elf::PT_INTERP => return Err(Offence::ElfType("a dynamically linked program")),
            _ => {}
        }
    }
    program.symbols = symbols::read(header, file)?;
    Ok(program)
}

fn check_header<Header: FileHeader<Endian = LittleEndian>>(
    header: &Header,
    file: &[u8],
    wanted: elf::Machine,
) -> Result<(), Offence> {
    let machine = header.e_machine(LittleEndian);
    if machine != wanted {
        return Err(Offence::ElfMachine { machine: machine.0, wanted: wanted.0 });
    }
    match header.e_type(LittleEndian) {
        elf::ET_EXEC => {}
        elf::ET_DYN => return Err(Offence::ElfType("a position-independent executable or shared library")),
        elf::ET_REL => return Err(Offence::ElfType("an object file, not yet linked")),
        elf::ET_CORE => return Err(Offence::ElfType("a core dump")),
        _ => return Err(Offence::ElfType("of an unknown type")),
    }
    // What a truncated file lacks is mostly its end, where the section headers lie.
    let tables: [(&str, u64, u16, u16); 2] = [
        (
            "the program header table",
            header.e_phoff(LittleEndian).into(),
            header.e_phnum(LittleEndian),
            header.e_phentsize(LittleEndian),
        ),
        (
            "the section header table",
            header.e_shoff(LittleEndian).into(),
            header.e_shnum(LittleEndian),
            header.e_shentsize(LittleEndian),
        ),
    ];
    tables.into_iter().try_for_each(|(what, offset, count, size)| {
        let end = offset.saturating_add(u64::from(count) * u64::from(size));
        if end <= file.len() as u64 { Ok(()) } else { Err(truncated(what, end, file)) }
    })
}

fn read_piece<'a, Segment: ProgramHeader<Endian = LittleEndian>>(
    index: usize,
    segment: &Segment,
    file: &'a [u8],
) -> Result<Option<Piece<'a>>, Offence> {
    let what = format!("segment {index}");
    let (offset, file_size) = segment.file_range(LittleEndian);
    let memory_size: u64 = segment.p_memsz(LittleEndian).into();
    if file_size > memory_size {
        return Err(Offence::ElfSegmentSize { index, file: file_size, memory: memory_size });
    }
    if memory_size == 0 {
        return Ok(None);
    }
    let data = segment.data(LittleEndian, file);
    let bytes = data.map_err(|()| truncated(&what, offset.saturating_add(file_size), file))?;
    let physical_address = segment.p_paddr(LittleEndian).into();
    Ok(Some(Piece { what, physical_address, virtual_address: segment.p_vaddr(LittleEndian).into(), bytes, memory_size }))
}

fn read_notes<Segment: ProgramHeader<Endian = LittleEndian>>(
    segment: &Segment,
    file: &[u8],
    program: &mut Program<'_>,
) -> Result<(), Offence> {
    let Some(notes) = segment.notes(LittleEndian, file).map_err(malformed)? else { return Ok(()) };
    let our_owner = NOTE_OWNER.strip_suffix(&[0]).unwrap_or(NOTE_OWNER);
    for note in notes {
        let note = note.map_err(malformed)?;
        let kind = note.n_type(LittleEndian).0;
        program.is_linux |= (note.name(), kind) == LINUX_NOTE;
        if (note.name(), kind) == (our_owner, NOTE_START_MODE) {
            let mode = note.desc().try_into().map(u32::from_le_bytes);
            let mode = mode.map_err(|_| Offence::ElfMalformed("the note with the start mode has not 4 bytes".to_owned()))?;
            if program.start_mode.is_some_and(|earlier| earlier != mode) {
                return Err(Offence::ElfMalformed("two notes ask for different start modes".to_owned()));
            }
            program.start_mode = Some(mode);
        }
    }
    Ok(())
}

fn truncated(what: &str, end: u64, file: &[u8]) -> Offence {
    Offence::Truncated { what: what.to_owned(), end, size: file.len() as u64 }
}

fn malformed(error: object::read::Error) -> Offence {
    Offence::ElfMalformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{ElfFile, Load, load, options};
    use super::*;

    fn refused(change: impl FnOnce(&mut ElfFile)) -> Offence {
        let mut file = ElfFile::class_64();
        change(&mut file);
        load(&file.build(), &options()).expect_err("refused")
    }

    #[test]
    fn foreign_headers_are_refused() {
        assert_eq!(refused(|file| file.machine = 183), Offence::ElfMachine { machine: 183, wanted: 62 });
        // The x32 ABI: 32-bit class, 64-bit machine.
        assert_eq!(refused(|file| file.class = 1), Offence::ElfMachine { machine: 62, wanted: 3 });
        assert_eq!(refused(|file| file.byte_order = 2), Offence::ElfByteOrder);
        assert!(matches!(refused(|file| file.byte_order = 9), Offence::ElfMalformed(_)));
        assert!(matches!(refused(|file| file.class = 3), Offence::ElfMalformed(_)));
        for kind in [0, 1, 3, 4, 0xff00] {
            assert!(matches!(refused(|file| file.kind = kind), Offence::ElfType(_)));
        }
        assert!(matches!(refused(|file| file.has_interpreter = true), Offence::ElfType(_)));
    }

    #[test]
    fn segments_must_make_sense() {
        assert_eq!(refused(|file| file.loads.clear()), Offence::ElfNothingToLoad);
        let larger_than_memory = refused(|file| file.loads[0].memory_size = 0xfff);
        assert_eq!(larger_than_memory, Offence::ElfSegmentSize { index: 0, file: 0x1000, memory: 0xfff });
        assert!(matches!(refused(|file| file.loads.push(Load::at(0x10_0fff, [1]))), Offence::Overlap { .. }));
        assert!(matches!(refused(|file| file.loads[0].memory_size = 300 << 20), Offence::Memory { .. }));
        assert!(matches!(refused(|file| file.loads[0].memory_size = u64::MAX), Offence::Memory { .. }));
        let many = (0..40).map(|index| Load::at(0x20_0000 + index * 0x4000, [1]));
        assert!(matches!(refused(|file| file.loads.extend(many)), Offence::TooManySegments { count: 42 }));
    }

    #[test]
    fn the_entry_point_must_lie_in_what_is_loaded() {
        for entry in [0, 0xf_ffff, 0x10_1000, u64::MAX] {
            assert_eq!(refused(|file| file.entry = entry), Offence::Entry { address: entry });
        }
        let in_bss = |file: &mut ElfFile| (file.entry, file.loads[0].memory_size) = (0x10_1800, 0x2000);
        assert_eq!(refused(in_bss), Offence::Entry { address: 0x10_1800 });
    }

    #[test]
    fn a_virtual_entry_point_is_translated() {
        let mut file = ElfFile::class_64();
        file.loads[0].virtual_address = 0xffff_ffff_8010_0000;
        file.entry = 0xffff_ffff_8010_0040;
        assert_eq!(load(&file.build(), &options()).expect("valid").start.rip, 0x10_0040);
    }

    #[test]
    fn every_truncation_is_refused() {
        let mut file = ElfFile::class_64();
        file.symbols = vec![("main", 0x10_0000)];
        let file = file.build();
        load(&file, &options()).expect("whole");
        for length in 4..file.len() {
            let offence = load(&file[..length], &options()).expect_err("truncated");
            let Offence::Truncated { end, size, .. } = offence else { panic!("{length}: {offence}") };
            assert_eq!(size, length as u64);
            assert!(end > size && end <= file.len() as u64);
        }
    }

    #[test]
    fn a_segment_that_the_file_cuts_off_is_named() {
        let mut bytes = ElfFile::class_64().build();
        // p_filesz and p_memsz of the first program header.
        bytes[64 + 32..64 + 40].copy_from_slice(&0x2000u64.to_le_bytes());
        bytes[64 + 40..64 + 48].copy_from_slice(&0x2000u64.to_le_bytes());
        assert!(matches!(load(&bytes, &options()), Err(Offence::Truncated { what, .. }) if what == "segment 0"));
    }

    #[test]
    fn notes_must_be_well_formed() {
        let note = |mode: &[u8]| (NOTE_OWNER, NOTE_START_MODE, mode.to_vec());
        assert!(matches!(refused(|file| file.notes = vec![note(&[0, 0])]), Offence::ElfMalformed(_)));
        assert!(matches!(refused(|file| file.notes = vec![note(&[0, 0, 0, 0]), note(&[2, 0, 0, 0])]), Offence::ElfMalformed(_)));
        assert_eq!(refused(|file| file.notes = vec![note(&[1, 0, 0, 0])]), Offence::StartMode(1));
        let mut too_large = ElfFile { notes: vec![note(&[2, 0, 0, 0])], ..ElfFile::class_64() }.build();
        // p_filesz of the second program header.
        too_large[64 + 56 + 32..64 + 56 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(load(&too_large, &options()), Err(Offence::ElfMalformed(what)) if what.contains("larger")));
        let other_owner = ElfFile { notes: vec![(b"GNU\0", NOTE_START_MODE, vec![9; 16])], ..ElfFile::class_64() };
        load(&other_owner.build(), &options()).expect("none of ours");
    }

    #[test]
    fn a_linux_kernel_as_elf_is_refused() {
        let linux = |file: &mut ElfFile| file.notes = vec![(b"Linux\0", 0x100, vec![0; 4])];
        assert_eq!(refused(linux), Offence::LinuxVmlinux);
    }
}
