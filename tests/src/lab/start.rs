//! Starts Debian's kernel in Bochs, without BIOS and boot loader, by Linux's 32-bit boot protocol.
//!
//! The loader that the program has for Linux as a guest says what lies where; here it starts on the machine itself.
//! What always holds: everything that is loaded is one RAM image above 1 MiB. Below lie the video memory and ROMs, to
//! which Bochs gives no memory, and a RAM image that spans them would arrive shifted.

use std::ops::Range;

use l1_hypervisor::loader::{self, Initrd, LoadError, LoadOptions, LoadedGuest};
use l1_hypervisor::machine::bochs::model::Model;
use l1_hypervisor::machine::bochs::process::{Configuration, Process, StartError};
use l1_hypervisor::machine::bochs::reset_rom::{self, Start};
use thiserror::Error;

/// Memory of the lab in MiB.
const MEMORY: u64 = 256;
/// Emulated instructions in a second: Linux's timer then interrupts every 200,000 instructions.
pub const INSTRUCTIONS_PER_SECOND: u64 = 50_000_000;
/// Start of the RAM image.
const RAM_IMAGE: u64 = 0x10_0000;
/// Where `cmd_line_ptr` lies in the zero page ("The Linux/x86 Boot Protocol").
const COMMAND_LINE_POINTER: usize = 0x228;
/// Where `acpi_rsdp_addr` lies in it: L1 gives its guests ACPI tables, this machine has none.
const ACPI_ROOT_POINTER: Range<usize> = 0x70..0x78;

/// The kernel's command line, a reason each.
const COMMAND_LINE: &[&str] = &[
    // Messages go to the debug console: what this driver takes for a serial line's data port is port 0xe9, and the
    // status port that it polls does not exist, reads as all ones and so is always ready.
    "earlyprintk=serial,0xe9,115200,keep",
    "quiet",
    // The bootstrap loader would choose addresses at random: runs would differ.
    "nokaslr",
    // Paths that emulation makes dear and that are not under test.
    "mitigations=off",
    "cryptomgr.notests",
    "initcall_blacklist=load_system_certificate_list,crypto_kdf108_init,trace_eval_init,cubictcp_register,init_kprobe_trace,bpf_rstat_kfunc_init,tracer_init_tracefs,slab_sysfs_init,inet6_init,bpf_key_sig_kfuncs_init",
    // No bus that anything needs. (`acpi=off` would also keep the kernel from using the local APIC, and then KVM's
    // timers would be no finer than its clock of 250 Hz.)
    "pci=off",
    // The time-stamp counter counts instructions: nothing is to be measured.
    "tsc=reliable",
    "lpj=1000000",
    "no_timer_check",
    // Bochs's random numbers come from the host's clock.
    "random.trust_cpu=off",
    // A kernel that fails is to say so and end.
    "panic=-1",
    "oops=panic",
];

/// Why the kernel could not be started.
#[derive(Debug, Error)]
pub enum BootError {
    /// The kernel is not what the loader takes.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Bochs.
    #[error(transparent)]
    Bochs(#[from] StartError),
}

/// Starts `kernel` with `initramfs`.
///
/// # Errors
/// [`BootError`].
pub fn start(model: &Model, kernel: &[u8], initramfs: &[u8]) -> Result<Process, BootError> {
    let options = LoadOptions {
        file_name: "Debian's kernel",
        memory_size: MEMORY << 20,
        command_line: &COMMAND_LINE.join(" "),
        initrd: Some(Initrd { file_name: "the lab's initramfs", bytes: initramfs }),
        load_at: None,
    };
    let loaded = loader::load(kernel, &options)?;
    let (pieces, zero_page) = above_1_mib(&loaded);
    let end = pieces.iter().map(|(address, bytes)| address + bytes.len() as u64).max().unwrap_or(RAM_IMAGE);
    let rom = reset_rom::build(Start {
        image_start: RAM_IMAGE as u32,
        image_end: end as u32,
        entry: loaded.start.rip as u32,
        argument: zero_page as u32,
        page_tables: None,
    });
    Ok(Process::start(&Configuration {
        cpu_model: model.bochs,
        instructions_per_second: INSTRUCTIONS_PER_SECOND,
        memory: MEMORY,
        rom,
        ram_image_address: RAM_IMAGE,
        ram_image: pieces.into_iter().map(|(address, bytes)| (address - RAM_IMAGE, bytes)).collect(),
        serial: false,
    })?)
}

/// The loaded pieces, those below 1 MiB moved to the start of the RAM image, and where the zero page then is. The
/// kernel starts far above; it copies zero page and command line before it uses that memory.
fn above_1_mib(loaded: &LoadedGuest<'_>) -> (Vec<(u64, Vec<u8>)>, u64) {
    let moved = |address: u64| if address < RAM_IMAGE { address + RAM_IMAGE } else { address };
    let zero_page = loaded.start.rsi;
    let mut pieces = Vec::new();
    for segment in &loaded.segments {
        let mut bytes = segment.bytes.to_vec();
        if segment.guest_address == zero_page {
            let pointer = &mut bytes[COMMAND_LINE_POINTER..COMMAND_LINE_POINTER + 4];
            let address = u32::from_le_bytes([pointer[0], pointer[1], pointer[2], pointer[3]]);
            pointer.copy_from_slice(&(moved(address.into()) as u32).to_le_bytes());
            bytes[ACPI_ROOT_POINTER].fill(0);
        }
        pieces.push((moved(segment.guest_address), bytes));
    }
    (pieces, moved(zero_page))
}
