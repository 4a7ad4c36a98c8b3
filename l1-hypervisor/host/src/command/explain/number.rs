//! Numbers as people copy them out of logs, and how they are printed.

use std::fmt;

use serde::{Serialize, Serializer};
use thiserror::Error;

/// Why a text is not a number.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NumberError {
    /// It is neither decimal nor hexadecimal.
    #[error("`{0}` is not a number: write it decimal, or hexadecimal like 0x681e")]
    NotANumber(String),
    /// It has more than 64 bits.
    #[error("`{0}` has more than 64 bits")]
    TooLarge(String),
    /// It has more bits than its field.
    #[error("{0:#x} has more than {1} bits")]
    TooWide(u64, u32),
}

/// Reads a number: decimal, hexadecimal with `0x`, or hexadecimal without if it begins with a digit and has a letter. Underscores may
/// separate digits.
///
/// # Errors
/// [`NumberError`] if it is none, or has more than 64 bits.
pub fn parse_number(text: &str) -> Result<u64, NumberError> {
    let compact = text.trim().replace('_', "");
    let not_a_number = || NumberError::NotANumber(text.to_owned());
    let (digits, radix) = match compact.strip_prefix("0x").or_else(|| compact.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if !compact.starts_with(|first: char| first.is_ascii_digit()) => return Err(not_a_number()),
        None if compact.bytes().all(|byte| byte.is_ascii_digit()) => (compact.as_str(), 10),
        None => (compact.as_str(), 16),
    };
    // from_str_radix would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| char::from(byte).is_digit(radix)) {
        return Err(not_a_number());
    }
    u64::from_str_radix(digits, radix).map_err(|_| NumberError::TooLarge(text.to_owned()))
}

/// `value` as a number of 32 bits.
///
/// # Errors
/// [`NumberError::TooWide`].
pub fn narrow(value: u64) -> Result<u32, NumberError> {
    u32::try_from(value).map_err(|_| NumberError::TooWide(value, 32))
}

/// A bit pattern or an address: printed, and written to JSON, as hexadecimal text, since many JSON readers keep only 53 bits of a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ways_of_writing_a_number() {
        for (text, value) in [("33", 33), ("0x21", 33), ("0X8000_0021", 0x8000_0021), ("681e", 0x681e), (" 7 ", 7), ("007", 7)] {
            assert_eq!(parse_number(text), Ok(value), "{text}");
        }
        for text in ["", "0x", "x21", "+7", "0x+7", "-1", "dead", "0xfg", "1.5", "GUEST_RIP", "é"] {
            assert_eq!(parse_number(text), Err(NumberError::NotANumber(text.to_owned())));
        }
        assert!(matches!(parse_number("0x10000000000000000"), Err(NumberError::TooLarge(_))));
        assert_eq!(narrow(1 << 32), Err(NumberError::TooWide(1 << 32, 32)));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(value: u64) {
            prop_assert_eq!(parse_number(&Hex(value).to_string()), Ok(value));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_number(&text);
        }
    }
}
