//! Code at CPL 3: a few instructions that end with an exception, which brings the processor back.
#![expect(unsafe_code, reason = "descriptor tables, page tables and the way to another privilege level")]

use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::ptr;

use crate::Exception;
use crate::control::read_cr3;
use crate::idt::{Frame, TableRegister};
use crate::paging::{self, PAGE_SIZE};

/// Selectors of the GDT below, RPL 3 where they are for CPL 3.
const USER_DATA: u64 = 0x23;
const USER_CODE: u64 = 0x2b;
const TASK: u16 = 0x30;
/// Bit 2 of a paging entry: user mode may use it.
const USER: u64 = 1 << 2;
/// How much memory user mode may use: where guests are linked, and their stacks.
const USER_MEMORY: u64 = 16 << 20;

/// The loader's code and data, code and data for CPL 3, a 64-bit TSS; then the TSS itself and what `enter` keeps.
#[repr(C, align(16))]
struct State {
    gdt: [u64; 8],
    /// SDM 3A 7.7 "Task Management in 64-bit Mode", Figure 7-11: RSP0 is at byte 4.
    task: [u32; 26],
    kernel_rsp: u64,
    raised: Option<Exception>,
}

struct Shared(UnsafeCell<State>);

// SAFETY: there is one processor, and no reference is ever made.
unsafe impl Sync for Shared {}

static STATE: Shared = Shared(UnsafeCell::new(State {
    gdt: [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff, 0, 0],
    task: [0; 26],
    kernel_rsp: 0,
    raised: None,
}));

/// Gives the processor a GDT with segments for CPL 3 and a task state, and user mode the lowest 16 MiB. To be called once.
pub fn prepare() {
    let state = STATE.0.get();
    // SAFETY: all fields are the static's own; the GDT begins as the loader's does, so the segments in use stay.
    unsafe {
        let task = (&raw const (*state).task).addr() as u64;
        let limit = size_of::<[u32; 26]>() as u64 - 1;
        // An available 64-bit TSS (SDM 3A 7.2.3 "TSS Descriptor in 64-bit mode").
        (*state).gdt[6] = limit | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
        (*state).gdt[7] = task >> 32;
        let register = TableRegister { limit: 8 * 8 - 1, base: (&raw const (*state).gdt).addr() as u64 };
        asm!("lgdt [{}]", "ltr {:x}", in(reg) &raw const register, in(reg) TASK, options(nostack));
        // The directory of the first GiB is reached by the first entries of two tables.
        let tables = read_cr3();
        for table in [tables, tables + 0x1000] {
            let entry = ptr::with_exposed_provenance_mut::<u64>(table as usize);
            entry.write_volatile(entry.read_volatile() | USER);
        }
        (0..USER_MEMORY / PAGE_SIZE).for_each(|page| paging::change_page(page * PAGE_SIZE, USER, 0));
    }
}

/// Runs `code` at CPL 3 until it raises an exception, which is returned.
///
/// # Safety
/// [`prepare`] was called; `code` is assembly that uses no stack, changes RAX, RCX and RDX only, and raises an exception.
pub unsafe fn run(code: unsafe extern "C" fn()) -> Exception {
    let state = STATE.0.get();
    // SAFETY: the caller's promise.
    unsafe {
        enter(code, &raw mut (*state).kernel_rsp, (&raw mut (*state).task).cast::<u8>().add(4).cast());
        (&raw mut (*state).raised).replace(None).unwrap_or_else(|| panic!("CPL 3 was left without an exception"))
    }
}

/// Called for every exception at CPL 3: goes on where [`enter`] returns to.
pub(crate) fn leave(frame: &mut Frame, exception: Exception) {
    let state = STATE.0.get();
    // SAFETY: `enter` wrote the stack pointer; no reference exists.
    let rsp = unsafe {
        (&raw mut (*state).raised).write(Some(exception));
        (&raw const (*state).kernel_rsp).read_volatile()
    };
    frame.go_on_in_kernel((back as *const ()).addr() as u64, rsp);
}

/// To CPL 3. RSP0 leaves some room for what is live below the stack pointer: nothing.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(code: unsafe extern "C" fn(), kernel_rsp: *mut u64, rsp0: *mut u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rsi], rsp",
        "mov rax, rsp",
        "and rax, -16",
        "mov [rdx], rax",
        "push {data}",
        "push rax",
        "push 2",
        "push {code}",
        "push rdi",
        "iretq",
        data = const USER_DATA,
        code = const USER_CODE,
    )
}

/// Where [`leave`] leads to, at CPL 0 with the stack of [`enter`].
#[unsafe(naked)]
unsafe extern "sysv64" fn back() {
    naked_asm!("pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx", "ret")
}
