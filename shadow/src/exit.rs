//! From L3 to L2: what a VM exit saves in vmcs23, and the state it loads for L2.
//!
//! What always holds: only what the exit defines is written, everything else keeps its value, as on a processor; guest
//! state that a guest hypervisor seldom looks at stays in vmcs13 until it is asked for. On a failed VM entry only the exit
//! reason and the exit qualification change (SDM 3C 26.8 "VM-Entry Failures During or After Loading Guest State").

use vmcs::access::VmcsAccess;
use vmcs::controls::{Entry, PinBased, PrimaryExit};
use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::{ExitReason, InstructionFormat, When};
use vmcs::field::Field;
use vmcs::instruction_information::InstructionInformation;

use crate::field_set::FieldSet;
use crate::merge::Owned;
use crate::vmcs23::Vmcs23;

/// An exit as L2 shall see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the VMCS field it is named after")]
pub struct ExitInformation {
    pub reason: u32,
    pub qualification: u64,
    pub interruption: u32,
    pub error_code: u32,
    pub idt_vectoring: u32,
    pub idt_vectoring_error_code: u32,
    /// If the exit defines one.
    pub instruction_length: Option<u32>,
    /// If the exit defines it.
    pub instruction_information: Option<u32>,
    /// If the exit defines one.
    pub guest_linear_address: Option<u64>,
    /// If the exit defines one.
    pub guest_physical_address: Option<u64>,
}

impl ExitInformation {
    /// Reads what the current VMCS says about an exit with this reason; what the reason never defines is not read.
    pub fn read(vmcs: &mut impl VmcsAccess, reason: ExitReason) -> Self {
        let mut exit = Self { reason: reason.0, ..Self::default() };
        let Some(row) = reason.basic().information() else {
            exit.qualification = vmcs.read(Field::EXIT_QUALIFICATION);
            return exit;
        };
        if row.instruction_information != InstructionFormat::Undefined {
            exit.instruction_information = Some(vmcs.read(Field::VM_EXIT_INSTRUCTION_INFORMATION) as u32);
        }
        if row.qualification != vmcs::exit_reason::QualificationFormat::Nothing {
            let information = InstructionInformation(exit.instruction_information.unwrap_or(0));
            exit.qualification = row.defined_qualification(vmcs.read(Field::EXIT_QUALIFICATION), information);
        }
        if has_interruption(reason) {
            exit.interruption = vmcs.read(Field::VM_EXIT_INTERRUPTION_INFORMATION) as u32;
            if InterruptionInformation(exit.interruption).has_error_code() {
                exit.error_code = vmcs.read(Field::VM_EXIT_INTERRUPTION_ERROR_CODE) as u32;
            }
        }
        // An instruction that exits was not executed during the delivery of an event.
        if row.instruction_length != When::Always {
            exit.idt_vectoring = vmcs.read(Field::IDT_VECTORING_INFORMATION) as u32;
            if InterruptionInformation(exit.idt_vectoring).has_error_code() {
                exit.idt_vectoring_error_code = vmcs.read(Field::IDT_VECTORING_ERROR_CODE) as u32;
            }
        }
        // Where a field is defined for some exits of this reason only, L2 gets what the processor has left in the others, too.
        if row.instruction_length != When::Never {
            exit.instruction_length = Some(vmcs.read(Field::VM_EXIT_INSTRUCTION_LENGTH) as u32);
        }
        if row.guest_linear_address != When::Never {
            exit.guest_linear_address = Some(vmcs.read(Field::GUEST_LINEAR_ADDRESS));
        }
        if row.guest_physical_address != When::Never {
            exit.guest_physical_address = Some(vmcs.read(Field::GUEST_PHYSICAL_ADDRESS));
        }
        exit
    }

    /// Writes it to vmcs23.
    pub fn write(&self, vmcs23: &mut Vmcs23) {
        vmcs23.record(Field::EXIT_REASON, self.reason.into());
        vmcs23.record(Field::EXIT_QUALIFICATION, self.qualification);
        if ExitReason(self.reason).is_entry_failure() {
            return;
        }
        vmcs23.record(Field::VM_EXIT_INTERRUPTION_INFORMATION, self.interruption.into());
        if InterruptionInformation(self.interruption).has_error_code() {
            vmcs23.record(Field::VM_EXIT_INTERRUPTION_ERROR_CODE, self.error_code.into());
        }
        vmcs23.record(Field::IDT_VECTORING_INFORMATION, self.idt_vectoring.into());
        if InterruptionInformation(self.idt_vectoring).has_error_code() {
            vmcs23.record(Field::IDT_VECTORING_ERROR_CODE, self.idt_vectoring_error_code.into());
        }
        if let Some(length) = self.instruction_length {
            vmcs23.record(Field::VM_EXIT_INSTRUCTION_LENGTH, length.into());
        }
        if let Some(information) = self.instruction_information {
            vmcs23.record(Field::VM_EXIT_INSTRUCTION_INFORMATION, information.into());
        }
        if let Some(address) = self.guest_linear_address {
            vmcs23.record(Field::GUEST_LINEAR_ADDRESS, address);
        }
        if let Some(address) = self.guest_physical_address {
            vmcs23.record(Field::GUEST_PHYSICAL_ADDRESS, address);
        }
    }
}

