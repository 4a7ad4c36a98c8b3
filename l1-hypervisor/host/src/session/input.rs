//! Standard input on its way to L2's serial line.

use std::io::{IsTerminal, Read};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

use crate::machine::{MachineError, RunningMachine};

/// Bytes that wait for the machine, and where more come from.
#[derive(Debug, Default)]
pub struct Input {
    source: Option<Receiver<Vec<u8>>>,
    waiting: Vec<u8>,
}

impl Input {
    /// No input.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// These bytes.
    #[must_use]
    pub fn bytes(bytes: Vec<u8>) -> Self {
        Self { source: None, waiting: bytes }
    }

    /// Standard input. A thread reads it, as reading may block for ever; it ends with the process.
    #[must_use]
    pub fn standard() -> Self {
        if std::io::stdin().is_terminal() && !in_foreground() {
            // Reading would stop the whole process with SIGTTIN.
            return Self::none();
        }
        let (sender, receiver) = sync_channel(4);
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(length) = std::io::stdin().read(&mut buffer) {
                if length == 0 || sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { source: Some(receiver), waiting: Vec::new() }
    }

    /// Gives the machine what it takes.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn pass_on(&mut self, machine: &mut dyn RunningMachine) -> Result<(), MachineError> {
        if self.waiting.is_empty()
            && let Some(source) = &self.source
        {
            match source.try_recv() {
                Ok(bytes) => self.waiting = bytes,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.source = None,
            }
        }
        if !self.waiting.is_empty() {
            let taken = machine.input(&self.waiting)?;
            self.waiting.drain(..taken);
        }
        Ok(())
    }
}

fn in_foreground() -> bool {
    nix::unistd::tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == nix::unistd::getpgrp())
}
