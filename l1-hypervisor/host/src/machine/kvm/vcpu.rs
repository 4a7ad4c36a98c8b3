//! The thread that runs the virtual processor: KVM_RUN, and L1's writes to its three ports.
//!
//! What always holds: the thread ends soon after [`VcpuThread::request_end`], whatever L1 does. A signal takes it out of
//! KVM_RUN; as a signal that arrives between the look at the flag and KVM_RUN has no effect, it is repeated until the
//! thread is gone.
#![expect(unsafe_code, reason = "a signal handler, and the union in which KVM describes an exit")]

use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::{mem, ptr};

use kvm_ioctls::{VcpuExit, VcpuFd};
use l1_protocol::frame::PAYLOAD_MAXIMUM;
use l1_protocol::port::{KVM_CHANNEL, KVM_DOORBELL, KVM_END};
use nix::errno::Errno;
use nix::libc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::end::{End, EndCause};
use super::virtual_machine::VirtualMachine;
use crate::machine::MachineError;

/// Doorbells that may wait for the session; then L1 waits.
const WAITING: usize = 64;
/// The most bytes a doorbell may hand over: no buffer of L1 is larger.
const DOORBELL_MAXIMUM: u32 = 2 * PAYLOAD_MAXIMUM as u32;

/// What the virtual processor reports.
#[derive(Debug)]
pub enum Event {
    /// Bytes of L1's stream.
    Bytes(Vec<u8>),
    /// It will not run any more. The last event.
    Ended(End),
}

/// The thread.
#[derive(Debug)]
pub struct VcpuThread {
    handle: Option<JoinHandle<()>>,
    shall_end: Arc<AtomicBool>,
}

impl VcpuThread {
    /// Starts the virtual processor.
    ///
    /// # Errors
    /// If there can be no thread or signal handler.
    pub fn start(machine: VirtualMachine, memory: Arc<GuestMemoryMmap>) -> Result<(Self, Receiver<Event>), MachineError> {
        let (sender, receiver) = sync_channel(WAITING);
        let shall_end = Arc::new(AtomicBool::new(false));
        catch_signal().map_err(MachineError::system("catch the signal that stops a virtual processor"))?;
        let flag = Arc::clone(&shall_end);
        let handle = thread::Builder::new()
            .name("vcpu".to_owned())
            .spawn(move || {
                let VirtualMachine { mut vcpu, .. } = machine;
                let mut ports = Ports { memory, channel: None };
                if let Some(end) = run(&mut vcpu, &mut ports, &sender, &flag) {
                    // Fails if nobody listens any more.
                    let _ = sender.send(Event::Ended(end));
                }
            })
            .map_err(MachineError::system("start the thread of the virtual processor"))?;
        Ok((Self { handle: Some(handle), shall_end }, receiver))
    }

    /// Asks the thread to end. [`Self::interrupt`] must follow until it has.
    pub fn request_end(&self) {
        self.shall_end.store(true, Ordering::Relaxed);
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Takes the virtual processor out of KVM_RUN.
    pub fn interrupt(&self) {
        if let Some(handle) = &self.handle {
            // SAFETY: the thread has not been joined, so its number is valid even if it has ended; the signal has a handler.
            unsafe { libc::pthread_kill(handle.as_pthread_t(), libc::SIGRTMIN()) };
        }
    }

    /// Waits for the end of the thread.
    pub fn join(&mut self) {
        if let Some(handle) = self.handle.take() {
            // Only a panic of the thread can be found here, and that was printed.
            let _ = handle.join();
        }
    }
}

/// Gives SIGRTMIN a handler that does nothing: it is enough that a system call is interrupted.
fn catch_signal() -> Result<(), Errno> {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: an all-zero `sigaction` is valid; without SA_RESTART system calls end with EINTR; the handler touches nothing.
    let result = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGRTMIN(), &raw const action, ptr::null_mut())
    };
    Errno::result(result).map(drop)
}

/// Runs until there is an end to report, or `None` if nobody wants one.
fn run(vcpu: &mut VcpuFd, ports: &mut Ports, sender: &SyncSender<Event>, shall_end: &AtomicBool) -> Option<End> {
    let cause = loop {
        if shall_end.load(Ordering::Relaxed) {
            return None;
        }
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            // EAGAIN: a signal before the processor ran at all.
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => continue,
            Err(error) => break EndCause::Run(error.to_string()),
        };
        match exit {
            VcpuExit::IoOut(port, data) => match ports.write(port, data) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => sender.send(Event::Bytes(bytes)).ok()?,
                Err(cause) => break cause,
            },
            VcpuExit::Intr => {}
            VcpuExit::InternalError => break internal_error(vcpu),
            exit => break cause_of(exit),
        }
    };
    let registers = match (&cause, vcpu.get_regs(), vcpu.get_sregs()) {
        (EndCause::Regular, ..) => None,
        (_, Ok(general), Ok(special)) => Some(Box::new((general, special))),
        _ => None,
    };
    Some(End { cause, registers })
}

