//! A guest on the processor of the tests: memory, host, and a VMCS that `vmcs12` has set up.

use l1_protocol::boot::{self, BootInformation};
use l1_protocol::guest::{START_LONG_MODE, START_REAL_MODE};
use vmcs::controls::SecondaryProcessorBased;
use vmcs::field::Field;

use super::answers::capabilities;
use super::exit::Scripted;
use super::host::TestHost;
use super::platform::TestPlatform;
use crate::cpuid::Features;
use crate::exit::dispatch;
use crate::exit::information::Exit;
use crate::exit::{Action, End};
use crate::guest_memory::{GuestMemory, GuestPhysical};
use crate::nested_profile::nested_profile;
use crate::platform::CpuidResult;
use crate::vcpu::Vcpu;
use crate::vmcs12::{self, Controls, HostState, Structures};

/// RIP at the start.
pub(crate) const START: u64 = 0x1_0000;
/// The time-stamp counter at the start.
pub(crate) const TSC_START: u64 = 5_000_000;
/// Its frequency: a tick is 10 ns.
pub(crate) const TSC_FREQUENCY: u64 = 100_000_000;
/// Where the page tables of a guest in long mode lie: PML4, PDPT and a page directory that maps the first GiB.
const PAGE_TABLES: u64 = 0x1000;
const RAM: usize = 1 << 20;

/// The virtual processor of the tests.
pub(crate) type TestVcpu<'m> = Vcpu<'m, TestPlatform>;

/// Everything that a virtual processor borrows, and how it shall start.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) ram: Vec<u8>,
    pub(crate) host: TestHost,
    pub(crate) information: BootInformation,
    pub(crate) cpuid: fn(u32, u32) -> CpuidResult,
    mode: u32,
}

impl Machine {
    /// A guest that starts in this mode, one of the `START_…` constants.
    pub(crate) fn new(mode: u32) -> Self {
        let mut information = BootInformation::empty();
        information.tsc_frequency = TSC_FREQUENCY;
        information.wall_clock = 1_704_112_496;
        information.start.mode = mode;
        information.start.rip = START;
        information.start.rsp = 0x8000;
        information.start.cr3 = PAGE_TABLES;
        if mode == START_REAL_MODE {
            information.start.code_segment = (START >> 4) as u32;
            information.start.rip = 0;
        }
        Self { ram: vec![0; RAM], host: TestHost::default(), information, cpuid: super::haswell, mode }
    }

    /// A guest in 64-bit mode.
    pub(crate) fn long_mode() -> Self {
        Self::new(START_LONG_MODE)
    }

    /// A guest in 64-bit mode that has VMX.
    pub(crate) fn hypervisor() -> Self {
        let mut machine = Self::long_mode();
        machine.information.nested = boot::NESTED_ON;
        machine
    }

    /// The virtual processor, ready for its first entry.
    pub(crate) fn vcpu(&mut self) -> TestVcpu<'_> {
        let capabilities = capabilities();
        let mut platform = TestPlatform::new();
        platform.cpuid = self.cpuid;
        platform.tsc = TSC_START;
        let controls = Controls::new(&capabilities, self.information.intercepts);
        let offers = |control| controls.secondary.contains(control);
        let mut features = Features::new(
            &mut platform,
            offers(SecondaryProcessorBased::ENABLE_INVPCID),
            offers(SecondaryProcessorBased::ENABLE_RDTSCP),
        );
        features.offer_vmx(&capabilities, nested_profile(&self.information));
        let host = HostState {
            cr0: 0x8000_0031,
            cr3: 0x10_0000,
            cr4: 0x2020,
            efer: 0x500,
            pat: vmcs12::PAT_AFTER_RESET,
            code_selector: 8,
            data_selector: 16,
            task_selector: 24,
            rip: 0x20_0000,
            ..HostState::default()
        };
        // Write-back, four levels.
        let ept_pointer = 0x30_0000 | 6 | 3 << 3;
        let structures = Structures { io_bitmap_a: 0x31_0000, io_bitmap_b: 0x31_1000, msr_bitmap: 0x31_2000, ept_pointer };
        vmcs12::set_up(&mut platform, &capabilities, &controls, &host, &structures, &self.information, &features);
        let mut memory = GuestMemory::new(&mut self.ram);
        if self.mode == START_LONG_MODE {
            map_long_mode(&mut memory);
        }
        let mut vcpu = Vcpu::new(platform, memory, &mut self.host, features, capabilities, controls, &self.information);
        vcpu.platform.reads.clear();
        vcpu.platform.writes.clear();
        vcpu
    }
}

/// One address to one, 2 MiB pages, for everybody.
fn map_long_mode(memory: &mut GuestMemory<'_>) {
    const USABLE: u64 = 0b111;
    const LARGE: u64 = 1 << 7;
    let mut set = |address: u64, entry: u64| memory.write(GuestPhysical(address), &entry.to_le_bytes());
    set(PAGE_TABLES, (PAGE_TABLES + 0x1000) | USABLE);
    set(PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000) | USABLE);
    for index in 0..512 {
        set(PAGE_TABLES + 0x2000 + index * 8, index << 21 | LARGE | USABLE);
    }
}

/// Lets an exit happen, as if the guest had run, and asks its handler.
pub(crate) fn handle(vcpu: &mut TestVcpu<'_>, exit: &Scripted) -> (Exit, Action) {
    exit.happen(&mut vcpu.platform.vmcs, &mut vcpu.context);
    vcpu.platform.reads.clear();
    vcpu.platform.writes.clear();
    let mut exit = Exit::read(&mut vcpu.platform);
    let action = dispatch::handle(vcpu, &mut exit);
    (exit, action)
}

/// The whole way of an exit to just before the next entry, whose state is checked.
pub(crate) fn step(vcpu: &mut TestVcpu<'_>, exit: &Scripted) -> Result<Action, End> {
    let (mut exit, action) = handle(vcpu, exit);
    vcpu.apply(&mut exit, action)?;
    vcpu.prepare_entry()?;
    vcpu.platform.check_entry();
    Ok(action)
}

impl TestVcpu<'_> {
    /// A VMCS field, without the access being counted.
    pub(crate) fn get(&self, field: Field) -> u64 {
        self.platform.vmcs.get(field)
    }

    /// Sets a VMCS field as if the guest's run had.
    pub(crate) fn set(&mut self, field: Field, value: u64) {
        assert!(self.platform.vmcs.set(field, value), "{field} is in the table");
    }
}
