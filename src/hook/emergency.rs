//! The last resort: a panic, or a deadline that passes while some call hangs. libvirt always gets
//! an answer, and only one.

use std::io;
use std::os::fd::AsFd;
use std::panic;
use std::process;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::Deadline;
use crate::guard::Operation;
use crate::log;
use crate::messages::refusal_line;
use crate::verdict::refusal::Refusal;

/// How long a blocked stderr may delay the end of a refusal. libvirt always reads it; a dispatcher
/// in between may not.
const STDERR_PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer to a passed deadline may be delayed by writing it down. The disk or the log may
/// be what hangs.
const TO_WRITE_DOWN: Duration = Duration::from_millis(300);

/// How long an allowed start may still be delayed, for example by its log.
const AFTER_ALLOWING: Duration = Duration::from_secs(1);

/// The guest whose start may be refused; unset as long as nothing may be refused.
static REFUSABLE: OnceLock<String> = OnceLock::new();

/// The guest and the operation of this call, for the log.
static CALL: OnceLock<(String, String)> = OnceLock::new();

/// Writes down a refusal that this module answers with.
type WriteDown = Box<dyn Fn(&Refusal) + Send + Sync>;

/// Set once it is known what to write down.
static WRITE_DOWN: OnceLock<WriteDown> = OnceLock::new();

/// How far the answer has come; see the constants below.
static ANSWER: AtomicU8 = AtomicU8::new(UNDECIDED);

/// Nothing is decided yet.
const UNDECIDED: u8 = 0;
/// The start proceeds: nothing may refuse it any more.
const ALLOWED: u8 = 1;
/// The start is refused, and its line is being written.
const REFUSING: u8 = 2;
/// The start is refused, and the line is written.
const REFUSED: u8 = 3;

/// The thread that watches the deadline.
static WATCH: OnceLock<Thread> = OnceLock::new();

/// The deadline that it watches.
static END: Mutex<Option<Deadline>> = Mutex::new(None);

/// From here on a panic or a passed deadline refuses the start of this guest. Before it, and
/// in all other operations, both end the hook with status 0.
pub(super) fn may_refuse(guest: &str) {
    // A second call would name the same guest: one hook guards one start.
    let _ = REFUSABLE.set(guest.to_owned());
}

/// What the log says of a passed deadline or a panic that refuses nothing: what it is about.
pub(super) fn is_about(guest: &str, operation: Operation) {
    // A process is one call of the hook.
    let _ = CALL.set((guest.to_owned(), format!("{operation:?}")));
}

/// A passed deadline or a panic is not only answered from here on, but written down, too.
pub(super) fn write_down_by(write_down: impl Fn(&Refusal) + Send + Sync + 'static) {
    let _ = WRITE_DOWN.set(Box::new(write_down));
}

/// The start proceeds. If the deadline passes, or a panic occurs, while this is logged, the hook
/// ends with status 0.
pub(super) fn allowed() {
    if decide(ALLOWED).is_err() {
        // The deadline has passed just now: its answer ends the process, and this must not end it
        // before, with another one.
        thread::sleep(2 * STDERR_PATIENCE);
    }
    if let Some(watch) = WATCH.get() {
        watch.unpark();
    }
}

/// The start is refused: writes the line. If the deadline passes, or a panic occurs, now or later,
/// the hook ends with the status of a refusal, but only after the line is written.
pub(super) fn refuse(line: &str) {
    match decide(REFUSING) {
        Ok(()) => {
            write_line(line);
            ANSWER.store(REFUSED, Ordering::SeqCst);
        }
        // The deadline has passed just now, and its answer ends the process.
        Err(_) => thread::sleep(2 * STDERR_PATIENCE),
    }
}

/// Answers for a panic with its location, never with its message, which might contain a key.
pub(super) fn answer_for_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        answer(Refusal::Internal {
            reason: format!("panic at {place}"),
        });
    }));
}

/// Answers when the deadline passes before the process has ended. A later call replaces the deadline of an earlier
/// one, which is that of what has to be done before the deadline is known.
pub(super) fn answer_at(deadline: Deadline) {
    *END.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
    if let Some(watch) = WATCH.get() {
        watch.unpark();
        return;
    }
    let watch = move || {
        let mut after_allowing = None;
        loop {
            let end = *END.lock().unwrap_or_else(PoisonError::into_inner);
            let mut end = end.unwrap_or(deadline);
            if ANSWER.load(Ordering::SeqCst) == ALLOWED {
                let soon = *after_allowing.get_or_insert_with(|| Deadline::after(AFTER_ALLOWING));
                end = end.at_most(soon.remaining());
            }
            if end.has_passed() {
                answer(Refusal::DeadlinePassed);
            }
            thread::park_timeout(end.remaining());
        }
    };
    match thread::Builder::new().stack_size(64 * 1024).spawn(watch) {
        Ok(watch) => drop(WATCH.set(watch.thread().clone())),
        // Without this thread, the deadlines of the single steps still apply.
        Err(error) => tracing::warn!(%error, "the deadline is not watched"),
    }
}

fn answer(refusal: Refusal) -> ! {
    match decide(REFUSING) {
        Ok(()) => {
            let Some(guest) = REFUSABLE.get() else {
                log_unfinished(refusal);
                process::exit(0)
            };
            write_line(&refusal_line(guest, &refusal));
            ANSWER.store(REFUSED, Ordering::SeqCst);
            write_down(refusal);
            process::exit(1)
        }
        Err(ALLOWED) => {
            log_unfinished(refusal);
            process::exit(0)
        }
        Err(_) => {
            crate::host::poll::poll(
                Duration::from_millis(5),
                Deadline::after(STDERR_PATIENCE),
                || (ANSWER.load(Ordering::SeqCst) != REFUSING).then_some(()),
            );
            process::exit(1)
        }
    }
}

fn write_down(refusal: Refusal) {
    if let Some(write_down) = WRITE_DOWN.get() {
        for_a_moment(move || write_down(&refusal));
    }
}

/// What refuses nothing is in the log alone: libvirt drops what a hook says that succeeds.
fn log_unfinished(why: Refusal) {
    if let Some((guest, operation)) = CALL.get() {
        for_a_moment(move || log::unfinished(guest, operation, &why));
    }
}

/// Has something done by a thread of its own: the caller's may hold a lock that this needs.
fn for_a_moment(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let thread = thread::Builder::new().spawn(move || {
        work();
        // Nobody waits any more if the time is over.
        let _ = done.send(());
    });
    if thread.is_ok() {
        // Also if that thread panics.
        let _ = is_done.recv_timeout(TO_WRITE_DOWN);
    }
}

/// Decides the answer. An error is the answer that was decided before.
fn decide(answer: u8) -> Result<(), u8> {
    let (before, after) = (Ordering::SeqCst, Ordering::SeqCst);
    let decided = ANSWER.compare_exchange(UNDECIDED, answer, before, after);
    decided.map(|_| ())
}

/// Writes a line to stderr. If nobody reads it, the status alone refuses the start.
fn write_line(line: &str) {
    let end = Deadline::after(STDERR_PATIENCE);
    let stderr = io::stderr();
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() && !end.has_passed() {
        let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let timeout = PollTimeout::try_from(end.remaining()).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        // A writable pipe accepts this much without blocking (`PIPE_BUF`).
        match nix::unistd::write(&stderr, &rest[..rest.len().min(4096)]) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
