//! The way to the host: frames, collected in a buffer and sent in one go.
//!
//! The only part of the image beside its entry that knows which machine it runs on: on Bochs the buffer is written to
//! the debug console with one instruction, on KVM the host takes it from memory when a port is written. As a guest of this
//! hypervisor L1 uses the debug console as on Bochs, and the debug exit device to end.

use core::fmt;

use l1_protocol::boot::{MACHINE_GUEST, MACHINE_KVM};
use l1_protocol::frame::{FrameKind, HEADER, OPENING, PAYLOAD_MAXIMUM, Severity, header};
use l1_protocol::guest::{DEBUG_CONSOLE_PORT, DEBUG_EXIT_PORT, DEBUG_EXIT_SUCCESS};
use l1_protocol::port::{BOCHS_DEBUG_CONSOLE, BOCHS_SHUTDOWN, BOCHS_SHUTDOWN_WORD, KVM_CHANNEL, KVM_DOORBELL, KVM_END};

use crate::hardware::port::Port;
use crate::hardware::processor;

/// Bytes of the buffer: one frame of the largest size and room for small ones.
const BUFFER: usize = PAYLOAD_MAXIMUM + 4096;
/// Bytes of console output that are held back at most. What L2 prints becomes visible at the end of a line, when this
/// much has come together, or when L2 waits.
const CONSOLE: usize = 256;

/// Where frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// Not known yet. The first variant, so that a channel that was not opened is all zero and lies in .bss.
    Unknown,
    Bochs {
        console: Port,
        shutdown: Port,
    },
    Kvm {
        doorbell: Port,
        end: Port,
    },
    Guest {
        console: Port,
        exit: Port,
    },
}

/// The channel. Console output and frames keep their order.
#[derive(Debug)]
pub struct Channel {
    machine: Machine,
    used: usize,
    console_used: usize,
    console: [u8; CONSOLE],
    buffer: [u8; BUFFER],
}

impl Channel {
    /// A channel that leads nowhere until [`Self::open`].
    #[must_use]
    pub const fn new() -> Self {
        Self { machine: Machine::Unknown, used: 0, console_used: 0, console: [0; CONSOLE], buffer: [0; BUFFER] }
    }

    /// Connects the channel on the machine with the number `machine` of `l1_protocol::boot`. The channel must not move
    /// any more.
    #[expect(unsafe_code, reason = "names the ports that L1 may use")]
    pub fn open(&mut self, machine: u32) {
        // SAFETY: these ports exist for L1 alone and do what this module uses them for.
        let port = |number| unsafe { Port::new(number) };
        self.machine = match machine {
            MACHINE_KVM => {
                port(KVM_CHANNEL).write_u32(self.buffer.as_ptr().addr() as u32);
                Machine::Kvm { doorbell: port(KVM_DOORBELL), end: port(KVM_END) }
            }
            MACHINE_GUEST => Machine::Guest { console: port(DEBUG_CONSOLE_PORT), exit: port(DEBUG_EXIT_PORT) },
            _ => Machine::Bochs { console: port(BOCHS_DEBUG_CONSOLE), shutdown: port(BOCHS_SHUTDOWN) },
        };
        self.append(OPENING);
        self.flush();
    }

    /// Puts a frame into the buffer; its payload is `parts`, one after the other, cut at the largest payload.
    pub fn frame(&mut self, kind: FrameKind, parts: &[&[u8]]) {
        self.send_console();
        self.append_frame(kind, parts);
    }

    /// Sends a message of L1 itself.
    pub fn message(&mut self, severity: Severity, text: fmt::Arguments) {
        let mut line = Text::<1024>::new();
        // Text cuts what does not fit and never fails.
        let _ = fmt::write(&mut line, text);
        self.frame(FrameKind::Message, &[&[severity as u8], line.bytes()]);
        self.flush();
    }

    /// Takes what L2 printed.
    pub fn console(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.console_used == CONSOLE {
                self.flush();
            }
            self.console[self.console_used] = byte;
            self.console_used += 1;
        }
        if bytes.contains(&b'\n') {
            self.flush();
        }
    }

    /// Hands everything to the host.
    pub fn flush(&mut self) {
        self.send_console();
        if self.used > 0 {
            match self.machine {
                Machine::Bochs { console, .. } | Machine::Guest { console, .. } => console.write_bytes(&self.buffer[..self.used]),
                Machine::Kvm { doorbell, .. } => doorbell.write_u32(self.used as u32),
                Machine::Unknown => {}
            }
            self.used = 0;
        }
    }

    /// Ends the machine. Everything is sent before.
    pub fn end_machine(&mut self) -> ! {
        self.flush();
        match self.machine {
            Machine::Bochs { shutdown, .. } => BOCHS_SHUTDOWN_WORD.iter().for_each(|&byte| shutdown.write_u8(byte)),
            Machine::Kvm { end, .. } => end.write_u32(0),
            // Success: how L1's own guest has ended stands in the last frame, and the host has that.
            Machine::Guest { exit, .. } => exit.write_u32(DEBUG_EXIT_SUCCESS),
            Machine::Unknown => {}
        }
        processor::stop()
    }

    fn send_console(&mut self) {
        if self.console_used > 0 {
            let (bytes, used) = (self.console, self.console_used);
            self.console_used = 0;
            self.append_frame(FrameKind::Console, &[&bytes[..used]]);
        }
    }

    fn append_frame(&mut self, kind: FrameKind, parts: &[&[u8]]) {
        let length = parts.iter().map(|part| part.len()).sum::<usize>().min(PAYLOAD_MAXIMUM);
        if self.used + HEADER + length > BUFFER {
            self.flush_buffer_only();
        }
        self.append(&header(kind, length));
        let mut left = length;
        for part in parts {
            let taken = part.len().min(left);
            self.append(&part[..taken]);
            left -= taken;
        }
    }

    /// Sends the buffer but not the console bytes, which come after it.
    fn flush_buffer_only(&mut self) {
        let console_used = core::mem::take(&mut self.console_used);
        self.flush();
        self.console_used = console_used;
    }

    fn append(&mut self, bytes: &[u8]) {
        self.buffer[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }
}

impl Default for Channel {
    fn default() -> Self {
        Self::new()
    }
}

/// Text of limited length; what does not fit is cut.
#[derive(Debug)]
pub struct Text<const SIZE: usize> {
    used: usize,
    bytes: [u8; SIZE],
}

impl<const SIZE: usize> Text<SIZE> {
    /// No text.
    #[must_use]
    pub const fn new() -> Self {
        Self { used: 0, bytes: [0; SIZE] }
    }

    /// The text.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl<const SIZE: usize> Default for Text<SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const SIZE: usize> fmt::Write for Text<SIZE> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.len().min(SIZE - self.used);
        self.bytes[self.used..self.used + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.used += fits;
        Ok(())
    }
}
