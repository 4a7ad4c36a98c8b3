//! Control-register accesses: writes of CR0 and CR4 that change a bit L1 owns, and CR3 and CR8 where the user asked for
//! these exits.

use vmcs::capability::Capabilities;
use vmcs::controls::SecondaryProcessorBased;
use vmcs::field::Field;

use super::Action;
use super::information::Exit;
use crate::guest_memory::GuestPhysical;
use crate::nested;
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vmcs12::{
    CR0_AM, CR0_CD, CR0_EM, CR0_ET, CR0_MP, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_PAE, real_cr0, real_cr4,
};

/// Bits of CR0 that are defined (SDM 3A 2.5 "Control Registers").
const CR0_DEFINED: u64 = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
const CR4_PSE: u64 = 1 << 4;
const CR4_PGE: u64 = 1 << 7;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_SMEP: u64 = 1 << 20;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Type of a busy 16-bit TSS, with which IA-32e mode cannot be activated.
const BUSY_TASK_16: u64 = 3;
/// "IA-32e mode guest" among the VM-entry controls.
const IA_32E_MODE_GUEST: u64 = 1 << 9;
/// With PCIDs, bit 63 of the source of MOV to CR3 asks not to invalidate; it is not stored (SDM 3A 4.10.4.1).
const CR3_NO_FLUSH: u64 = 1 << 63;

/// Does the access.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    // SDM 3C table 28-3 "Exit Qualification for Control-Register Accesses": 3:0 register, 5:4 kind, 11:8 general
    // register, 31:16 source of LMSW.
    let qualification = exit.qualification(&mut vcpu.platform);
    let general = (qualification >> 8 & 15) as usize;
    match (qualification & 15, qualification >> 4 & 3) {
        (0, 0) => {
            let value = vcpu.operand(general);
            write_cr0(vcpu, value)
        }
        (3, 0) => {
            let value = vcpu.operand(general);
            write_cr3(vcpu, value)
        }
        (4, 0) => {
            let value = vcpu.operand(general);
            write_cr4(vcpu, value)
        }
        (8, 0) => {
            let value = vcpu.operand(general);
            if value > 15 {
                return Action::GENERAL_PROTECTION;
            }
            vcpu.task_priority = value as u8;
            Action::Complete
        }
        (3, 1) => {
            let value = vcpu.platform.read(Field::GUEST_CR3);
            vcpu.set_general(general, value);
            Action::Complete
        }
        (8, 1) => {
            let value = vcpu.task_priority.into();
            vcpu.set_general(general, value);
            Action::Complete
        }
        (0, 2) => {
            let value = vcpu.seen_cr0() & !CR0_TS;
            write_cr0(vcpu, value)
        }
        (0, 3) => {
            // LMSW loads the low four bits and cannot clear PE.
            let low = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
            let source = qualification >> 16 & low;
            let value = vcpu.seen_cr0() & !(low & !CR0_PE) | source;
            write_cr0(vcpu, value)
        }
        // No other combination causes an exit (SDM 3C 26.1.3).
        _ => Action::INVALID_OPCODE,
    }
}

fn write_cr0<P: Platform>(vcpu: &mut Vcpu<'_, P>, value: u64) -> Action {
    let (mask, kept) = nested::kept_from_l3(vcpu, Field::CR0_GUEST_HOST_MASK, Field::GUEST_CR0);
    let really = |seen: u64| seen & !mask | kept & mask;
    let seen = vcpu.seen_cr0();
    let (value, old) = (really(value), really(seen));
    let cr4 = vcpu.platform.read(Field::GUEST_CR4);
    let efer = vcpu.platform.read(Field::GUEST_IA32_EFER);
    // Reserved bits among 31:0 are ignored, those above raise #GP (SDM 3A 2.5).
    let invalid = value >> 32 != 0
        || value & CR0_PG != 0 && value & CR0_PE == 0
        || value & CR0_NW != 0 && value & CR0_CD == 0
        || value & CR0_PG == 0 && cr4 & CR4_PCIDE != 0
        || value & CR0_PG == 0 && old & CR0_PG != 0 && efer & EFER_LMA != 0 && vcpu.is_64_bit_code();
    if invalid {
        return Action::GENERAL_PROTECTION;
    }
    let value = value & CR0_DEFINED | CR0_ET;
    // With "unrestricted guest" VMX non-root operation leaves PE and PG free (SDM 3C 25.3 "Changes to Instruction Behavior
    // in VMX Non-Root Operation"); vmcs13 has the control only if L2 has set it.
    let free = if vcpu.runs_l3 && is_unrestricted(vcpu) { CR0_PE | CR0_PG } else { 0 };
    if !vcpu.vmx_operation_accepts(Capabilities::cr0_fixed, value | free) {
        return Action::GENERAL_PROTECTION;
    }
    let paging_starts = value & CR0_PG != 0 && old & CR0_PG == 0;
    let paging_ends = value & CR0_PG == 0 && old & CR0_PG != 0;
    if paging_starts && efer & EFER_LME != 0 {
        // The consistency checks of SDM 3A 10.8.5 "Initializing IA-32e Mode".
        let task_rights = vcpu.platform.read(Field::GUEST_TR_ACCESS_RIGHTS);
        if cr4 & CR4_PAE == 0 || vcpu.is_64_bit_code_segment() || task_rights & 0xf == BUSY_TASK_16 {
            return Action::GENERAL_PROTECTION;
        }
        set_long_mode_active(vcpu, efer, true);
    } else if value & CR0_PG != 0 && cr4 & CR4_PAE != 0 && efer & EFER_LME == 0 && (value ^ old) & (CR0_PG | CR0_CD | CR0_NW) != 0
    {
        let cr3 = vcpu.platform.read(Field::GUEST_CR3);
        if !load_pdptes(vcpu, cr3) {
            return Action::GENERAL_PROTECTION;
        }
    }
    if paging_ends && efer & EFER_LMA != 0 {
        set_long_mode_active(vcpu, efer, false);
    }
    vcpu.platform.write(Field::GUEST_CR0, real_cr0(&vcpu.capabilities, value));
    vcpu.platform.write(Field::CR0_READ_SHADOW, value & !mask | seen & mask);
    if (value ^ old) & (CR0_PG | CR0_PE | CR0_WP) != 0 {
        vcpu.platform.invalidate_translations();
    }
    Action::Complete
}

