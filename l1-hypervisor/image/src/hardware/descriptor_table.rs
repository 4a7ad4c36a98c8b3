//! L1's GDT, TSS and IDT.
//!
//! What always holds: every vector has a gate, and every gate switches to a stack of its own (interrupt stack table),
//! so that an exception or NMI can be reported whatever state L1's own stack is in.
#![expect(unsafe_code, reason = "LGDT, LTR, LIDT and the memory they point to")]

use core::arch::asm;
use core::cell::UnsafeCell;

use super::exception;

/// Selector of L1's code segment; HOST_CS.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of L1's data segment; HOST_SS.
pub const DATA_SELECTOR: u16 = 0x10;
/// Selector of L1's task-state segment; HOST_TR.
pub const TASK_SELECTOR: u16 = 0x18;

/// 64-bit code, present, accessed (SDM 3A 3.4.5 "Segment Descriptors").
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// Writable data, present, accessed.
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

const VECTORS: usize = 256;
const TASK_STATE_SIZE: usize = 104;

/// Number of interrupt stacks: double fault, NMI, machine check, page fault, everything else.
pub const INTERRUPT_STACKS: usize = 5;
/// Bytes of one interrupt stack.
pub const INTERRUPT_STACK_SIZE: usize = 16 * 1024;
/// Bytes of L1's ordinary stack.
pub const STACK_SIZE: usize = 128 * 1024;

/// A stack above a page that stays unmapped.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct GuardedStack<const SIZE: usize> {
    guard: UnsafeCell<[u8; 4096]>,
    stack: UnsafeCell<[u8; SIZE]>,
}

// SAFETY: only the processor uses the memory, as a stack.
unsafe impl<const SIZE: usize> Sync for GuardedStack<SIZE> {}

impl<const SIZE: usize> GuardedStack<SIZE> {
    const fn new() -> Self {
        Self { guard: UnsafeCell::new([0; 4096]), stack: UnsafeCell::new([0; SIZE]) }
    }

    fn guard(&self) -> u64 {
        self.guard.get().addr() as u64
    }

    fn top(&self) -> u64 {
        self.stack.get().addr() as u64 + SIZE as u64
    }
}

/// L1's ordinary stack; `_start` loads its top.
#[unsafe(no_mangle)]
#[cfg_attr(bare_metal, unsafe(link_section = ".stacks"))]
static L1_STACK: GuardedStack<STACK_SIZE> = GuardedStack::new();
#[cfg_attr(bare_metal, unsafe(link_section = ".stacks"))]
static STACKS: [GuardedStack<INTERRUPT_STACK_SIZE>; INTERRUPT_STACKS] = [const { GuardedStack::new() }; INTERRUPT_STACKS];

#[repr(C, align(16))]
struct Tables {
    global: [u64; 5],
    task_state: [u8; TASK_STATE_SIZE],
    interrupt: [[u64; 2]; VECTORS],
}

struct TablesCell(UnsafeCell<Tables>);

// SAFETY: written once by `load`, before anything can read it, and by the processor (busy bit of the TSS).
unsafe impl Sync for TablesCell {}

static TABLES: TablesCell =
    TablesCell(UnsafeCell::new(Tables { global: [0; 5], task_state: [0; TASK_STATE_SIZE], interrupt: [[0; 2]; VECTORS] }));

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Bases of the tables, for the host-state area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bases {
    /// HOST_GDTR_BASE.
    pub global: u64,
    /// HOST_IDTR_BASE.
    pub interrupt: u64,
    /// HOST_TR_BASE.
    pub task_state: u64,
}

/// Pages below the stacks that must not be mapped, in ascending order.
#[must_use]
pub fn guard_pages() -> [u64; INTERRUPT_STACKS + 1] {
    let mut pages = [L1_STACK.guard(); INTERRUPT_STACKS + 1];
    for (page, stack) in pages.iter_mut().zip(&STACKS) {
        *page = stack.guard();
    }
    pages.sort_unstable();
    pages
}

