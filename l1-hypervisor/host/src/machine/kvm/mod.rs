//! A KVM guest as the machine: L1 runs on the processor itself, and the KVM below emulates VMX for it.
//!
//! What always holds: the thread that runs the virtual processor does not outlive its [`KvmMachine`]; what L1 sent
//! before the machine ended is delivered before [`Output::Ended`]; nothing L1 writes to a port is believed before it
//! is checked.

mod check;
mod end;
mod input;
mod vcpu;
mod virtual_machine;

#[cfg(test)]
mod tests;

pub use check::{KvmProblem, check};

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use vm_memory::GuestMemoryMmap;

use super::{MachineError, MemoryImage, Output, RunningMachine};
use input::InputWriter;
use vcpu::{Event, VcpuThread};
use virtual_machine::VirtualMachine;

/// A run of L1 in a KVM guest.
#[derive(Debug)]
pub struct KvmMachine {
    // In this order: a thread that waits for room in the channel ends when the receiver is gone.
    events: Receiver<Event>,
    thread: VcpuThread,
    input: InputWriter,
    last_words: Option<String>,
}

impl KvmMachine {
    /// Starts the machine.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn start(image: MemoryImage) -> Result<Self, MachineError> {
        let (machine, memory) = VirtualMachine::build(image)?;
        let memory: Arc<GuestMemoryMmap> = Arc::new(memory);
        let input = InputWriter::new(Arc::clone(&memory));
        let (thread, events) = VcpuThread::start(machine, memory)?;
        Ok(Self { events, thread, input, last_words: None })
    }
}

impl RunningMachine for KvmMachine {
    fn output(&mut self, wait: Duration) -> Result<Output, MachineError> {
        if self.last_words.is_some() {
            return Ok(Output::Ended);
        }
        match self.events.recv_timeout(wait) {
            Ok(Event::Bytes(bytes)) => Ok(Output::Bytes(bytes)),
            Ok(Event::Ended(end)) => {
                self.last_words = Some(end.to_string());
                Ok(Output::Ended)
            }
            Err(RecvTimeoutError::Timeout) => Ok(Output::Nothing),
            Err(RecvTimeoutError::Disconnected) => {
                self.last_words = Some("the thread of the virtual processor ended without saying why".to_owned());
                Ok(Output::Ended)
            }
        }
    }

    fn input(&mut self, bytes: &[u8]) -> Result<usize, MachineError> {
        self.input.write(bytes)
    }

    fn request_stop(&mut self) -> Result<(), MachineError> {
        self.input.request_stop()
    }

    fn last_words(&self) -> String {
        self.last_words.clone().unwrap_or_default()
    }
}

impl Drop for KvmMachine {
    fn drop(&mut self) {
        self.thread.request_end();
        // A thread that waits for room in the channel finds it here; what it sent is wanted by nobody any more.
        while !self.thread.is_finished() {
            let _ = self.events.recv_timeout(Duration::from_millis(1));
            self.thread.interrupt();
        }
        self.thread.join();
    }
}

/// Ticks of the time-stamp counter of a KVM guest in a second.
///
/// # Errors
/// [`MachineError`]; also if KVM does not know, as L2's clocks could not be right then.
pub fn tsc_frequency() -> Result<u64, MachineError> {
    let kvm = kvm_ioctls::Kvm::new().map_err(MachineError::system("open /dev/kvm"))?;
    let vm = kvm.create_vm().map_err(MachineError::system("create a virtual machine"))?;
    let vcpu = vm.create_vcpu(0).map_err(MachineError::system("create a virtual processor"))?;
    match vcpu.get_tsc_khz() {
        Ok(kilohertz @ 1..) => Ok(u64::from(kilohertz) * 1000),
        Ok(0) => Err(MachineError::Machine("KVM does not know the frequency of the time-stamp counter".to_owned())),
        // EIO: the host has found its time-stamp counter to be unreliable.
        Err(error) => {
            Err(MachineError::System { what: "get the frequency of the time-stamp counter from KVM", error: error.into() })
        }
    }
}
