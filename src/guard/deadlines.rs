//! How a start's deadline is divided.

use std::time::Duration;

use super::context::Guard;
use crate::clock::Deadline;

/// How long recording history may delay a start that writes nothing else. Nobody holds the store for so long, but of 64
/// starts at once some wait for a third of it.
const TO_RECORD: Duration = Duration::from_secs(1);

/// How long recording may still take where nothing is left of the deadline: well below what is reserved for
/// the answer. A store that nobody has locked needs a few milliseconds.
const TO_RECORD_AT_LEAST: Duration = Duration::from_millis(50);

/// The same while libvirtd itself starts, and each guest waits for the one before it.
pub(super) const TO_RECORD_FOR_STARTING_DAEMON: Duration = Duration::from_millis(300);

/// The part of a deadline that is reserved for the answer.
const ANSWER_RESERVE: Duration = Duration::from_millis(200);

/// How long one call of the hook that follows a start waits for libvirt and for locks, together. It
/// can refuse nothing, and the daemon waits for it.
const TO_FOLLOW_UP: Duration = Duration::from_secs(1);

/// How long it still waits for each where that time is over, perhaps for another reason: a slow disk;
/// and how long a start does where virtsecretd was silent for the guest before.
const AT_LEAST: Duration = Duration::from_millis(500);

/// The part of a deadline for which a start waits for virtsecretd while virtqemud itself is starting.
const SHARE_WHILE_STARTING: u32 = 3;

/// The deadline for work that may take a while: early enough that a refusal can still be reported.
pub(super) fn before_the_answer(deadline: Deadline) -> Deadline {
    deadline.at_most(deadline.remaining().saturating_sub(ANSWER_RESERVE))
}

/// The deadline for recording history, which no start waits for beyond its own.
pub(super) fn to_record(deadline: Deadline) -> Deadline {
    let left = before_the_answer(deadline).remaining();
    Deadline::after(left.clamp(TO_RECORD_AT_LEAST, TO_RECORD))
}

/// How long libvirt and locks are waited for, if that is not for all of the deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until then, all of them together.
    until: Deadline,
    /// Each of them at least.
    at_least: Duration,
}

impl Guard {
    /// From here on, waits for libvirt and for locks only as long as a follow-up may.
    pub fn be_brief(&mut self) {
        self.patience = Some(Patience {
            until: Deadline::after(TO_FOLLOW_UP),
            at_least: AT_LEAST,
        });
    }

    /// From here on, waits for each question to libvirt and each lock only for a part of the
    /// deadline: virtqemud starts its guests one by one, and answers nobody until then. A provider key
    /// that is slow to open has all of it. If virtsecretd `was_silent` for the guest before, it gets
    /// a moment.
    pub(super) fn share(&mut self, deadline: Deadline, was_silent: bool) {
        let share = deadline.remaining() / SHARE_WHILE_STARTING;
        self.patience = Some(Patience {
            until: Deadline::after(Duration::ZERO),
            at_least: if was_silent {
                share.min(AT_LEAST)
            } else {
                share
            },
        });
    }

    /// The deadline of a wait for a lock.
    pub(super) fn patient(&self, deadline: Deadline) -> Deadline {
        let limit = |it: Patience| deadline.at_most(it.until.remaining().max(it.at_least));
        self.patience.map_or(deadline, limit)
    }

    /// The deadline of a question to libvirt.
    pub(super) fn for_libvirt(&self, deadline: Deadline) -> Deadline {
        before_the_answer(self.patient(deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::host::dirs::StateDir;

    #[test]
    fn recording_takes_no_more_than_the_deadline_leaves_and_never_nothing() {
        let left =
            |deadline: u64| to_record(Deadline::after(Duration::from_millis(deadline))).remaining();
        assert!(left(10_000) <= TO_RECORD && left(10_000) > TO_RECORD / 2);
        assert!(left(600) <= Duration::from_millis(400));
        for over in [0, 150, 210] {
            assert!(left(over) > Duration::ZERO && left(over) <= TO_RECORD_AT_LEAST);
        }
    }

    #[test]
    fn libvirt_and_locks_are_waited_for_as_long_as_the_moment_allows() {
        let guard = || Guard::new(Config::default(), StateDir::at("/nowhere"));
        let whole = Deadline::after(Duration::from_secs(12));
        let seconds = |deadline: Deadline| deadline.remaining().as_secs_f32().ceil();
        assert!(seconds(guard().patient(whole)) >= 11.0);

        let mut follow_up = guard();
        follow_up.be_brief();
        assert!(seconds(follow_up.patient(whole)) <= 1.0);
        assert!(seconds(follow_up.for_libvirt(whole)) <= 1.0);
        // What took the time was neither: there is some for both.
        std::thread::sleep(TO_FOLLOW_UP);
        assert!(!follow_up.for_libvirt(whole).has_passed());
        assert!(!follow_up.patient(whole).has_passed());
        let over = Deadline::after(Duration::ZERO);
        assert!(follow_up.for_libvirt(over).has_passed());

        let mut starting = guard();
        starting.share(Deadline::after(Duration::from_secs(12)), false);
        for _ in 0..2 {
            let left = starting.for_libvirt(whole).remaining().as_secs_f32();
            assert!((3.0..4.0).contains(&left), "{left}");
            std::thread::sleep(Duration::from_millis(100));
        }
        starting.share(Deadline::after(Duration::from_secs(12)), true);
        assert!(seconds(starting.for_libvirt(whole)) <= 1.0);
    }
}
