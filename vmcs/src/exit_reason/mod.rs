//! What a VM exit is called, and which VMCS fields it fills.
//!
//! [`ExitReason`] and [`BasicExitReason`] are names; [`ExitInformation`] has a row for every reason that tells a hypervisor or tracer
//! which of the VM-exit information fields mean something. Both types are open: a reason that this crate doesn't know is carried and shown by its number.
//!
//! Source: SDM 3C 24.9.1 "Basic VM-Exit Information", SDM 3D appendix C "VMX Basic Exit Reasons".

mod information;

use core::fmt;

pub use information::{ExitInformation, InstructionFormat, QualificationFormat, When};

/// The exit-reason field.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ExitReason(pub u32);

impl ExitReason {
    /// Bits 15:0.
    #[must_use]
    pub const fn basic(self) -> BasicExitReason {
        BasicExitReason(self.0 as u16)
    }

    /// Bit 25: the exit set a shadow stack's busy bit too early.
    #[must_use]
    pub const fn is_busy_shadow_stack(self) -> bool {
        self.0 >> 25 & 1 != 0
    }

    /// Bit 26: a bus lock was asserted in VMX non-root operation.
    #[must_use]
    pub const fn is_bus_lock(self) -> bool {
        self.0 >> 26 & 1 != 0
    }

    /// Bit 27: the processor was in enclave mode.
    #[must_use]
    pub const fn is_enclave_mode(self) -> bool {
        self.0 >> 27 & 1 != 0
    }

    /// Bit 28: an MTF VM exit was pending when an SMM VM exit occurred.
    #[must_use]
    pub const fn is_pending_mtf(self) -> bool {
        self.0 >> 28 & 1 != 0
    }

    /// Bit 29: the exit came from VMX root operation (SMM VM exits only).
    #[must_use]
    pub const fn is_from_root(self) -> bool {
        self.0 >> 29 & 1 != 0
    }

    /// Bit 31: VM entry failed after the host's state was loaded, guest state was not changed.
    #[must_use]
    pub const fn is_entry_failure(self) -> bool {
        self.0 >> 31 != 0
    }

    /// The same reason with bit 31 set.
    #[must_use]
    pub const fn entry_failure(basic: BasicExitReason) -> Self {
        Self(basic.0 as u32 | 1 << 31)
    }
}

impl From<BasicExitReason> for ExitReason {
    fn from(basic: BasicExitReason) -> Self {
        Self(basic.0.into())
    }
}

impl fmt::Display for ExitReason {
    /// The basic reason, with a note for a failed entry. The other flags only show in `Debug`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.basic(), formatter)?;
        if self.is_entry_failure() { formatter.write_str(" (VM-entry failure)") } else { Ok(()) }
    }
}

impl fmt::Debug for ExitReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({:#x})", self.basic(), self.0)
    }
}

/// Bits 15:0 of the exit-reason field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct BasicExitReason(pub u16);

macro_rules! reasons {
    ($($number:literal $name:ident $what:literal;)*) => {
        impl BasicExitReason {
            $(#[doc = $what] pub const $name: BasicExitReason = BasicExitReason($number);)*

            /// Every reason with a name, in ascending order.
            pub const ALL: &'static [BasicExitReason] = &[$(BasicExitReason($number),)*];

            /// The name of the constant, if the reason is known.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                Some(match self.0 {
                    $($number => stringify!($name),)*
                    _ => return None,
                })
            }

            /// What caused the VM exit, in a sentence, if the reason is known.
            #[must_use]
            pub const fn description(self) -> Option<&'static str> {
                Some(match self.0 {
                    $($number => $what,)*
                    _ => return None,
                })
            }
        }
    };
}

