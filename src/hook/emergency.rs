//! The last resort: a panic, or a deadline that passed while some call did not come back.
//! Whatever hangs, libvirt gets its answer.

use std::io::Write;
use std::panic;
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::clock::Deadline;
use crate::report::refusal_line;
use crate::verdict::refusal::Refusal;

/// The guest whose start may be refused; unset while nothing may be refused.
static REFUSABLE: OnceLock<String> = OnceLock::new();

/// From here on a panic or a passed deadline refuses the start of this guest. Before it, and
/// in all other operations, both end the hook with status 0.
pub(super) fn may_refuse(guest: &str) {
    // A second call would name the same guest: one hook guards one start.
    let _ = REFUSABLE.set(guest.to_owned());
}

/// Whether the start has been refused: then nothing may let it pass any more.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// The start is refused. Should the deadline pass, or a panic come, while this is told and
/// kept for later, the hook ends at once, and with the status of a refusal.
pub(super) fn refused() {
    REFUSED.store(true, Ordering::SeqCst);
}

/// Answers for a panic: where it was, never what it said, which might hold a value.
pub(super) fn answer_for_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        answer(&Refusal::Internal {
            reason: format!("panic at {place}"),
        });
    }));
}

/// Answers when the deadline passes before the process has ended.
pub(super) fn answer_at(deadline: Deadline) {
    let watch = move || {
        while !deadline.has_passed() {
            thread::sleep(deadline.remaining());
        }
        answer(&Refusal::LibvirtUnreachable {
            reason: "the hook's deadline has passed".to_owned(),
        });
    };
    // Without a thread to watch, the deadlines of the single steps still hold.
    if let Err(error) = thread::Builder::new().stack_size(64 * 1024).spawn(watch) {
        tracing::warn!(%error, "nobody watches the deadline");
    }
}

fn answer(refusal: &Refusal) -> ! {
    if REFUSED.load(Ordering::SeqCst) {
        process::exit(1)
    }
    let Some(guest) = REFUSABLE.get() else {
        process::exit(0)
    };
    // A closed stderr cannot be told anything; the status still refuses.
    let _ = writeln!(std::io::stderr(), "{}", refusal_line(guest, refusal));
    process::exit(1)
}
