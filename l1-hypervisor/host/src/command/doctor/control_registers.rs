//! The bits of CR0 and CR4 that VMX operation fixes, by their names in SDM 3A 2.5 "Control Registers".

use vmcs::capability::AllowedSettings;

/// Position and name of a bit.
pub type NamedBit = (u32, &'static str);

/// CR0.
pub const CR0: &[NamedBit] = &[
    (0, "PE"),
    (1, "MP"),
    (2, "EM"),
    (3, "TS"),
    (4, "ET"),
    (5, "NE"),
    (16, "WP"),
    (18, "AM"),
    (29, "NW"),
    (30, "CD"),
    (31, "PG"),
];

/// CR4.
pub const CR4: &[NamedBit] = &[
    (0, "VME"),
    (1, "PVI"),
    (2, "TSD"),
    (3, "DE"),
    (4, "PSE"),
    (5, "PAE"),
    (6, "MCE"),
    (7, "PGE"),
    (8, "PCE"),
    (9, "OSFXSR"),
    (10, "OSXMMEXCPT"),
    (11, "UMIP"),
    (12, "LA57"),
    (13, "VMXE"),
    (14, "SMXE"),
    (16, "FSGSBASE"),
    (17, "PCIDE"),
    (18, "OSXSAVE"),
    (19, "KL"),
    (20, "SMEP"),
    (21, "SMAP"),
    (22, "PKE"),
    (23, "CET"),
    (24, "PKS"),
    (25, "UINTR"),
    (27, "LASS"),
    (28, "LAM_SUP"),
    (32, "FRED"),
];

/// Every bit with a name, and the others that are fixed to 1: such a bit is news.
pub fn bits(names: &[NamedBit], settings: AllowedSettings) -> Vec<(u32, String)> {
    let name = |bit| names.iter().find(|(named, _)| *named == bit).map(|(_, name)| (*name).to_owned());
    (0..64)
        .filter_map(|bit| match name(bit) {
            Some(name) => Some((bit, name)),
            None if settings.required >> bit & 1 == 1 => Some((bit, format!("bit {bit}"))),
            None => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_bit_without_a_name_is_shown_by_its_number() {
        let bits = bits(CR0, AllowedSettings { required: 1 << 31 | 1 << 63, allowed: u64::MAX });
        assert_eq!(bits.len(), CR0.len() + 1);
        assert_eq!(bits.last(), Some(&(63, "bit 63".to_owned())));
    }

    #[test]
    fn the_tables_ascend() {
        for table in [CR0, CR4] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
        }
    }
}
