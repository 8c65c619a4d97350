//! While virtqemud starts its guests, a note on tmpfs that virtsecretd was silent: each start is a
//! process of its own, they come one after the other, and virtqemud answers nobody until the last. The
//! first one waits its share; those that follow ask again, for a moment only. An answer removes the
//! note, and it says nothing once that virtqemud is up, or about another.

use std::fs;
use std::io;

use super::context::Guard;
use crate::host::{atomic, trusted};
use crate::libvirt::Process;

/// A virtqemud that starts its guests.
#[derive(Debug, Clone, Copy)]
pub(super) struct StartingVirtqemud {
    daemon: Process,
    /// Whether virtsecretd was silent when the last guest asked.
    pub(super) was_silent: bool,
}

impl StartingVirtqemud {
    /// What is known of this daemon.
    pub(super) fn of(guard: &Guard, daemon: Process) -> Self {
        let note = fs::read_to_string(guard.run_dir.silence());
        Self {
            daemon,
            was_silent: note.is_ok_and(|note| note == daemon.to_string()),
        }
    }

    /// Notes for the next guest whether virtsecretd was silent for this one.
    pub(super) fn note(self, guard: &Guard) {
        let noted = match self.was_silent {
            false if guard.silence.is_set() => write(guard, self.daemon),
            true if guard.silence.is_broken() => atomic::remove_path(&guard.run_dir.silence()),
            _ => Ok(()),
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "what virtsecretd did is not noted for the next guest that starts with virtqemud");
        }
    }
}

fn write(guard: &Guard, daemon: Process) -> io::Result<()> {
    let (note, words) = (guard.run_dir.silence(), daemon.to_string());
    let dir = trusted::make_dir(&guard.run_dir.starts(), trusted::RUN_DIR)?;
    atomic::replace(&dir, note.file_name().unwrap_or_default(), words.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::host::dirs::{RunDir, StateDir};

    #[test]
    fn a_silence_is_known_to_the_next_guest_of_the_same_daemon_until_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let guard = || {
            let mut guard = Guard::new(Config::default(), StateDir::at(dir.path()));
            guard.run_dir = RunDir::at(dir.path().join("run"));
            guard
        };
        let daemon = |pid| Process { pid, started: 100 };
        let is_noted = |pid| StartingVirtqemud::of(&guard(), daemon(pid)).was_silent;
        let start = |pid, answers: Option<bool>| {
            let guard = guard();
            let virtqemud = StartingVirtqemud::of(&guard, daemon(pid));
            match answers {
                None => {}
                Some(true) => guard.silence.end(),
                Some(false) => guard.silence.set(),
            }
            virtqemud.note(&guard);
        };
        start(7, Some(true));
        assert!(!is_noted(7));
        start(7, Some(false));
        assert!(is_noted(7) && !is_noted(8), "restarted meanwhile");
        // One that need not ask, and one that asks in vain.
        for answers in [None, Some(false)] {
            start(7, answers);
            assert!(is_noted(7));
        }
        start(7, Some(true));
        assert!(!is_noted(7));
        start(8, Some(false));
        assert!(is_noted(8));
    }
}
