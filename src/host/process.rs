//! Runs another program: input by pipe, bounded output, killed at the deadline.
//!
//! What goes in and comes out may be a key, so it passes through pipes and wiped buffers
//! only, never through arguments, the environment or a file.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use crate::clock::Deadline;
use crate::host::dirs::SEARCH_PATH;
use crate::host::interrupted;
use crate::host::path_error::PathError;
use crate::host::poll;

#[cfg(test)]
pub(crate) mod tests;

/// How much of a child's stderr is kept, in bytes; the rest is read and dropped.
const MAX_STDERR: usize = 4096;

/// How long a killed child is waited for. One that sleeps in the kernel (a TPM that does not
/// answer) dies later, and its death is no reason to hold up a guest's start.
const REAP_GRACE: Duration = Duration::from_millis(500);

/// How often an exit is looked for once the child has closed its output.
const EXIT_POLL: Duration = Duration::from_micros(200);

/// What a child that ended by itself has left.
pub struct Output {
    /// How it ended, well or not.
    pub status: ExitStatus,
    /// Its whole stdout.
    pub stdout: Zeroizing<Vec<u8>>,
    /// The first 4 KiB of its stderr, without white space around it.
    pub stderr: String,
}

/// Why a child gave no output that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// There is no such program.
    #[error("{program} is not installed", program = .0.display())]
    NotInstalled(PathBuf),
    /// It had not ended at the deadline, and was killed.
    #[error("{program} did not end in time", program = .0.display())]
    TimedOut(PathBuf),
    /// It wrote more to stdout than it may, and was killed.
    #[error("{program} wrote more than {limit} bytes", program = .program.display())]
    TooMuchOutput {
        /// The program.
        program: PathBuf,
        /// What it may write, in bytes.
        limit: usize,
    },
    /// The system did not let it start, or broke a pipe.
    #[error(transparent)]
    Io(#[from] PathError),
}

/// Runs `program`, a path or a name to be found in the system's directories, and gives it
/// `input` on stdin.
///
/// Its environment holds `PATH` and `LC_ALL=C` alone. A child that does not read its input
/// is no error, nor is one that fails: that is for the caller to judge by the status.
/// `max_output` (bytes) is allocated at once, so that a growing buffer leaves no copies.
/// The child has a process group of its own, all of which is killed with it.
pub fn run(
    program: &Path,
    args: &[&str],
    input: &[u8],
    max_output: usize,
    deadline: Deadline,
) -> Result<Output, ChildError> {
    let io_error = PathError::at(program);
    let mut running = Running::start(program, args).map_err(|source| match source.kind() {
        ErrorKind::NotFound => ChildError::NotInstalled(program.to_owned()),
        _ => io_error(source).into(),
    })?;
    let mut stdin = Feed::new(running.child.stdin.take(), input).map_err(&io_error)?;
    let mut stdout = Drain::new(running.child.stdout.take(), max_output).map_err(&io_error)?;
    let mut stderr = Drain::new(running.child.stderr.take(), MAX_STDERR).map_err(&io_error)?;

    while stdout.pipe.is_some() || stderr.pipe.is_some() {
        let pipes = [
            stdin
                .pipe
                .as_ref()
                .map(|pipe| (pipe.as_fd(), PollFlags::POLLOUT)),
            stdout
                .pipe
                .as_ref()
                .map(|pipe| (pipe.as_fd(), PollFlags::POLLIN)),
            stderr
                .pipe
                .as_ref()
                .map(|pipe| (pipe.as_fd(), PollFlags::POLLIN)),
        ];
        let mut pipes: Vec<_> = pipes
            .into_iter()
            .flatten()
            .map(|(pipe, events)| PollFd::new(pipe, events))
            .collect();
        match poll(&mut pipes, timeout_until(deadline)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(io_error(errno.into()).into()),
        }
        if deadline.has_passed() {
            return Err(ChildError::TimedOut(program.to_owned()));
        }
        stdin.write_some().map_err(&io_error)?;
        stderr.read_some().map_err(&io_error)?;
        if stdout.read_some().map_err(&io_error)? {
            return Err(ChildError::TooMuchOutput {
                program: program.to_owned(),
                limit: max_output,
            });
        }
    }
    drop(stdin);
    match running.wait(deadline).map_err(&io_error)? {
        Some(status) => Ok(Output {
            status,
            stdout: stdout.into_bytes(),
            stderr: String::from_utf8_lossy(&stderr.into_bytes())
                .trim()
                .to_owned(),
        }),
        None => Err(ChildError::TimedOut(program.to_owned())),
    }
}

