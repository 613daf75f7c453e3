//! Instants in UTC, to the microsecond.

use std::fmt;

use time::format_description::{BorrowedFormatItem, well_known::Rfc3339};
use time::macros::{datetime, format_description};
use time::{OffsetDateTime, UtcOffset};

/// An instant in UTC between the years 1 and 9999, to the microsecond.
///
/// Microseconds, because that is what PostgreSQL keeps: a value that has been stored equals the one that was not. The
/// range is the one that RFC 3339 can write and every store can hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

/// Why a text or an instant is no [`Timestamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampFault {
    /// The text is not a date and time as RFC 3339 writes them.
    Malformed,
    /// The text has no offset from UTC, so that it names no instant.
    NoOffset,
    /// The instant is before the year 1 or after the year 9999.
    OutOfRange,
}

impl fmt::Display for TimestampFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not an RFC 3339 timestamp",
            Self::NoOffset => "a timestamp without an offset from UTC",
            Self::OutOfRange => "a timestamp outside the years 1 to 9999",
        })
    }
}

impl std::error::Error for TimestampFault {}

impl Timestamp {
    /// The longest text that is read. RFC 3339 with nanoseconds and an offset takes 35 characters; what is longer is
    /// refused before it costs anything.
    const MAX_TEXT: usize = 64;

    /// The characters of the date.
    const DATE: usize = 10;

    /// The first that there is.
    pub const MIN: Self = Self(datetime!(0001-01-01 0:00 UTC));

    /// The last instant of the year 9999.
    pub const MAX: Self = Self(datetime!(9999-12-31 23:59:59.999_999 UTC));

    /// Takes an instant, cutting off what is finer than a microsecond.
    pub fn new(instant: OffsetDateTime) -> Result<Self, TimestampFault> {
        let utc = instant
            .checked_to_offset(UtcOffset::UTC)
            .ok_or(TimestampFault::OutOfRange)?;
        if !(1..=9999).contains(&utc.year()) {
            return Err(TimestampFault::OutOfRange);
        }
        let micros = utc.microsecond();
        // A microsecond below a million is always in range; the fallback keeps this free of a panic.
        Ok(Self(utc.replace_microsecond(micros).unwrap_or(utc)))
    }