fn has_interruption(reason: ExitReason) -> bool {
    use vmcs::exit_reason::BasicExitReason as Reason;
    matches!(reason.basic(), Reason::EXCEPTION_OR_NMI | Reason::EXTERNAL_INTERRUPT)
}

/// Guest state that is fetched from vmcs13 only when L2 asks for it, or when vmcs23 is given up.
pub const LAZY: FieldSet = FieldSet::of(&[
    Field::GUEST_ES_SELECTOR,
    Field::GUEST_CS_SELECTOR,
    Field::GUEST_SS_SELECTOR,
    Field::GUEST_DS_SELECTOR,
    Field::GUEST_FS_SELECTOR,
    Field::GUEST_GS_SELECTOR,
    Field::GUEST_LDTR_SELECTOR,
    Field::GUEST_TR_SELECTOR,
    Field::GUEST_PDPTE0,
    Field::GUEST_PDPTE1,
    Field::GUEST_PDPTE2,
    Field::GUEST_PDPTE3,
    Field::GUEST_ES_LIMIT,
    Field::GUEST_CS_LIMIT,
    Field::GUEST_SS_LIMIT,
    Field::GUEST_DS_LIMIT,
    Field::GUEST_FS_LIMIT,
    Field::GUEST_GS_LIMIT,
    Field::GUEST_LDTR_LIMIT,
    Field::GUEST_TR_LIMIT,
    Field::GUEST_GDTR_LIMIT,
    Field::GUEST_IDTR_LIMIT,
    Field::GUEST_ES_ACCESS_RIGHTS,
    Field::GUEST_DS_ACCESS_RIGHTS,
    Field::GUEST_FS_ACCESS_RIGHTS,
    Field::GUEST_GS_ACCESS_RIGHTS,
    Field::GUEST_LDTR_ACCESS_RIGHTS,
    Field::GUEST_TR_ACCESS_RIGHTS,
    Field::GUEST_IA32_SYSENTER_CS,
    Field::GUEST_ES_BASE,
    Field::GUEST_CS_BASE,
    Field::GUEST_SS_BASE,
    Field::GUEST_DS_BASE,
    Field::GUEST_FS_BASE,
    Field::GUEST_GS_BASE,
    Field::GUEST_LDTR_BASE,
    Field::GUEST_TR_BASE,
    Field::GUEST_GDTR_BASE,
    Field::GUEST_IDTR_BASE,
    Field::GUEST_PENDING_DEBUG_EXCEPTIONS,
    Field::GUEST_IA32_SYSENTER_ESP,
    Field::GUEST_IA32_SYSENTER_EIP,
]);

/// Lazy fields without the PDPTEs, which a VM exit saves only if "enable EPT" is 1.
const WITHOUT_PDPTES: FieldSet =
    LAZY.difference(&FieldSet::of(&[Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3]));
const DEBUG_CONTROLS: FieldSet = FieldSet::of(&[Field::GUEST_DR7, Field::GUEST_IA32_DEBUGCTL]);
const PAT: FieldSet = FieldSet::of(&[Field::GUEST_IA32_PAT]);
const EFER: FieldSet = FieldSet::of(&[Field::GUEST_IA32_EFER]);

/// Copies fields, each known when this is compiled: looking a field up costs nothing then.
macro_rules! save {
    ($vmcs23:ident, $vmcs13:ident, { $($field:ident,)* }) => {
        $(let value = $vmcs13.read(Field::$field);
        $vmcs23.record(Field::$field, value);)*
    };
}