/// The cause for an exit that ends the machine.
fn cause_of(exit: VcpuExit<'_>) -> EndCause {
    match exit {
        VcpuExit::Shutdown => EndCause::TripleFault,
        VcpuExit::FailEntry(reason, processor) => EndCause::FailedEntry { reason, processor },
        VcpuExit::MmioRead(address, data) => EndCause::OutsideMemory { address, length: data.len(), is_write: false },
        VcpuExit::MmioWrite(address, data) => EndCause::OutsideMemory { address, length: data.len(), is_write: true },
        VcpuExit::IoIn(port, data) => EndCause::Port { port, length: data.len(), is_write: false },
        VcpuExit::IoOut(port, data) => EndCause::Port { port, length: data.len(), is_write: true },
        other => EndCause::Unexpected(format!("{other:?}")),
    }
}

fn internal_error(vcpu: &mut VcpuFd) -> EndCause {
    // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, so KVM has filled this member of the union.
    let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let count = internal.data.len().min(internal.ndata as usize);
    EndCause::InternalError { suberror: internal.suberror, data: internal.data[..count].to_vec() }
}

/// L1's three ports.
#[derive(Debug)]
struct Ports {
    memory: Arc<GuestMemoryMmap>,
    /// Where the channel buffer lies, once L1 has said it.
    channel: Option<u32>,
}

impl Ports {
    /// Takes a write and returns the bytes that L1 hands over with it.
    fn write(&mut self, port: u16, data: &[u8]) -> Result<Vec<u8>, EndCause> {
        let unknown = EndCause::Port { port, length: data.len(), is_write: true };
        let Ok(value) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else { return Err(unknown) };
        match port {
            KVM_CHANNEL => {
                self.check(value, 1)?;
                self.channel = Some(value);
                Ok(Vec::new())
            }
            KVM_DOORBELL => self.take(value),
            KVM_END => Err(EndCause::Regular),
            _ => Err(unknown),
        }
    }

    fn take(&self, length: u32) -> Result<Vec<u8>, EndCause> {
        let address = self.channel.unwrap_or(u32::MAX);
        self.check(address, length)?;
        let mut bytes = vec![0; length as usize];
        match self.memory.read_slice(&mut bytes, GuestAddress(address.into())) {
            Ok(()) => Ok(bytes),
            Err(_) => Err(EndCause::Channel { address, length }),
        }
    }

    fn check(&self, address: u32, length: u32) -> Result<(), EndCause> {
        let is_inside = length == 0 || self.memory.check_range(GuestAddress(address.into()), length as usize);
        if length <= DOORBELL_MAXIMUM && is_inside { Ok(()) } else { Err(EndCause::Channel { address, length }) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const MEMORY: u32 = 0x20_0000;

    fn ports() -> Ports {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        memory.write_slice(b"hello", GuestAddress(0x1000)).unwrap();
        Ports { memory: Arc::new(memory), channel: None }
    }

    fn write(ports: &mut Ports, port: u16, value: u32) -> Result<Vec<u8>, EndCause> {
        ports.write(port, &value.to_le_bytes())
    }

    #[test]
    fn a_doorbell_hands_over_what_the_buffer_holds() {
        let mut ports = ports();
        assert_eq!(write(&mut ports, KVM_CHANNEL, 0x1000), Ok(vec![]));
        assert_eq!(write(&mut ports, KVM_DOORBELL, 5), Ok(b"hello".to_vec()));
        assert_eq!(write(&mut ports, KVM_DOORBELL, 0), Ok(vec![]));
        assert_eq!(write(&mut ports, KVM_END, 0), Err(EndCause::Regular));
    }

    #[test]
    fn what_is_not_in_memory_is_refused() {
        let mut ports = ports();
        assert_eq!(write(&mut ports, KVM_DOORBELL, 1), Err(EndCause::Channel { address: u32::MAX, length: 1 }));
        assert_eq!(write(&mut ports, KVM_CHANNEL, MEMORY), Err(EndCause::Channel { address: MEMORY, length: 1 }));
        write(&mut ports, KVM_CHANNEL, MEMORY - 4).unwrap();
        assert_eq!(write(&mut ports, KVM_DOORBELL, 4), Ok(vec![0; 4]));
        assert_eq!(write(&mut ports, KVM_DOORBELL, 5), Err(EndCause::Channel { address: MEMORY - 4, length: 5 }));
        write(&mut ports, KVM_CHANNEL, 0).unwrap();
        assert!(write(&mut ports, KVM_DOORBELL, u32::MAX).is_err());
        assert!(write(&mut ports, KVM_DOORBELL, DOORBELL_MAXIMUM + 1).is_err());
    }

    #[test]
    fn other_ports_and_widths_end_the_machine() {
        let mut ports = ports();
        assert_eq!(write(&mut ports, 0x80, 0), Err(EndCause::Port { port: 0x80, length: 4, is_write: true }));
        assert_eq!(ports.write(KVM_END, &[0]), Err(EndCause::Port { port: KVM_END, length: 1, is_write: true }));
    }
}
