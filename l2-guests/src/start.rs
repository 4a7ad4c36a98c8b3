//! From the loader's jump to the guest's `run`, and the ELF note that tells the loader how to start.
//!
//! At `_start` the processor is in long mode in ring 0, every address below 4 GiB is mapped to itself, interrupts are
//! off and RDI holds the address of the command line (see [`l1_protocol::guest`]).

pub use l1_protocol::guest::{START_LONG_MODE, START_REAL_MODE};

use l1_protocol::guest::{NOTE_OWNER, NOTE_START_MODE};

/// An ELF note (System V ABI, "Note Section") that asks for a start mode: `n_namesz`, `n_descsz`, `n_type`, the
/// owner's name padded to a multiple of 4 bytes, and the mode.
#[derive(Debug)]
#[repr(C)]
pub struct StartNote {
    name_size: u32,
    description_size: u32,
    kind: u32,
    name: [u8; NOTE_OWNER.len().next_multiple_of(4)],
    mode: u32,
}

impl StartNote {
    /// The note for one of the `START_…` constants.
    #[must_use]
    pub const fn new(mode: u32) -> Self {
        let mut name = [0; NOTE_OWNER.len().next_multiple_of(4)];
        let (owner, _padding) = name.split_at_mut(NOTE_OWNER.len());
        owner.copy_from_slice(NOTE_OWNER);
        Self { name_size: NOTE_OWNER.len() as u32, description_size: 4, kind: NOTE_START_MODE, name, mode }
    }
}

#[cfg(bare_metal)]
pub use bare_metal::start;

#[cfg(bare_metal)]
#[expect(unsafe_code, reason = "the first instructions run before there is a stack, and the command line is a raw address")]
mod bare_metal {
    use core::arch::naked_asm;
    use core::cell::UnsafeCell;
    use core::ffi::CStr;
    use core::slice;

    use l1_protocol::guest::ARGUMENTS_MAXIMUM;

    use crate::{Outcome, exit, idt, surroundings};

    const STACK_SIZE: usize = 64 * 1024;

    /// Only the processor's RSP knows it.
    #[repr(C, align(16))]
    struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

    // SAFETY: no Rust code refers to the bytes.
    unsafe impl Sync for Stack {}

    static STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));

    /// Sets up the stack and turns SSE on (the compiled parts of `core` use it), then calls [`begin`].
    ///
    /// CR0: EM (bit 2) and TS (bit 3) off, MP (bit 1) on; CR4: OSFXSR (bit 9) and OSXMMEXCPT (bit 10) on.
    ///
    /// # Safety
    /// Only the loader's jump may lead here, with what it leaves in the registers.
    #[unsafe(naked)]
    pub unsafe extern "C" fn start() -> ! {
        naked_asm!(
            "cld",
            "lea rsp, [rip + {stack} + {stack_size}]",
            "mov rax, cr0",
            "and eax, {em_and_ts_off}",
            "or eax, 2",
            "mov cr0, rax",
            "mov rax, cr4",
            "or eax, 0x600",
            "mov cr4, rax",
            "fninit",
            "xor ebp, ebp",
            "call {begin}",
            "ud2",
            stack = sym STACK,
            stack_size = const STACK_SIZE,
            em_and_ts_off = const !0xc_i32,
            begin = sym begin,
        )
    }

    unsafe extern "Rust" {
        /// What [`guest!`](crate::guest) defines.
        fn guest_main(arguments: &str) -> Outcome;
    }

    extern "C" fn begin(arguments: *const u8) -> ! {
        surroundings::open();
        idt::install();
        let arguments = if arguments.is_null() {
            ""
        } else {
            // SAFETY: the loader gives this many readable bytes, and nothing writes to them.
            let bytes = unsafe { slice::from_raw_parts(arguments, ARGUMENTS_MAXIMUM) };
            CStr::from_bytes_until_nul(bytes)
                .expect("the command line ends with a zero")
                .to_str()
                .expect("the command line is UTF-8")
        };
        // SAFETY: `guest!` defines it with this signature.
        match unsafe { guest_main(arguments) } {
            Ok(()) => exit::exit(l1_protocol::guest::DEBUG_EXIT_SUCCESS),
            Err(failure) => exit::exit(failure.value()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_laid_out_as_elf_wants_it() {
        let note = StartNote::new(START_REAL_MODE);
        assert_eq!((note.name_size, note.description_size, note.kind), (14, 4, NOTE_START_MODE));
        assert_eq!(&note.name, b"l1-hypervisor\0\0\0");
        assert_eq!(core::mem::offset_of!(StartNote, mode), 12 + 16);
        assert_eq!(note.mode, START_REAL_MODE);
    }
}
