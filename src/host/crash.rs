//! The moments at which a test kills this program, or does what somebody else could: just before
//! and just after each step that outlasts the process.

/// Such a moment. Outside of tests it is nothing.
#[inline]
pub(crate) fn point() {
    #[cfg(test)]
    armed::reached();
}

/// A step that a test lets fail. Outside of tests it never does.
#[inline]
#[cfg_attr(
    not(test),
    allow(clippy::unnecessary_wraps, reason = "a test lets it fail")
)]
pub(crate) fn failing_point() -> std::io::Result<()> {
    #[cfg(test)]
    armed::may_fail()?;
    Ok(())
}

/// What a rename has answered, which is a moment, too. A test lets one be done whose answer is an error, as NFS does: a
/// request whose answer was lost is sent again, and the second finds nothing to rename.
#[inline]
pub(crate) fn answer_of_rename(answer: nix::Result<()>) -> nix::Result<()> {
    point();
    #[cfg(test)]
    let answer = armed::lost(answer);
    answer
}

/// A rename with flags that a test lets be refused, as by a file system that has none. Outside of tests it is asked for.
#[inline]
#[cfg_attr(
    not(test),
    allow(clippy::unnecessary_wraps, reason = "a test lets it fail")
)]
pub(crate) fn flagged_rename() -> nix::Result<()> {
    #[cfg(test)]
    armed::may_have_flags()?;
    Ok(())
}

/// Whether a test says that another host holds the lock that is looked at. Outside of tests the lock itself says it.
#[inline]
pub(crate) fn is_locked_elsewhere() -> bool {
    #[cfg(test)]
    let is_locked = armed::may_be_locked();
    #[cfg(not(test))]
    let is_locked = false;
    is_locked
}

/// Whether a test has watched for long enough, however much time is left. Outside of tests the time decides.
#[inline]
pub(crate) fn has_watched() -> bool {
    #[cfg(test)]
    let has_watched = armed::need_not_watch();
    #[cfg(not(test))]
    let has_watched = false;
    has_watched
}

/// A thread that a test lets be refused. Outside of tests it is asked for.
#[inline]
#[cfg_attr(
    not(test),
    allow(clippy::unnecessary_wraps, reason = "a test lets it fail")
)]
pub(crate) fn thread_point() -> std::io::Result<()> {
    #[cfg(test)]
    armed::may_have_a_thread()?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod armed {
    use std::cell::{Cell, RefCell};
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use nix::sys::signal::{Signal, raise};

    /// How many moments are left until the kill; 0: none comes.
    static LEFT: AtomicUsize = AtomicUsize::new(0);

    /// How many moments of this thread are left until somebody else does something, and what.
    type Meanwhile = (usize, Box<dyn FnOnce()>);

    thread_local! {
        static MEANWHILE: RefCell<Option<Meanwhile>> = const { RefCell::new(None) };
        /// How many steps of this thread are left until one fails, 0: none does; and how many fail then.
        static FAILING: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
        /// How many threads this one asks for in vain.
        static REFUSED: Cell<usize> = const { Cell::new(0) };
        /// For how many threads this one has asked.
        static ASKED: Cell<usize> = const { Cell::new(0) };
        /// How often it still finds a lock that it looks at held by another host.
        static LOCKED: Cell<usize> = const { Cell::new(0) };
        /// What this thread watches for as long as anybody else has it, too.
        static WATCHED: RefCell<Option<Arc<()>>> = const { RefCell::new(None) };
        /// Whether the answer of its next rename is lost.
        static LOST: Cell<bool> = const { Cell::new(false) };
        /// Whether no rename of its may have flags.
        static UNFLAGGED: Cell<bool> = const { Cell::new(false) };
    }

    /// Lets the `nth` step of this thread from now fail that can.
    pub(crate) fn fail_at(nth: usize) {
        FAILING.set((nth, 1));
    }

    /// Lets the next steps of this thread fail that can.
    pub(crate) fn fail_next(times: usize) {
        FAILING.set((1, times));
    }

    /// Loses the answer of this thread's next rename that is done.
    pub(crate) fn lose_answer_of_rename() {
        LOST.set(true);
    }

    pub(super) fn lost(answer: nix::Result<()>) -> nix::Result<()> {
        answer?;
        if LOST.take() {
            return Err(nix::errno::Errno::ENOENT);
        }
        Ok(())
    }

    /// Does this on a file system that has no renames with flags, as NFS.
    pub(crate) fn without_flagged_renames<T>(act: impl FnOnce() -> T) -> T {
        UNFLAGGED.set(true);
        let done = act();
        UNFLAGGED.set(false);
        done
    }

    pub(super) fn may_have_flags() -> nix::Result<()> {
        if UNFLAGGED.get() {
            return Err(nix::errno::Errno::EINVAL);
        }
        Ok(())
    }

    /// Another host holds each lock that this thread looks at, for so many looks.
    pub(crate) fn lock_elsewhere(looks: usize) {
        LOCKED.set(looks);
    }

    pub(super) fn may_be_locked() -> bool {
        let left = LOCKED.get();
        LOCKED.set(left.saturating_sub(1));
        left > 0
    }

    /// Lets this thread watch until nobody else has this.
    pub(crate) fn watch_while_used(what: Arc<()>) {
        WATCHED.set(Some(what));
    }

    pub(super) fn need_not_watch() -> bool {
        WATCHED.with_borrow(|what| {
            what.as_ref()
                .is_some_and(|what| Arc::strong_count(what) == 1)
        })
    }

    /// Refuses the next threads that this one asks for.
    pub(crate) fn refuse_threads(number: usize) {
        REFUSED.set(number);
    }

    /// For how many threads this work asks.
    pub(crate) fn threads_of(work: impl FnOnce()) -> usize {
        ASKED.set(0);
        work();
        ASKED.get()
    }

    pub(super) fn may_have_a_thread() -> io::Result<()> {
        ASKED.set(ASKED.get() + 1);
        let left = REFUSED.get();
        REFUSED.set(left.saturating_sub(1));
        match left {
            0 => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(super) fn may_fail() -> io::Result<()> {
        let (left, times) = FAILING.get();
        if left != 1 || times == 0 {
            FAILING.set((left.saturating_sub(1), times));
            return Ok(());
        }
        FAILING.set((1, times - 1));
        Err(io::Error::other("a test lets this step fail"))
    }

    /// Kills this process at the `nth` moment from now, as `kill -9` does.
    pub(crate) fn kill_at(nth: usize) {
        LEFT.store(nth, Ordering::SeqCst);
    }

    /// Does this at the `nth` moment of this thread from now.
    pub(crate) fn meanwhile(nth: usize, act: impl FnOnce() + 'static) {
        MEANWHILE.set(Some((nth, Box::new(act))));
    }

    /// Whether what `meanwhile` was given has not been done; it never is from now on.
    pub(crate) fn forget() -> bool {
        MEANWHILE.take().is_some()
    }

    pub(super) fn reached() {
        match MEANWHILE.take() {
            Some((1, act)) => act(),
            Some((left, act)) => MEANWHILE.set(Some((left - 1, act))),
            None => {}
        }
        let left = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        if left == Ok(1) {
            raise(Signal::SIGKILL).unwrap();
        }
    }
}
