//! Which controls L2 may set, a row each, in the order of the SDM: SDM 3C 24.6 to 24.8.
//!
//! A control without a row is never offered, whatever the processor has. Adding a row is the last step of making a feature work
//! for L2, not the first.

use vmcs::capability::{Capabilities, EptVpid};
use vmcs::controls::{
    ControlBit, Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary,
};

/// A word of controls of which L2 gets some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Pin-based VM-execution controls.
    PinBased,
    /// Primary processor-based VM-execution controls.
    Primary,
    /// Secondary processor-based VM-execution controls.
    Secondary,
    /// Primary VM-exit controls.
    Exit,
    /// VM-entry controls.
    Entry,
}

impl Word {
    /// The bits of the default1 class (SDM 3D A.3 to A.5).
    #[must_use]
    pub const fn default1(self) -> u32 {
        match self {
            Self::PinBased => 0x0000_0016,
            Self::Primary => 0x0401_e172,
            Self::Secondary => 0,
            Self::Exit => 0x0003_6dff,
            Self::Entry => 0x0000_11ff,
        }
    }

    /// The bits that have names.
    #[must_use]
    pub const fn names(self) -> &'static [ControlBit] {
        match self {
            Self::PinBased => PinBased::TABLE,
            Self::Primary => Primary::TABLE,
            Self::Secondary => Secondary::TABLE,
            Self::Exit => PrimaryExit::TABLE,
            Self::Entry => Entry::TABLE,
        }
    }

    /// What the SDM calls the word.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::PinBased => "Pin-based VM-execution controls",
            Self::Primary => "Primary processor-based VM-execution controls",
            Self::Secondary => "Secondary processor-based VM-execution controls",
            Self::Exit => "Primary VM-exit controls",
            Self::Entry => "VM-entry controls",
        }
    }
}

/// One control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Pin-based.
    PinBased(PinBased),
    /// Primary processor-based.
    Primary(Primary),
    /// Secondary processor-based.
    Secondary(Secondary),
    /// VM-exit control.
    Exit(PrimaryExit),
    /// VM-entry control.
    Entry(Entry),
}

impl Control {
    /// The word it is in.
    #[must_use]
    pub const fn word(self) -> Word {
        match self {
            Self::PinBased(_) => Word::PinBased,
            Self::Primary(_) => Word::Primary,
            Self::Secondary(_) => Word::Secondary,
            Self::Exit(_) => Word::Exit,
            Self::Entry(_) => Word::Entry,
        }
    }

    /// Its bit in that word, as a mask.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::PinBased(control) => control.bits(),
            Self::Primary(control) => control.bits(),
            Self::Secondary(control) => control.bits(),
            Self::Exit(control) => control.bits(),
            Self::Entry(control) => control.bits(),
        }
    }

    /// Its name as the SDM prints it.
    #[must_use]
    pub fn title(self) -> &'static str {
        let bit = self.bits().trailing_zeros();
        self.word().names().iter().find(|name| name.bit == bit).map_or("?", |name| name.title)
    }

    /// Whether the processor can do what L1 needs for it. For EPT that is more than the control: EPT13 is built with four levels
    /// in write-back memory.
    pub(super) fn is_supported_by(self, real: &Capabilities) -> bool {
        match self {
            Self::PinBased(control) => real.supports_pin_based(control),
            Self::Primary(control) => real.supports_primary(control),
            Self::Secondary(control) => {
                let usable = !control.contains(Secondary::ENABLE_EPT)
                    || real.ept_vpid().contains(EptVpid::PAGE_WALK_LENGTH_4 | EptVpid::MEMORY_TYPE_WRITE_BACK);
                usable && real.supports_primary(Primary::ACTIVATE_SECONDARY_CONTROLS) && real.supports_secondary(control)
            }
            Self::Exit(control) => real.supports_primary_exit(control),
            Self::Entry(control) => real.supports_entry(control),
        }
    }
}

/// Who does what a control asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// L1 does, so it is offered on every processor.
    Software,
    /// vmcs13 sets it, so it is offered where the processor has it.
    Processor,
}

/// A control that L2 may be offered.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which.
    pub control: Control,
    /// Who does it.
    pub source: Source,
}

