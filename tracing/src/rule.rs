//! The rules that decide whether an exit of L3 goes to L2, by number and name: field `rule` of an exit record.
//!
//! The hypervisor decides and only writes the number down; the names stand here, so that a recording can be read
//! without it. Numbers and names are never given to another rule. The type is open: a number without a name is carried
//! and shown as a number.

use core::fmt;

/// Number of the rule that decided whose an exit of L3 is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ReflectionRule(pub u16);

impl ReflectionRule {
    /// No rule: the exit is one of L2, which nobody shares with L1, or the hypervisor did not say.
    pub const NONE: Self = Self(0);

    /// Whether a rule decided.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

macro_rules! reflection_rules {
    ($($number:literal $constant:ident $name:literal $what:literal;)*) => {
        impl ReflectionRule {
            $(#[doc = $what] pub const $constant: Self = Self($number);)*

            /// Every rule with a name, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self($number),)*];

            /// The name, `exit.condition`, if the number is known.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                Some(match self.0 {
                    $($number => $name,)*
                    _ => return None,
                })
            }

            /// The rule in a sentence, if the number is known.
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

// 1 to 255 keep the exit with L1, 256 and up reflect it to L2.
reflection_rules! {
    1 NOT_INTERCEPTED "not-intercepted" "vmcs23 does not ask for the exit: L1 does for L3 what the processor would have done.";
    2 NMI_OURS "nmi.ours" "An NMI is the machine's.";
    3 EXTERNAL_INTERRUPT_OURS "external-interrupt.ours" "An external interrupt is the machine's.";
    4 MACHINE_CHECK_OURS "machine-check.ours" "A machine check is the machine's.";
    5 EXCEPTION_OURS "exception.ours" "An exception that only L1 asked for.";
    6 PAGE_FAULT_OURS "page-fault.ours" "A page fault that L1's tables caused, not L2's or L3's.";
    7 INTERRUPT_WINDOW_OURS "interrupt-window.ours" "An interrupt window that only L1 asked for.";
    8 NMI_WINDOW_OURS "nmi-window.ours" "An NMI window that only L1 asked for.";
    9 EPT_VIOLATION_OURS "ept-violation.ours" "EPT23 allows the access: EPT13 lacks the entry and is filled, or EPT12 is what forbids it.";
    10 EPT_MISCONFIGURATION_OURS "ept-misconfiguration.ours" "EPT13 is L1's own, so is a wrong entry in it.";
    11 PREEMPTION_TIMER_OURS "preemption-timer.ours" "The VMX-preemption timer ran out for L1.";
    12 PAGE_MODIFICATION_LOG_OURS "page-modification-log.ours" "The page-modification log is L1's.";
    13 VMFUNC_OURS "vmfunc.ours" "L1 performs the VM function, which vmcs23 enables.";
    14 CONTROL_REGISTER_OURS "control-register.ours" "The access touches no bit that L2 owns.";
    15 MONITOR_TRAP_FLAG_OURS "monitor-trap-flag.ours" "The monitor trap flag that only L1 set.";
    16 APIC_OURS "apic.ours" "L1 virtualizes the APIC access for L2.";
    17 VMREAD_VMWRITE_OURS "vmread-vmwrite.ours" "L1 serves L3's VMREAD or VMWRITE from the shadow VMCS that vmcs23 links.";
    18 SHUTDOWN_OURS "shutdown.ours" "L1 ends the run.";

    256 UNKNOWN_REASON "unknown.default" "An exit reason that no rule names goes to L2.";
    257 EXCEPTION_BITMAP "exception.bitmap" "The exception bitmap of vmcs23 has the vector's bit.";
    258 PAGE_FAULT_MASK "page-fault.mask" "Exception bitmap, page-fault error-code mask and match of vmcs23 select the page fault.";
    259 NMI_EXITING "nmi.exiting" "vmcs23 has \"NMI exiting\".";
    260 EXTERNAL_INTERRUPT_EXITING "external-interrupt.exiting" "An interrupt for L2 is pending and vmcs23 has \"external-interrupt exiting\".";
    261 TRIPLE_FAULT_ALWAYS "triple-fault.always" "A triple fault of L3 is always L2's.";
    262 INIT_ALWAYS "init.always" "An INIT signal for L2's processor.";
    263 START_UP_IPI_ALWAYS "start-up-ipi.always" "A SIPI for L2's processor.";
    264 INTERRUPT_WINDOW_EXITING "interrupt-window.exiting" "vmcs23 has \"interrupt-window exiting\".";
    265 NMI_WINDOW_EXITING "nmi-window.exiting" "vmcs23 has \"NMI-window exiting\".";
    266 TASK_SWITCH_ALWAYS "task-switch.always" "A task switch always exits.";
    267 CPUID_ALWAYS "cpuid.always" "CPUID always exits.";
    268 GETSEC_ALWAYS "getsec.always" "GETSEC always exits.";
    269 HLT_EXITING "hlt.exiting" "vmcs23 has \"HLT exiting\".";
    270 INVD_ALWAYS "invd.always" "INVD always exits.";
    271 INVLPG_EXITING "invlpg.exiting" "vmcs23 has \"INVLPG exiting\".";
    272 RDPMC_EXITING "rdpmc.exiting" "vmcs23 has \"RDPMC exiting\".";
    273 RDTSC_EXITING "rdtsc.exiting" "vmcs23 has \"RDTSC exiting\"; RDTSCP too.";
    274 VMX_INSTRUCTION_ALWAYS "vmx-instruction.always" "VMX instructions, VMCALL among them, always exit.";
    275 VMREAD_NO_SHADOWING "vmread.no-shadowing" "vmcs23 has no \"VMCS shadowing\".";
    276 VMREAD_BITMAP "vmread.bitmap" "The VMREAD bitmap of vmcs23 has the field's bit, or the encoding is beyond the bitmap.";
    277 VMWRITE_NO_SHADOWING "vmwrite.no-shadowing" "vmcs23 has no \"VMCS shadowing\".";
    278 VMWRITE_BITMAP "vmwrite.bitmap" "The VMWRITE bitmap of vmcs23 has the field's bit, or the encoding is beyond the bitmap.";
    279 CONTROL_REGISTER_MASK "control-register.mask" "The access changes a bit of CR0 or CR4 that L2 owns, against the read shadow.";
    280 CR3_LOAD_EXITING "cr3.load-exiting" "vmcs23 has \"CR3-load exiting\" and the value is no CR3-target value.";
    281 CR3_STORE_EXITING "cr3.store-exiting" "vmcs23 has \"CR3-store exiting\".";
    282 CR8_LOAD_EXITING "cr8.load-exiting" "vmcs23 has \"CR8-load exiting\".";
    283 CR8_STORE_EXITING "cr8.store-exiting" "vmcs23 has \"CR8-store exiting\".";
    284 MOV_DR_EXITING "mov-dr.exiting" "vmcs23 has \"MOV-DR exiting\".";
    285 IO_UNCONDITIONAL "io.unconditional" "vmcs23 has \"unconditional I/O exiting\" and no I/O bitmaps.";
    286 IO_BITMAP "io.bitmap" "The I/O bitmaps of vmcs23 have a bit of the access, or it wraps around port 0xffff.";
    287 MSR_NO_BITMAP "msr.no-bitmap" "vmcs23 has no MSR bitmap.";
    288 MSR_BITMAP "msr.bitmap" "The MSR bitmap of vmcs23 has the MSR's bit.";
    289 MSR_OUT_OF_RANGE "msr.out-of-range" "The MSR is in neither range of the MSR bitmap.";
    290 ENTRY_FAILURE_ALWAYS "entry-failure.always" "The processor refused the guest state or an MSR list that came from vmcs23.";
    291 MWAIT_EXITING "mwait.exiting" "vmcs23 has \"MWAIT exiting\".";
    292 MONITOR_TRAP_FLAG_SET "monitor-trap-flag.set" "vmcs23 has \"monitor trap flag\".";
    293 MONITOR_TRAP_FLAG_INJECTED "monitor-trap-flag.injected" "L2 injected a pending MTF VM exit.";
    294 MONITOR_EXITING "monitor.exiting" "vmcs23 has \"MONITOR exiting\".";
    295 PAUSE_EXITING "pause.exiting" "vmcs23 has \"PAUSE exiting\".";
    296 PAUSE_LOOP_EXITING "pause-loop.exiting" "vmcs23 has \"PAUSE-loop exiting\".";
    297 TPR_THRESHOLD "tpr.threshold" "vmcs23 has \"use TPR shadow\" and the TPR fell below its threshold.";
    298 APIC_ALWAYS "apic.always" "vmcs23 virtualizes the APIC, and the access, write or EOI needs L2.";
    299 DESCRIPTOR_TABLE_EXITING "descriptor-table.exiting" "vmcs23 has \"descriptor-table exiting\".";
    300 EPT_VIOLATION_EPT23 "ept-violation.ept23" "EPT23 forbids the access.";
    301 EPT_MISCONFIGURATION_EPT23 "ept-misconfiguration.ept23" "EPT23 has an entry that is not valid.";
    302 PREEMPTION_TIMER_EXPIRED "preemption-timer.expired" "The VMX-preemption timer of vmcs23 ran out.";
    303 WBINVD_EXITING "wbinvd.exiting" "vmcs23 has \"WBINVD exiting\".";
    304 XSETBV_ALWAYS "xsetbv.always" "XSETBV always exits.";
    305 RDRAND_EXITING "rdrand.exiting" "vmcs23 has \"RDRAND exiting\".";
    306 INVPCID_EXITING "invpcid.exiting" "vmcs23 has \"enable INVPCID\" and \"INVLPG exiting\".";
    307 VMFUNC_FAILED "vmfunc.failed" "The VM function is not enabled in vmcs23, or it failed.";
    308 ENCLS_BITMAP "encls.bitmap" "The ENCLS-exiting bitmap of vmcs23 has the leaf's bit.";
    309 RDSEED_EXITING "rdseed.exiting" "vmcs23 has \"RDSEED exiting\".";
    310 PAGE_MODIFICATION_LOG_FULL "page-modification-log.full" "The page-modification log of vmcs23 is full.";
    311 XSS_BITMAP "xss.bitmap" "XSAVES or XRSTORS with a bit in the XSS-exiting bitmap of vmcs23.";
    312 USER_WAIT_EXITING "user-wait.exiting" "UMWAIT or TPAUSE, and vmcs23 has \"RDTSC exiting\".";
}

impl fmt::Display for ReflectionRule {
    /// The name, or `rule 77`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.pad(name),
            None => write!(formatter, "rule {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::string::ToString;

    #[test]
    fn numbers_ascend_and_names_are_distinct_words() {
        assert!(ReflectionRule::ALL.is_sorted_by(|a, b| a < b) && !ReflectionRule::ALL.contains(&ReflectionRule::NONE));
        let names: BTreeSet<_> = ReflectionRule::ALL.iter().filter_map(|rule| rule.name()).collect();
        assert_eq!(names.len(), ReflectionRule::ALL.len());
        for name in names {
            assert!(name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')), "{name}");
        }
    }

    #[test]
    fn a_number_without_a_name_shows_as_a_number() {
        assert_eq!(ReflectionRule::CPUID_ALWAYS.to_string(), "cpuid.always");
        assert_eq!(ReflectionRule(9999).to_string(), "rule 9999");
        assert_eq!(ReflectionRule(9999).description(), None);
    }
}
