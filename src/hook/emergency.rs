//! The last resort: a panic, or a deadline that passes while some call hangs. libvirt always gets
//! an answer, and only one.

use std::io;
use std::os::fd::AsFd;
use std::panic;
use std::process;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::Deadline;
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

/// From here on a panic or a passed deadline refuses the start of this guest. Before it, and
/// in all other operations, both end the hook with status 0.
pub(super) fn may_refuse(guest: &str) {
    // A second call would name the same guest: one hook guards one start.
    let _ = REFUSABLE.set(guest.to_owned());
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

/// Answers when the deadline passes before the process has ended.
pub(super) fn answer_at(deadline: Deadline) {
    let watch = move || {
        let mut end = deadline;
        while !end.has_passed() {
            thread::park_timeout(end.remaining());
            if ANSWER.load(Ordering::SeqCst) == ALLOWED {
                end = end.at_most(AFTER_ALLOWING);
            }
        }
        answer(Refusal::DeadlinePassed);
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
                process::exit(0)
            };
            write_line(&refusal_line(guest, &refusal));
            ANSWER.store(REFUSED, Ordering::SeqCst);
            write_down(refusal);
            process::exit(1)
        }
        Err(ALLOWED) => process::exit(0),
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

/// Has a refusal written down by a thread of its own: the caller's may hold a lock that this needs.
fn write_down(refusal: Refusal) {
    let Some(write_down) = WRITE_DOWN.get() else {
        return;
    };
    let (done, is_done) = mpsc::channel();
    let thread = thread::Builder::new().spawn(move || {
        write_down(&refusal);
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
mod tests {
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;

    /// The scene that a child process of this test plays.
    const SCENE: &str = "VTPM_GUARD_TEST_SCENE";

    /// The file in which the scene writes down a refusal.
    const RECORD: &str = "VTPM_GUARD_TEST_RECORD";

    const DEADLINE: Duration = Duration::from_millis(300);

    /// Longer than the deadline, and than what may follow it.
    fn hang() {
        thread::sleep(Duration::from_secs(20));
    }

    #[test]
    #[ignore = "ends its own process: run by the tests below in one of its own"]
    fn scene() {
        let scene = std::env::var(SCENE).unwrap();
        if !scene.contains("not refusable") {
            may_refuse("vm1");
        }
        if let Some(record) = std::env::var_os(RECORD) {
            let hangs = scene.contains("cannot be written down");
            write_down_by(move |refusal| {
                std::fs::write(&record, refusal.code().as_str()).unwrap();
                if hangs {
                    hang();
                }
            });
        }
        answer_at(Deadline::after(DEADLINE));
        answer_for_panics();
        match scene.as_str() {
            "hangs" | "hangs, not refusable" | "hangs, cannot be written down" => hang(),
            "panics" | "panics, not refusable" => panic!("a fault"),
            // As a provider key that opens at the last moment.
            "hangs, then allows" => {
                thread::sleep(DEADLINE + Duration::from_millis(50));
                allowed();
                process::exit(0);
            }
            "allowed, then hangs" => {
                allowed();
                hang();
            }
            "allowed, then panics" => {
                allowed();
                panic!("a fault");
            }
            "refused, then hangs" => {
                refuse("the line");
                hang();
            }
            "refused, then panics" => {
                refuse("the line");
                panic!("a fault");
            }
            other => panic!("no scene {other}"),
        }
    }

    fn play(scene: &str, stderr: Stdio) -> Child {
        scene_in(scene, stderr).spawn().unwrap()
    }

    fn scene_in(scene: &str, stderr: Stdio) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "--ignored", "hook::emergency::tests::scene"])
            .env(SCENE, scene)
            .stdout(Stdio::null())
            .stderr(stderr);
        command
    }

    /// The status, the lines on stderr, and how long it took.
    fn played(scene: &str) -> (i32, String, Duration) {
        let started = Instant::now();
        let output = play(scene, Stdio::piped()).wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said, started.elapsed())
    }

    #[test]
    fn a_passed_deadline_and_a_panic_refuse_only_guests_that_may_be_refused() {
        let (status, said, _) = played("hangs");
        assert!(
            status == 1 && said.starts_with("vtpm-guard: VG302 "),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        let (status, said, _) = played("panics");
        assert!(
            status == 1 && said.starts_with("vtpm-guard: VG901 "),
            "{said}"
        );
        for scene in ["hangs, not refusable", "panics, not refusable"] {
            let (status, said, _) = played(scene);
            assert_eq!((status, said.as_str()), (0, ""), "{scene}");
        }
    }

    #[test]
    fn what_the_deadline_or_a_panic_refuses_is_written_down_and_stays_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (scene, code) in [
            ("hangs", Some("VG302")),
            ("panics", Some("VG901")),
            ("hangs, cannot be written down", Some("VG302")),
            ("hangs, then allows", Some("VG302")),
            ("hangs, not refusable", None),
            ("allowed, then hangs", None),
        ] {
            let record = dir.path().join(scene);
            let started = Instant::now();
            let mut scene_played = scene_in(scene, Stdio::null());
            let status = scene_played.env(RECORD, &record).status().unwrap();
            let time = started.elapsed();
            assert_eq!(status.code(), Some(i32::from(code.is_some())), "{scene}");
            let written = std::fs::read_to_string(&record).ok();
            assert_eq!(written.as_deref(), code, "{scene}");
            assert!(time < Duration::from_secs(5), "{scene}: {time:?}");
        }
    }

    #[test]
    fn nothing_after_the_verdict_refuses_an_allowed_start_or_delays_it_for_long() {
        for scene in ["allowed, then hangs", "allowed, then panics"] {
            let (status, said, time) = played(scene);
            assert_eq!((status, said.as_str()), (0, ""), "{scene}");
            assert!(time < Duration::from_secs(5), "{scene}: {time:?}");
        }
    }

    #[test]
    fn nothing_after_the_verdict_lets_a_refused_start_pass() {
        for scene in ["refused, then hangs", "refused, then panics"] {
            let (status, said, _) = played(scene);
            assert_eq!((status, said.as_str()), (1, "the line\n"), "{scene}");
        }
    }

    #[test]
    fn a_blocked_stderr_gets_the_line_before_the_status() {
        for scene in ["refused, then hangs", "hangs"] {
            let (mut reader, mut writer) = io::pipe().unwrap();
            // 64 KiB are what a pipe holds.
            writer.write_all(&vec![b'x'; 64 << 10]).unwrap();
            let mut child = play(scene, writer.into());
            thread::sleep(2 * DEADLINE);
            assert!(child.try_wait().unwrap().is_none(), "{scene}: no line yet");
            let mut said = Vec::new();
            reader.read_to_end(&mut said).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(1), "{scene}");
            let line = String::from_utf8(said[64 << 10..].to_vec()).unwrap();
            assert_eq!(line.lines().count(), 1, "{scene}: {line}");
        }
    }
}
