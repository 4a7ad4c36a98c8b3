//! Small guest files, built in memory field by field, for the tests of the loader.

use super::multiboot::header::MAGIC;
use super::{LoadOptions, LoadedGuest, Offence};
use l1_protocol::boot::{BootInformation, SEGMENTS};
use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

/// Memory of the guests in tests.
pub const MEMORY: u64 = 32 << 20;

/// Nothing but a name and [`MEMORY`].
pub fn options() -> LoadOptions<'static> {
    LoadOptions { file_name: "guest", memory_size: MEMORY, command_line: "", initrd: None, load_at: None }
}

/// Loads `file`; what is returned satisfies what the loader promises.
pub fn load<'a>(file: &'a [u8], options: &LoadOptions<'a>) -> Result<LoadedGuest<'a>, Offence> {
    let guest = super::load(file, options).map_err(|error| {
        assert!(error.to_string().starts_with("guest: "), "{error}");
        error.offence
    })?;
    let mut information = BootInformation::empty();
    information.guest_memory_size = options.memory_size;
    assert!(!guest.segments.is_empty() && guest.segments.len() <= SEGMENTS);
    for segment in &guest.segments {
        let length = segment.bytes.len() as u64;
        assert!(length > 0 && information.is_guest_ram(segment.guest_address, length), "{:#x}", segment.guest_address);
    }
    assert!(guest.segments.is_sorted_by(|a, b| a.end() <= b.guest_address), "ascending, without overlap");
    Ok(guest)
}

/// What the guest finds in its memory at `address`: the segments, and zeros where there are none.
pub fn memory_at(guest: &LoadedGuest<'_>, address: u64, length: usize) -> Vec<u8> {
    let byte = |address: u64| {
        let segment = guest.segments.iter().find(|segment| (segment.guest_address..segment.end()).contains(&address));
        segment.map_or(0, |segment| segment.bytes[(address - segment.guest_address) as usize])
    };
    (address..address + length as u64).map(byte).collect()
}

/// The `u32` the guest finds in its memory at `address`.
pub fn word_at(guest: &LoadedGuest<'_>, address: u64) -> u32 {
    u32::from_le_bytes(memory_at(guest, address, 4).try_into().expect("four bytes"))
}

/// A program header of type `PT_LOAD`, and what the file has of it.
#[derive(Debug, Clone)]
pub struct Load {
    pub physical_address: u64,
    pub virtual_address: u64,
    pub bytes: Vec<u8>,
    pub memory_size: u64,
}

impl Load {
    /// `bytes` at `address`, virtual and physical, without .bss.
    pub fn at(address: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let memory_size = bytes.len() as u64;
        Self { physical_address: address, virtual_address: address, bytes, memory_size }
    }
}

