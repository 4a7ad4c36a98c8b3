//! From L1 to the guest and back.
//!
//! HOST_RSP holds the address of a [`Context`], which never moves, so it is written once and not at every entry: the
//! exit code finds the place for the guest's registers at RSP itself and only then switches to L1's stack.
//!
//! The guest's x87, MMX and SSE state is saved at every exit, as L1's own code uses SSE registers. L1 uses no AVX: the
//! upper halves of vector registers, XCR0 and debug registers stay the guest's while L1 runs.
#![expect(unsafe_code, reason = "VM entry and exit")]

use core::arch::naked_asm;
use core::cell::UnsafeCell;

/// The guest's general registers, in the order in which instructions encode them. RSP and RIP are in the VMCS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GeneralRegisters(pub [u64; 16]);

/// What VM entry loads and VM exit saves beside the VMCS.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Context {
    registers: GeneralRegisters,
    /// L1's stack pointer while the guest runs.
    host_stack_pointer: u64,
    padding: [u64; 7],
    /// FXSAVE image of the guest.
    floating_point: [u8; 512],
}

/// FCW after FNINIT and MXCSR after reset: what a processor starts with (SDM 3A 10.1.1 "Processor State After Reset").
const INITIAL_FCW: u16 = 0x37f;
const INITIAL_MXCSR: u32 = 0x1f80;
/// L1's own MXCSR: all exceptions masked, whatever the guest has unmasked.
static HOST_MXCSR: u32 = INITIAL_MXCSR;

const HOST_STACK_POINTER: usize = core::mem::offset_of!(Context, host_stack_pointer);
const FLOATING_POINT: usize = core::mem::offset_of!(Context, floating_point);

/// A [`Context`] at a fixed place.
#[derive(Debug)]
pub struct ContextCell(UnsafeCell<Context>);

// SAFETY: there is one processor; `registers` and `enter` are called by the one vCPU loop only.
unsafe impl Sync for ContextCell {}

impl ContextCell {
    /// A context of a processor after reset.
    #[must_use]
    pub const fn new() -> Self {
        let mut floating_point = [0; 512];
        [floating_point[0], floating_point[1]] = INITIAL_FCW.to_le_bytes();
        [floating_point[24], floating_point[25], floating_point[26], floating_point[27]] = INITIAL_MXCSR.to_le_bytes();
        Self(UnsafeCell::new(Context {
            registers: GeneralRegisters([0; 16]),
            host_stack_pointer: 0,
            padding: [0; 7],
            floating_point,
        }))
    }

    /// The value for HOST_RSP.
    #[must_use]
    pub fn host_stack_pointer(&self) -> u64 {
        self.0.get().addr() as u64
    }

    /// The guest's registers.
    ///
    /// # Safety
    /// There must be no other reference to them while this one lives.
    #[expect(clippy::mut_from_ref, reason = "interior mutability under the stated contract")]
    #[must_use]
    pub unsafe fn registers(&self) -> &mut GeneralRegisters {
        // SAFETY: by this function's contract.
        unsafe { &mut (*self.0.get()).registers }
    }

    /// Enters the guest, with VMRESUME where `launched`, else with VMLAUNCH, and returns after the next VM exit with
    /// zero, or after a failed entry instruction with RFLAGS (CF or ZF set).
    ///
    /// # Safety
    /// The current VMCS must have HOST_RSP = [`Self::host_stack_pointer`], HOST_RIP = [`exit_address`], and a host
    /// state and EPT under which L1 keeps running undisturbed. No reference to the registers may live.
    #[inline]
    #[must_use]
    pub unsafe fn enter(&self, launched: bool) -> u64 {
        // SAFETY: by this function's contract.
        unsafe { enter(self.0.get(), launched) }
    }
}

impl Default for ContextCell {
    fn default() -> Self {
        Self::new()
    }
}

/// The value for HOST_RIP.
#[must_use]
pub fn exit_address() -> u64 {
    (exit as *const ()).addr() as u64
}

#[unsafe(naked)]
unsafe extern "sysv64" fn enter(context: *mut Context, launched: bool) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi + {host_stack_pointer}], rsp",
        "fxrstor64 [rdi + {floating_point}]",
        "test sil, sil",
        "mov rax, [rdi + 0x00]",
        "mov rcx, [rdi + 0x08]",
        "mov rdx, [rdi + 0x10]",
        "mov rbx, [rdi + 0x18]",
        "mov rbp, [rdi + 0x28]",
        "mov rsi, [rdi + 0x30]",
        "mov r8, [rdi + 0x40]",
        "mov r9, [rdi + 0x48]",
        "mov r10, [rdi + 0x50]",
        "mov r11, [rdi + 0x58]",
        "mov r12, [rdi + 0x60]",
        "mov r13, [rdi + 0x68]",
        "mov r14, [rdi + 0x70]",
        "mov r15, [rdi + 0x78]",
        "mov rdi, [rdi + 0x38]",
        "jz 2f",
        "vmresume",
        "jmp 3f",
        "2:",
        "vmlaunch",
        "3:",
        // Only a failed instruction comes here; RSP is still L1's.
        "pushfq",
        "pop rax",
        "ldmxcsr [rip + {host_mxcsr}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        host_stack_pointer = const HOST_STACK_POINTER,
        floating_point = const FLOATING_POINT,
        host_mxcsr = sym HOST_MXCSR,
    )
}

/// Where VM exits arrive: RSP is the address of the [`Context`].
#[unsafe(naked)]
unsafe extern "sysv64" fn exit() {
    naked_asm!(
        "mov [rsp + 0x00], rax",
        "mov [rsp + 0x08], rcx",
        "mov [rsp + 0x10], rdx",
        "mov [rsp + 0x18], rbx",
        "mov [rsp + 0x28], rbp",
        "mov [rsp + 0x30], rsi",
        "mov [rsp + 0x38], rdi",
        "mov [rsp + 0x40], r8",
        "mov [rsp + 0x48], r9",
        "mov [rsp + 0x50], r10",
        "mov [rsp + 0x58], r11",
        "mov [rsp + 0x60], r12",
        "mov [rsp + 0x68], r13",
        "mov [rsp + 0x70], r14",
        "mov [rsp + 0x78], r15",
        "fxsave64 [rsp + {floating_point}]",
        "ldmxcsr [rip + {host_mxcsr}]",
        "mov rsp, [rsp + {host_stack_pointer}]",
        "xor eax, eax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        host_stack_pointer = const HOST_STACK_POINTER,
        floating_point = const FLOATING_POINT,
        host_mxcsr = sym HOST_MXCSR,
    )
}