/// Every control that L2 may be offered.
pub const CONTROLS: &[Row] = &[
    // What interrupts L2 and L3 comes from L1's own devices, so these two exits are L1's decision.
    pin_based(PinBased::EXTERNAL_INTERRUPT_EXITING, Source::Software),
    pin_based(PinBased::NMI_EXITING, Source::Processor),
    pin_based(PinBased::VIRTUAL_NMIS, Source::Processor),
    // L1's timer and L2's share one counter, or L1 counts.
    pin_based(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER, Source::Software),
    primary(Primary::INTERRUPT_WINDOW_EXITING, Source::Processor),
    primary(Primary::USE_TSC_OFFSETTING, Source::Processor),
    primary(Primary::HLT_EXITING, Source::Processor),
    primary(Primary::INVLPG_EXITING, Source::Processor),
    primary(Primary::MWAIT_EXITING, Source::Processor),
    primary(Primary::RDPMC_EXITING, Source::Processor),
    primary(Primary::RDTSC_EXITING, Source::Processor),
    // Where the processor cannot do without these two exits, L1 takes those that L2 does not want.
    primary(Primary::CR3_LOAD_EXITING, Source::Software),
    primary(Primary::CR3_STORE_EXITING, Source::Software),
    primary(Primary::CR8_LOAD_EXITING, Source::Processor),
    primary(Primary::CR8_STORE_EXITING, Source::Processor),
    primary(Primary::NMI_WINDOW_EXITING, Source::Processor),
    primary(Primary::MOV_DR_EXITING, Source::Processor),
    primary(Primary::UNCONDITIONAL_IO_EXITING, Source::Processor),
    primary(Primary::USE_IO_BITMAPS, Source::Processor),
    primary(Primary::MONITOR_TRAP_FLAG, Source::Processor),
    primary(Primary::USE_MSR_BITMAPS, Source::Processor),
    primary(Primary::MONITOR_EXITING, Source::Processor),
    primary(Primary::PAUSE_EXITING, Source::Processor),
    primary(Primary::ACTIVATE_SECONDARY_CONTROLS, Source::Processor),
    secondary(Secondary::ENABLE_EPT),
    secondary(Secondary::DESCRIPTOR_TABLE_EXITING),
    secondary(Secondary::ENABLE_RDTSCP),
    secondary(Secondary::ENABLE_VPID),
    secondary(Secondary::WBINVD_EXITING),
    secondary(Secondary::UNRESTRICTED_GUEST),
    secondary(Secondary::RDRAND_EXITING),
    secondary(Secondary::ENABLE_INVPCID),
    secondary(Secondary::RDSEED_EXITING),
    // Debug controls that are not to be saved or loaded stay what they are by way of vmcs12 and vmcs13.
    exit(PrimaryExit::SAVE_DEBUG_CONTROLS, Source::Software),
    exit(PrimaryExit::HOST_ADDRESS_SPACE_SIZE, Source::Processor),
    // The interrupt controller that is asked for the vector is L1's device.
    exit(PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT, Source::Software),
    exit(PrimaryExit::SAVE_IA32_PAT, Source::Processor),
    exit(PrimaryExit::LOAD_IA32_PAT, Source::Processor),
    exit(PrimaryExit::SAVE_IA32_EFER, Source::Processor),
    exit(PrimaryExit::LOAD_IA32_EFER, Source::Processor),
    exit(PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE, Source::Software),
    entry(Entry::LOAD_DEBUG_CONTROLS, Source::Software),
    entry(Entry::IA_32E_MODE_GUEST, Source::Processor),
    entry(Entry::LOAD_IA32_PAT, Source::Processor),
    entry(Entry::LOAD_IA32_EFER, Source::Processor),
];

const fn pin_based(control: PinBased, source: Source) -> Row {
    Row { control: Control::PinBased(control), source }
}

const fn primary(control: Primary, source: Source) -> Row {
    Row { control: Control::Primary(control), source }
}

const fn secondary(control: Secondary) -> Row {
    Row { control: Control::Secondary(control), source: Source::Processor }
}

const fn exit(control: PrimaryExit, source: Source) -> Row {
    Row { control: Control::Exit(control), source }
}

const fn entry(control: Entry, source: Source) -> Row {
    Row { control: Control::Entry(control), source }
}

/// Pairs of a control and one that must be offered too: with the second always 0 the first would make every VM entry fail
/// (SDM 3C 26.2.1.1 "VM-Execution Control Fields"), or mean nothing.
pub const NEEDS: &[(Control, Control)] = &[
    (Control::Primary(Primary::NMI_WINDOW_EXITING), Control::PinBased(PinBased::VIRTUAL_NMIS)),
    (Control::PinBased(PinBased::VIRTUAL_NMIS), Control::PinBased(PinBased::NMI_EXITING)),
    needs_secondary(Secondary::ENABLE_EPT),
    needs_secondary(Secondary::DESCRIPTOR_TABLE_EXITING),
    needs_secondary(Secondary::ENABLE_RDTSCP),
    needs_secondary(Secondary::ENABLE_VPID),
    needs_secondary(Secondary::WBINVD_EXITING),
    needs_secondary(Secondary::RDRAND_EXITING),
    needs_secondary(Secondary::ENABLE_INVPCID),
    needs_secondary(Secondary::RDSEED_EXITING),
    (Control::Secondary(Secondary::UNRESTRICTED_GUEST), Control::Secondary(Secondary::ENABLE_EPT)),
    (Control::Exit(PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE), Control::PinBased(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER)),
    (Control::Exit(PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT), Control::PinBased(PinBased::EXTERNAL_INTERRUPT_EXITING)),
];

const fn needs_secondary(control: Secondary) -> (Control, Control) {
    (Control::Secondary(control), Control::Primary(Primary::ACTIVATE_SECONDARY_CONTROLS))
}