/// An ELF file to be built.
#[derive(Debug, Clone)]
pub struct ElfFile {
    pub class: u8,
    pub byte_order: u8,
    pub kind: u16,
    pub machine: u16,
    pub entry: u64,
    pub loads: Vec<Load>,
    /// Owner (with its terminating zero), type and description.
    pub notes: Vec<(&'static [u8], u32, Vec<u8>)>,
    /// Name and address; all are functions of 16 bytes.
    pub symbols: Vec<(&'static str, u64)>,
    pub has_interpreter: bool,
}

impl ElfFile {
    /// An executable for x86-64 with one page of code at 1 MiB, where it starts.
    pub fn class_64() -> Self {
        Self {
            class: 2,
            byte_order: 1,
            kind: 2,
            machine: 62,
            entry: 0x10_0000,
            loads: vec![Load::at(0x10_0000, vec![0xf4; 0x1000])],
            notes: Vec::new(),
            symbols: Vec::new(),
            has_interpreter: false,
        }
    }

    /// The same for i386, beginning with `header`, at which it starts.
    pub fn multiboot(header: &[u8]) -> Self {
        let bytes = [header, &[0xf4; 0x100]].concat();
        Self { class: 1, machine: 3, loads: vec![Load::at(0x10_0000, bytes)], ..Self::class_64() }
    }

    fn word(&self, value: u64) -> Vec<u8> {
        if self.class == 1 { (value as u32).to_le_bytes().to_vec() } else { value.to_le_bytes().to_vec() }
    }

    fn program_header(&self, kind: u32, offset: u64, load: &Load) -> Vec<u8> {
        let (kind, flags) = (kind.to_le_bytes().to_vec(), 7u32.to_le_bytes().to_vec());
        let sizes = [self.word(load.bytes.len() as u64), self.word(load.memory_size)].concat();
        let addresses = [self.word(offset), self.word(load.virtual_address), self.word(load.physical_address)].concat();
        let alignment = self.word(4);
        if self.class == 1 {
            [kind, addresses, sizes, flags, alignment].concat()
        } else {
            [kind, flags, addresses, sizes, alignment].concat()
        }
    }

    fn section_header(&self, kind: u32, offset: u64, size: u64, link: u32, entry_size: u64) -> Vec<u8> {
        let (name, kind, link, info) = ([0; 4], kind.to_le_bytes(), link.to_le_bytes(), 1u32.to_le_bytes());
        let (place, alignment) = ([self.word(0), self.word(0), self.word(offset), self.word(size)].concat(), self.word(8));
        [&name[..], &kind, &place, &link, &info, &alignment, &self.word(entry_size)].concat()
    }

    fn symbol(&self, name: u32, address: u64) -> Vec<u8> {
        let (name, address, size) = (name.to_le_bytes().to_vec(), self.word(address), self.word(16));
        // A global function in section 1.
        let kind = vec![0x12, 0, 1, 0];
        if self.class == 1 { [name, address, size, kind].concat() } else { [name, kind, address, size].concat() }
    }

    /// The file's bytes: header, program headers, contents, then symbols, strings and section headers.
    pub fn build(&self) -> Vec<u8> {
        let (header_size, program_header_size, section_header_size) = if self.class == 1 { (52, 32, 40) } else { (64, 56, 64) };
        let mut loads: Vec<(u32, Load)> = self.loads.iter().map(|load| (1, load.clone())).collect();
        if !self.notes.is_empty() {
            loads.push((4, Load::at(0, self.notes.iter().flat_map(note).collect::<Vec<u8>>())));
        }
        if self.has_interpreter {
            loads.push((3, Load::at(0, b"/lib/ld.so\0")));
        }
        let contents_at = header_size + program_header_size * loads.len();
        let (mut program_headers, mut contents) = (Vec::new(), Vec::new());
        for (kind, load) in &loads {
            contents.resize((contents_at + contents.len()).next_multiple_of(8) - contents_at, 0);
            program_headers.extend(self.program_header(*kind, (contents_at + contents.len()) as u64, load));
            contents.extend_from_slice(&load.bytes);
        }
        let mut file = vec![0; header_size];
        file.extend([program_headers, contents].concat());
        file.resize(file.len().next_multiple_of(8), 0);
        let (mut symbols, mut strings) = (vec![0; self.symbol(0, 0).len()], vec![0]);
        let symbol_size = symbols.len() as u64;
        for (name, address) in &self.symbols {
            symbols.extend(self.symbol(strings.len() as u32, *address));
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
        }
        let symbols_at = file.len();
        file.extend_from_slice(&symbols);
        let strings_at = file.len();
        file.extend_from_slice(&strings);
        file.resize(file.len().next_multiple_of(8), 0);
        let sections_at = file.len();
        file.extend(self.section_header(0, 0, 0, 0, 0));
        file.extend(self.section_header(2, symbols_at as u64, symbols.len() as u64, 2, symbol_size));
        file.extend(self.section_header(3, strings_at as u64, strings.len() as u64, 0, 0));
        let identification = [0x7f, b'E', b'L', b'F', self.class, self.byte_order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.word(self.entry), self.word(header_size as u64), self.word(sections_at as u64)].concat();
        let sizes = [header_size, program_header_size, loads.len(), section_header_size, 3, 2];
        let sizes: Vec<u8> = sizes.into_iter().flat_map(|size| (size as u16).to_le_bytes()).collect();
        let (kind, machine) = (self.kind.to_le_bytes(), self.machine.to_le_bytes());
        let header = [&identification[..], &kind, &machine, &1u32.to_le_bytes(), &words, &[0; 4], &sizes].concat();
        file[..header_size].copy_from_slice(&header);
        file
    }
}

fn note((owner, kind, description): &(&'static [u8], u32, Vec<u8>)) -> Vec<u8> {
    let lengths = [owner.len() as u32, description.len() as u32, *kind].into_iter().flat_map(u32::to_le_bytes);
    let mut bytes: Vec<u8> = lengths.chain(owner.iter().copied()).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(description);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A Multiboot header with a right checksum: magic, flags, checksum, and the address fields (header, load, load end,
/// .bss end, entry).
pub fn multiboot_header(flags: u32, addresses: [u32; 5]) -> Vec<u8> {
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    [MAGIC, flags, checksum].into_iter().chain(addresses).flat_map(u32::to_le_bytes).collect()
}

/// The boot header of a kernel as Debian builds it, but with little memory: one sector of set-up code and `code` bytes
/// of kernel.
pub fn linux_header(code: usize) -> setup_header {
    setup_header {
        setup_sects: 1,
        syssize: code.div_ceil(16) as u32,
        boot_flag: 0xaa55,
        // A short jump over the header; its operand says how long that is.
        jump: 0x6aeb,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: 1,
        code32_start: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        cmdline_size: 2047,
        pref_address: 0x40_0000,
        init_size: 0x80_0000,
        ..setup_header::default()
    }
}

/// A bzImage with `header` and `code` bytes of kernel.
pub fn linux_file(header: setup_header, code: usize) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1..0x1f1 + size_of::<setup_header>()].copy_from_slice(header.as_slice());
    file.resize(1024 + code, 0xf4);
    file
}
