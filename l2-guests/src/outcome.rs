//! How a guest ends, and the macros with which it says so.

use crate::exception::{self, Exception};

/// What a guest's `run` returns.
pub type Outcome = Result<(), Failure>;

/// The guest found something that is not as it must be, and has printed what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure(u32);

impl Failure {
    /// What [`ensure!`](crate::ensure), [`fail!`](crate::fail) and panics report.
    pub const CHECK: Self = Self(1);

    /// A failure with a value of its own. It must not be one that
    /// [`l1_protocol::guest::debug_exit_succeeded`] takes for success.
    ///
    /// # Panics
    /// If it is such a value.
    #[must_use]
    pub const fn with_value(value: u32) -> Self {
        assert!(!l1_protocol::guest::debug_exit_succeeded(value), "this value means success");
        Self(value)
    }

    /// What the debug exit device is told.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }
}

/// Prints what went wrong and returns a [`Failure`] from the function.
#[macro_export]
macro_rules! fail {
    ($($text:tt)+) => {{
        $crate::console::print(::core::format_args!("FAILED: {}\n", ::core::format_args!($($text)+)));
        return ::core::result::Result::Err($crate::Failure::CHECK);
    }};
}

/// Goes on if the condition holds, else does what [`fail!`](crate::fail) does.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            $crate::fail!($($text)+);
        }
    };
}

/// What [`attempt!`](crate::attempt) yielded must be this exception with this error code.
///
/// # Errors
/// If there was none or another one; it has been printed.
pub fn must_raise(what: &str, attempted: Result<(), Exception>, vector: u8, error_code: u64) -> Outcome {
    let expected = exception::name(vector);
    match attempted {
        Ok(()) => fail!("{what} went through, {expected}({error_code:#x}) was to be raised"),
        Err(raised) => {
            ensure!(
                raised.vector == vector && raised.error_code == error_code,
                "{what} raised {raised}, {expected}({error_code:#x}) was to be raised"
            );
            Ok(())
        }
    }
}

/// What [`attempt!`](crate::attempt) yielded must be no exception.
///
/// # Errors
/// If there was one; it has been printed.
pub fn must_succeed(what: &str, attempted: Result<(), Exception>) -> Outcome {
    if let Err(raised) = attempted {
        fail!("{what} raised {raised}");
    }
    Ok(())
}

/// Makes a function the guest, and puts the note about its start mode into the ELF file.
///
/// `guest!(run)` starts in long mode at the runtime's `_start`; `guest!(run, START_REAL_MODE)` starts in real mode at
/// the symbol `real_mode_entry`, which the guest brings along and which goes on to `_start` in long mode.
#[macro_export]
macro_rules! guest {
    ($run:ident) => {
        $crate::guest!($run, START_LONG_MODE);
    };
    ($run:ident, $mode:ident) => {
        #[cfg(bare_metal)]
        #[expect(unsafe_code, reason = "the loader finds the note by its section")]
        #[used]
        #[unsafe(link_section = ".note.l1_hypervisor")]
        static START_NOTE: $crate::start::StartNote = $crate::start::StartNote::new($crate::start::$mode);

        // Here and not in the library, whose symbols the linker drops unless something in the program names them.
        #[cfg(bare_metal)]
        #[expect(unsafe_code, reason = "the loader and the runtime find these by their symbols")]
        mod entry {
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn _start() -> ! {
                ::core::arch::naked_asm!("jmp {start}", start = sym $crate::start::start)
            }

            #[unsafe(no_mangle)]
            extern "Rust" fn guest_main(arguments: &str) -> $crate::Outcome {
                super::$run(arguments)
            }
        }

        #[cfg(not(bare_metal))]
        fn main() -> ::std::process::ExitCode {
            let _: fn(&str) -> $crate::Outcome = $run;
            let name = ::core::env!("CARGO_BIN_NAME");
            ::std::eprintln!("{name} is an L2 guest: it runs on bare metal, under L1. Run it with `l1-hypervisor run {name}`.");
            ::std::process::ExitCode::from(2)
        }
    };
}
