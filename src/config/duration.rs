//! The one grammar of durations, jiff's: "500ms", "10s", "2h 30m", "30d", "8w".

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Reads a duration. A day has 24 hours; months and years have no fixed length, and a duration
/// is not negative.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
    duration.ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_numbers_and_units() {
        for (text, seconds) in [
            ("0d", 0),
            ("5s", 5),
            ("2m", 120),
            ("12h", 43_200),
            ("1h 30m", 5_400),
            ("30d", 2_592_000),
            ("8w", 4_838_400),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("500ms"), Some(Duration::from_millis(500)));
    }

    #[test]
    fn anything_else_is_no_duration() {
        for text in [
            "",
            "d",
            "30",
            "30x",
            "-1d",
            "1d ago",
            "1.5d",
            "1mo",
            "1y",
            "99999999999999999999d",
            "18446744073709551615w",
            "2026-11-30",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