/// Each bit from where its newest value is: bits that L2 masks have not changed; bits that only L1 masks are in the read
/// shadow of vmcs13; the others are L3's own.
macro_rules! save_control_register {
    ($vmcs23:ident, $vmcs13:ident, $value:ident, $shadow:ident, $mask:ident, $owned:expr) => {
        let mask = $vmcs23.get(Field::$mask);
        let (real, shadow) = ($vmcs13.read(Field::$value), $vmcs13.read(Field::$shadow));
        let seen = real & !$owned | shadow & $owned;
        let value = seen & !mask | $vmcs23.get(Field::$value) & mask;
        $vmcs23.record(Field::$value, value);
    };
}

/// Saves L3's state (SDM 3C 27.3 "Saving Guest State"): what is looked at after every exit at once, the rest on demand.
/// vmcs13 is current; `rip` is L3's, and `by_instruction` says that an instruction caused the exit unconditionally.
#[inline]
pub fn save_guest_state(
    vmcs23: &mut Vmcs23,
    vmcs13: &mut impl VmcsAccess,
    owned: &Owned,
    ept: bool,
    rip: u64,
    by_instruction: bool,
) {
    save!(vmcs23, vmcs13, {
        GUEST_RSP,
        GUEST_RFLAGS,
        GUEST_CR3,
        GUEST_CS_ACCESS_RIGHTS,
        GUEST_SS_ACCESS_RIGHTS,
        GUEST_INTERRUPTIBILITY_STATE,
    });
    vmcs23.record(Field::GUEST_RIP, rip);
    // An instruction that exits was executed by a processor that was active.
    let activity = if by_instruction { 0 } else { vmcs13.read(Field::GUEST_ACTIVITY_STATE) };
    vmcs23.record(Field::GUEST_ACTIVITY_STATE, activity);
    save_control_register!(vmcs23, vmcs13, GUEST_CR0, CR0_READ_SHADOW, CR0_GUEST_HOST_MASK, owned.cr0);
    save_control_register!(vmcs23, vmcs13, GUEST_CR4, CR4_READ_SHADOW, CR4_GUEST_HOST_MASK, owned.cr4);
    let exit = PrimaryExit::from_bits_retain(vmcs23.get_u32(Field::PRIMARY_VM_EXIT_CONTROLS));
    let mut lazy = if ept { LAZY } else { WITHOUT_PDPTES };
    if exit.contains(PrimaryExit::SAVE_DEBUG_CONTROLS) {
        lazy = lazy.union(&DEBUG_CONTROLS);
    }
    if exit.contains(PrimaryExit::SAVE_IA32_PAT) {
        lazy = lazy.union(&PAT);
    }
    if exit.contains(PrimaryExit::SAVE_IA32_EFER) {
        lazy = lazy.union(&EFER);
    }
    vmcs23.in_vmcs13 = lazy;
    // An event was delivered at most once, and IA-32e mode is what L3 has made of it (SDM 3C 27.2 "Recording VM-Exit
    // Information and Updating VM-Entry Control Fields").
    let information = vmcs23.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION);
    vmcs23.record(Field::VM_ENTRY_INTERRUPTION_INFORMATION, information & !(1 << 31));
    let controls = Entry::from_bits_retain(vmcs13.read(Field::VM_ENTRY_CONTROLS) as u32) & Entry::IA_32E_MODE_GUEST;
    let old = Entry::from_bits_retain(vmcs23.get_u32(Field::VM_ENTRY_CONTROLS));
    let new = old - Entry::IA_32E_MODE_GUEST | controls;
    if new != old {
        vmcs23.registers_touched = true;
    }
    vmcs23.record(Field::VM_ENTRY_CONTROLS, new.bits().into());
}

/// Fetches what [`save_guest_state`] has left in vmcs13, which is current; says how many fields that were.
pub fn pull(vmcs23: &mut Vmcs23, vmcs13: &mut impl VmcsAccess) -> u32 {
    let fields = vmcs23.in_vmcs13;
    for field in fields.iter() {
        let value = vmcs13.read(field);
        vmcs23.record(field, value);
    }
    vmcs23.in_vmcs13 = FieldSet::EMPTY;
    fields.len()
}

/// What L2's processor holds that an exit of L3 may keep.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "each field is the register it is named after")]
pub struct Kept {
    /// CR0 as L3 sees it.
    pub cr0: u64,
    pub efer: u64,
    pub pat: u64,
}

/// The state that L2 goes on with, beside what is constant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the register it is named after")]
pub struct HostState {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pat: u64,
    /// Whether L2 is in 64-bit mode after the exit.
    pub is_64_bit: bool,
}