/// Something that a processor may have and L2 never gets.
#[derive(Debug, Clone, Copy)]
pub struct LeftOut {
    /// Controls of this word.
    pub word: Word,
    /// Which, as a mask.
    pub bits: u32,
    /// Why.
    pub why: &'static str,
}

const NO_LOCAL_APIC: &str = "L2 has no local APIC that could be virtualized further";
const NOT_YET: &str = "not implemented";
const STATE_NOT_GIVEN: &str = "L2 does not have the state that it saves, loads or clears";
const SYSTEM_MANAGEMENT: &str = "L2 has no system-management mode";

/// Every named control without a row in [`CONTROLS`], in the order of the words.
pub const LEFT_OUT: &[LeftOut] = &[
    left_out(Word::PinBased, PinBased::PROCESS_POSTED_INTERRUPTS.bits(), NO_LOCAL_APIC),
    left_out(Word::Primary, Primary::ACTIVATE_TERTIARY_CONTROLS.bits(), NOT_YET),
    left_out(Word::Primary, Primary::USE_TPR_SHADOW.bits(), NOT_YET),
    left_out(
        Word::Secondary,
        Secondary::VIRTUALIZE_APIC_ACCESSES
            .union(Secondary::VIRTUALIZE_X2APIC_MODE)
            .union(Secondary::APIC_REGISTER_VIRTUALIZATION)
            .union(Secondary::VIRTUAL_INTERRUPT_DELIVERY)
            .bits(),
        NO_LOCAL_APIC,
    ),
    left_out(Word::Secondary, Secondary::PAUSE_LOOP_EXITING.bits(), "L2 has one processor, so nobody waits for another"),
    left_out(
        Word::Secondary,
        Secondary::ENABLE_VM_FUNCTIONS
            .union(Secondary::VMCS_SHADOWING)
            .union(Secondary::ENABLE_PML)
            .union(Secondary::EPT_VIOLATION_VE)
            .union(Secondary::ENABLE_XSAVES_XRSTORS)
            .union(Secondary::MODE_BASED_EXECUTE_CONTROL_FOR_EPT)
            .union(Secondary::SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT)
            .union(Secondary::USE_TSC_SCALING)
            .bits(),
        NOT_YET,
    ),
    left_out(
        Word::Secondary,
        Secondary::ENABLE_ENCLS_EXITING
            .union(Secondary::CONCEAL_VMX_FROM_PT)
            .union(Secondary::PASID_TRANSLATION)
            .union(Secondary::INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES)
            .union(Secondary::ENABLE_USER_WAIT_AND_PAUSE)
            .union(Secondary::ENABLE_PCONFIG)
            .union(Secondary::ENABLE_ENCLV_EXITING)
            .union(Secondary::ENABLE_EPC_VIRTUALIZATION_EXTENSIONS)
            .union(Secondary::VMM_BUS_LOCK_DETECTION)
            .union(Secondary::INSTRUCTION_TIMEOUT)
            .bits(),
        "CPUID does not show L2 the feature",
    ),
    left_out(
        Word::Exit,
        PrimaryExit::LOAD_IA32_PERF_GLOBAL_CTRL
            .union(PrimaryExit::CLEAR_IA32_BNDCFGS)
            .union(PrimaryExit::CONCEAL_VMX_FROM_PT)
            .union(PrimaryExit::CLEAR_IA32_RTIT_CTL)
            .union(PrimaryExit::CLEAR_IA32_LBR_CTL)
            .union(PrimaryExit::CLEAR_UINV)
            .union(PrimaryExit::LOAD_CET_STATE)
            .union(PrimaryExit::LOAD_PKRS)
            .union(PrimaryExit::SAVE_IA32_PERF_GLOBAL_CTRL)
            .bits(),
        STATE_NOT_GIVEN,
    ),
    left_out(Word::Exit, PrimaryExit::ACTIVATE_SECONDARY_CONTROLS.bits(), NOT_YET),
    left_out(Word::Entry, Entry::ENTRY_TO_SMM.union(Entry::DEACTIVATE_DUAL_MONITOR_TREATMENT).bits(), SYSTEM_MANAGEMENT),
    left_out(
        Word::Entry,
        Entry::LOAD_IA32_PERF_GLOBAL_CTRL
            .union(Entry::LOAD_IA32_BNDCFGS)
            .union(Entry::CONCEAL_VMX_FROM_PT)
            .union(Entry::LOAD_IA32_RTIT_CTL)
            .union(Entry::LOAD_UINV)
            .union(Entry::LOAD_CET_STATE)
            .union(Entry::LOAD_GUEST_IA32_LBR_CTL)
            .union(Entry::LOAD_PKRS)
            .union(Entry::LOAD_IA32_FRED)
            .union(Entry::LOAD_IA32_SPEC_CTRL)
            .bits(),
        STATE_NOT_GIVEN,
    ),
];

const fn left_out(word: Word, bits: u32, why: &'static str) -> LeftOut {
    LeftOut { word, bits, why }
}
