//! Tests of the emulation: against the host's processor, and case by case where that cannot run the code.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod addressing;
mod arbitrary;
mod bus;
mod errors;
#[macro_use]
mod native;
mod ahead;
mod strings;

use super::*;
use crate::context::register::{RAX, RCX, RDI, RDX, RSI};
use crate::guest_memory::GuestMemory;
use crate::guest_memory::GuestPhysical;
use std::vec::Vec;
use std::{format, vec};

const CODE: u64 = 0x2000;
const DATA: u64 = 0x8000;
/// Where the root table lies; more follow.
const TABLES: u64 = 0x1_0000;
const RAM: usize = 0x4_0000;
/// Two pages of a device that keeps what is written.
const DEVICE: u64 = 0x8000_0000;
const DEVICE_SIZE: usize = 0x2000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read(u64, usize),
    Write(u64, usize, u64),
}

#[derive(Debug)]
struct Device {
    bytes: Vec<u8>,
    log: Vec<Access>,
}

impl MmioBus for Device {
    fn read(&mut self, address: GuestPhysical, size: usize) -> u64 {
        self.log.push(Access::Read(address.0, size));
        let start = address.0.wrapping_sub(DEVICE) as usize;
        let mut bytes = [0xff; 8];
        if let Some(source) = start.checked_add(size).and_then(|end| self.bytes.get(start..end)) {
            bytes[..size].copy_from_slice(source);
        }
        // The bytes above the size are ones: the emulation has to ignore them.
        u64::from_le_bytes(bytes)
    }

    fn write(&mut self, address: GuestPhysical, size: usize, value: u64) {
        assert!((1..=8).contains(&size) && value & !access::low_bytes(size) == 0, "{size} bytes: {value:#x}");
        assert!(address.0 % 4096 + size as u64 <= 4096, "{:#x} crosses a page", address.0);
        self.log.push(Access::Write(address.0, size, value));
        let start = address.0.wrapping_sub(DEVICE) as usize;
        if let Some(target) = start.checked_add(size).and_then(|end| self.bytes.get_mut(start..end)) {
            target.copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }
}

/// A guest with some RAM, a device and one instruction to execute.
#[derive(Debug)]
struct Guest {
    ram: Vec<u8>,
    paging: PagingState,
    next_table: u64,
    general: [u64; 16],
    rsp: u64,
    rip: u64,
    rflags: u64,
    segment_bases: [u64; 6],
    mode: Bitness,
    device: Device,
}

impl Guest {
    /// In 64-bit mode, with code, data and the device mapped where they lie; otherwise without paging.
    fn new(mode: Bitness) -> Self {
        let long_mode = mode == Bitness::Bits64;
        let paging = PagingState {
            cr0: if long_mode { 1 << 31 | 1 << 16 } else { 0 },
            cr3: TABLES,
            cr4: 1 << 5,
            efer: 1 << 10 | 1 << 11,
            long_mode,
            physical_address_width: 39,
            ..PagingState::default()
        };
        let mut guest = Self {
            ram: vec![0; RAM],
            paging,
            next_table: TABLES + 4096,
            general: [0; 16],
            rsp: 0,
            rip: CODE,
            rflags: 2,
            segment_bases: [0; 6],
            mode,
            device: Device { bytes: vec![0; DEVICE_SIZE], log: Vec::new() },
        };
        for page in [CODE, CODE + 4096, DATA, DATA + 4096, DEVICE, DEVICE + 4096] {
            guest.map(page, page, PRESENT | WRITABLE);
        }
        guest
    }

    fn long() -> Self {
        Self::new(Bitness::Bits64)
    }

    fn memory(&mut self) -> GuestMemory<'_> {
        GuestMemory::new(&mut self.ram)
    }

    /// Maps the page at `linear` to the one at `physical`, in 4-level tables.
    fn map(&mut self, linear: u64, physical: u64, bits: u64) {
        let mut table = TABLES;
        for shift in [39, 30, 21] {
            let entry = GuestPhysical(table + (linear >> shift) % 512 * 8);
            if self.memory().read_u64(entry) == 0 {
                let new = self.next_table;
                self.next_table += 4096;
                self.memory().write(entry, &(new | PRESENT | WRITABLE).to_le_bytes());
            }
            table = self.memory().read_u64(entry) & !0xfff;
        }
        let entry = GuestPhysical(table + (linear >> 12) % 512 * 8);
        self.memory().write(entry, &(physical | bits).to_le_bytes());
    }

    /// Executes `code` at the guest's RIP, which is a physical address too unless a test says otherwise.
    fn run(&mut self, code: &[u8]) -> Result<Outcome, EmulationError> {
        self.place(code);
        self.emulate()
    }

    fn place(&mut self, code: &[u8]) {
        let base = if self.mode == Bitness::Bits64 { 0 } else { self.segment_bases[1] };
        let start = GuestPhysical(self.rip.wrapping_add(base) % 0x1_0000);
        self.memory().write(start, code);
    }

    /// Sets the flags in the tables that fetching the instruction sets, whatever comes of it.
    fn note_fetch(&mut self) {
        translate(&mut GuestMemory::new(&mut self.ram), &self.paging, self.rip, AccessKind::Execute).ok();
    }

    fn emulate(&mut self) -> Result<Outcome, EmulationError> {
        let (mut state, mut memory, paging, device) = self.parts();
        emulate(&mut state, &mut memory, paging, device)
    }

    /// What an instruction works with, borrowed apart.
    fn parts(&mut self) -> (InstructionState<'_>, GuestMemory<'_>, &PagingState, &mut Device) {
        let state = InstructionState {
            general: &mut self.general,
            rsp: &mut self.rsp,
            rip: self.rip,
            rflags: &mut self.rflags,
            segment_bases: self.segment_bases,
            mode: self.mode,
        };
        (state, GuestMemory::new(&mut self.ram), &self.paging, &mut self.device)
    }

    /// Executes `code`, all of which must be one instruction that completes; returns what the device saw.
    fn complete(&mut self, code: &[u8]) -> Vec<Access> {
        let next_rip = self.rip + code.len() as u64;
        assert_eq!(self.run(code), Ok(Outcome::Completed { next_rip }), "{code:02x?}");
        std::mem::take(&mut self.device.log)
    }

    /// Everything a failed instruction must not change.
    fn snapshot(&self) -> impl PartialEq + use<> {
        (self.ram.clone(), self.general, self.rsp, self.rflags, self.device.log.clone(), self.device.bytes.clone())
    }
}
