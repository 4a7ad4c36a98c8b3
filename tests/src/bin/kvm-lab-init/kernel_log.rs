//! What the kernel says while a job runs, whatever its log level: read from the kernel's own buffer.
//!
//! The console would show only what is urgent, and at the same port as our frames.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;

/// One message is one read of this device (Linux, Documentation/ABI/testing/dev-kmsg).
const DEVICE: &str = "/dev/kmsg";
/// Longest record that the kernel gives out (`CONSOLE_EXT_LOG_MAX`).
const RECORD: usize = 8192;

/// The place in the kernel's buffer where a job's messages begin.
#[derive(Debug)]
pub struct KernelLog {
    device: File,
}

impl KernelLog {
    /// Remembers that what the kernel says from here on is wanted.
    pub fn begin() -> io::Result<Self> {
        let mut device = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(DEVICE)?;
        device.seek(SeekFrom::End(0))?;
        Ok(Self { device })
    }

    /// What it said since, as `dmesg` prints it.
    pub fn read(mut self) -> io::Result<String> {
        let mut text = String::new();
        let mut record = [0; RECORD];
        loop {
            match self.device.read(&mut record) {
                Ok(0) => return Ok(text),
                Ok(length) => text.extend(line(&String::from_utf8_lossy(&record[..length]))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(text),
                // The buffer has gone round; the next read gives the oldest message that is left.
                Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A record is `priority,number,microseconds,flags;message`, then lines about the device, which begin with a blank.
fn line(record: &str) -> Option<String> {
    let (header, message) = record.split_once(';')?;
    let microseconds: u64 = header.split(',').nth(2)?.parse().ok()?;
    let message = message.lines().next().unwrap_or_default();
    Some(format!("[{:5}.{:06}] {message}\n", microseconds / 1_000_000, microseconds % 1_000_000))
}
