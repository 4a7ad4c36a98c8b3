//! A virtual machine as L1 wants to find it: memory filled, the processor in 64-bit mode before the first instruction.
#![expect(unsafe_code, reason = "memory that the virtual machine writes")]

use std::ops::RangeInclusive;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use l1_protocol::memory_map::{BOOT_INFORMATION, BOOT_PAGE_TABLES, MEMORY_END};
use raw_cpuid::{CpuIdResult, native_cpuid};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::machine::{MachineError, MemoryImage};

/// Three pages that KVM on Intel wants for itself (real mode without unrestricted guest), and the page before them.
/// Both lie above [`MEMORY_END`] and below the reset ROM's usual place.
const TASK_STATE: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// CPUID leaves with the processor's name (SDM 2A, CPUID, "Processor Brand String").
const PROCESSOR_BRAND_STRING: RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;

/// CR0: paging, numeric error, extension type, protection (SDM 3A 2.5 "Control Registers").
const CR0: u64 = 1 << 31 | 1 << 5 | 1 << 4 | 1 << 0;
/// CR4: physical-address extension.
const CR4: u64 = 1 << 5;
/// IA32_EFER: IA-32e mode enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;
/// RFLAGS: only bit 1, which is always 1.
const RFLAGS: u64 = 1 << 1;

/// A virtual machine with one processor.
#[derive(Debug)]
pub struct VirtualMachine {
    /// The processor. It keeps the virtual machine alive in the kernel.
    pub vcpu: VcpuFd,
    // Declared after `vcpu`, so closed after it.
    _vm: VmFd,
}

impl VirtualMachine {
    /// Builds the machine and its memory.
    ///
    /// The memory must live as long as the machine.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn build(image: MemoryImage) -> Result<(Self, GuestMemoryMmap), MachineError> {
        let kvm = Kvm::new().map_err(MachineError::system("open /dev/kvm"))?;
        let vm = kvm.create_vm().map_err(MachineError::system("create a virtual machine"))?;
        vm.set_tss_address(TASK_STATE).map_err(MachineError::system("place KVM's task-state segment"))?;
        vm.set_identity_map_address(IDENTITY_MAP).map_err(MachineError::system("place KVM's identity map"))?;
        // L1 lets L2 sleep in the activity state HLT. Without a local APIC in the kernel KVM would return to us at every such
        // entry instead of sleeping until the VMX-preemption timer expires. L1 does not use the APIC itself.
        vm.create_irq_chip().map_err(MachineError::system("create the interrupt controllers"))?;
        let memory = memory(&image)?;
        give_memory(&vm, &memory, image.memory_size)?;

        let vcpu = vm.create_vcpu(0).map_err(MachineError::system("create a virtual processor"))?;
        let mut cpuid =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(MachineError::system("read the CPUID that KVM supports"))?;
        name_processor(cpuid.as_mut_slice());
        order(cpuid.as_mut_slice());
        vcpu.set_cpuid2(&cpuid).map_err(MachineError::system("set the virtual processor's CPUID"))?;
        let mut special = vcpu.get_sregs().map_err(MachineError::system("read the virtual processor's control registers"))?;
        enter_long_mode(&mut special);
        vcpu.set_sregs(&special).map_err(MachineError::system("set the virtual processor's control registers"))?;
        let general = kvm_regs { rip: image.entry, rdi: BOOT_INFORMATION, rflags: RFLAGS, ..kvm_regs::default() };
        vcpu.set_regs(&general).map_err(MachineError::system("set the virtual processor's registers"))?;
        Ok((Self { vcpu, _vm: vm }, memory))
    }
}

/// Fills in the processor's name. KVM leaves it empty: no feature depends on it.
fn name_processor(cpuid: &mut [kvm_cpuid_entry2]) {
    for entry in cpuid.iter_mut().filter(|entry| PROCESSOR_BRAND_STRING.contains(&entry.function)) {
        let CpuIdResult { eax, ebx, ecx, edx } = native_cpuid::cpuid_count(entry.function, 0);
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx);
    }
}

