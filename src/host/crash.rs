//! The moments at which a test kills this program: just before and just after each step that
//! outlasts the process.

/// Such a moment. Outside of tests it is nothing.
#[inline]
pub(crate) fn point() {
    #[cfg(test)]
    armed::reached();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod armed {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use nix::sys::signal::{Signal, raise};

    /// How many moments are left until the kill; 0: none comes.
    static LEFT: AtomicUsize = AtomicUsize::new(0);

    /// Kills this process at the `nth` moment from now, as `kill -9` does.
    pub(crate) fn kill_at(nth: usize) {
        LEFT.store(nth, Ordering::SeqCst);
    }

    pub(super) fn reached() {
        let left = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        if left == Ok(1) {
            raise(Signal::SIGKILL).unwrap();
        }
    }
}
