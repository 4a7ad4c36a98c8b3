//! The bits of CR0 and CR4 that VMX operation fixes.

use vmcs::capability::AllowedSettings;

use crate::command::register_bits::NamedBit;

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
    use crate::command::register_bits::{CR0, CR4};

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