fn is_unrestricted<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> bool {
    let controls = vcpu.platform.read(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) as u32;
    SecondaryProcessorBased::from_bits_retain(controls).contains(SecondaryProcessorBased::UNRESTRICTED_GUEST)
}

fn set_long_mode_active<P: Platform>(vcpu: &mut Vcpu<'_, P>, efer: u64, active: bool) {
    let entry = vcpu.platform.read(Field::VM_ENTRY_CONTROLS);
    let (efer, entry) =
        if active { (efer | EFER_LMA, entry | IA_32E_MODE_GUEST) } else { (efer & !EFER_LMA, entry & !IA_32E_MODE_GUEST) };
    vcpu.platform.write(Field::GUEST_IA32_EFER, efer);
    vcpu.platform.write(Field::VM_ENTRY_CONTROLS, entry);
}

fn write_cr3<P: Platform>(vcpu: &mut Vcpu<'_, P>, value: u64) -> Action {
    let efer = vcpu.platform.read(Field::GUEST_IA32_EFER);
    let cr4 = vcpu.platform.read(Field::GUEST_CR4);
    let cr0 = vcpu.platform.read(Field::GUEST_CR0);
    let keep = cr4 & CR4_PCIDE != 0 && value & CR3_NO_FLUSH != 0;
    let value = if cr4 & CR4_PCIDE != 0 { value & !CR3_NO_FLUSH } else { value };
    if efer & EFER_LMA != 0 {
        if value >> vcpu.features.physical_address_width != 0 {
            return Action::GENERAL_PROTECTION;
        }
    } else if cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && !load_pdptes(vcpu, value) {
        return Action::GENERAL_PROTECTION;
    }
    vcpu.platform.write(Field::GUEST_CR3, value);
    if !keep {
        vcpu.platform.invalidate_translations();
    }
    Action::Complete
}

fn write_cr4<P: Platform>(vcpu: &mut Vcpu<'_, P>, value: u64) -> Action {
    let (mask, kept) = nested::kept_from_l3(vcpu, Field::CR4_GUEST_HOST_MASK, Field::GUEST_CR4);
    let really = |seen: u64| seen & !mask | kept & mask;
    let seen = vcpu.seen_cr4();
    let (value, old) = (really(value), really(seen));
    let cr0 = vcpu.platform.read(Field::GUEST_CR0);
    let efer = vcpu.platform.read(Field::GUEST_IA32_EFER);
    let cr3 = vcpu.platform.read(Field::GUEST_CR3);
    let long_mode = efer & EFER_LMA != 0;
    let pcid_starts = value & CR4_PCIDE != 0 && old & CR4_PCIDE == 0;
    let invalid = value & !vcpu.features.settable_cr4() != 0
        || long_mode && value & CR4_PAE == 0
        || pcid_starts && (!long_mode || cr3 & 0xfff != 0)
        || !vcpu.vmx_operation_accepts(Capabilities::cr4_fixed, value);
    if invalid {
        return Action::GENERAL_PROTECTION;
    }
    // A change of these bits with PAE paging loads the PDPTEs (SDM 3A 4.4.1 "PDPTE Registers").
    let pae_paging = cr0 & CR0_PG != 0 && value & CR4_PAE != 0 && !long_mode;
    if pae_paging && (value ^ old) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP) != 0 && !load_pdptes(vcpu, cr3) {
        return Action::GENERAL_PROTECTION;
    }
    vcpu.platform.write(Field::GUEST_CR4, real_cr4(&vcpu.capabilities, value));
    vcpu.platform.write(Field::CR4_READ_SHADOW, value & !mask | seen & mask);
    if (value ^ old) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP | CR4_PCIDE) != 0 {
        vcpu.platform.invalidate_translations();
    }
    Action::Complete
}

/// Loads the PDPTE registers from the table at `cr3`; false if an entry that is present has reserved bits set
/// (SDM 3A 4.4.1 "PDPTE Registers").
pub(super) fn load_pdptes<P: Platform>(vcpu: &mut Vcpu<'_, P>, cr3: u64) -> bool {
    const FIELDS: [Field; 4] = [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3];
    const RESERVED_LOW: u64 = 0b1_1110_0110;
    let above = !0 << vcpu.features.physical_address_width;
    let table = cr3 & 0xffff_ffe0;
    let entries = [0, 8, 16, 24].map(|offset| vcpu.memory.read_u64(GuestPhysical(table + offset)));
    if entries.iter().any(|entry| entry & 1 != 0 && entry & (RESERVED_LOW | above) != 0) {
        return false;
    }
    for (field, entry) in FIELDS.into_iter().zip(entries) {
        vcpu.platform.write(field, entry);
    }
    true
}
