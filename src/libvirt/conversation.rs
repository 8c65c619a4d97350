//! A running helper: sends requests, reads responses, and never waits longer than the deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zeroize::Zeroizing;

use super::frame::read_frame;
use super::protocol::{MAX_RESPONSE, MAX_VALUE, Request, Response};
use crate::clock::Deadline;
use crate::host::dirs;

/// POSIX's `PIPE_BUF` on Linux, in bytes: a pipe that poll reports as writable takes this many without
/// blocking.
const PIPE_BUF: usize = 4096;

/// How much of the helper's stderr goes into an error, in bytes.
const MAX_STDERR: u64 = 1024;

/// The helper, and the pipes to it. It inherits none of the guard's own descriptors: libvirt reads a
/// hook's stdout and stderr until every process has closed them.
///
/// When this is dropped, the helper's stdin ends, and it closes its connection. Nobody waits for
/// that, because a guest's start would wait too; a helper that hangs in libvirt ends itself
/// (`helper::serve`).
pub(super) struct Conversation {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Conversation {
    /// Starts the helper for one libvirt connection.
    pub(super) fn start(program: &Path, uri: &str) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg(uri)
            .env_clear()
            .env("PATH", dirs::SEARCH_PATH)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
        })
    }

    /// Asks one question. After an error the helper is killed.
    pub(super) fn ask(
        &mut self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> io::Result<Response> {
        let answer = self.exchange(request, deadline);
        if answer.is_err() {
            let _ = self.child.kill();
        }
        answer
    }

    /// Reads the value that the last response announced. After an error the helper is killed.
    pub(super) fn value(&mut self, deadline: Deadline) -> io::Result<Zeroizing<Vec<u8>>> {
        let Some(stdout) = &mut self.stdout else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let value = read_frame(&mut Timed(stdout, deadline), MAX_VALUE)
            .and_then(|frame| frame.ok_or_else(|| ErrorKind::UnexpectedEof.into()));
        if value.is_err() {
            let _ = self.child.kill();
        }
        value
    }

    fn exchange(&mut self, request: &Request<'_>, deadline: Deadline) -> io::Result<Response> {
        let (Some(stdin), Some(stdout)) = (&mut self.stdin, &mut self.stdout) else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let sent = Timed(stdin, deadline).write_all(&request.to_frame()?);
        let answer = match sent {
            Ok(()) => read_frame(&mut Timed(stdout, deadline), MAX_RESPONSE)?,
            // The helper ended before it had read everything; its stderr may say why.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => None,
            Err(error) => return Err(error),
        };
        match answer {
            Some(frame) => Response::parse(&frame),
            None => Err(io::Error::other(self.end_reason(deadline))),
        }
    }

    /// Returns why the helper ended, as its stderr says.
    fn end_reason(&mut self, deadline: Deadline) -> String {
        let mut text = Vec::new();
        if let Some(stderr) = &mut self.stderr {
            // After an error, what could be read is used.
            let _ = Timed(stderr, deadline)
                .take(MAX_STDERR)
                .read_to_end(&mut text);
        }
        let text = String::from_utf8_lossy(&text);
        let words: Vec<_> = text.split_whitespace().collect();
        format!("it ended without an answer: {}", words.join(" "))
    }
}

/// A pipe that is read or written until the deadline.
struct Timed<'a, P>(&'a mut P, Deadline);

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
        self.wait_for(PollFlags::POLLIN)?;
        self.0.read(buffer)
    }
}

impl<P: Write + AsFd> Write for Timed<'_, P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_for(PollFlags::POLLOUT)?;
        self.0.write(&bytes[..bytes.len().min(PIPE_BUF)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
