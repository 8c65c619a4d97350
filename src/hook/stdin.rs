//! The hook's stdin, read under a deadline: libvirt waits for a hook forever.

use std::cell::OnceCell;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long reading stdin may take before its deadline is read from the configuration. libvirt
/// writes the XML at once, so that most calls never need it.
const PATIENCE: Duration = Duration::from_millis(100);

/// A reader over stdin that gives up at the deadline with `ErrorKind::TimedOut`.
pub(super) struct Stdin<F> {
    started: Instant,
    time_limit: F,
    asked: OnceCell<Duration>,
}

impl<F: Fn() -> Duration> Stdin<F> {
    /// Reads until `time_limit()` after `started`.
    pub(super) fn new(started: Instant, time_limit: F) -> Self {
        Self {
            started,
            time_limit,
            asked: OnceCell::new(),
        }
    }

    fn wait(&self) -> io::Result<()> {
        loop {
            let passed = self.started.elapsed();
            let limit = if passed < PATIENCE {
                PATIENCE
            } else {
                *self.asked.get_or_init(&self.time_limit)
            };
            // Also while bytes trickle in, one by one.
            if passed >= limit {
                let error = "stdin did not end in time";
                return Err(io::Error::new(io::ErrorKind::TimedOut, error));
            }
            let left = limit.saturating_sub(passed);
            if is_readable(left)? {
                return Ok(());
            }
        }
    }
}

impl<F: Fn() -> Duration> Read for Stdin<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait()?;
            match nix::unistd::read(io::stdin().as_fd(), buffer) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                read => return Ok(read?),
            }
        }
    }
}

/// Waits for this time at most. Returns whether there is something to read, or the end.
fn is_readable(time: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    // Rounded up, so that a wait does not end just before its time.
    let timeout = PollTimeout::try_from(time.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
