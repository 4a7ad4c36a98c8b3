//! A virtual machine with one processor and a little memory, run to its end.
#![expect(unsafe_code, reason = "memory that the virtual machine is given")]

use std::error::Error;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_pit_config, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};

use crate::guests::{ANSWER, DEVICE_BYTES, Event, Guest, HIGH_DEVICE, LOW_DEVICE, Mode, QUESTION, REPORT};

/// Where the code goes; the stack is below.
const CODE: usize = 0x1000;
const STACK: u64 = 0xf00;
/// Page tables of long mode: PML4, PDPT, and page directories of the first and second GiB.
const PAGE_TABLES: usize = 0x8000;
/// GDT of long mode: null, 64-bit code, data.
const DESCRIPTORS: usize = 0x6000;
const MEMORY: usize = 0x1_0000;
/// More exits than any guest makes.
const MOST_EXITS: usize = 100;

const CR0_PROTECTION: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;

#[repr(align(4096))]
struct Memory([u8; MEMORY]);

/// Runs a guest until it halts or, with KVM's devices, reports. What it did until then.
pub fn run(guest: &Guest) -> Result<Vec<Event>, Box<dyn Error>> {
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.set_tss_address(0xfffb_d000)?;
    if guest.has_devices {
        vm.create_irq_chip()?;
        vm.create_pit2(kvm_pit_config::default())?;
    }
    // Never freed: KVM keeps it until the virtual machine is gone.
    let memory = Box::leak(Box::new(Memory([0; MEMORY])));
    fill(&mut memory.0, guest);
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: (&raw mut memory.0).expose_provenance() as u64,
    };
    // SAFETY: the memory is never freed, and nothing here reads or writes it any more.
    unsafe { vm.set_user_memory_region(region) }?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let mut special = vcpu.get_sregs()?;
    match guest.mode {
        Mode::Real => {
            special.cs.base = 0;
            special.cs.selector = 0;
        }
        Mode::Long => enter_long_mode(&mut special),
    }
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&kvm_regs { rip: CODE as u64, rsp: STACK, rflags: 2, ..kvm_regs::default() })?;

    let mut events = Vec::new();
    while events.len() < MOST_EXITS {
        let event = match vcpu.run()? {
            VcpuExit::IoOut(port, data) => Event::Out(port, number(data)),
            VcpuExit::IoIn(port, data) => {
                data.fill(if port == QUESTION { ANSWER } else { 0xff });
                Event::In(port)
            }
            VcpuExit::MmioRead(address, data) => {
                data.copy_from_slice(&DEVICE_BYTES[..data.len()]);
                Event::MemoryRead(address, data.len())
            }
            VcpuExit::MmioWrite(address, data) => written(guest, address, data),
            VcpuExit::Hlt => Event::Halt,
            exit => return Err(format!("unexpected exit {exit:?} after {events:?}").into()),
        };
        let is_last = event == Event::Halt || guest.has_devices && matches!(event, Event::Out(REPORT, _));
        events.push(event);
        if is_last {
            return Ok(events);
        }
    }
    Err(format!("no end after {events:?}").into())
}

fn number(data: &[u8]) -> u32 {
    data.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The write as the guest is expected to make it, if it is.
fn written(guest: &Guest, address: u64, data: &[u8]) -> Event {
    let same = |event: &&Event| matches!(event, Event::MemoryWrite(at, bytes) if *at == address && *bytes == data);
    guest.expected.iter().find(same).cloned().unwrap_or_else(|| Event::OtherWrite(address, data.to_vec()))
}

fn fill(memory: &mut [u8; MEMORY], guest: &Guest) {
    const USABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let code = (guest.code)();
    memory[CODE..CODE + code.len()].copy_from_slice(code);
    let mut set = |address: usize, value: u64| memory[address..address + 8].copy_from_slice(&value.to_le_bytes());
    set(DESCRIPTORS + 8, 0x00af_9b00_0000_ffff);
    set(DESCRIPTORS + 16, 0x00cf_9300_0000_ffff);
    let table = |number: usize| PAGE_TABLES + number * 0x1000;
    set(table(0), table(1) as u64 | USABLE);
    set(table(1), table(2) as u64 | USABLE);
    set(table(1) + 8, table(3) as u64 | USABLE);
    set(table(2), LARGE | USABLE);
    set(table(3), HIGH_DEVICE | LARGE | USABLE);
    const { assert!(LOW_DEVICE as usize > MEMORY) };
}

fn enter_long_mode(special: &mut kvm_sregs) {
    // Read/write data, accessed (SDM 3A table 3-1 "Code- and Data-Segment Types").
    let data = kvm_segment { limit: u32::MAX, selector: 0x10, type_: 3, present: 1, db: 1, s: 1, g: 1, ..kvm_segment::default() };
    special.cs = kvm_segment { selector: 0x8, type_: 11, l: 1, db: 0, ..data };
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.gdt.base = DESCRIPTORS as u64;
    special.gdt.limit = 23;
    special.cr0 = CR0_PAGING | CR0_NUMERIC_ERROR | CR0_EXTENSION_TYPE | CR0_PROTECTION;
    special.cr3 = PAGE_TABLES as u64;
    special.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
    special.efer = EFER_LONG_MODE;
}