/// CR0 bits that a VM exit leaves alone: reserved ones, CD, NW and ET (SDM 3C 27.5.1 "Loading Host Control Registers,
/// Debug Registers, MSRs").
const CR0_KEPT: u64 = !0xffff_ffff | 1 << 30 | 1 << 29 | 0x1ff8_0000 | 1 << 17 | 0xffc0 | 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;

impl HostState {
    /// From the host-state area of vmcs23, SDM 3C 27.5.1.
    #[must_use]
    pub fn read(vmcs23: &Vmcs23, kept: &Kept) -> Self {
        let exit = PrimaryExit::from_bits_retain(vmcs23.get_u32(Field::PRIMARY_VM_EXIT_CONTROLS));
        let is_64_bit = exit.contains(PrimaryExit::HOST_ADDRESS_SPACE_SIZE);
        let cr4 = vmcs23.get(Field::HOST_CR4);
        Self {
            cr0: vmcs23.get(Field::HOST_CR0) & !CR0_KEPT | kept.cr0 & CR0_KEPT,
            cr3: vmcs23.get(Field::HOST_CR3),
            cr4: if is_64_bit { cr4 | CR4_PAE } else { cr4 & !CR4_PCIDE },
            efer: if exit.contains(PrimaryExit::LOAD_IA32_EFER) {
                vmcs23.get(Field::HOST_IA32_EFER)
            } else {
                kept.efer & !EFER_LONG_MODE | if is_64_bit { EFER_LONG_MODE } else { 0 }
            },
            pat: if exit.contains(PrimaryExit::LOAD_IA32_PAT) { vmcs23.get(Field::HOST_IA32_PAT) } else { kept.pat },
            is_64_bit,
        }
    }
}

/// Access rights that a VM exit gives CS (SDM 3C 27.5.2 "Loading Host Segment and Descriptor-Table Registers").
const CODE_64: u64 = 0xa09b;
const CODE_32: u64 = 0xc09b;
const DATA: u64 = 0xc093;
const BUSY_TASK: u64 = 0x8b;
const UNUSABLE: u64 = 1 << 16;

/// Copies fields of the host-state area to fields of vmcs12, each known when this is compiled.
macro_rules! load {
    ($vmcs23:ident, $vmcs12:ident, { $($guest:ident = $host:ident,)* }) => {
        $($vmcs12.write(Field::$guest, $vmcs23.get(Field::$host));)*
    };
}

