//! Which calls of a fake libvirt fail, and how.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};

use crate::libvirt::secret::SecretError;

/// A call, by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Guests,
    GuestsCalled,
    SavedRuns,
    EncryptVtpm,
    PersistVtpmState,
    Metadata,
    SetMetadata,
    Inspect,
    Reveal,
    Provide,
    DropOwn,
    Undefine,
    DropStaged,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No daemon answers, and nothing is done.
    Unreachable,
    /// The same, and all the time that there is for it has passed.
    Silent,
    /// It takes longer than [`SLOW`]; whoever gives it less gets no answer. Nobody waits for it in a test.
    Slow,
    /// The program that asks libvirt is not there, and nothing is done.
    NoHelper,
    /// libvirt does not allow it, and nothing is done.
    Refused,
    /// Somebody has changed the secret since it was inspected, and nothing is done.
    Changed,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// This process is killed before it is done.
    KilledBefore,
    /// This process is killed when it is done.
    KilledAfter,
}

/// What a libvirt may take that has ten thousand guests and much to do.
pub(super) const SLOW: Duration = Duration::from_secs(10);

impl Failure {
    pub(super) fn happen<T>(
        self,
        work: impl FnOnce() -> Result<T, SecretError>,
    ) -> Result<T, SecretError> {
        match self {
            Self::Unreachable | Self::Silent => Err(no_answer()),
            Self::Slow => work(),
            Self::NoHelper => Err(SecretError::NoHelper("no fake helper".to_owned())),
            Self::Refused => {
                let words = "access denied by the fake libvirt";
                Err(SecretError::Refused(words.to_owned()))
            }
            Self::Changed => Err(SecretError::Changed),
            Self::AnswerLost => work().and_then(|_| Err(no_answer())),
            Self::KilledBefore => kill(),
            Self::KilledAfter => work().and_then(|_| kill()),
        }
    }
}

pub(super) fn no_answer() -> SecretError {
    SecretError::Unreachable("the fake libvirt did not answer".to_owned())
}

/// Ends this process as `kill -9` does: no destructor runs.
fn kill<T>() -> Result<T, SecretError> {
    raise(Signal::SIGKILL).unwrap();
    Err(no_answer())
}

/// The calls that were made, and those that are to fail.
#[derive(Default)]
pub(super) struct Failures {
    made: BTreeMap<Call, usize>,
    /// By the number that [`calls`](Self::calls) returns once the call was made.
    at: BTreeMap<usize, Failure>,
    each: BTreeMap<Call, Failure>,
    is_down: bool,
}

impl Failures {
    pub(super) fn fail_at(&mut self, nth: usize, failure: Failure) {
        self.at.insert(self.calls() + nth, failure);
    }

    pub(super) fn fail_each(&mut self, call: Call, failure: Failure) {
        self.each.insert(call, failure);
    }

    pub(super) fn go_down(&mut self) {
        self.is_down = true;
    }

    pub(super) fn recover(&mut self) {
        self.at.clear();
        self.each.clear();
        self.is_down = false;
    }

    pub(super) fn calls(&self) -> usize {
        self.made.values().sum()
    }

    pub(super) fn calls_of(&self, call: Call) -> usize {
        self.made.get(&call).copied().unwrap_or_default()
    }

    /// Counts a call, and returns how it fails.
    pub(super) fn next(&mut self, call: Call) -> Option<Failure> {
        *self.made.entry(call).or_default() += 1;
        if self.is_down {
            return Some(Failure::Unreachable);
        }
        let this = self.at.remove(&self.calls());
        this.or_else(|| self.each.get(&call).copied())
    }
}
