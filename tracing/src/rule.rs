//! The rules that decide whether an exit of L3 goes to L2, by number and name: field `rule` of an exit record.
//!
//! The hypervisor decides and only writes the number down: that of the row in the table of crate `shadow`
//! (`shadow::reflect::RULES`) from 1. The names stand here once more, because this crate reads recordings without the
//! hypervisor; a test of the image compares the two tables. The type is open: a number without a name is carried and
//! shown as a number.

use core::fmt;

/// Number of the rule that decided whose an exit of L3 is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ReflectionRule(pub u16);

/// The names, from number 1 on.
pub const NAMES: &[&str] = &[
    "exception-bitmap",
    "external-interrupt",
    "triple-fault",
    "interrupt-window-exiting",
    "nmi-window-exiting",
    "task-switch",
    "cpuid",
    "getsec",
    "hlt-exiting",
    "invd",
    "invlpg-exiting",
    "rdpmc-exiting",
    "rdtsc-exiting",
    "vmcall",
    "vmclear",
    "vmlaunch",
    "vmptrld",
    "vmptrst",
    "vmread-bitmap",
    "vmresume",
    "vmwrite-bitmap",
    "vmxoff",
    "vmxon",
    "control-register",
    "mov-dr-exiting",
    "io-bitmap",
    "msr-bitmap-read",
    "msr-bitmap-write",
    "mwait-exiting",
    "monitor-trap-flag",
    "monitor-exiting",
    "pause-exiting",
    "tpr-threshold",
    "apic-access",
    "virtualized-eoi",
    "descriptor-table-exiting",
    "descriptor-table-exiting",
    "ept-violation",
    "ept-misconfiguration",
    "invept",
    "rdtsc-exiting",
    "preemption-timer",
    "invvpid",
    "wbinvd-exiting",
    "xsetbv",
    "apic-write",
    "rdrand-exiting",
    "invlpg-exiting",
    "vmfunc",
    "rdseed-exiting",
    "page-modification-log",
    "xss-bitmap",
    "xss-bitmap",
];

impl ReflectionRule {
    /// No rule: an exit of L2, or one of L3 whose reason no rule is about; the latter goes to L2.
    pub const NONE: Self = Self(0);

    /// The name, if the number has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.get(usize::from(self.0).checked_sub(1)?).copied()
    }
}

impl fmt::Display for ReflectionRule {
    /// The name, `default` for [`ReflectionRule::NONE`], or `rule 77`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.pad(name),
            None if *self == Self::NONE => formatter.pad("default"),
            None => write!(formatter, "rule {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn numbers_count_from_one() {
        assert_eq!(ReflectionRule(1).name(), NAMES.first().copied());
        assert_eq!(ReflectionRule(NAMES.len() as u16).name(), NAMES.last().copied());
    }

    #[test]
    fn a_number_without_a_name_shows_as_a_number() {
        assert_eq!(ReflectionRule::NONE.to_string(), "default");
        assert_eq!(ReflectionRule(9999).to_string(), "rule 9999");
        assert_eq!((ReflectionRule::NONE.name(), ReflectionRule(u16::MAX).name()), (None, None));
    }
}
