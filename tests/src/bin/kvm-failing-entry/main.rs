//! Asks KVM for a VM entry that the processor refuses, so that KVM has a VMCS to dump.
//!
//! The mistake is one that is really made: a flat 32-bit code segment turned into a 64-bit one by setting L, with D left
//! at 1. With "unrestricted guest" KVM gives segments to the processor as it got them.
//!
//! Exit status: 0 if KVM reports the failed entry, which is printed as QEMU prints it; 1 with the reason otherwise.
#![expect(unsafe_code, reason = "memory that the virtual machine is given")]

use std::error::Error;
use std::process::ExitCode;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VmFd};

/// Bit 31 "VM-entry failure" and basic exit reason 33 (SDM 3D appendix C "VMX Basic Exit Reasons").
const INVALID_GUEST_STATE: u64 = 0x8000_0021;
/// CR0: paging, numeric error, extension type, protection (SDM 3A 2.5 "Control Registers").
const CR0: u64 = 1 << 31 | 1 << 5 | 1 << 4 | 1 << 0;
/// CR4: physical-address extension.
const CR4: u64 = 1 << 5;
/// IA32_EFER: IA-32e mode enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;
/// RFLAGS: only bit 1, which is always 1.
const RFLAGS: u64 = 1 << 1;

/// Memory of the guest. It never runs, but without memory KVM has no page for EPT and does not try.
#[repr(align(4096))]
struct Page([u8; 4096]);

fn main() -> ExitCode {
    match failed_entry() {
        Ok(reason) => {
            println!("KVM: entry failed, hardware error {reason:#x}");
            if reason == INVALID_GUEST_STATE { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The `hardware_entry_failure_reason` that KVM reports.
fn failed_entry() -> Result<u64, Box<dyn Error>> {
    let vm = Kvm::new()?.create_vm()?;
    give_memory(&vm)?;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut special = vcpu.get_sregs()?;
    enter_64_bit_mode(&mut special);
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&kvm_regs { rip: 0x10_0000, rflags: RFLAGS, ..kvm_regs::default() })?;
    match vcpu.run()? {
        VcpuExit::FailEntry(reason, _) => Ok(reason),
        exit => Err(format!("the entry did not fail: {exit:?}").into()),
    }
}

fn give_memory(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    let page = Box::leak(Box::new(Page([0; 4096])));
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: size_of_val(&page.0) as u64,
        userspace_addr: (&raw mut page.0).expose_provenance() as u64,
    };
    // SAFETY: the page is never freed, and nothing here reads or writes it any more.
    unsafe { vm.set_user_memory_region(region) }
}

fn enter_64_bit_mode(special: &mut kvm_sregs) {
    // Read/write data, accessed (SDM 3A table 3-1 "Code- and Data-Segment Types").
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    // Execute/read code, accessed. D is 1 as in `data`: the mistake.
    special.cs = kvm_segment { selector: 0x8, type_: 11, l: 1, ..data };
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.cr0 = CR0;
    special.cr4 = CR4;
    special.efer = EFER;
}
