//! The host's side of the input page: bytes for L2's serial line, and the request to stop.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use l1_protocol::input::{INPUT_RING, InputPage};
use l1_protocol::memory_map::INPUT_PAGE;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::machine::MachineError;

const WRITTEN: GuestAddress = GuestAddress(INPUT_PAGE + offset_of!(InputPage, written) as u64);
const READ: GuestAddress = GuestAddress(INPUT_PAGE + offset_of!(InputPage, read) as u64);
const STOP: GuestAddress = GuestAddress(INPUT_PAGE + offset_of!(InputPage, stop) as u64);
const RING: u64 = INPUT_PAGE + offset_of!(InputPage, ring) as u64;

/// Writes to the input page of a machine that runs.
#[derive(Debug)]
pub struct InputWriter {
    memory: Arc<GuestMemoryMmap>,
    /// Bytes put into the ring so far; L1's copy of it is never read back.
    written: u32,
}

impl InputWriter {
    /// A writer for a machine whose input page is all zero.
    pub fn new(memory: Arc<GuestMemoryMmap>) -> Self {
        Self { memory, written: 0 }
    }

    /// Puts as many bytes into the ring as fit, and returns how many those were.
    ///
    /// # Errors
    /// If the counters in the page are impossible.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, MachineError> {
        let read: u32 = self.memory.load(READ, Ordering::Acquire).map_err(unmapped)?;
        let used = self.written.wrapping_sub(read) as usize;
        let Some(room) = INPUT_RING.checked_sub(used) else {
            return Err(MachineError::Machine(format!("the input page is damaged: {} bytes written, {read} read", self.written)));
        };
        let taken = &bytes[..bytes.len().min(room)];
        let start = self.written as usize % INPUT_RING;
        let (before_wrap, after_wrap) = taken.split_at(taken.len().min(INPUT_RING - start));
        self.memory.write_slice(before_wrap, GuestAddress(RING + start as u64)).map_err(unmapped)?;
        self.memory.write_slice(after_wrap, GuestAddress(RING)).map_err(unmapped)?;
        self.written = self.written.wrapping_add(taken.len() as u32);
        self.memory.store(self.written, WRITTEN, Ordering::Release).map_err(unmapped)?;
        Ok(taken.len())
    }

    /// Asks L1 to end the run; it looks at latest when its VMX-preemption timer expires.
    ///
    /// # Errors
    /// If the machine's memory does not reach to the page.
    pub fn request_stop(&self) -> Result<(), MachineError> {
        self.memory.store(1_u32, STOP, Ordering::Release).map_err(unmapped)
    }
}

fn unmapped(error: GuestMemoryError) -> MachineError {
    MachineError::Machine(format!("the input page is not in the machine's memory: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory() -> Arc<GuestMemoryMmap> {
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), INPUT_PAGE as usize + size_of::<InputPage>())]).unwrap())
    }

    /// What L1's side does.
    fn take(memory: &GuestMemoryMmap, count: usize) -> Vec<u8> {
        let written: u32 = memory.load(WRITTEN, Ordering::Acquire).unwrap();
        let mut read: u32 = memory.load(READ, Ordering::Acquire).unwrap();
        let mut bytes = Vec::new();
        while read != written && bytes.len() < count {
            bytes.push(memory.read_obj(GuestAddress(RING + u64::from(read) % INPUT_RING as u64)).unwrap());
            read = read.wrapping_add(1);
        }
        memory.store(read, READ, Ordering::Release).unwrap();
        bytes
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let memory = memory();
        let mut writer = InputWriter::new(Arc::clone(&memory));
        assert_eq!(writer.write(&[7; INPUT_RING + 5]).unwrap(), INPUT_RING);
        assert_eq!(writer.write(&[8]).unwrap(), 0);
        assert_eq!(take(&memory, 3), [7; 3]);
        assert_eq!(writer.write(&[9; 5]).unwrap(), 3);
        assert_eq!(take(&memory, usize::MAX).last(), Some(&9));
    }

    #[test]
    fn counters_wrap() {
        let memory = memory();
        let mut writer = InputWriter::new(Arc::clone(&memory));
        writer.written = u32::MAX - 1;
        memory.store(u32::MAX - 1, READ, Ordering::Release).unwrap();
        assert_eq!(writer.write(b"wrap").unwrap(), 4);
        assert_eq!(take(&memory, 10), b"wrap");
    }

    #[test]
    fn impossible_counters_are_an_error() {
        let memory = memory();
        memory.store(1_u32, READ, Ordering::Release).unwrap();
        assert!(InputWriter::new(memory).write(b"x").is_err());
    }

    #[test]
    fn the_request_to_stop_arrives() {
        let memory = memory();
        InputWriter::new(Arc::clone(&memory)).request_stop().unwrap();
        assert_eq!(memory.read_obj::<u32>(STOP).unwrap(), 1);
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order(steps in proptest::collection::vec((0..3000_usize, 0..3000_usize), 1..40)) {
            let memory = memory();
            let mut writer = InputWriter::new(Arc::clone(&memory));
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            let mut next = 0_u8;
            for (put, got) in steps {
                let bytes: Vec<u8> = (0..put).map(|_| { next = next.wrapping_add(1); next }).collect();
                let taken = writer.write(&bytes).unwrap();
                sent.extend_from_slice(&bytes[..taken]);
                received.extend(take(&memory, got));
            }
            received.extend(take(&memory, usize::MAX));
            prop_assert_eq!(sent, received);
        }
    }
}