/// Interrupt stack (1 to 5, SDM 3A 7.14.5 "Interrupt Stack Table") of a vector.
const fn interrupt_stack(vector: usize) -> u64 {
    match vector {
        8 => 1,
        2 => 2,
        18 => 3,
        14 => 4,
        _ => 5,
    }
}

/// Descriptor of a 64-bit TSS, available (type 9), present: its two halves.
const fn task_state_descriptor(base: u64) -> [u64; 2] {
    let limit = TASK_STATE_SIZE as u64 - 1;
    let low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// Interrupt gate (type 14), present, DPL 0: its two halves.
const fn interrupt_gate(handler: u64, stack: u64) -> [u64; 2] {
    let low = handler & 0xffff | (CODE_SELECTOR as u64) << 16 | stack << 32 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

/// Fills the tables and makes the processor use them.
///
/// # Safety
/// Must be called once, at CPL 0 in 64-bit mode, before anything relies on the tables.
pub unsafe fn load() -> Bases {
    let tables = TABLES.0.get();
    // SAFETY: nothing else refers to the tables yet (called once).
    let tables = unsafe { &mut *tables };
    for (index, stack) in STACKS.iter().enumerate() {
        // The interrupt stack table begins at offset 36 (SDM 3A 8.7 "Task Management in 64-bit Mode").
        let offset = 36 + index * 8;
        tables.task_state[offset..offset + 8].copy_from_slice(&stack.top().to_le_bytes());
    }
    // No I/O permission bitmap: its offset lies at the limit.
    tables.task_state[102..104].copy_from_slice(&(TASK_STATE_SIZE as u16).to_le_bytes());
    for (vector, gate) in tables.interrupt.iter_mut().enumerate() {
        *gate = interrupt_gate(exception::stub_address(vector), interrupt_stack(vector));
    }
    let bases = Bases {
        global: tables.global.as_ptr().addr() as u64,
        interrupt: tables.interrupt.as_ptr().addr() as u64,
        task_state: tables.task_state.as_ptr().addr() as u64,
    };
    let [task_low, task_high] = task_state_descriptor(bases.task_state);
    tables.global = [0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, task_low, task_high];

    let global = Pointer { limit: size_of_val(&tables.global) as u16 - 1, base: bases.global };
    let interrupt = Pointer { limit: size_of_val(&tables.interrupt) as u16 - 1, base: bases.interrupt };
    // SAFETY: the tables are filled, live for ever, and describe flat segments like the ones in use; the far return
    // continues at the next instruction with the new CS.
    unsafe {
        asm!(
            "lgdt [{global}]",
            "lidt [{interrupt}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "xor {scratch:e}, {scratch:e}",
            "mov fs, {scratch:e}",
            "mov gs, {scratch:e}",
            "ltr {task:x}",
            global = in(reg) &raw const global,
            interrupt = in(reg) &raw const interrupt,
            code = const CODE_SELECTOR as u64,
            data = in(reg) u32::from(DATA_SELECTOR),
            task = in(reg) TASK_SELECTOR,
            scratch = out(reg) _,
        );
    }
    bases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_laid_out_as_the_manual_says() {
        assert_eq!(task_state_descriptor(0x1234_5678_9abc_def0), [0x9a00_89bc_def0_0067, 0x1234_5678]);
        assert_eq!(interrupt_gate(0x1234_5678_9abc_def0, 5), [0x9abc_8e05_0008_def0, 0x1234_5678]);
    }

    #[test]
    fn the_vectors_that_can_interrupt_each_other_have_different_stacks() {
        let stacks: std::collections::BTreeSet<u64> = [2, 8, 14, 18, 13].into_iter().map(interrupt_stack).collect();
        assert_eq!(stacks.len(), INTERRUPT_STACKS);
    }
}
