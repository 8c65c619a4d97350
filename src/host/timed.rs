//! Reads and writes that end at a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::Deadline;

/// POSIX's `PIPE_BUF` on Linux, in bytes: a pipe that poll reports as writable takes this many without
/// blocking.
const PIPE_BUF: usize = 4096;

/// A pipe, or a socket that does not block, that is read or written until the deadline.
pub struct Timed<'a, P>(pub &'a mut P, pub Deadline);

impl<P: AsFd> Timed<'_, P> {
    fn wait_for(&self, events: PollFlags) -> io::Result<()> {
        loop {
            let left = self.1.remaining();
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            // Rounded up: with 0 milliseconds this would be a busy loop.
            let timeout = i32::try_from(left.as_millis() + 1)
                .ok()
                .and_then(|left_ms| PollTimeout::try_from(left_ms).ok())
                .unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.0.as_fd(), events)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl<P: Read + AsFd> Read for Timed<'_, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait_for(PollFlags::POLLIN)?;
            match self.0.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

impl<P: Write + AsFd> Write for Timed<'_, P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = &bytes[..bytes.len().min(PIPE_BUF)];
        loop {
            self.wait_for(PollFlags::POLLOUT)?;
            match self.0.write(some) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
