//! Days and dates of the Gregorian calendar.

/// A date. Years count from the year 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Year, with century.
    pub year: u32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
}

/// Days from the first of March of the year 0 to the first of January 1970.
const EPOCH: u32 = 719_468;
/// Days in 400 years.
const ERA: u32 = 146_097;

impl Date {
    /// The date `days` days after the first of January 1970. Days beyond the year 9999 give the last day of it.
    #[must_use]
    pub const fn from_days(days: u64) -> Self {
        const LAST: u64 = Date { year: 9999, month: 12, day: 31 }.days() as u64;
        let days = if days < LAST { days as u32 } else { LAST as u32 } + EPOCH;
        // Years here begin in March: the leap day is the last of its year.
        let (era, day_of_era) = (days / ERA, days % ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = era * 400 + year_of_era + (month <= 2) as u32;
        Self { year, month, day }
    }

    /// Days since the first of January 1970; dates before give 0. A day past the end of its month is one of the
    /// next month.
    #[must_use]
    pub const fn days(self) -> u32 {
        let year = if self.month <= 2 { self.year.saturating_sub(1) } else { self.year };
        let march_month = (self.month + 9) % 12;
        let (era, year_of_era) = (year / 400, year % 400);
        let day_of_year = (153 * march_month + 2) / 5 + self.day;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        (era * ERA + day_of_era).saturating_sub(EPOCH + 1)
    }

    /// Day of the week, 1 (Sunday) to 7.
    #[must_use]
    pub const fn day_of_week(self) -> u8 {
        // The first of January 1970 was a Thursday.
        ((self.days() + 4) % 7 + 1) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        for (days, year, month, day, day_of_week) in [
            (0, 1970, 1, 1, 5),
            (59, 1970, 3, 1, 1),
            (11_016, 2000, 2, 29, 3),
            (11_017, 2000, 3, 1, 4),
            (19_723, 2024, 1, 1, 2),
            (47_540, 2100, 2, 28, 1),
            (47_541, 2100, 3, 1, 2),
            (2_932_896, 9999, 12, 31, 6),
        ] {
            let date = Date { year, month, day };
            assert_eq!(Date::from_days(days), date);
            assert_eq!(u64::from(date.days()), days);
            assert_eq!(date.day_of_week(), day_of_week, "{date:?}");
        }
        assert_eq!(Date::from_days(u64::MAX), Date { year: 9999, month: 12, day: 31 });
    }

    #[test]
    fn every_day_of_four_centuries_comes_after_the_one_before() {
        for days in 0..ERA {
            assert_eq!(Date::from_days(u64::from(days)).days(), days);
        }
    }

    #[test]
    fn a_day_past_the_end_of_its_month_is_one_of_the_next() {
        let date = Date { year: 2023, month: 2, day: 31 };
        assert_eq!(Date::from_days(u64::from(date.days())), Date { year: 2023, month: 3, day: 3 });
    }
}
