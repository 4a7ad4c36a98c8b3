//! The host's side of a run, on the machine: the channel outwards, input and the request to stop inwards.
#![expect(unsafe_code, reason = "the input page, which the host writes")]

use core::ptr;
use core::sync::atomic::{Ordering, compiler_fence};

use heapless::Deque;
use l1_protocol::boot::{MACHINE_BOCHS, MACHINE_KVM};
use l1_protocol::frame::FrameKind;
use l1_protocol::input::{ESCAPE, ESCAPE_STOP, INPUT_RING, InputPage};
use l1_protocol::memory_map::INPUT_PAGE;
use l1_protocol::port::BOCHS_INPUT;

use crate::channel::Channel;
use crate::device::Console;
use crate::hardware::port::Port;
use crate::vcpu::Host;

/// FIFO control register and its bit that switches the FIFO on: the line is looked at rarely.
const FIFO_CONTROL: u16 = BOCHS_INPUT + 2;
const FIFO_ENABLE: u8 = 0x01;
/// Line control register, its bit that gives access to the divisor, and its value for 8 data bits.
const LINE_CONTROL: u16 = BOCHS_INPUT + 3;
const DIVISOR_LATCH: u8 = 0x80;
const EIGHT_BITS: u8 = 0x03;
/// Line status register of the 16550 and its bit "data ready".
const LINE_STATUS: u16 = BOCHS_INPUT + 5;
const DATA_READY: u8 = 1 << 0;

/// Bytes that wait for L2 at most.
const WAITING: usize = 256;

/// Channel and input together.
#[derive(Debug)]
pub struct HostLink {
    /// Outwards.
    pub channel: &'static mut Channel,
    input: Input,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, and the heap is for the start only")]
enum Input {
    /// Bochs, and the L1 below, if there is one: a serial line, with escape sequences.
    Serial { data: Port, status: Port, line: SerialLine, acknowledges: bool },
    /// KVM: a page that the host writes while L1 runs.
    Page,
}

/// What came over the serial line and L2 has not taken yet.
#[derive(Debug, Default)]
struct SerialLine {
    escaped: bool,
    waiting: Deque<u8, WAITING>,
}

impl HostLink {
    /// The link on the machine with the number `machine`.
    #[must_use]
    pub fn new(channel: &'static mut Channel, machine: u32) -> Self {
        let input = if machine == MACHINE_KVM {
            Input::Page
        } else {
            // SAFETY: the machine's serial line is L1's own, and reading it breaks nothing.
            let port = |number| unsafe { Port::new(number) };
            // Bochs looks for input only once the rate has been set: divisor 1, then 8 data bits.
            let (data, interrupts, line) = (port(BOCHS_INPUT), port(BOCHS_INPUT + 1), port(LINE_CONTROL));
            line.write_u8(DIVISOR_LATCH);
            data.write_u8(1);
            interrupts.write_u8(0);
            line.write_u8(EIGHT_BITS);
            port(FIFO_CONTROL).write_u8(FIFO_ENABLE);
            // The L1 below offers no more than its line has room for.
            let acknowledges = machine == MACHINE_BOCHS;
            Input::Serial { data, status: port(LINE_STATUS), line: SerialLine::default(), acknowledges }
        };
        Self { channel, input }
    }
}

impl Console for HostLink {
    fn bytes(&mut self, bytes: &[u8]) {
        self.channel.console(bytes);
    }
}

impl Host for HostLink {
    fn idle(&mut self) {
        self.channel.flush();
    }

    fn records(&mut self, bytes: &[u8]) {
        self.channel.frame(FrameKind::Trace, &[bytes]);
        self.channel.flush();
    }

    fn poll(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match &mut self.input {
            Input::Serial { data, status, line, acknowledges } => {
                let (polled, taken) = poll_serial(*data, *status, line, buffer);
                if *acknowledges && taken > 0 {
                    self.channel.frame(FrameKind::InputTaken, &[&[taken]]);
                }
                polled
            }
            Input::Page => poll_page(buffer),
        }
    }
}

/// Takes everything from the line, so that a stop request is found behind bytes that L2 has no room for yet, and hands
/// out what L2 has room for. `None` means stop. The number is that of the bytes taken.
fn poll_serial(data: Port, status: Port, line: &mut SerialLine, buffer: &mut [u8]) -> (Option<usize>, u8) {
    let mut taken = 0;
    while !line.waiting.is_full() && taken < u8::MAX && status.read_u8() & DATA_READY != 0 {
        taken += 1;
        match (core::mem::take(&mut line.escaped), data.read_u8()) {
            (false, ESCAPE) => line.escaped = true,
            (true, ESCAPE_STOP) => return (None, taken),
            // There is room, as the loop has checked.
            (_, byte) => drop(line.waiting.push_back(byte)),
        }
    }
    let mut used = 0;
    while used < buffer.len()
        && let Some(byte) = line.waiting.pop_front()
    {
        buffer[used] = byte;
        used += 1;
    }
    (Some(used), taken)
}

fn poll_page(buffer: &mut [u8]) -> Option<usize> {
    let page = ptr::with_exposed_provenance_mut::<InputPage>(INPUT_PAGE as usize);
    // SAFETY: the page is mapped, aligned and used for nothing else; the host writes `written`, `stop` and the ring,
    // L1 writes `read`. Volatile accesses through raw pointers, as the host writes at any time.
    unsafe {
        if ptr::read_volatile(&raw const (*page).stop) != 0 {
            return None;
        }
        let written = ptr::read_volatile(&raw const (*page).written);
        compiler_fence(Ordering::Acquire);
        let mut read = ptr::read_volatile(&raw const (*page).read);
        let mut used = 0;
        while used < buffer.len() && read != written {
            buffer[used] = ptr::read_volatile(&raw const (*page).ring[read as usize % INPUT_RING]);
            used += 1;
            read = read.wrapping_add(1);
        }
        compiler_fence(Ordering::Release);
        ptr::write_volatile(&raw mut (*page).read, read);
        Some(used)
    }
}
