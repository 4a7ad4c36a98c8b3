//! What firmware leaves in the CMOS memory of a PC, as far as a machine without disks has it.

/// Sizes are stored as two bytes, low first.
struct Word {
    low: usize,
    high: usize,
}

/// KiB of memory below 640 KiB.
const BASE_MEMORY: Word = Word { low: 0x15, high: 0x16 };
/// KiB of memory between 1 MiB and 64 MiB.
const EXTENDED_MEMORY: Word = Word { low: 0x17, high: 0x18 };
/// The same, as the self-test found it.
const EXTENDED_MEMORY_FOUND: Word = Word { low: 0x30, high: 0x31 };
/// Blocks of 64 KiB of memory between 16 MiB and 4 GiB.
const HIGH_MEMORY: Word = Word { low: 0x34, high: 0x35 };
/// Sum of the bytes in [`CHECKED`], high byte first.
const CHECKSUM: Word = Word { low: 0x2f, high: 0x2e };
/// Equipment: bit 1 is the coprocessor. No floppy, no display.
const EQUIPMENT: usize = 0x14;

/// Bytes the checksum covers.
const CHECKED: core::ops::Range<usize> = 0x10..0x2e;

const MIB: u64 = 1 << 20;

pub(super) fn initial(memory_size: u64) -> [u8; 128] {
    let mut memory = [0; 128];
    let mut store = |word: Word, value: u64| {
        let [low, high] = u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
        memory[word.low] = low;
        memory[word.high] = high;
    };
    store(BASE_MEMORY, (memory_size / 1024).min(640));
    store(EXTENDED_MEMORY, memory_size.saturating_sub(MIB) / 1024);
    store(EXTENDED_MEMORY_FOUND, memory_size.saturating_sub(MIB) / 1024);
    store(HIGH_MEMORY, memory_size.saturating_sub(16 * MIB) / (64 * 1024));
    memory[EQUIPMENT] = 1 << 1;
    let sum: u16 = memory[CHECKED].iter().map(|&byte| u16::from(byte)).sum();
    let [low, high] = sum.to_le_bytes();
    memory[CHECKSUM.low] = low;
    memory[CHECKSUM.high] = high;
    memory
}
