//! Bochs as the machine: an emulator of the whole CPU, VMX included, that runs anywhere and repeats to the instruction.

pub mod bare;
pub mod model;
pub mod process;
pub mod reset_rom;

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use l1_protocol::input::{ESCAPE, ESCAPE_STOP, SERIAL_WINDOW};
use l1_protocol::memory_map::{BOOT_INFORMATION, BOOT_PAGE_TABLES, RAM_IMAGE_BASE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{MachineError, MemoryImage, Output, RunningMachine};
use model::Model;
use process::{Configuration, Process};
use reset_rom::Start;

/// Emulated instructions in a second of emulated time, so also the frequency of the time-stamp counter.
pub const INSTRUCTIONS_PER_SECOND: u64 = 100_000_000;

/// A run of L1 on Bochs.
#[derive(Debug)]
pub struct BochsMachine {
    process: Process,
    /// Whether there is an L1 that can be asked to stop.
    has_l1: bool,
    /// Bytes on the serial line that L1 has not taken yet.
    on_the_way: usize,
}

impl BochsMachine {
    /// Starts the machine.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn start(model: &Model, image: MemoryImage) -> Result<Self, MachineError> {
        let process = Self::start_at(model, image, BOOT_PAGE_TABLES, BOOT_INFORMATION)?;
        Ok(Self { process, has_l1: true, on_the_way: 0 })
    }

    /// Starts a machine without L1, with what [`bare::prepare`] gave.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn start_bare(model: &Model, image: MemoryImage) -> Result<Self, MachineError> {
        let process = Self::start_at(model, image, bare::PAGE_TABLES, bare::HANDOVER)?;
        Ok(Self { process, has_l1: false, on_the_way: 0 })
    }

    fn start_at(model: &Model, image: MemoryImage, page_tables: u64, argument: u64) -> Result<Process, MachineError> {
        let end = image.pieces.iter().map(|(address, bytes)| address + bytes.len() as u64).max().unwrap_or(RAM_IMAGE_BASE);
        let rom = reset_rom::build(Start {
            image_start: RAM_IMAGE_BASE as u32,
            image_end: end as u32,
            entry: image.entry as u32,
            argument: argument as u32,
            page_tables: Some(page_tables as u32),
        });
        Ok(Process::start(&Configuration {
            cpu_model: model.bochs,
            instructions_per_second: INSTRUCTIONS_PER_SECOND,
            memory: image.memory_size >> 20,
            rom,
            ram_image_address: RAM_IMAGE_BASE,
            ram_image: image.pieces.into_iter().map(|(address, bytes)| (address - RAM_IMAGE_BASE, bytes)).collect(),
            serial: true,
        })?)
    }
}

impl RunningMachine for BochsMachine {
    fn output(&mut self, wait: Duration) -> Result<Output, MachineError> {
        read_output(&mut self.process, wait)
    }

    fn input(&mut self, bytes: &[u8]) -> Result<usize, MachineError> {
        let mut taken = 0;
        for &byte in bytes {
            let escaped = [ESCAPE, byte];
            let sequence = if byte == ESCAPE { &escaped[..] } else { &escaped[1..] };
            if self.has_l1 && self.on_the_way + sequence.len() > SERIAL_WINDOW {
                break;
            }
            match self.process.write_serial(sequence) {
                Ok(0) => break,
                Ok(_) => {
                    taken += 1;
                    self.on_the_way += sequence.len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(MachineError::System { what: "write to Bochs's serial line", error }),
            }
        }
        Ok(taken)
    }

    fn input_taken(&mut self, bytes: usize) {
        self.on_the_way = self.on_the_way.saturating_sub(bytes);
    }

    fn request_stop(&mut self) -> Result<(), MachineError> {
        if !self.has_l1 {
            self.process.end();
            return Ok(());
        }
        self.process.write_serial(&[ESCAPE, ESCAPE_STOP]).map_err(MachineError::system("write to Bochs's serial line"))?;
        Ok(())
    }

    fn last_words(&self) -> String {
        self.process.last_words()
    }
}

/// Waits for what Bochs prints.
///
/// # Errors
/// [`MachineError`].
pub fn read_output(process: &mut Process, wait: Duration) -> Result<Output, MachineError> {
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    let mut descriptors = [PollFd::new(process.output().as_fd(), PollFlags::POLLIN)];
    match poll(&mut descriptors, timeout) {
        Ok(0) | Err(Errno::EINTR) => return Ok(Output::Nothing),
        Ok(_) => {}
        Err(error) => return Err(MachineError::System { what: "wait for Bochs", error: error.into() }),
    }
    let mut buffer = vec![0; 64 * 1024];
    match process.output().read(&mut buffer) {
        Ok(0) => Ok(Output::Ended),
        Ok(length) => {
            buffer.truncate(length);
            Ok(Output::Bytes(buffer))
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Output::Nothing),
        // A terminal whose other side is closed answers so.
        Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(Output::Ended),
        Err(error) => Err(MachineError::System { what: "read from Bochs", error }),
    }
}
