//! Standard input on its way to L2's serial line.

use std::io::{IsTerminal, Read};
use std::iter;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

use l1_protocol::input::ESCAPE;

use crate::machine::{MachineError, RunningMachine};

/// Bytes that wait for the machine, and where more come from.
#[derive(Debug, Default)]
pub struct Input {
    source: Option<Receiver<Vec<u8>>>,
    waiting: Vec<u8>,
    /// Hypervisors between the outermost and the guest, each of which takes [`ESCAPE`] for its own.
    between: u8,
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
        Self { waiting: bytes, ..Self::default() }
    }

    /// This input, for a guest in the innermost of `depth` hypervisors. The machine sees to the outermost.
    pub(super) fn through(self, depth: u8) -> Self {
        let between = depth.saturating_sub(1);
        Self { waiting: escaped(self.waiting, between), between, ..self }
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
        Self { source: Some(receiver), ..Self::default() }
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
                Ok(bytes) => self.waiting = escaped(bytes, self.between),
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

/// `bytes` as each of so many hypervisors, one after the other, must be sent them.
fn escaped(bytes: Vec<u8>, times: u8) -> Vec<u8> {
    let copies = |byte| if byte == ESCAPE { 1 << times } else { 1 };
    bytes.into_iter().flat_map(|byte| iter::repeat_n(byte, copies(byte))).collect()
}

fn in_foreground() -> bool {
    nix::unistd::tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == nix::unistd::getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hypervisor_takes_half_of_the_escapes() {
        let bytes = vec![b'a', ESCAPE, b'b'];
        assert_eq!(Input::bytes(bytes.clone()).through(1).waiting, bytes);
        assert_eq!(Input::bytes(bytes).through(3).waiting, [b'a', ESCAPE, ESCAPE, ESCAPE, ESCAPE, b'b']);
    }
}