reasons! {
    0 EXCEPTION_OR_NMI "An exception with its bit in the exception bitmap, or an NMI with \"NMI exiting\".";
    1 EXTERNAL_INTERRUPT "An external interrupt with \"external-interrupt exiting\".";
    2 TRIPLE_FAULT "An exception during the delivery of a double fault.";
    3 INIT_SIGNAL "An INIT signal.";
    4 START_UP_IPI "A SIPI in the wait-for-SIPI state.";
    5 IO_SMI "An SMI right after an I/O instruction (SMM VM exit).";
    6 OTHER_SMI "Any other SMI (SMM VM exit).";
    7 INTERRUPT_WINDOW "The guest can take an interrupt, with \"interrupt-window exiting\".";
    8 NMI_WINDOW "The guest can take an NMI, with \"NMI-window exiting\".";
    9 TASK_SWITCH "A task switch.";
    10 CPUID "CPUID.";
    11 GETSEC "GETSEC.";
    12 HLT "HLT with \"HLT exiting\".";
    13 INVD "INVD.";
    14 INVLPG "INVLPG with \"INVLPG exiting\".";
    15 RDPMC "RDPMC with \"RDPMC exiting\".";
    16 RDTSC "RDTSC with \"RDTSC exiting\".";
    17 RSM "RSM in SMM.";
    18 VMCALL "VMCALL.";
    19 VMCLEAR "VMCLEAR.";
    20 VMLAUNCH "VMLAUNCH.";
    21 VMPTRLD "VMPTRLD.";
    22 VMPTRST "VMPTRST.";
    23 VMREAD "VMREAD that VMCS shadowing doesn't serve.";
    24 VMRESUME "VMRESUME.";
    25 VMWRITE "VMWRITE that VMCS shadowing doesn't serve.";
    26 VMXOFF "VMXOFF.";
    27 VMXON "VMXON.";
    28 CONTROL_REGISTER_ACCESS "A control-register access that the masks, shadows and controls give to the host.";
    29 MOV_DR "MOV to or from a debug register with \"MOV-DR exiting\".";
    30 IO_INSTRUCTION "IN, INS, OUT or OUTS that the controls or the I/O bitmaps give to the host.";
    31 RDMSR "RDMSR that the MSR bitmap gives to the host.";
    32 WRMSR "WRMSR or WRMSRNS that the MSR bitmap gives to the host.";
    33 ENTRY_FAILURE_INVALID_GUEST_STATE "VM entry failed on the checks of the guest state.";
    34 ENTRY_FAILURE_MSR_LOADING "VM entry failed while loading MSRs.";
    36 MWAIT "MWAIT with \"MWAIT exiting\".";
    37 MONITOR_TRAP_FLAG "A monitor trap flag VM exit.";
    39 MONITOR "MONITOR with \"MONITOR exiting\".";
    40 PAUSE "PAUSE with \"PAUSE exiting\" or \"PAUSE-loop exiting\".";
    41 ENTRY_FAILURE_MACHINE_CHECK "VM entry failed because of a machine-check event.";
    43 TPR_BELOW_THRESHOLD "The virtual TPR fell below the TPR threshold.";
    44 APIC_ACCESS "An access to the APIC-access page.";
    45 VIRTUALIZED_EOI "EOI virtualization for a vector in the EOI-exit bitmap.";
    46 ACCESS_TO_GDTR_OR_IDTR "LGDT, LIDT, SGDT or SIDT with \"descriptor-table exiting\".";
    47 ACCESS_TO_LDTR_OR_TR "LLDT, LTR, SLDT or STR with \"descriptor-table exiting\".";
    48 EPT_VIOLATION "An access that the EPT structures don't allow.";
    49 EPT_MISCONFIGURATION "An access through an EPT entry that isn't valid.";
    50 INVEPT "INVEPT.";
    51 RDTSCP "RDTSCP with \"RDTSC exiting\".";
    52 VMX_PREEMPTION_TIMER_EXPIRED "The VMX-preemption timer counted down to zero.";
    53 INVVPID "INVVPID.";
    54 WBINVD_OR_WBNOINVD "WBINVD or WBNOINVD with \"WBINVD exiting\".";
    55 XSETBV "XSETBV.";
    56 APIC_WRITE "A write to the virtual-APIC page that the host has to complete.";
    57 RDRAND "RDRAND with \"RDRAND exiting\".";
    58 INVPCID "INVPCID with \"INVLPG exiting\".";
    59 VMFUNC "VMFUNC of a function that isn't enabled or that failed.";
    60 ENCLS "ENCLS with its bit in the ENCLS-exiting bitmap.";
    61 RDSEED "RDSEED with \"RDSEED exiting\".";
    62 PAGE_MODIFICATION_LOG_FULL "A page is to be logged and the log is full.";
    63 XSAVES "XSAVES with a bit in the XSS-exiting bitmap.";
    64 XRSTORS "XRSTORS with a bit in the XSS-exiting bitmap.";
    65 PCONFIG "PCONFIG with its bit in the PCONFIG-exiting bitmap.";
    66 SPP_RELATED_EVENT "A miss or misconfiguration of the sub-page permission table.";
    67 UMWAIT "UMWAIT with \"RDTSC exiting\".";
    68 TPAUSE "TPAUSE with \"RDTSC exiting\".";
    69 LOADIWKEY "LOADIWKEY with \"LOADIWKEY exiting\".";
    70 ENCLV "ENCLV with its bit in the ENCLV-exiting bitmap.";
    72 ENQCMD_PASID_TRANSLATION_FAILURE "ENQCMD whose PASID has no translation.";
    73 ENQCMDS_PASID_TRANSLATION_FAILURE "ENQCMDS whose PASID has no translation.";
    74 BUS_LOCK "A bus lock with \"VMM bus-lock detection\".";
    75 INSTRUCTION_TIMEOUT "An instruction prevented instruction boundaries for too long.";
    76 SEAMCALL "SEAMCALL.";
    77 TDCALL "TDCALL.";
    78 RDMSRLIST "RDMSRLIST that the MSR bitmap or the controls give to the host.";
    79 WRMSRLIST "WRMSRLIST that the MSR bitmap or the controls give to the host.";
    80 URDMSR "URDMSR that the MSR bitmap gives to the host.";
    81 UWRMSR "UWRMSR that the MSR bitmap gives to the host.";
    84 RDMSR_IMMEDIATE "RDMSR with an immediate, that the MSR bitmap gives to the host.";
    85 WRMSRNS_IMMEDIATE "WRMSRNS with an immediate, that the MSR bitmap gives to the host.";
}