/// A command with pipes as stdin, stdout and stderr, whose environment holds `PATH` and `LC_ALL=C` alone.
#[must_use]
pub fn command(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A child that is killed and reaped unless it has ended.
struct Running {
    child: Child,
    ended: bool,
}

impl Running {
    fn start(program: &Path, args: &[&str]) -> io::Result<Self> {
        let child = command(program, args).process_group(0).spawn()?;
        Ok(Self {
            child,
            ended: false,
        })
    }

    /// Reaps the child; `None` if it has not ended at the deadline.
    fn wait(&mut self, deadline: Deadline) -> io::Result<Option<ExitStatus>> {
        let status = poll::poll(EXIT_POLL, deadline, || {
            interrupted::try_wait(&mut self.child).transpose()
        });
        let status = status.transpose()?;
        self.ended = status.is_some();
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Not reaped yet, so neither number can belong to somebody else by now.
        if let Ok(group) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.wait(Deadline::after(REAP_GRACE));
    }
}

/// The child's stdin, and what it has not read yet.
struct Feed<'a> {
    pipe: Option<ChildStdin>,
    rest: &'a [u8],
}

impl<'a> Feed<'a> {
    fn new(pipe: Option<ChildStdin>, input: &'a [u8]) -> io::Result<Self> {
        let pipe = pipe.filter(|_| !input.is_empty());
        pipe.as_ref().map_or(Ok(()), make_non_blocking)?;
        Ok(Self { pipe, rest: input })
    }

    /// Writes what the pipe takes now, and closes it after the last byte, or when the child
    /// has closed its end.
    fn write_some(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        match pipe.write(self.rest) {
            Ok(written) => self.rest = &self.rest[written..],
            Err(error) if is_not_now(&error) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.rest = &[],
            Err(error) => return Err(error),
        }
        if self.rest.is_empty() {
            self.pipe = None;
        }
        Ok(())
    }
}

/// One output pipe of the child, until its end, and what came out of it.
struct Drain<R> {
    pipe: Option<R>,
    bytes: Zeroizing<Vec<u8>>,
    len: usize,
    limit: usize,
}

impl<R: Read + AsFd> Drain<R> {
    /// Room beyond the limit, so that what is too much is noticed, and read in large pieces.
    const SLACK: usize = 4096;

    fn new(pipe: Option<R>, limit: usize) -> io::Result<Self> {
        pipe.as_ref().map_or(Ok(()), make_non_blocking)?;
        Ok(Self {
            pipe,
            bytes: Zeroizing::new(vec![0; limit + Self::SLACK]),
            len: 0,
            limit,
        })
    }

    /// Reads what is there now. Returns whether it was more than the limit; the rest is dropped.
    fn read_some(&mut self) -> io::Result<bool> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(false);
        };
        match pipe.read(&mut self.bytes[self.len..]) {
            Ok(0) => self.pipe = None,
            Ok(read) => self.len += read,
            Err(error) if is_not_now(&error) => {}
            Err(error) => return Err(error),
        }
        let too_much = self.len > self.limit;
        self.len = self.len.min(self.limit);
        Ok(too_much)
    }

    fn into_bytes(mut self) -> Zeroizing<Vec<u8>> {
        self.bytes.truncate(self.len);
        self.bytes
    }
}

fn make_non_blocking(pipe: &impl AsFd) -> io::Result<()> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Rounded up to whole milliseconds, or the last one would be spent spinning.
fn timeout_until(deadline: Deadline) -> PollTimeout {
    let left = deadline.remaining() + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}
