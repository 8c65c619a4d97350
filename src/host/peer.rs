//! Another program that this one converses with, in frames over its stdin and stdout. Nothing is
//! waited for longer than the deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use super::frame::read_frame;
use super::interrupted::try_wait;
use super::poll::poll;
use super::timed::Timed;
use crate::clock::Deadline;

/// How much of the program's stderr goes into an error, in bytes.
const MAX_STDERR: u64 = 1024;

/// How often an exit is looked for.
const EXIT_POLL: Duration = Duration::from_millis(1);

/// How long a killed program is waited for. One that sleeps in the kernel (a token that does not answer)
/// dies later.
const REAP_TIME: Duration = Duration::from_millis(500);

/// The program, and the pipes to it. It inherits none of this program's own descriptors: libvirt reads
/// a hook's stdout and stderr until every process has closed them.
///
/// When this is dropped, the program's stdin ends, and nobody waits for it.
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Peer {
    /// Starts it. The command must have pipes as stdin, stdout and stderr.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command.current_dir("/").spawn()?;
        Ok(Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
        })
    }

    /// Sends frames.
    pub fn send(&mut self, frames: &[u8], deadline: Deadline) -> io::Result<()> {
        let stdin = self.stdin.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        Timed(stdin, deadline).write_all(frames)
    }

    /// Reads one frame; `None` at the end of its output.
    pub fn receive(
        &mut self,
        max_len: usize,
        deadline: Deadline,
    ) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let stdout = self.stdout.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        read_frame(&mut Timed(stdout, deadline), max_len)
    }

    /// Sends frames and reads the frame that answers them. A program that ended instead is an error
    /// with what it wrote on stderr.
    pub fn ask(
        &mut self,
        frames: &[u8],
        max_len: usize,
        deadline: Deadline,
    ) -> io::Result<Zeroizing<Vec<u8>>> {
        let answer = match self.send(frames, deadline) {
            Ok(()) => self.receive(max_len, deadline)?,
            // It ended before it had read everything. What it said before counts; or its stderr may say why.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.receive(max_len, deadline)?
            }
            Err(error) => return Err(error),
        };
        answer.ok_or_else(|| io::Error::other(self.end_reason(deadline)))
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Ends the conversation of a program that leads a process group of its own, and waits for it so
    /// long. Then it is killed, if it has not ended, with all that it has started and left behind.
    pub fn end(&mut self, grace: Duration) {
        self.stdin = None;
        if let Ok(group) = i32::try_from(self.child.id()).map(Pid::from_raw) {
            let _ = poll(EXIT_POLL, Deadline::after(grace), || has_ended(group));
            // Not reaped yet, so the number cannot belong to somebody else by now.
            let _ = killpg(group, Signal::SIGKILL);
        }
        let _ = poll(EXIT_POLL, Deadline::after(REAP_TIME), || {
            try_wait(&mut self.child).transpose()
        });
    }

    /// Returns why the program ended, as its stderr says.
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
        let ended = "it ended without an answer";
        if words.is_empty() {
            return ended.to_owned();
        }
        format!("{ended}: {}", words.join(" "))
    }
}

/// Whether a child has ended. It is not reaped.
fn has_ended(child: Pid) -> Option<()> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(child), flags) {
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => None,
        // An error: it is no child any more.
        _ => Some(()),
    }
}
