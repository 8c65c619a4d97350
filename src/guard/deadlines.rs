//! How a start's deadline is divided.

use std::time::Duration;

use super::context::Guard;
use crate::clock::Deadline;

/// How long recording history may delay a start that writes nothing else.
pub(super) const TO_RECORD: Duration = Duration::from_millis(300);

/// The part of a deadline that is reserved for the answer.
const ANSWER_RESERVE: Duration = Duration::from_millis(200);

/// How long one call of the hook that follows a start waits for libvirt and for locks, together. It
/// can refuse nothing, and the daemon waits for it.
const TO_FOLLOW_UP: Duration = Duration::from_secs(1);

/// The part of a deadline for which a start waits for virtsecretd while virtqemud itself is starting.
const SHARE_WHILE_STARTING: u32 = 3;

/// The deadline for work that may take a while: early enough that a refusal can still be reported.
pub(super) fn before_the_answer(deadline: Deadline) -> Deadline {
    deadline.at_most(deadline.remaining().saturating_sub(ANSWER_RESERVE))
}

impl Guard {
    /// From here on, waits for libvirt and for locks only as long as a follow-up may.
    pub fn be_brief(&mut self) {
        self.patience = Some(Deadline::after(TO_FOLLOW_UP));
    }

    /// From here on, waits for libvirt and for locks only for a part of the deadline: virtqemud
    /// starts its guests one by one, and answers nobody until then.
    pub(super) fn share(&mut self, deadline: Deadline) {
        self.patience = Some(deadline.at_most(deadline.remaining() / SHARE_WHILE_STARTING));
    }

    /// The deadline of a wait for a lock. Where patience is at its end, there is still time to write
    /// what nobody hinders.
    pub(super) fn patient(&self, deadline: Deadline) -> Deadline {
        let limit = |until: Deadline| deadline.at_most(until.remaining().max(TO_RECORD));
        self.patience.map_or(deadline, limit)
    }

    /// The deadline of a question to libvirt.
    pub(super) fn for_libvirt(&self, deadline: Deadline) -> Deadline {
        let limit = |until: Deadline| deadline.at_most(until.remaining());
        before_the_answer(self.patience.map_or(deadline, limit))
    }
}
