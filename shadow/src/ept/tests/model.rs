//! The reference: EPT23, then EPT12, one address at a time, written after the text of the SDM and without regard to speed.

use super::*;

/// What an access should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Misconfiguration,
    Violation { qualification: u64 },
    LogFull,
    NoRam { address: u64 },
    Mapped { address: u64, permissions: u64, memory_type: u64, may_write_without_exit: bool },
}

/// Translates, and sets the flags in `memory`.
pub fn translate(memory: &mut Memory, offered: EptVpid, eptp23: u64, access: Access) -> Expected {
    let flags = eptp23 & 0x40 != 0;
    let bits = access.qualification.0;
    let mut needed = bits & 7;
    if flags && bits & 0x180 == 0x80 {
        needed |= 2;
    }
    let kept = 0x1187 & bits;
    let (mut table, mut level) = (eptp23 & 0xf_ffff_ffff_f000, if eptp23 >> 3 & 7 == 4 { 5 } else { 4 });
    if access.address >= 1 << (12 + 9 * level) {
        return Expected::Violation { qualification: kept };
    }
    let mut granted = 7;
    let mut path = Vec::new();
    let (slot, entry) = loop {
        let shift = 12 + 9 * (level - 1);
        let slot = table + (access.address >> shift) % 512 * 8;
        let entry = if memory.region(slot).is_some() { memory.word(slot) } else { u64::MAX };
        let is_page = level == 1 || entry & 0x80 != 0;
        if entry & 7 == 0 {
            return Expected::Violation { qualification: kept };
        }
        let wrong = [
            entry & 3 == 2,
            entry & 7 == 4 && !offered.contains(EptVpid::EXECUTE_ONLY_TRANSLATIONS),
            entry & (0xf_ffff_ffff_ffff ^ ((1 << WIDTH) - 1)) != 0,
            is_page && level >= 4,
            is_page && level == 3 && !offered.contains(EptVpid::PAGES_1_GBYTE),
            is_page && level == 2 && !offered.contains(EptVpid::PAGES_2_MBYTE),
            is_page && [2, 3, 7].contains(&(entry >> 3 & 7)),
            is_page && level == 2 && entry & 0x1f_f000 != 0,
            is_page && level == 3 && entry & 0x3fff_f000 != 0,
            !is_page && entry & 0x78 != 0,
        ];
        if wrong.contains(&true) {
            return Expected::Misconfiguration;
        }
        granted &= entry;
        path.push(slot);
        if is_page {
            break (slot, entry);
        }
        table = entry & 0xf_ffff_ffff_f000;
        level -= 1;
    };
    if needed & !granted != 0 {
        return Expected::Violation { qualification: kept | granted << 3 };
    }
    let mut dirty = entry & 0x200 != 0;
    if flags {
        let before = memory.words.clone();
        for slot in path {
            *memory.words.entry(slot).or_default() |= 0x100;
        }
        if needed & 2 != 0 {
            *memory.words.entry(slot).or_default() |= 0x200;
            dirty = true;
        }
        if access.log_is_full && before != memory.words {
            memory.words = before;
            return Expected::LogFull;
        }
    }
    let size = 1 << (12 + 9 * (level - 1));
    let address = (entry & 0xf_ffff_ffff_f000) / size * size + access.address % size;
    match memory.region(address) {
        Some(region) if needed & !region.permissions.bits() == 0 => Expected::Mapped {
            address: region.host + (address - region.start),
            permissions: granted & region.permissions.bits(),
            memory_type: region.memory_type as u64,
            may_write_without_exit: dirty || !flags,
        },
        _ => Expected::NoRam { address },
    }
}
