//! The time of day in the clock's registers, in the four formats it can have.
//!
//! What a guest writes is kept as it is, sense or nonsense. Nonsense is brought into range the next time the seconds
//! advance.

use super::super::calendar::Date;

/// Register B bit 2, DM: binary, else two decimal digits.
const BINARY: u8 = 1 << 2;
/// Register B bit 1: 0 to 23, else 1 to 12 with bit 7 for the second half of the day.
pub(super) const HOURS_24: u8 = 1 << 1;
const AFTERNOON: u8 = 1 << 7;
/// An alarm register with both bits set matches anything.
const ANY: u8 = 0xc0;

const SECONDS_PER_DAY: u64 = 86_400;

const SECOND: usize = 0;
const SECOND_ALARM: usize = 1;
const MINUTE: usize = 2;
const MINUTE_ALARM: usize = 3;
const HOUR: usize = 4;
const HOUR_ALARM: usize = 5;
const DAY_OF_WEEK: usize = 6;
const DAY: usize = 7;
const MONTH: usize = 8;
const YEAR: usize = 9;

/// The registers, read and written in the format that register B chooses.
pub(super) struct TimeRegisters<'a> {
    memory: &'a mut [u8; 128],
    century: usize,
    binary: bool,
    hours_24: bool,
}

impl<'a> TimeRegisters<'a> {
    pub(super) fn new(memory: &'a mut [u8; 128], register_b: usize, century: u8) -> Self {
        let format = memory[register_b];
        let (binary, hours_24) = (format & BINARY != 0, format & HOURS_24 != 0);
        Self { memory, century: usize::from(century), binary, hours_24 }
    }

    /// Writes the time `wall_clock` seconds after 1970.
    pub(super) fn set(&mut self, wall_clock: u64) {
        let date = Date::from_days(wall_clock / SECONDS_PER_DAY);
        self.set_second_of_day((wall_clock % SECONDS_PER_DAY) as u32);
        self.memory[DAY_OF_WEEK] = date.day_of_week();
        self.set_date(date);
    }

    /// Lets `seconds` pass.
    pub(super) fn add(&mut self, seconds: u64) {
        let total = u64::from(self.second_of_day()).saturating_add(seconds);
        self.set_second_of_day((total % SECONDS_PER_DAY) as u32);
        let days = total / SECONDS_PER_DAY;
        if days > 0 {
            let day_of_week = u64::from(self.memory[DAY_OF_WEEK]) + 6 + days % 7;
            self.memory[DAY_OF_WEEK] = (day_of_week % 7 + 1) as u8;
            self.set_date(Date::from_days(u64::from(self.date().days()).saturating_add(days)));
        }
    }

    /// How long until the time next matches the alarm registers: 1 to 86400, or never.
    pub(super) fn seconds_to_alarm(&self) -> Option<u64> {
        let second = Alarm::new(self.memory[SECOND_ALARM], |raw| self.decode(raw), 60)?;
        let minute = Alarm::new(self.memory[MINUTE_ALARM], |raw| self.decode(raw), 60)?;
        let hour = Alarm::new(self.memory[HOUR_ALARM], |raw| self.decode_hour(raw), 24)?;
        let now = self.second_of_day();
        let (this_hour, this_minute) = (now / 3600, now / 60 % 60);
        // The rest of this minute, the rest of this hour, and then the hours of a day from the next one on.
        let candidate = |hours: u32, minutes: u32, seconds: u32| hours * 3600 + minutes * 60 + seconds;
        if hour.matches(this_hour) {
            if minute.matches(this_minute)
                && let Some(found) = second.first_from(now % 60 + 1)
            {
                return Some(u64::from(candidate(this_hour, this_minute, found) - now));
            }
            if let Some(found) = minute.first_from(this_minute + 1) {
                return Some(u64::from(candidate(this_hour, found, second.first()) - now));
            }
        }
        let found = hour.first_from(this_hour + 1).unwrap_or_else(|| hour.first() + 24);
        Some(u64::from(candidate(found, minute.first(), second.first()) - now))
    }

    fn second_of_day(&self) -> u32 {
        let hour = self.decode_hour(self.memory[HOUR]).min(23);
        hour * 3600 + self.decode(self.memory[MINUTE]).min(59) * 60 + self.decode(self.memory[SECOND]).min(59)
    }

    fn set_second_of_day(&mut self, value: u32) {
        self.memory[SECOND] = self.encode(value % 60);
        self.memory[MINUTE] = self.encode(value / 60 % 60);
        self.memory[HOUR] = self.encode_hour(value / 3600);
    }

    fn date(&self) -> Date {
        Date {
            year: self.decode(self.memory[self.century]) * 100 + self.decode(self.memory[YEAR]),
            month: self.decode(self.memory[MONTH]).clamp(1, 12),
            day: self.decode(self.memory[DAY]).clamp(1, 31),
        }
    }

    fn set_date(&mut self, date: Date) {
        self.memory[DAY] = self.encode(date.day);
        self.memory[MONTH] = self.encode(date.month);
        self.memory[YEAR] = self.encode(date.year % 100);
        self.memory[self.century] = self.encode(date.year / 100);
    }

    fn decode(&self, raw: u8) -> u32 {
        if self.binary { u32::from(raw) } else { u32::from(raw >> 4) * 10 + u32::from(raw & 15) }
    }

    /// `value` is below 100.
    fn encode(&self, value: u32) -> u8 {
        if self.binary { value as u8 } else { ((value / 10) << 4 | (value % 10)) as u8 }
    }

    fn decode_hour(&self, raw: u8) -> u32 {
        if self.hours_24 {
            self.decode(raw)
        } else {
            self.decode(raw & !AFTERNOON) % 12 + if raw & AFTERNOON == 0 { 0 } else { 12 }
        }
    }

    fn encode_hour(&self, hour: u32) -> u8 {
        if self.hours_24 { self.encode(hour) } else { self.encode((hour + 11) % 12 + 1) | if hour < 12 { 0 } else { AFTERNOON } }
    }
}

/// What one alarm register matches.
#[derive(Clone, Copy)]
enum Alarm {
    Any { limit: u32 },
    One(u32),
}

impl Alarm {
    /// `None` if it never matches: the register holds `limit` or more.
    fn new(raw: u8, decode: impl Fn(u8) -> u32, limit: u32) -> Option<Self> {
        if raw & ANY == ANY {
            return Some(Self::Any { limit });
        }
        Some(decode(raw)).filter(|&value| value < limit).map(Self::One)
    }

    fn matches(self, value: u32) -> bool {
        match self {
            Self::Any { .. } => true,
            Self::One(one) => one == value,
        }
    }

    fn first(self) -> u32 {
        match self {
            Self::Any { .. } => 0,
            Self::One(one) => one,
        }
    }

    /// The first match at or after `value`.
    fn first_from(self, value: u32) -> Option<u32> {
        match self {
            Self::Any { limit } => Some(value).filter(|&value| value < limit),
            Self::One(one) => Some(one).filter(|&one| one >= value),
        }
    }
}
