//! Which names a misspelt one may have meant.

/// How many names are proposed at most.
const PROPOSALS: usize = 3;
/// Longer texts are not names, and not worth the time that comparing takes.
const LONGEST: usize = 128;

/// A name as the tables write it: upper case, with `_` for whatever separates words in the SDM's titles.
#[must_use]
pub fn normalize(text: &str) -> String {
    let separated =
        text.trim().split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').filter(|word| !word.is_empty());
    separated.collect::<Vec<_>>().join("_").to_ascii_uppercase()
}

/// The names most like `text`, the likest first; empty if none is like it.
///
/// What counts is the edit distance, and that the same words occur in whatever order.
#[must_use]
pub fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = normalize(text);
    if wanted.is_empty() || wanted.len() > LONGEST {
        return Vec::new();
    }
    let mut found: Vec<(usize, &str)> = names.filter_map(|name| Some((unlikeness(&wanted, name)?, name))).collect();
    found.sort_unstable();
    found.truncate(PROPOSALS);
    found.into_iter().map(|(_, name)| name).collect()
}

/// Smaller is liker; nothing if the names have little in common.
fn unlikeness(wanted: &str, name: &str) -> Option<usize> {
    let distance = edit_distance(wanted.as_bytes(), name.as_bytes());
    let misspelt = distance <= 1 + wanted.len() / 5;
    let words: Vec<&str> = wanted.split('_').filter(|word| word.len() > 1).collect();
    let shared = words.iter().filter(|word| name.split('_').any(|other| other == **word)).count();
    let abbreviated = words.len() > 1 && shared == words.len() || shared >= 2;
    // A word that both have is worth more than some letters that differ.
    (misspelt || abbreviated).then(|| (distance + 8).saturating_sub(4 * shared))
}

/// Letters to insert, remove or replace to come from one to the other.
fn edit_distance(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.iter().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (slot, other) in row.iter_mut().skip(1).zip(to) {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = *slot;
            left = replaced.min(left + 1).min(diagonal + 1);
            *slot = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vmcs::field::FIELDS;

    fn fields(text: &str) -> Vec<&'static str> {
        nearest(text, FIELDS.iter().map(|row| row.name))
    }

    #[test]
    fn distances() {
        for (from, to, distance) in [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)] {
            assert_eq!(edit_distance(from.as_bytes(), to.as_bytes()), distance, "{from} {to}");
        }
    }

    #[test]
    fn misspelt_and_abbreviated_names_are_found() {
        assert_eq!(fields("GUEST_RPI").first(), Some(&"GUEST_RIP"));
        assert_eq!(fields("guest-cs-acess-rights").first(), Some(&"GUEST_CS_ACCESS_RIGHTS"));
        assert_eq!(fields("GUEST_CS_AR_BYTES").first(), Some(&"GUEST_CS_BASE"));
        assert!(fields("LINK_POINTER").contains(&"VMCS_LINK_POINTER"));
        assert!(fields("banana").is_empty() && fields("").is_empty() && fields(&"A".repeat(1000)).is_empty());
    }

    #[test]
    fn titles_are_names() {
        assert_eq!(normalize(" EPT pointer (EPTP)"), "EPT_POINTER_EPTP");
        assert_eq!(normalize("ept-violation"), "EPT_VIOLATION");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = fields(&text);
        }
    }
}