impl fmt::Display for BasicExitReason {
    /// The name, or `UNKNOWN(nn)`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.pad(name),
            None => write!(formatter, "UNKNOWN({})", self.0),
        }
    }
}

impl fmt::Debug for BasicExitReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn known_reasons_have_distinct_names_and_others_a_number() {
        assert!(BasicExitReason::ALL.is_sorted_by(|a, b| a < b));
        for number in 0..=u16::MAX {
            let reason = BasicExitReason(number);
            match reason.name() {
                Some(name) => assert_eq!((BasicExitReason::ALL.contains(&reason), reason.to_string().as_str()), (true, name)),
                None => assert_eq!(reason.to_string(), std::format!("UNKNOWN({number})")),
            }
        }
    }

    #[test]
    fn a_failed_entry_is_told_apart() {
        let reason = ExitReason(0x8000_0021);
        assert_eq!(reason.basic(), BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE);
        assert_eq!(reason, ExitReason::entry_failure(reason.basic()));
        assert!(reason.is_entry_failure() && !reason.is_bus_lock());
        assert_eq!(reason.to_string(), "ENTRY_FAILURE_INVALID_GUEST_STATE (VM-entry failure)");
        assert_eq!(std::format!("{:?}", ExitReason(35)), "UNKNOWN(35) (0x23)");
    }
}