/// Writes L2's registers to vmcs12, which is current, as a VM exit loads them: everything but the control registers, EFER
/// and PAT, which vmcs12 holds in a form of its own.
pub fn load_host_state(vmcs23: &Vmcs23, host: &HostState, vmcs12: &mut impl VmcsAccess) {
    load!(vmcs23, vmcs12, {
        GUEST_ES_SELECTOR = HOST_ES_SELECTOR,
        GUEST_CS_SELECTOR = HOST_CS_SELECTOR,
        GUEST_SS_SELECTOR = HOST_SS_SELECTOR,
        GUEST_DS_SELECTOR = HOST_DS_SELECTOR,
        GUEST_FS_SELECTOR = HOST_FS_SELECTOR,
        GUEST_GS_SELECTOR = HOST_GS_SELECTOR,
        GUEST_TR_SELECTOR = HOST_TR_SELECTOR,
        GUEST_FS_BASE = HOST_FS_BASE,
        GUEST_GS_BASE = HOST_GS_BASE,
        GUEST_TR_BASE = HOST_TR_BASE,
        GUEST_GDTR_BASE = HOST_GDTR_BASE,
        GUEST_IDTR_BASE = HOST_IDTR_BASE,
        GUEST_IA32_SYSENTER_CS = HOST_IA32_SYSENTER_CS,
        GUEST_IA32_SYSENTER_ESP = HOST_IA32_SYSENTER_ESP,
        GUEST_IA32_SYSENTER_EIP = HOST_IA32_SYSENTER_EIP,
    });
    let data = [
        (Field::GUEST_ES_ACCESS_RIGHTS, Field::HOST_ES_SELECTOR),
        (Field::GUEST_SS_ACCESS_RIGHTS, Field::HOST_SS_SELECTOR),
        (Field::GUEST_DS_ACCESS_RIGHTS, Field::HOST_DS_SELECTOR),
        (Field::GUEST_FS_ACCESS_RIGHTS, Field::HOST_FS_SELECTOR),
        (Field::GUEST_GS_ACCESS_RIGHTS, Field::HOST_GS_SELECTOR),
    ];
    for (rights, selector) in data {
        vmcs12.write(rights, if vmcs23.get(selector) == 0 { DATA | UNUSABLE } else { DATA });
    }
    let constants = [
        (Field::GUEST_CS_ACCESS_RIGHTS, if host.is_64_bit { CODE_64 } else { CODE_32 }),
        (Field::GUEST_ES_LIMIT, 0xffff_ffff),
        (Field::GUEST_CS_LIMIT, 0xffff_ffff),
        (Field::GUEST_SS_LIMIT, 0xffff_ffff),
        (Field::GUEST_DS_LIMIT, 0xffff_ffff),
        (Field::GUEST_FS_LIMIT, 0xffff_ffff),
        (Field::GUEST_GS_LIMIT, 0xffff_ffff),
        (Field::GUEST_ES_BASE, 0),
        (Field::GUEST_CS_BASE, 0),
        (Field::GUEST_SS_BASE, 0),
        (Field::GUEST_DS_BASE, 0),
        (Field::GUEST_TR_LIMIT, 0x67),
        (Field::GUEST_TR_ACCESS_RIGHTS, BUSY_TASK),
        (Field::GUEST_LDTR_SELECTOR, 0),
        (Field::GUEST_LDTR_ACCESS_RIGHTS, UNUSABLE),
        (Field::GUEST_GDTR_LIMIT, 0xffff),
        (Field::GUEST_IDTR_LIMIT, 0xffff),
        (Field::GUEST_DR7, 0x400),
        (Field::GUEST_IA32_DEBUGCTL, 0),
        (Field::GUEST_ACTIVITY_STATE, 0),
        (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
    ];
    for (field, value) in constants {
        vmcs12.write(field, value);
    }
}

/// Writes those of L2's registers that L2 changes all the time.
#[inline]
pub fn load_frequent_host_state(vmcs23: &Vmcs23, vmcs12: &mut impl VmcsAccess) {
    load!(vmcs23, vmcs12, { GUEST_RIP = HOST_RIP, GUEST_RSP = HOST_RSP, });
    vmcs12.write(Field::GUEST_RFLAGS, 2);
}

/// Whether the segment registers of vmcs12, which is current, still hold what [`load_host_state`] has written. It is not
/// asked unless L2 is in 64-bit mode, where nothing but selectors and the bases of FS and GS can be told apart.
#[inline]
pub fn segments_are_loaded(vmcs23: &Vmcs23, vmcs12: &mut impl VmcsAccess) -> bool {
    macro_rules! same {
        ($($guest:ident = $host:ident,)*) => {
            $(vmcs12.read(Field::$guest) == vmcs23.get(Field::$host))&&*
        };
    }
    same!(
        GUEST_ES_SELECTOR = HOST_ES_SELECTOR,
        GUEST_CS_SELECTOR = HOST_CS_SELECTOR,
        GUEST_SS_SELECTOR = HOST_SS_SELECTOR,
        GUEST_DS_SELECTOR = HOST_DS_SELECTOR,
        GUEST_FS_SELECTOR = HOST_FS_SELECTOR,
        GUEST_GS_SELECTOR = HOST_GS_SELECTOR,
        GUEST_FS_BASE = HOST_FS_BASE,
        GUEST_GS_BASE = HOST_GS_BASE,
    )
}

/// The fields that [`load_host_state`] reads.
pub const HOST_FIELDS: FieldSet = FieldSet::of(&[
    Field::HOST_ES_SELECTOR,
    Field::HOST_CS_SELECTOR,
    Field::HOST_SS_SELECTOR,
    Field::HOST_DS_SELECTOR,
    Field::HOST_FS_SELECTOR,
    Field::HOST_GS_SELECTOR,
    Field::HOST_TR_SELECTOR,
    Field::HOST_FS_BASE,
    Field::HOST_GS_BASE,
    Field::HOST_TR_BASE,
    Field::HOST_GDTR_BASE,
    Field::HOST_IDTR_BASE,
    Field::HOST_IA32_SYSENTER_CS,
    Field::HOST_IA32_SYSENTER_ESP,
    Field::HOST_IA32_SYSENTER_EIP,
    Field::HOST_CR0,
    Field::HOST_CR4,
    Field::HOST_IA32_EFER,
    Field::HOST_IA32_PAT,
    Field::PRIMARY_VM_EXIT_CONTROLS,
]);

/// Whether vmcs23's pin-based controls have this bit.
#[must_use]
pub fn pin_based(vmcs23: &Vmcs23, control: PinBased) -> bool {
    PinBased::from_bits_retain(vmcs23.get_u32(Field::PIN_BASED_VM_EXECUTION_CONTROLS)).contains(control)
}
