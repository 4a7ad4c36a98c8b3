//! The Multiboot information structure: section 3.3 "Boot information format" of the specification.
//!
//! What always holds: everything the structure points to, but the module's contents, lies behind it in one block.

use super::super::error::Offence;
use super::super::layout::{EXTENDED_MEMORY, LOW_MEMORY_END};
use super::super::memory_map::{MemoryRange, memory_map};
use super::super::{GuestFormat, LoadOptions};
use l1_protocol::guest::ARGUMENTS_MAXIMUM;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `flags`: mem_lower and mem_upper are valid.
const HAS_MEMORY: u32 = 1 << 0;
/// `flags`: cmdline is valid.
const HAS_COMMAND_LINE: u32 = 1 << 2;
/// `flags`: mods_count and mods_addr are valid.
const HAS_MODULES: u32 = 1 << 3;
/// `flags`: mmap_length and mmap_addr are valid.
const HAS_MEMORY_MAP: u32 = 1 << 6;
/// `flags`: boot_loader_name is valid.
const HAS_LOADER_NAME: u32 = 1 << 9;
/// What the guest is told has loaded it.
const LOADER_NAME: &[u8] = b"l1-hypervisor";

/// The structure up to the fields about the frame buffer, under the names of the specification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Structure {
    pub flags: u32,
    pub mem_lower: u32,
    pub mem_upper: u32,
    pub boot_device: u32,
    pub cmdline: u32,
    pub mods_count: u32,
    pub mods_addr: u32,
    pub syms: [u32; 4],
    pub mmap_length: u32,
    pub mmap_addr: u32,
    pub drives_length: u32,
    pub drives_addr: u32,
    pub config_table: u32,
    pub boot_loader_name: u32,
    pub apm_table: u32,
    pub vbe: [u32; 4],
    pub framebuffer: [u32; 7],
}

/// An entry of the module list, under the names of the specification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ModuleEntry {
    pub mod_start: u32,
    pub mod_end: u32,
    pub string: u32,
    pub reserved: u32,
}

/// Bytes of an entry of the memory map that its `size` field counts: all but that field.
const MEMORY_MAP_ENTRY_SIZE: u32 = 20;

/// The one module of a guest.
#[derive(Debug)]
pub struct Module<'a> {
    /// Guest-physical address of its first byte.
    pub start: u32,
    /// First address behind it.
    pub end: u32,
    /// Its string.
    pub name: &'a str,
}

/// What the structure is to say.
#[derive(Debug)]
pub struct Information<'a> {
    command_line: Vec<u8>,
    module: Option<Module<'a>>,
    memory_map: Vec<MemoryRange>,
    memory: u64,
}

impl<'a> Information<'a> {
    /// For a guest with `memory` bytes. Its command line begins with the name of its file, as section 3.3 has it for
    /// a "boot loader's command line" and GRUB and QEMU do it; guests skip the first word.
    pub fn new(options: &LoadOptions<'_>, module: Option<Module<'a>>, memory: u64) -> Result<Self, Offence> {
        let separator = if options.command_line.is_empty() { "" } else { " " };
        let command_line = format!("{}{separator}{}\0", options.file_name, options.command_line).into_bytes();
        if command_line.len() > ARGUMENTS_MAXIMUM {
            let (length, maximum) = (command_line.len() - 1, ARGUMENTS_MAXIMUM - 1);
            return Err(Offence::CommandLineLength { length, maximum, format: GuestFormat::Multiboot });
        }
        Ok(Self { command_line, module, memory_map: memory_map(memory), memory })
    }

    /// Bytes that [`Self::to_bytes`] returns.
    pub fn size(&self) -> u64 {
        self.to_bytes(0).len() as u64
    }

    /// The structure and what it points to, for guest-physical `address`.
    pub fn to_bytes(&self, address: u32) -> Vec<u8> {
        let mut block = vec![0; size_of::<Structure>()];
        let mut structure = Structure {
            flags: HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MEMORY_MAP | HAS_LOADER_NAME,
            mem_lower: (LOW_MEMORY_END >> 10) as u32,
            mem_upper: (self.memory.saturating_sub(EXTENDED_MEMORY) >> 10) as u32,
            ..Structure::default()
        };
        let mut append = |bytes: &[u8]| {
            let start = address.wrapping_add(block.len() as u32);
            block.extend_from_slice(bytes);
            start
        };
        // Tables first: their sizes are multiples of 4, which keeps each of them aligned.
        let map: Vec<u8> = self.memory_map.iter().flat_map(memory_map_entry).collect();
        (structure.mmap_addr, structure.mmap_length) = (append(&map), map.len() as u32);
        if let Some(module) = &self.module {
            let string = address.wrapping_add((size_of::<Structure>() + map.len() + size_of::<ModuleEntry>()) as u32);
            let entry = ModuleEntry { mod_start: module.start, mod_end: module.end, string, reserved: 0 };
            (structure.mods_addr, structure.mods_count) = (append(entry.as_bytes()), 1);
            append(module.name.as_bytes());
            append(&[0]);
        }
        structure.cmdline = append(&self.command_line);
        structure.boot_loader_name = append(LOADER_NAME);
        append(&[0]);
        block[..size_of::<Structure>()].copy_from_slice(structure.as_bytes());
        block
    }
}

fn memory_map_entry(entry: &MemoryRange) -> Vec<u8> {
    let length = entry.range.end - entry.range.start;
    let (size, kind) = (MEMORY_MAP_ENTRY_SIZE.to_le_bytes(), entry.kind.to_le_bytes());
    [&size[..], &entry.range.start.to_le_bytes(), &length.to_le_bytes(), &kind].concat()
}
