//! Asks again and again until there is an answer, and no longer than to a deadline.

use std::thread;
use std::time::Duration;

use crate::clock::Deadline;

/// Asks at once and then once every `pause`, until there is an answer. `None`: the deadline has
/// passed without one.
pub fn poll<T>(
    pause: Duration,
    deadline: Deadline,
    mut ask: impl FnMut() -> Option<T>,
) -> Option<T> {
    loop {
        let answer = ask();
        if answer.is_some() || !wait(pause, deadline) {
            return answer;
        }
    }
}

/// Sleeps for `pause`, but not beyond the deadline. Returns false at once if it has passed.
pub fn wait(pause: Duration, deadline: Deadline) -> bool {
    let remaining = deadline.remaining();
    thread::sleep(pause.min(remaining));
    !remaining.is_zero()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(1);

    #[test]
    fn asks_until_there_is_an_answer() {
        let mut asked = 0;
        let answer = poll(PAUSE, Deadline::after(Duration::from_secs(20)), || {
            asked += 1;
            (asked == 3).then_some("yes")
        });
        assert_eq!((answer, asked), (Some("yes"), 3));
    }

    #[test]
    fn asks_once_after_the_deadline_and_stops_at_it() {
        let mut asked = 0;
        let answer: Option<()> = poll(PAUSE, Deadline::after(Duration::ZERO), || {
            asked += 1;
            None
        });
        assert_eq!((answer, asked), (None, 1));
        let soon = Deadline::after(Duration::from_millis(5));
        assert_eq!(poll(PAUSE, soon, || None::<()>), None);
        assert!(soon.has_passed());
    }
}
