//! How a start's deadline is divided.

use std::time::Duration;

use crate::clock::Deadline;

/// How long recording history may delay a start that writes nothing else.
pub(super) const TO_RECORD: Duration = Duration::from_millis(300);

/// The part of a deadline that is reserved for the answer.
const ANSWER_RESERVE: Duration = Duration::from_millis(200);

/// The deadline for calls to libvirt: early enough that a refusal can still be reported.
pub(super) fn before_the_answer(deadline: Deadline) -> Deadline {
    deadline.at_most(deadline.remaining().saturating_sub(ANSWER_RESERVE))
}
