//! Points in time as the store keeps them, and the deadline of one run.

use std::time::{Duration, Instant, SystemTime};

/// Milliseconds since 1970-01-01T00:00:00Z, as in the store's `*_at` columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Timestamp(pub i64);

/// How far a clock may be set back before a time counts as one that it has not reached, in milliseconds.
const TOLERANCE_MS: i64 = 5 * 60 * 1000;

impl Timestamp {
    /// The wall clock. A clock set before 1970 reads as 0.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Whether the clock has not reached this time yet: it was wrong then, or is wrong now.
    #[must_use]
    pub fn is_ahead_of(self, now: Self) -> bool {
        self.0 > now.0.saturating_add(TOLERANCE_MS)
    }

    /// Whether what was done at this time, and is to be done each `interval` milliseconds, is to be done again. A time that
    /// the clock has not reached says nothing: it is.
    #[must_use]
    pub fn is_due(self, interval: i64, now: Self) -> bool {
        self.is_ahead_of(now) || now.0.saturating_sub(self.0) >= interval
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since_epoch.unwrap_or(Duration::ZERO).as_millis();
        Self(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

/// The moment at which a run must have its answer. Everything that can wait takes one.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline `time` from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// What is left; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of this deadline and one `time` from now: for a step that may use only
    /// a part of the whole.
    #[must_use]
    pub fn at_most(self, time: Duration) -> Self {
        Self(self.0.min(Instant::now() + time))
    }

    /// Half of what is left: for a step that leaves the other half to those after it.
    #[must_use]
    pub fn half(self) -> Self {
        self.at_most(self.remaining() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_at_a_time_that_the_clock_has_not_reached_is_to_be_done_again() {
        let (minute, now) = (60_000, Timestamp(100_000_000));
        let is_due = |at: i64| Timestamp(now.0 + at).is_due(10 * minute, now);
        assert!(is_due(-10 * minute) && !is_due(-10 * minute + 1));
        // Set back a little, as by NTP.
        assert!(!is_due(5 * minute) && is_due(5 * minute + 1));
        assert!(Timestamp(i64::MAX).is_due(i64::MAX, now) && Timestamp(i64::MIN).is_due(1, now));
    }
}
