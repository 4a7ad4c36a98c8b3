//! The host's side of a run: keeps what it gets.

use std::collections::VecDeque;

use crate::device::Console;
use crate::vcpu::Host;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct TestHost {
    /// What the guest printed.
    pub(crate) printed: Vec<u8>,
    /// The bytes of the records it was sent.
    pub(crate) records: Vec<u8>,
    /// How often the guest waited.
    pub(crate) waits: usize,
    /// How often it was asked.
    pub(crate) polls: usize,
    /// What the guest's serial line receives.
    pub(crate) input: VecDeque<u8>,
    /// It asks to stop when it is polled this often.
    pub(crate) stop_at_poll: Option<usize>,
}

impl Console for TestHost {
    fn bytes(&mut self, bytes: &[u8]) {
        self.printed.extend_from_slice(bytes);
    }
}

impl Host for TestHost {
    fn idle(&mut self) {
        self.waits += 1;
    }

    fn records(&mut self, bytes: &[u8]) {
        self.records.extend_from_slice(bytes);
    }

    fn poll(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.polls += 1;
        if self.stop_at_poll.is_some_and(|number| self.polls >= number) {
            return None;
        }
        let taken = buffer.len().min(self.input.len());
        for (slot, byte) in buffer.iter_mut().zip(self.input.drain(..taken)) {
            *slot = byte;
        }
        Some(taken)
    }
}
