//! What values mean, in words: registers, segments, events, qualifications, existence predicates, and VMCS fields by all of these.
//!
//! Everything here is a pure function of a value, for every value.

pub mod event;
pub mod existence;
pub mod exit;
pub mod field;
pub mod qualification;
pub mod registers;
pub mod segments;

/// Names of the bits that are 1, the lowest first; bits without a name are shown as one hexadecimal number at the end.
#[must_use]
pub fn bits(value: u64, names: &[(u32, &str)]) -> String {
    let known = names.iter().fold(0, |known, (bit, _)| known | 1_u64 << bit);
    let mut words: Vec<String> =
        names.iter().filter(|(bit, _)| value >> bit & 1 != 0).map(|(_, name)| (*name).to_owned()).collect();
    if value & !known != 0 {
        words.push(format!("reserved {:#x}", value & !known));
    }
    words.join(" ")
}

/// The text in lines of at most `columns`, each indented by `indent`, broken between words.
#[must_use]
pub fn wrap(text: &str, indent: usize, columns: usize) -> String {
    let mut out = String::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > columns {
            out.push_str(&format!("{:indent$}{line}\n", ""));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    out.push_str(&format!("{:indent$}{line}\n", ""));
    out
}

#[cfg(test)]
mod tests {
    use super::{bits, wrap};

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("aa bb cc", 2, 7), "  aa bb\n  cc\n");
        assert_eq!(wrap("overlong a", 1, 4), " overlong\n a\n");
        assert_eq!(wrap("", 0, 4), "\n");
    }

    #[test]
    fn named_and_reserved_bits() {
        let names = [(0, "A"), (63, "Z")];
        assert_eq!(bits(0, &names), "");
        assert_eq!(bits(1 << 63 | 1, &names), "A Z");
        assert_eq!(bits(0x7, &names), "A reserved 0x6");
    }
}
