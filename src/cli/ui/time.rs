//! Points in time as a person writes them: a duration before now, or a date.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, ZonedDateTime};

use super::error::CommandError;
use crate::clock::Timestamp;
use crate::messages::quoted;

/// Reads "90m", "2h", "7d" (ago), "2026-11-30" or "2026-11-30 14:00" (local time), or "2026-11-30T14:00:00+02:00".
pub(crate) fn parse(text: &str) -> Result<Timestamp, CommandError> {
    // Before a date: that would pass over the offset.
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp(instant.as_millisecond()));
    }
    let time = if let Ok(span) = text.parse::<Span>() {
        ZonedDateTime::now().checked_sub(span.abs())
    } else {
        let date: Result<DateTime, _> = text.parse();
        date.and_then(|date| date.to_zoned_datetime(TimeZone::system()))
    };
    let time = time.map_err(|_| {
        CommandError::usage(format!("invalid time {}", quoted(text)))
            .with_hint("use a duration (\"2h\", \"7d\") or a date (\"2026-11-30 14:00\")")
    })?;
    Ok(Timestamp(time.timestamp().as_millisecond()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_before_now() {
        let Timestamp(now) = Timestamp::now();
        for (text, seconds) in [
            ("90s", 90),
            ("90m", 5_400),
            ("2h", 7_200),
            ("1d 1h", 90_000),
        ] {
            let Timestamp(then) = parse(text).unwrap();
            let off = (now - then - seconds * 1000).abs();
            // A day may be an hour longer or shorter where clocks are set twice a year.
            assert!(
                off < 5_000 || (text.contains('d') && off < 3_605_000),
                "{text}: {off}"
            );
        }
    }

    #[test]
    fn a_date_is_a_local_one() {
        let midnight = parse("2026-11-30").unwrap();
        assert_eq!(parse("2026-11-30 00:00").unwrap(), midnight);
        let Timestamp(half_past_two) = parse("2026-11-30T02:30:00").unwrap();
        assert_eq!(half_past_two - midnight.0, 9_000_000);
    }

    #[test]
    fn a_time_with_an_offset_is_that_instant_wherever_the_host_is() {
        let instant = parse("2026-11-30T14:00:00Z").unwrap();
        assert_eq!(instant, Timestamp(1_796_047_200_000));
        for text in ["2026-11-30T16:00:00+02:00", "2026-11-30 09:00:00-05:00"] {
            assert_eq!(parse(text).unwrap(), instant, "{text}");
        }
    }

    #[test]
    fn anything_else_is_invalid() {
        for text in [
            "",
            "yesterday",
            "2026-13-01",
            "5",
            "9999999999999y",
            "VG101",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
