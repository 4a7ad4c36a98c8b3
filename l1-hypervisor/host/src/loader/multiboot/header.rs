//! The Multiboot header: section 3.1 "OS image format" of the specification.
//!
//! What always holds: a [`Header`] has a right checksum; what it asks for is checked when it is used.

use super::super::elf;
use super::super::error::Offence;

/// Section 3.1.2: the magic number of a header.
pub const MAGIC: u32 = 0x1bad_b002;
/// Section 3.1: the header lies within this many bytes of the file's start, at a multiple of 4.
const HEADER_SEARCH: usize = 8192;
/// Magic number of a Multiboot 2 header, which lies in the first 32 KiB at a multiple of 8.
const VERSION_2_MAGIC: u32 = 0xe852_50d6;
/// See [`VERSION_2_MAGIC`].
const VERSION_2_SEARCH: usize = 32768;
/// Section 3.1.2, required feature: modules begin on pages. They always do here.
const FLAG_PAGE_ALIGN: u32 = 1 << 0;
/// Required feature: the information says how much memory there is. It always does here.
const FLAG_MEMORY: u32 = 1 << 1;
/// Required feature: the information says what video modes there are.
const FLAG_VIDEO: u32 = 1 << 2;
/// The address fields are valid.
const FLAG_ADDRESSES: u32 = 1 << 16;
/// Flags that a boot loader must refuse when it does not know them.
const FLAGS_REQUIRED: u32 = 0xffff;

/// A Multiboot header with a right checksum.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    flags: u32,
    /// Where in the file it lies.
    offset: usize,
    file: &'a [u8],
}

/// Section 3.1.3 "The address fields of Multiboot header": physical addresses.
struct Addresses {
    header: u32,
    load: u32,
    load_end: u32,
    bss_end: u32,
    entry: u32,
}

impl<'a> Header<'a> {
    /// The first header in `file`; `None` where there is not even a magic number.
    ///
    /// # Errors
    /// There is a magic number, but the checksum behind it is wrong.
    pub fn find(file: &'a [u8]) -> Result<Option<Self>, Offence> {
        let mut offence = None;
        let within = &file[..file.len().min(HEADER_SEARCH)];
        for offset in (0..within.len()).step_by(4) {
            let Some([MAGIC, flags, checksum]) = words(within, offset) else { continue };
            match MAGIC.wrapping_add(flags).wrapping_add(checksum) {
                0 => return Ok(Some(Self { flags, offset, file })),
                sum => offence.get_or_insert(Offence::MultibootChecksum { offset, sum }),
            };
        }
        offence.map_or(Ok(None), Err)
    }

    /// Whether the header says where to load the file, so that it need not be an ELF file.
    pub fn has_addresses(&self) -> bool {
        self.flags & FLAG_ADDRESSES != 0
    }

    /// Checks that everything the header requires is known and given.
    pub fn check_flags(&self) -> Result<(), Offence> {
        if self.flags & FLAG_VIDEO != 0 {
            return Err(Offence::MultibootVideo);
        }
        let unknown = self.flags & FLAGS_REQUIRED & !(FLAG_PAGE_ALIGN | FLAG_MEMORY);
        if unknown == 0 { Ok(()) } else { Err(Offence::MultibootFlags(unknown)) }
    }

    fn addresses(&self) -> Result<Addresses, Offence> {
        let (offset, size) = (self.offset + 12, self.file.len() as u64);
        let truncated = Offence::Truncated { what: "the Multiboot header".to_owned(), end: offset as u64 + 20, size };
        let [header, load, load_end, bss_end, entry] = words(self.file, offset).ok_or(truncated)?;
        Ok(Addresses { header, load, load_end, bss_end, entry })
    }

    /// The file as its address fields want it, as the one piece of a program. Section 3.1.3.
    pub fn program(&self) -> Result<elf::Program<'a>, Offence> {
        let addresses = self.addresses()?;
        let inconsistent = Offence::MultibootAddresses;
        let before = addresses.header.checked_sub(addresses.load).ok_or(inconsistent("load_addr lies above header_addr"))?;
        let offset = self.offset.checked_sub(before as usize).ok_or(inconsistent("load_addr lies before the file's start"))?;
        let rest = &self.file[offset..];
        let bytes = match addresses.load_end {
            0 => rest,
            end => {
                let length = end.checked_sub(addresses.load).ok_or(inconsistent("load_end_addr lies below load_addr"))?;
                let (end, size) = (offset as u64 + u64::from(length), self.file.len() as u64);
                rest.get(..length as usize).ok_or(Offence::Truncated { what: "the part to load".to_owned(), end, size })?
            }
        };
        let loaded_end = u64::from(addresses.load) + bytes.len() as u64;
        let memory_end = if addresses.bss_end == 0 { loaded_end } else { u64::from(addresses.bss_end) };
        if memory_end < loaded_end {
            return Err(inconsistent("bss_end_addr lies below the end of what is loaded"));
        }
        let address = u64::from(addresses.load);
        let memory_size = memory_end - address;
        let what = "the part to load".to_owned();
        let piece = elf::Piece { what, physical_address: address, virtual_address: address, bytes, memory_size };
        Ok(elf::Program {
            is_32_bit: true,
            entry: addresses.entry.into(),
            pieces: vec![piece],
            symbols: Vec::new(),
            start_mode: None,
            is_linux: false,
        })
    }
}

