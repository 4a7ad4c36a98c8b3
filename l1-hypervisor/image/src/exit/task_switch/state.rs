//! What a task-state segment holds (SDM 3A figure 8-2 "32-Bit Task-State Segment (TSS)", figure 8-10 "16-Bit TSS
//! Format").

use core::ops::Range;

use crate::guest_memory::GuestMemory;
use crate::guest_paging::{PageFault, PagingState, read_linear, write_linear};

/// The two layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Of the 80286.
    Bits16,
    /// Of the 80386 and later.
    Bits32,
}

/// The state of a task that its TSS holds, without the stacks of other privilege levels and the I/O permissions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TaskState {
    /// CR3; a 16-bit TSS has none.
    pub cr3: Option<u32>,
    /// EIP.
    pub instruction: u32,
    /// EFLAGS.
    pub flags: u32,
    /// General registers by number.
    pub general: [u32; 8],
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    /// LDTR.
    pub local_table: u16,
    /// The T flag: #DB before the first instruction.
    pub trap: bool,
}

/// Bytes of the larger format that count.
const LARGEST: usize = 0x68;

impl Format {
    /// Highest offset that must lie in the segment.
    pub(super) const fn smallest_limit(self) -> u32 {
        match self {
            Self::Bits16 => 0x2b,
            Self::Bits32 => 0x67,
        }
    }

    /// The offsets that the processor writes when it leaves a task.
    pub(super) const fn saved(self) -> Range<u64> {
        match self {
            Self::Bits16 => 0x0e..0x2a,
            Self::Bits32 => 0x20..0x60,
        }
    }

    /// Type of a descriptor of a busy TSS.
    pub(super) const fn busy_type(self) -> u32 {
        match self {
            Self::Bits16 => 0x3,
            Self::Bits32 => 0xb,
        }
    }

    /// Bytes of a general register.
    pub(super) const fn word_size(self) -> u64 {
        match self {
            Self::Bits16 => 2,
            Self::Bits32 => 4,
        }
    }

    /// Offsets of CR3, EIP, EFLAGS, EAX, ES and the LDT selector. Registers and selectors are a word apart each.
    const fn layout(self) -> Layout {
        match self {
            Self::Bits16 => {
                Layout { cr3: None, instruction: 0x0e, flags: 0x10, general: 0x12, selectors: 0x22, local_table: 0x2a }
            }
            Self::Bits32 => {
                Layout { cr3: Some(0x1c), instruction: 0x20, flags: 0x24, general: 0x28, selectors: 0x48, local_table: 0x60 }
            }
        }
    }

    /// Segment registers in the TSS: FS and GS came with 32 bits.
    const fn selector_count(self) -> usize {
        match self {
            Self::Bits16 => 4,
            Self::Bits32 => 6,
        }
    }

    fn word(self, bytes: &[u8; LARGEST], at: usize) -> u32 {
        let low = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        match self {
            Self::Bits16 => low,
            Self::Bits32 => low | u32::from(u16::from_le_bytes([bytes[at + 2], bytes[at + 3]])) << 16,
        }
    }

    fn set_word(self, bytes: &mut [u8; LARGEST], at: usize, value: u32) {
        let size = self.word_size() as usize;
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    /// Reads the state of a task.
    pub(super) fn load(self, memory: &mut GuestMemory<'_>, paging: &PagingState, base: u64) -> Result<TaskState, PageFault> {
        let mut bytes = [0; LARGEST];
        read_linear(memory, paging, base, &mut bytes[..=self.smallest_limit() as usize])?;
        let layout = self.layout();
        let step = self.word_size() as usize;
        let mut state = TaskState {
            cr3: layout.cr3.map(|at| self.word(&bytes, at)),
            instruction: self.word(&bytes, layout.instruction),
            flags: self.word(&bytes, layout.flags),
            general: core::array::from_fn(|number| self.word(&bytes, layout.general + number * step)),
            selectors: [0; 6],
            local_table: self.word(&bytes, layout.local_table) as u16,
            trap: self == Self::Bits32 && bytes[0x64] & 1 != 0,
        };
        for (number, selector) in state.selectors.iter_mut().take(self.selector_count()).enumerate() {
            *selector = self.word(&bytes, layout.selectors + number * step) as u16;
        }
        Ok(state)
    }

    /// Writes what a processor writes when it leaves a task. The upper halves of selectors stay as they are.
    pub(super) fn save(
        self,
        state: &TaskState,
        memory: &mut GuestMemory<'_>,
        paging: &PagingState,
        base: u64,
    ) -> Result<(), PageFault> {
        let Range { start, end } = self.saved();
        let range = start as usize..end as usize;
        let mut bytes = [0; LARGEST];
        read_linear(memory, paging, base.wrapping_add(start), &mut bytes[range.clone()])?;
        let layout = self.layout();
        let step = self.word_size() as usize;
        self.set_word(&mut bytes, layout.instruction, state.instruction);
        self.set_word(&mut bytes, layout.flags, state.flags);
        for (number, value) in state.general.into_iter().enumerate() {
            self.set_word(&mut bytes, layout.general + number * step, value);
        }
        for (number, selector) in state.selectors.into_iter().take(self.selector_count()).enumerate() {
            Self::Bits16.set_word(&mut bytes, layout.selectors + number * step, selector.into());
        }
        write_linear(memory, paging, base.wrapping_add(start), &bytes[range])
    }
}

/// See [`Format::layout`].
struct Layout {
    cr3: Option<usize>,
    instruction: usize,
    flags: usize,
    general: usize,
    selectors: usize,
    local_table: usize,
}
