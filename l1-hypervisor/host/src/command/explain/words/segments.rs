//! Selectors and access rights of segments.
//!
//! Source: SDM 3C 24.4.1 "Guest Register State", table 24-2 "Format of Access Rights"; SDM 3A 3.4.5.1 "Code- and Data-Segment
//! Descriptor Types", SDM 3A 3.5 "System Descriptor Types".

use std::borrow::Cow;

/// Types of code and data segments, but for the bit that says they were accessed.
const CODE_OR_DATA: [&str; 8] = [
    "data, read-only",
    "data, read/write",
    "data, read-only, expand-down",
    "data, read/write, expand-down",
    "code, execute-only",
    "code, execute/read",
    "code, execute-only, conforming",
    "code, execute/read, conforming",
];

/// Types of system segments and gates.
const SYSTEM: [&str; 16] = [
    "system type 0 (reserved)",
    "available 16-bit TSS",
    "LDT",
    "busy 16-bit TSS",
    "16-bit call gate",
    "task gate",
    "16-bit interrupt gate",
    "16-bit trap gate",
    "system type 8 (reserved)",
    "available TSS",
    "system type 10 (reserved)",
    "busy TSS",
    "call gate",
    "system type 13 (reserved)",
    "interrupt gate",
    "trap gate",
];

/// Access rights.
#[must_use]
pub fn access_rights(value: u64) -> String {
    const RESERVED: u64 = !0xf0ff;
    let bit = |position: u32| value >> position & 1 != 0;
    if bit(16) {
        // Of an unusable segment nothing but the DPL of SS counts.
        return format!("unusable, DPL {}", value >> 5 & 3);
    }
    let kind = (value & 15) as usize;
    let mut words: Vec<Cow<'static, str>> = Vec::new();
    if bit(4) {
        words.push(CODE_OR_DATA.get(kind >> 1).copied().unwrap_or_default().into());
        words.push(if bit(0) { "accessed".into() } else { "not accessed".into() });
    } else {
        words.push(SYSTEM.get(kind).copied().unwrap_or_default().into());
    }
    words.push(format!("DPL {}", value >> 5 & 3).into());
    words.push(if bit(7) { "present".into() } else { "not present".into() });
    let flags = [(12, "AVL"), (13, "L (64-bit)"), (14, "D/B (32-bit)"), (15, "G (limit in pages)")];
    words.extend(flags.iter().filter(|(position, _)| bit(*position)).map(|(_, name)| Cow::from(*name)));
    if value & RESERVED != 0 {
        words.push(format!("reserved {:#x}", value & RESERVED).into());
    }
    words.join(", ")
}

/// A selector.
#[must_use]
pub fn selector(value: u64) -> String {
    if value & 0xfffc == 0 {
        return format!("null, RPL {}", value & 3);
    }
    let table = if value & 4 == 0 { "GDT" } else { "LDT" };
    format!("entry {} of the {table}, RPL {}", value >> 3, value & 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_selectors() {
        assert_eq!(access_rights(0xa09b), "code, execute/read, accessed, DPL 0, present, L (64-bit), G (limit in pages)");
        assert_eq!(access_rights(0xf3), "data, read/write, accessed, DPL 3, present");
        assert_eq!(access_rights(0x8b), "busy TSS, DPL 0, present");
        assert_eq!(access_rights(0x1_0000), "unusable, DPL 0");
        assert_eq!(access_rights(0x2_0112), "data, read/write, not accessed, DPL 0, not present, reserved 0x20100");
        assert_eq!(selector(0x10), "entry 2 of the GDT, RPL 0");
        assert_eq!(selector(0x2f), "entry 5 of the LDT, RPL 3");
        assert_eq!(selector(3), "null, RPL 3");
    }

    #[test]
    fn every_value_has_words() {
        for value in (0..=u64::from(u32::MAX)).step_by(0x1_0001) {
            assert!(!access_rights(value).is_empty() && !selector(value).is_empty());
        }
    }
}