/// Whether `file` has a Multiboot 2 header.
pub fn has_version_2_header(file: &[u8]) -> bool {
    let within = &file[..file.len().min(VERSION_2_SEARCH)];
    (0..within.len()).step_by(8).any(|offset| {
        let fields: Option<[u32; 4]> = words(within, offset);
        fields.is_some_and(|fields| fields[0] == VERSION_2_MAGIC && fields.into_iter().fold(0, u32::wrapping_add) == 0)
    })
}

/// The `N` words at `offset`, if the file reaches that far.
fn words<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u32; N]> {
    let (words, _) = bytes.get(offset..)?.as_chunks();
    let words: &[[u8; 4]; N] = words.first_chunk()?;
    Some(words.map(u32::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::super::super::GuestFormat;
    use super::super::super::test_support::{ElfFile, load, memory_at, multiboot_header, options};
    use super::*;

    const NO_ADDRESSES: [u32; 5] = [0; 5];

    fn elf(flags: u32) -> Vec<u8> {
        ElfFile::multiboot(&multiboot_header(flags, NO_ADDRESSES)).build()
    }

    fn flat(addresses: [u32; 5]) -> Vec<u8> {
        [vec![0xf4; 16], multiboot_header(FLAG_ADDRESSES, addresses), vec![0xf4; 0x100]].concat()
    }

    #[test]
    fn address_fields_replace_elf() {
        let file = flat([0x20_0010, 0x20_0000, 0, 0x20_1000, 0x20_0030]);
        let guest = load(&file, &options()).expect("valid");
        assert_eq!((guest.format, guest.start.rip, guest.load_base), (GuestFormat::Multiboot, 0x20_0030, 0x20_0000));
        assert_eq!(memory_at(&guest, 0x20_0000, file.len()), file);
        // Loaded from the middle of the file, and only in part.
        let part = flat([0x20_0000, 0x20_0000, 0x20_0040, 0, 0x20_0030]);
        let guest = load(&part, &options()).expect("valid");
        assert_eq!(memory_at(&guest, 0x20_0000, 0x41), [&part[16..16 + 0x40], &[0]].concat());
        // In an ELF file they win over the ELF header, which here says nothing usable.
        let header = multiboot_header(FLAG_ADDRESSES, [0x20_0000, 0x20_0000, 0, 0, 0x20_0020]);
        let file = ElfFile { entry: 0, ..ElfFile::multiboot(&header) }.build();
        assert_eq!(load(&file, &options()).expect("valid").start.rip, 0x20_0020);
    }

    #[test]
    fn address_fields_must_fit_together() {
        let inconsistent = |addresses| assert!(matches!(load(&flat(addresses), &options()), Err(Offence::MultibootAddresses(_))));
        inconsistent([0x20_0000, 0x20_0010, 0, 0, 0x20_0000]);
        inconsistent([0x20_0000, 0x10_0000, 0, 0, 0x20_0000]);
        inconsistent([0x20_0000, 0x20_0000, 0x1f_ffff, 0, 0x20_0000]);
        inconsistent([0x20_0000, 0x20_0000, 0, 0x20_0010, 0x20_0000]);
        let refused = |addresses| load(&flat(addresses), &options()).expect_err("refused");
        assert!(matches!(refused([0x20_0000, 0x20_0000, 0x30_0000, 0, 0x20_0000]), Offence::Truncated { .. }));
        assert_eq!(refused([0x20_0000, 0x20_0000, 0, 0, 0x1f_ffff]), Offence::Entry { address: 0x1f_ffff });
        let header = multiboot_header(FLAG_ADDRESSES, NO_ADDRESSES);
        assert!(matches!(load(&header[..28], &options()), Err(Offence::Truncated { .. })));
    }

    #[test]
    fn what_is_required_must_be_known() {
        assert_eq!(load(&elf(FLAG_VIDEO), &options()), Err(Offence::MultibootVideo));
        assert_eq!(load(&elf(0x8009), &options()), Err(Offence::MultibootFlags(0x8008)));
        load(&elf(0xfffe_0000), &options()).expect("bits 17 to 31 are only requests");
    }

    #[test]
    fn a_32_bit_elf_file_needs_a_header() {
        let without = |bytes: &[u8]| load(&ElfFile::multiboot(bytes).build(), &options()).expect_err("refused");
        assert_eq!(without(&[]), Offence::Elf32WithoutMultiboot);
        let mut header = multiboot_header(0, NO_ADDRESSES);
        assert_eq!(without(&[vec![0; HEADER_SEARCH], header.clone()].concat()), Offence::Elf32WithoutMultiboot);
        header[8] ^= 1;
        assert!(matches!(without(&header), Offence::MultibootChecksum { offset, sum: 1.. } if offset.is_multiple_of(4)));
        let version_2: Vec<u8> =
            [VERSION_2_MAGIC, 0, 16, 0u32.wrapping_sub(VERSION_2_MAGIC + 16)].into_iter().flat_map(u32::to_le_bytes).collect();
        // The contents begin at 84: 4 more are a multiple of 8.
        assert_eq!(without(&version_2), Offence::Multiboot2);
        let file = ElfFile { class: 2, machine: 62, ..ElfFile::multiboot(&version_2) };
        assert_eq!(load(&file.build(), &options()), Err(Offence::Multiboot2));
    }
}
