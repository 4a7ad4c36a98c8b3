//! The machines L1 can boot on. Everything that differs between them on the host's side is below this module.

pub mod bochs;
pub mod kvm;

use std::time::Duration;

use thiserror::Error;

/// What a machine's memory holds when it starts, and where it starts.
#[derive(Debug, Clone)]
pub struct MemoryImage {
    /// Address and bytes of each piece, in ascending order; everything else is zero.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// Size of the machine's memory in bytes, a multiple of 2 MiB.
    pub memory_size: u64,
    /// First instruction; it runs in 64-bit mode.
    pub entry: u64,
}

/// What a machine had to say.
#[derive(Debug)]
pub enum Output {
    /// Bytes of L1's stream.
    Bytes(Vec<u8>),
    /// Nothing in the time given.
    Nothing,
    /// The machine has ended; there is no more.
    Ended,
}

/// A machine that runs.
pub trait RunningMachine: std::fmt::Debug {
    /// Waits for output, at most as long as `wait`.
    ///
    /// # Errors
    /// [`MachineError`].
    fn output(&mut self, wait: Duration) -> Result<Output, MachineError>;

    /// Offers bytes for L2's serial line; returns how many were taken.
    ///
    /// # Errors
    /// [`MachineError`].
    fn input(&mut self, bytes: &[u8]) -> Result<usize, MachineError>;

    /// L1 has taken this many of the bytes that [`Self::input`] took.
    fn input_taken(&mut self, _bytes: usize) {}

    /// Asks L1 to end the run and to report.
    ///
    /// # Errors
    /// [`MachineError`].
    fn request_stop(&mut self) -> Result<(), MachineError>;

    /// What the machine says about itself, for the report of a machine that ended without L1's last frame.
    fn last_words(&self) -> String;
}

/// What can go wrong with a machine.
#[derive(Debug, Error)]
pub enum MachineError {
    /// Bochs did not start.
    #[error(transparent)]
    Bochs(#[from] bochs::process::StartError),
    /// The operating system refused something.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        error: std::io::Error,
    },
    /// The machine did something that ends it.
    #[error("{0}")]
    Machine(String),
}

impl MachineError {
    /// For `map_err`: names what was tried.
    pub fn system<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System { what, error: error.into() }
    }
}
