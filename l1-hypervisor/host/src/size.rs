//! Sizes of memory as users write them: `256M`, `1G`, `4096K`, or plain bytes.
//!
//! What always holds: units are powers of 1024, and what [`format_size`] writes, [`parse_size`] reads back.

use thiserror::Error;

/// Units a size may end in, with the bytes of one.
const UNITS: [(char, u64); 3] = [('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SizeError {
    /// There is nothing.
    #[error("a size is missing: write it like 256M, 1G, 4096K, or in bytes")]
    Empty,
    /// It does not begin with a decimal digit.
    #[error("`{0}` is not a size: write a whole number like 256M, 1G, 4096K, or bytes")]
    NotANumber(String),
    /// Something other than K, M or G follows the number.
    #[error("`{text}` ends in `{unit}`, which is no unit of size: K, M and G are")]
    Unit {
        /// What was given.
        text: String,
        /// What follows its number.
        unit: String,
    },
    /// It has more bytes than 64 bits can say.
    #[error("`{0}` is more than an address of 64 bits can reach")]
    TooLarge(String),
}

/// The bytes that `text` says. A unit is one letter, large or small.
///
/// # Errors
/// [`SizeError`] says what is wrong with `text`.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    if text.is_empty() {
        return Err(SizeError::Empty);
    }
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    // `1.5G`: the number that was meant is not the one before the point.
    if number.is_empty() || unit.starts_with(['.', ',']) {
        return Err(SizeError::NotANumber(text.to_owned()));
    }
    let bytes_per_unit = if unit.is_empty() {
        1
    } else {
        let known = |&&(letter, _): &&(char, u64)| unit.eq_ignore_ascii_case(letter.encode_utf8(&mut [0; 4]));
        let found = UNITS.iter().find(known);
        found.ok_or_else(|| SizeError::Unit { text: text.to_owned(), unit: unit.to_owned() })?.1
    };
    // The number is digits only, so the one way to fail is that it is too large.
    let number: Option<u64> = number.parse().ok();
    number.and_then(|number| number.checked_mul(bytes_per_unit)).ok_or_else(|| SizeError::TooLarge(text.to_owned()))
}

/// `bytes` in the largest unit that divides it, as [`parse_size`] reads it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size));
    unit.map_or_else(|| bytes.to_string(), |(letter, size)| format!("{}{letter}", bytes / size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read() {
        let bytes = |text| parse_size(text).expect(text);
        assert_eq!(bytes("0"), 0);
        assert_eq!(bytes("512"), 512);
        assert_eq!(bytes("4096K"), 4 << 20);
        assert_eq!(bytes("256M"), 256 << 20);
        assert_eq!(bytes("1g"), 1 << 30);
    }

    #[test]
    fn each_offence_has_its_error() {
        assert_eq!(parse_size(""), Err(SizeError::Empty));
        for text in ["M", "-1", "lots", " 1", "1.5G", "1,5G"] {
            assert_eq!(parse_size(text), Err(SizeError::NotANumber(text.to_owned())));
        }
        for (text, unit) in [("5X", "X"), ("5MiB", "MiB"), ("5 M", " M"), ("0x10", "x10"), ("5é", "é")] {
            assert_eq!(parse_size(text), Err(SizeError::Unit { text: text.to_owned(), unit: unit.to_owned() }));
        }
        for text in ["18446744073709551616", "99999999999999999999G", "17179869184G"] {
            assert_eq!(parse_size(text), Err(SizeError::TooLarge(text.to_owned())));
        }
        assert_eq!(
            parse_size("5X").expect_err("refused").to_string(),
            "`5X` ends in `X`, which is no unit of size: K, M and G are"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_size(&text);
        }
    }
}
