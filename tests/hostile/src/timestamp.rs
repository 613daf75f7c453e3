//! Timestamps, against a reading of RFC 3339 that shares nothing with the product's.
//!
//! An input is two texts with a line break between them; each is a timestamp or is none, and two of them have an order.

use leadr_auth_domain::{Timestamp, TimestampFault};

use crate::Came;

pub(crate) const REACHES: &[&str] = &["two instants", "malformed", "no offset", "out of range"];

/// Reads two timestamps and compares them.
pub fn timestamp(data: &[u8]) -> Came {
    let Ok(text) = std::str::from_utf8(data) else {
        return "no text".into();
    };
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    let (read, other) = (checked(first), checked(second));
    if let (Ok(one), Ok(two)) = (read, other) {
        let (one_micros, two_micros) = (one.unix_micros(), two.unix_micros());
        assert_eq!(one.cmp(&two), one_micros.cmp(&two_micros), "{text:?}");
        return "two instants".into();
    }
    match read {
        Ok(_) => "an instant",
        Err(TimestampFault::Malformed) => "malformed",
        Err(TimestampFault::NoOffset) => "no offset",
        Err(TimestampFault::OutOfRange) => "out of range",
    }
    .into()
}

/// Reads a text both ways.
fn checked(text: &str) -> Result<Timestamp, TimestampFault> {
    let read = Timestamp::parse(text);
    assert_eq!(read.map(Timestamp::unix_micros), micros(text), "{text:?}");
    if let Ok(at) = read {
        let shown = at.to_string();
        assert!(matches!(shown.len(), 20 | 27), "{text:?} is {shown}");
        assert!(shown.ends_with('Z') && shown.is_ascii(), "{shown}");
        assert_eq!(Timestamp::parse(&shown), Ok(at), "{text:?} is {shown}");
        assert_eq!(Timestamp::from_unix_micros(at.unix_micros()), Some(at));
        assert_eq!(Timestamp::new(at.as_offset_date_time()), Ok(at));
        assert!((Timestamp::MIN..=Timestamp::MAX).contains(&at), "{shown}");
    }
    read
}

/// The microseconds since 1970 that a text stands for, by RFC 3339, and by what `docs/http-api.md` and [`Timestamp`] say
/// beyond it.
pub(crate) fn micros(text: &str) -> Result<i64, TimestampFault> {
    // Nobody writes so many digits of a second's fraction.
    const MAX_TEXT: usize = 64;
    let year = |year: i64| i64::from(days(year, 1, 1)) * 86_400 * 1_000_000;
    if text.len() > MAX_TEXT {
        return Err(TimestampFault::Malformed);
    }
    match Reading::of(text) {
        Some(Reading { micros, offset }) => match offset {
            None => Err(TimestampFault::NoOffset),
            Some(_) if (year(1)..year(10_000)).contains(&micros) => Ok(micros),
            Some(_) => Err(TimestampFault::OutOfRange),
        },
        None => Err(TimestampFault::Malformed),
    }
}

/// A date and time, and its offset from UTC in minutes if it has one.
struct Reading {
    micros: i64,
    offset: Option<i64>,
}

impl Reading {
    fn of(text: &str) -> Option<Self> {
        let mut rest = text.as_bytes();
        let year = number(&mut rest, 4)?;
        literal(&mut rest, b"-")?;
        let month = number(&mut rest, 2)?;
        literal(&mut rest, b"-")?;
        let day = number(&mut rest, 2)?;
        literal(&mut rest, b"Tt ")?;
        let hour = number(&mut rest, 2)?;
        literal(&mut rest, b":")?;
        let minute = number(&mut rest, 2)?;
        literal(&mut rest, b":")?;
        let second = number(&mut rest, 2)?;
        let mut fraction = 0;
        if literal(&mut rest, b".").is_some() {
            let mut digits = 0;
            while let Some(digit) = number(&mut rest, 1) {
                if digits < 6 {
                    fraction = fraction * 10 + digit;
                }
                digits += 1;
            }
            if digits == 0 {
                return None;
            }
            (digits..6).for_each(|_| fraction *= 10);
        }
        let offset = if rest.is_empty() {
            None
        } else if literal(&mut rest, b"Zz").is_some() {
            Some(0)
        } else {
            let is_west = rest.first() == Some(&b'-');
            literal(&mut rest, b"+-")?;
            let hours = number(&mut rest, 2)?;
            literal(&mut rest, b":")?;
            let minutes = number(&mut rest, 2)?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            Some(if is_west { -offset } else { offset })
        };
        let is_leap_second = second == 60;
        let valid = rest.is_empty()
            && (1..=12).contains(&month)
            && (1..=last_day(year, month)).contains(&day)
            && hour <= 23
            && minute <= 59
            && second <= 60;
        if !valid {
            return None;
        }
        // A leap second is the last microsecond before it.
        let (second, fraction) = if is_leap_second {
            (59, 999_999)
        } else {
            (second, fraction)
        };
        let minutes = i64::from(days(year, month, day)) * 1_440 + hour * 60 + minute
            - offset.unwrap_or_default();
        let micros = (minutes * 60 + second) * 1_000_000 + fraction;
        // It is one at the end of a month of UTC only.
        let is_end_of_month = || {
            minutes.rem_euclid(1_440) == 1_439 && is_first_of_month(minutes.div_euclid(1_440) + 1)
        };
        (!is_leap_second || is_end_of_month()).then_some(Self { micros, offset })
    }
}

fn number(rest: &mut &[u8], digits: usize) -> Option<i64> {
    let (digits, behind) = rest.split_at_checked(digits)?;
    let mut number = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + i64::from(digit - b'0');
    }
    *rest = behind;
    Some(number)
}

fn literal(rest: &mut &[u8], one_of: &[u8]) -> Option<()> {
    let (first, behind) = rest.split_first()?;
    one_of.contains(first).then(|| *rest = behind)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn last_day(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The days from 1970-01-01 to a date, counted one year and one month after the other: slow, and plain to see.
fn days(year: i64, month: i64, day: i64) -> i32 {
    // The leap years before a year, from the year 0 on, which was one.
    let leaps = |year: i64| {
        let before = year - 1;
        if year <= 0 {
            0
        } else {
            before / 4 - before / 100 + before / 400 + 1
        }
    };
    let years = (year - 1970) * 365 + leaps(year) - leaps(1970);
    let months: i64 = (1..month).map(|month| last_day(year, month)).sum();
    i32::try_from(years + months + day - 1).unwrap()
}

/// Is this many days after 1970-01-01 the first of a month?
fn is_first_of_month(day: i64) -> bool {
    let near = 1970 + day.div_euclid(366);
    let mut months =
        (near - 35..=near + 35).flat_map(|year| (1..=12).map(move |month| (year, month)));
    months.any(|(year, month)| i64::from(days(year, month, 1)) == day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_reading_is_right_about_known_instants() {
        for (text, micros_of) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2000-03-01T00:00:00Z", 951_868_800_000_000),
            ("2026-07-01T02:30:00.1+02:00", 1_782_865_800_100_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
            ("9999-12-31T23:59:59.9999999Z", 253_402_300_799_999_999),
            ("2016-12-31T23:59:60Z", 1_483_228_799_999_999),
            ("2017-01-01T08:59:60+09:00", 1_483_228_799_999_999),
        ] {
            assert_eq!(micros(text), Ok(micros_of), "{text}");
        }
        for malformed in [
            "2016-12-30T23:59:60Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01x00:00:00Z",
        ] {
            assert_eq!(
                micros(malformed),
                Err(TimestampFault::Malformed),
                "{malformed}"
            );
        }
    }
}
