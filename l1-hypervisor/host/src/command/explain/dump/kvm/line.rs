//! Lines of a log cut into pieces.

/// Longer pieces of a log are cut in what is said about them.
const EXCERPT: usize = 100;

/// A piece of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// Anything between white space, commas and `=`.
    Word(&'a str),
    /// `=`.
    Equals,
}

/// The pieces of a line.
#[must_use]
pub fn tokens(line: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for word in line.split(|letter: char| letter.is_whitespace() || letter == ',').filter(|word| !word.is_empty()) {
        for (index, part) in word.split('=').enumerate() {
            if index > 0 {
                tokens.push(Token::Equals);
            }
            if !part.is_empty() {
                tokens.push(Token::Word(part));
            }
        }
    }
    tokens
}

/// A hexadecimal number with or without `0x`, and how many digits it has.
#[must_use]
pub fn number(text: &str) -> Option<(u64, usize)> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    // from_str_radix would take a sign.
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = u64::from_str_radix(digits, 16).ok().filter(|_| hexadecimal)?;
    Some((value, digits.len()))
}

/// The line without what makes a terminal change colours (`ESC [` … letter), as `dmesg --color` writes it.
#[must_use]
pub fn without_escapes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        let end = after.find(|letter: char| !letter.is_ascii_digit() && letter != ';');
        rest = end.and_then(|end| after.get(end..)).map_or("", |rest| rest.strip_prefix(|_| true).unwrap_or(""));
    }
    out.push_str(rest);
    out
}

/// A piece of a log fit to be shown: not too long, and nothing in it that a terminal obeys.
#[must_use]
pub fn excerpt(text: &str) -> String {
    let mut letters = text.chars();
    let shown: String = letters.by_ref().take(EXCERPT).flat_map(char::escape_debug).collect();
    if letters.next().is_some() { shown + "…" } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces() {
        use Token::{Equals, Word};
        let expected = [Word("CR0:"), Word("actual"), Equals, Word("0x1"), Word("b"), Equals, Equals, Word("2")];
        assert_eq!(tokens("CR0: actual=0x1, b = =2"), expected);
        assert!(tokens(" , ").is_empty());
    }

    #[test]
    fn numbers() {
        assert_eq!(number("0x00ff"), Some((0xff, 4)));
        assert_eq!(number("fffffffffffffff7"), Some((0xffff_ffff_ffff_fff7, 16)));
        for text in ["", "0x", "+1", "-1", "0xg", "1ffffffffffffffff", "0x0x1"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn colours_and_control_characters() {
        assert_eq!(without_escapes("\u{1b}[33mkvm: \u{1b}[0;1mCR3"), "kvm: CR3");
        assert_eq!(without_escapes("a\u{1b}[12"), "a");
        assert_eq!(without_escapes("a\u{1b}[é"), "a");
        assert_eq!(excerpt("a\u{1b}b\u{7}"), "a\\u{1b}b\\u{7}");
        assert_eq!(excerpt(&"x".repeat(500)).chars().count(), EXCERPT + 1);
    }
}