/// Puts the leaves first that KVM looks up at each VM entry and exit of L1's guests, to judge EFER and CR4: it goes through the
/// list from its start, which in KVM's own order takes some 800 instructions an exit and the entry after it.
fn order(cpuid: &mut [kvm_cpuid_entry2]) {
    const FIRST: [u32; 3] = [0x8000_0001, 1, 7];
    cpuid.sort_by_key(|entry| FIRST.iter().position(|leaf| *leaf == entry.function).unwrap_or(FIRST.len()));
}

/// The machine's memory, reserved only where it is touched, with the image's pieces in it.
fn memory(image: &MemoryImage) -> Result<GuestMemoryMmap, MachineError> {
    let refused = |what: String| MachineError::Machine(format!("cannot make the machine's memory: {what}"));
    if image.memory_size > MEMORY_END {
        return Err(refused(format!("{:#x} bytes are more than {MEMORY_END:#x}", image.memory_size)));
    }
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), image.memory_size as usize)])
        .map_err(|e| refused(e.to_string()))?;
    for (address, bytes) in &image.pieces {
        memory.write_slice(bytes, GuestAddress(*address)).map_err(|error| refused(error.to_string()))?;
    }
    Ok(memory)
}

fn give_memory(vm: &VmFd, memory: &GuestMemoryMmap, size: u64) -> Result<(), MachineError> {
    let start = memory.get_host_address(GuestAddress(0)).map_err(|error| MachineError::Machine(error.to_string()))?;
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: size,
        userspace_addr: start.expose_provenance() as u64,
    };
    // SAFETY: the range is one anonymous mapping of `size` bytes. Whoever holds the machine holds the mapping too
    // (`KvmMachine`, the vCPU thread), and this process reads and writes it only by volatile accesses of vm-memory.
    unsafe { vm.set_user_memory_region(slot) }.map_err(MachineError::system("give the virtual machine its memory"))
}

/// The state that Bochs's reset ROM leaves the processor in too: 64-bit mode, paging by the tables in the image, flat
/// segments. The descriptor tables are empty, L1 loads its own.
fn enter_long_mode(special: &mut kvm_sregs) {
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x10,
        // Read/write data, accessed (SDM 3A table 3-1 "Code- and Data-Segment Types").
        type_: 3,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..kvm_segment::default()
    };
    // Execute/read code, accessed; L = 1 and D = 0: 64-bit.
    special.cs = kvm_segment { selector: 0x8, type_: 11, db: 0, l: 1, ..data };
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.cr0 = CR0;
    special.cr3 = BOOT_PAGE_TABLES;
    special.cr4 = CR4;
    special.efer = EFER;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_is_filled_in() {
        let functions = [1, 0x8000_0002, 0x8000_0003, 0x8000_0004, 0x8000_0005];
        let empty = functions.map(|function| kvm_cpuid_entry2 { function, ..kvm_cpuid_entry2::default() });
        let mut cpuid = empty;
        name_processor(&mut cpuid);
        let bytes = cpuid[1..4].iter().flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes)).flatten();
        let text: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
        let name = raw_cpuid::CpuId::new().get_processor_brand_string().unwrap();
        assert_eq!(String::from_utf8_lossy(&text).trim(), name.as_str());
        assert_eq!([cpuid[0], cpuid[4]], [empty[0], empty[4]]);
    }

    #[test]
    fn leaves_that_kvm_looks_for_come_first_and_the_others_keep_their_order() {
        let entry = |(function, index)| kvm_cpuid_entry2 { function, index, ..kvm_cpuid_entry2::default() };
        let mut cpuid = [(0, 0), (1, 0), (4, 0), (4, 1), (7, 0), (7, 1), (0xd, 0), (0x8000_0000, 0), (0x8000_0001, 0)].map(entry);
        order(&mut cpuid);
        let expected = [(0x8000_0001, 0), (1, 0), (7, 0), (7, 1), (0, 0), (4, 0), (4, 1), (0xd, 0), (0x8000_0000, 0)];
        assert_eq!(cpuid.map(|entry| (entry.function, entry.index)), expected);
    }
}
