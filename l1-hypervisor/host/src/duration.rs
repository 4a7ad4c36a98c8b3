//! Durations as users write them: `60s`, `2m`, `500ms`.
//!
//! What always holds: a duration has a unit. A bare number would be seconds to one reader and milliseconds to the next.

use std::time::Duration;
use thiserror::Error;

/// Units a duration ends in, with the milliseconds of one.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// There is nothing.
    #[error("a duration is missing: write it like 60s, 2m or 500ms")]
    Empty,
    /// It does not begin with a decimal digit, or is not a whole number.
    #[error("`{0}` is not a duration: write a whole number with a unit, like 60s, 2m or 500ms")]
    NotANumber(String),
    /// Nothing follows the number.
    #[error("`{0}` has no unit: did you mean `{0}s`?")]
    UnitMissing(String),
    /// Something other than ms, s, m or h follows the number.
    #[error("`{text}` ends in `{unit}`, which is no unit of time: ms, s, m and h are")]
    Unit {
        /// What was given.
        text: String,
        /// What follows its number.
        unit: String,
    },
    /// It has more milliseconds than 64 bits can say.
    #[error("`{0}` is longer than 64 bits of milliseconds can say")]
    TooLong(String),
}

/// The duration that `text` says.
///
/// # Errors
/// [`DurationError`] says what is wrong with `text`.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || unit.starts_with(['.', ',']) {
        return Err(DurationError::NotANumber(text.to_owned()));
    }
    if unit.is_empty() {
        return Err(DurationError::UnitMissing(text.to_owned()));
    }
    let found = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, milliseconds) = found.ok_or_else(|| DurationError::Unit { text: text.to_owned(), unit: unit.to_owned() })?;
    // The number is digits only, so the one way to fail is that it is too large.
    let number: Option<u64> = number.parse().ok();
    let total = number.and_then(|number| number.checked_mul(*milliseconds));
    total.map(Duration::from_millis).ok_or_else(|| DurationError::TooLong(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read() {
        let duration = |text| parse_duration(text).expect(text);
        assert_eq!(duration("500ms"), Duration::from_millis(500));
        assert_eq!(duration("60s"), Duration::from_secs(60));
        assert_eq!(duration("2m"), Duration::from_secs(120));
        assert_eq!(duration("1h"), Duration::from_secs(3600));
        assert_eq!(duration("0s"), Duration::ZERO);
    }

    #[test]
    fn each_offence_has_its_error() {
        assert_eq!(parse_duration(""), Err(DurationError::Empty));
        for text in ["s", "-1s", "soon", "1.5s"] {
            assert_eq!(parse_duration(text), Err(DurationError::NotANumber(text.to_owned())));
        }
        assert_eq!(parse_duration("60"), Err(DurationError::UnitMissing("60".to_owned())));
        for (text, unit) in [("5d", "d"), ("5S", "S"), ("5 s", " s"), ("5sec", "sec")] {
            assert_eq!(parse_duration(text), Err(DurationError::Unit { text: text.to_owned(), unit: unit.to_owned() }));
        }
        for text in ["18446744073709551616ms", "18446744073709552s", "9999999999999999h"] {
            assert_eq!(parse_duration(text), Err(DurationError::TooLong(text.to_owned())));
        }
        assert_eq!(parse_duration("60").expect_err("refused").to_string(), "`60` has no unit: did you mean `60s`?");
    }

    proptest! {
        #[test]
        fn milliseconds_are_read_back(milliseconds: u64) {
            prop_assert_eq!(parse_duration(&format!("{milliseconds}ms")), Ok(Duration::from_millis(milliseconds)));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_duration(&text);
        }
    }
}
