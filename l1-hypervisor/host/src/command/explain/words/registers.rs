//! Bits of control registers, flags and MSRs.
//!
//! Source: SDM 3A 2.2.1 "Extended Feature Enable Register", SDM 1 3.4.3 "EFLAGS Register",
//! SDM 3B 17.2 "Debug Registers".

use super::bits;
use crate::command::register_bits::{CR0, CR4};

/// IA32_EFER.
pub const EFER: &[(u32, &str)] = &[(0, "SCE"), (8, "LME"), (10, "LMA"), (11, "NXE")];

/// RFLAGS, but for IOPL and bit 1, which is always 1.
const RFLAGS: &[(u32, &str)] = &[
    (0, "CF"),
    (2, "PF"),
    (4, "AF"),
    (6, "ZF"),
    (7, "SF"),
    (8, "TF"),
    (9, "IF"),
    (10, "DF"),
    (11, "OF"),
    (14, "NT"),
    (16, "RF"),
    (17, "VM"),
    (18, "AC"),
    (19, "VIF"),
    (20, "VIP"),
    (21, "ID"),
];

/// IA32_DEBUGCTL.
const DEBUGCTL: &[(u32, &str)] = &[
    (0, "LBR"),
    (1, "BTF"),
    (2, "BLD"),
    (6, "TR"),
    (7, "BTS"),
    (8, "BTINT"),
    (9, "BTS_OFF_OS"),
    (10, "BTS_OFF_USR"),
    (11, "FREEZE_LBRS_ON_PMI"),
    (12, "FREEZE_PERFMON_ON_PMI"),
    (13, "ENABLE_UNCORE_PMI"),
    (14, "FREEZE_WHILE_SMM"),
    (15, "RTM"),
];

/// IA32_S_CET, but for the address of the legacy code page bitmap.
const S_CET: &[(u32, &str)] = &[
    (0, "SH_STK_EN"),
    (1, "WR_SHSTK_EN"),
    (2, "ENDBR_EN"),
    (3, "LEG_IW_EN"),
    (4, "NO_TRACK_EN"),
    (5, "SUPPRESS_DIS"),
    (10, "SUPPRESS"),
    (11, "TRACKER"),
];

/// The pending debug exceptions, SDM 3C 24.4.2 "Guest Non-Register State".
const PENDING_DEBUG: &[(u32, &str)] =
    &[(0, "B0"), (1, "B1"), (2, "B2"), (3, "B3"), (11, "BLD"), (12, "enabled breakpoint"), (14, "BS"), (16, "RTM")];

/// CR0.
#[must_use]
pub fn cr0(value: u64) -> String {
    bits(value, CR0)
}

/// CR4.
#[must_use]
pub fn cr4(value: u64) -> String {
    bits(value, CR4)
}

/// IA32_EFER.
#[must_use]
pub fn efer(value: u64) -> String {
    bits(value, EFER)
}

/// IA32_DEBUGCTL.
#[must_use]
pub fn debugctl(value: u64) -> String {
    bits(value, DEBUGCTL)
}

/// IA32_S_CET.
#[must_use]
pub fn s_cet(value: u64) -> String {
    bits(value & 0xfff, S_CET)
}

/// Pending debug exceptions.
#[must_use]
pub fn pending_debug(value: u64) -> String {
    bits(value, PENDING_DEBUG)
}

/// RFLAGS.
#[must_use]
pub fn rflags(value: u64) -> String {
    const FIXED: u64 = 2;
    const IOPL: u64 = 3 << 12;
    let mut words = Vec::new();
    if value & FIXED == 0 {
        words.push("bit 1 is 0".to_owned());
    }
    if value & IOPL != 0 {
        words.push(format!("IOPL {}", (value & IOPL) >> 12));
    }
    let flags = bits(value & !(FIXED | IOPL), RFLAGS);
    if !flags.is_empty() {
        words.push(flags);
    }
    words.join(", ")
}

/// IA32_PAT: the memory type of each entry, entry 0 first. SDM 3A 11.12.2 "IA32_PAT MSR".
#[must_use]
pub fn pat(value: u64) -> String {
    let entry = |byte: u8| match byte {
        0 => "UC".to_owned(),
        1 => "WC".to_owned(),
        4 => "WT".to_owned(),
        5 => "WP".to_owned(),
        6 => "WB".to_owned(),
        7 => "UC-".to_owned(),
        other => format!("reserved({other:#x})"),
    };
    value.to_le_bytes().map(entry).join(" ")
}

/// An EPT pointer. SDM 3C 24.6.11 "Extended-Page-Table Pointer (EPTP)".
#[must_use]
pub fn ept_pointer(value: u64) -> String {
    let memory_type = match value & 7 {
        0 => "uncacheable".to_owned(),
        6 => "write-back".to_owned(),
        other => format!("reserved memory type {other}"),
    };
    let mut words = vec![memory_type, format!("page-walk length {}", (value >> 3 & 7) + 1)];
    if value & 0x40 != 0 {
        words.push("accessed and dirty flags".to_owned());
    }
    if value & 0x80 != 0 {
        words.push("supervisor shadow-stack control".to_owned());
    }
    if value & 0xf00 != 0 {
        words.push(format!("reserved bits {:#x}", value & 0xf00));
    }
    format!("table at {:#x}, {}", value & !0xfff, words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_a_64_bit_guest() {
        assert_eq!(cr0(0x8005_0033), "PE MP ET NE WP AM PG");
        assert_eq!(cr4(0x1_0000_2620), "PAE OSFXSR OSXMMEXCPT VMXE FRED");
        assert_eq!(cr4(1 << 15), "reserved 0x8000");
        assert_eq!(efer(0xd01), "SCE LME LMA NXE");
        assert_eq!(rflags(0x2), "");
        assert_eq!(rflags(0x3_3202), "IOPL 3, IF RF VM");
        assert_eq!(rflags(0x200), "bit 1 is 0, IF");
        assert_eq!(pat(0x0007_0406_0002_0106), "WB WC reserved(0x2) UC WB WT UC- UC");
        assert_eq!(pending_debug(0x4001), "B0 BS");
        assert_eq!(ept_pointer(0x1_2345_605e), "table at 0x123456000, write-back, page-walk length 4, accessed and dirty flags");
        assert_eq!(
            ept_pointer(0x1a1),
            "table at 0x0, reserved memory type 1, page-walk length 5, supervisor shadow-stack control, reserved bits 0x100"
        );
    }
}