    /// Reads RFC 3339, as `2019-08-24T14:15:22Z` or with any other offset. Between date and time there may be a blank instead of
    /// the `T`, as section 5.6 allows, and nothing else.
    pub fn parse(text: &str) -> Result<Self, TimestampFault> {
        // What reads it takes any byte there, a line break or a NUL too.
        let separator = text.as_bytes().get(Self::DATE);
        let is_separated = separator.is_none_or(|byte| matches!(byte, b'T' | b't' | b' '));
        if text.len() > Self::MAX_TEXT || !is_separated {
            return Err(TimestampFault::Malformed);
        }
        match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(instant) => Self::new(instant),
            // Would it be one with an offset? Then the offset is what to complain about.
            Err(_) if OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339).is_ok() => {
                Err(TimestampFault::NoOffset)
            }
            Err(_) => Err(TimestampFault::Malformed),
        }
    }

    /// The instant itself, in UTC, for a row.
    pub const fn as_offset_date_time(self) -> OffsetDateTime {
        self.0
    }

    /// The instant so many microseconds after 1970; `None` outside of the years that a timestamp can hold.
    pub fn from_unix_micros(micros: i64) -> Option<Self> {
        let nanos = i128::from(micros) * 1000;
        let instant = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
        Self::new(instant).ok()
    }

    /// The instant so many microseconds after 1970; the first or the last that there is, where it is outside of the years that
    /// a timestamp can hold.
    pub fn saturating_from_unix_micros(micros: i64) -> Self {
        let nearest = if micros < 0 { Self::MIN } else { Self::MAX };
        Self::from_unix_micros(micros).unwrap_or(nearest)
    }

    /// The instant so much earlier; the first there is, where there is none.
    #[must_use]
    pub fn saturating_sub(self, span: time::Duration) -> Self {
        self.0
            .checked_sub(span)
            .map_or(Self::MIN, |at| Self(at.max(Self::MIN.0)))
    }

    /// Whole microseconds since 1970, negative before it.
    pub fn unix_micros(self) -> i64 {
        // Ten thousand years are 3.2e17 microseconds, well inside an i64.
        i64::try_from(self.0.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with `Z`; with six digits of a second's fraction, or with none where it is zero, as the reference
    /// implementation writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECONDS: &[BorrowedFormatItem<'_>] =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        const MICROSECONDS: &[BorrowedFormatItem<'_>] = format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
        );
        let format = if self.0.microsecond() == 0 {
            SECONDS
        } else {
            MICROSECONDS
        };
        f.write_str(&self.0.format(format).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_are_cut_off_to_what_a_store_keeps() {
        let fine = Timestamp::new(datetime!(2026-01-02 03:04:05.123_456_789 UTC)).unwrap();
        assert_eq!(fine.to_string(), "2026-01-02T03:04:05.123456Z");
    }

    #[test]
    fn a_fraction_is_written_with_six_digits_or_not_at_all() {
        for text in [
            "2026-01-02T03:04:05.100000Z",
            "2026-01-02T03:04:05Z",
            "0033-01-02T03:04:05Z",
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_offsets_become_utc() {
        let paris = Timestamp::parse("2026-07-01T02:30:00+02:00").unwrap();
        assert_eq!(paris.to_string(), "2026-07-01T00:30:00Z");
        for (text, utc) in [
            ("2026-07-01T02:30:00+23:59", "2026-06-30T02:31:00Z"),
            ("2026-07-01T02:30:00-23:59", "2026-07-02T02:29:00Z"),
            ("2026-07-01T02:30:00+05:45", "2026-06-30T20:45:00Z"),
            ("2026-07-01T02:30:00-00:00", "2026-07-01T02:30:00Z"),
            ("2026-07-01t02:30:00z", "2026-07-01T02:30:00Z"),
            ("2026-07-01 02:30:00+02:00", "2026-07-01T00:30:00Z"),
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), utc, "{text}");
        }
    }

    #[test]
    fn a_leap_second_is_the_last_instant_before_it() {
        for text in ["2016-12-31T23:59:60Z", "2017-01-01T00:59:60+01:00"] {
            let leap = Timestamp::parse(text).unwrap();
            assert_eq!(leap.to_string(), "2016-12-31T23:59:59.999999Z");
        }
    }

    #[test]
    fn what_names_no_instant_is_refused_with_its_reason() {
        let cases = [
            ("2026-07-01T02:30:00", TimestampFault::NoOffset),
            ("2026-07-01", TimestampFault::Malformed),
            ("", TimestampFault::Malformed),
            ("tomorrow", TimestampFault::Malformed),
            ("1784764800", TimestampFault::Malformed),
            ("2026-02-30T00:00:00Z", TimestampFault::Malformed),
            ("2026-07-01T24:00:00Z", TimestampFault::Malformed),
            ("2026-07-01T02:30:00+24:00", TimestampFault::Malformed),
            ("2026-07-01T02:30:00+02", TimestampFault::Malformed),
            ("2026-07-01T02:30:00+02:60", TimestampFault::Malformed),
            ("2026-07-01T02:30:00 +02:00", TimestampFault::Malformed),
            (
                "2026-07-01T02:30:00\u{2212}02:00",
                TimestampFault::Malformed,
            ),
            ("2026-07-01T02:30:00UTC", TimestampFault::Malformed),
            ("2026-07-01T02:30:00ZZ", TimestampFault::Malformed),
            ("2026-07-01T02:30:00Z\0", TimestampFault::Malformed),
            ("２０２６-07-01T02:30:00Z", TimestampFault::Malformed),
            ("2026-07-01T02:30:61Z", TimestampFault::Malformed),
            ("2026-07-01T02:30:60Z", TimestampFault::Malformed),
            ("2026-W27-3T02:30:00Z", TimestampFault::Malformed),
            ("20260701T023000Z", TimestampFault::Malformed),
            ("-0001-01-01T00:00:00Z", TimestampFault::Malformed),
            ("10000-01-01T00:00:00Z", TimestampFault::Malformed),
            ("+999999-01-01T00:00:00Z", TimestampFault::Malformed),
            ("2026-07-01x02:30:00Z", TimestampFault::Malformed),
            ("2026-07-01\n02:30:00Z", TimestampFault::Malformed),
            ("2026-07-01\x0002:30:00", TimestampFault::Malformed),
            ("0000-01-01T00:00:00Z", TimestampFault::OutOfRange),
            ("0001-01-01T00:00:00+01:00", TimestampFault::OutOfRange),
            ("9999-12-31T23:59:59-01:00", TimestampFault::OutOfRange),
        ];
        for (text, fault) in cases {
            assert_eq!(Timestamp::parse(text), Err(fault), "{text}");
        }
        let long = format!("2026-07-01T02:30:00.{}Z", "1".repeat(10_000));
        assert_eq!(Timestamp::parse(&long), Err(TimestampFault::Malformed));
    }

    #[test]
    fn the_ends_of_the_range_are_inside_it() {
        assert_eq!(Timestamp::from_unix_micros(i64::MAX), None);
        assert_eq!(Timestamp::from_unix_micros(i64::MIN), None);
        assert_eq!(
            Timestamp::parse(&Timestamp::MAX.to_string()),
            Ok(Timestamp::MAX)
        );
        for text in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"] {
            let at = Timestamp::parse(text).unwrap();
            assert_eq!(at.to_string(), text);
            assert_eq!(Timestamp::from_unix_micros(at.unix_micros()), Some(at));
        }
        for (nearest, beyond) in [(Timestamp::MIN, -1), (Timestamp::MAX, 1)] {
            let end = nearest.unix_micros();
            assert_eq!(Timestamp::from_unix_micros(end + beyond), None);
            for micros in [end, end + beyond, beyond * i64::MAX] {
                assert_eq!(Timestamp::saturating_from_unix_micros(micros), nearest);
            }
            let inside = Timestamp::from_unix_micros(end - beyond);
            let same = Timestamp::saturating_from_unix_micros(end - beyond);
            assert_eq!(inside, Some(same));
        }
    }
}
