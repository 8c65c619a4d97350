//! Reads that may never return, as from a network file system whose server is gone: each runs in
//! a thread of its own and has a time limit.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::crash;

/// How long one look at a file is waited for. A live file system needs milliseconds.
const TIME_LIMIT: Duration = Duration::from_secs(3);

/// The places whose threads have not come back. A host whose file system hangs may have the files
/// of a thousand guests on it: only the first is waited for.
static HANGING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Does `work`, which looks at files below `place`. `None`: it did not come back in time.
pub fn bounded<T: Send + 'static>(
    place: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    within(TIME_LIMIT, place, work)
}

fn within<T: Send + 'static>(
    limit: Duration,
    place: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if hanging(|places| places.iter().any(|hanging| hanging == place)) {
        return None;
    }
    let (answer, answered) = mpsc::channel();
    let came_back = Arc::new(AtomicBool::new(false));
    let (is_here, has_come_back) = (place.to_owned(), Arc::clone(&came_back));
    let reader = move || {
        let done = work();
        hanging(|places| {
            has_come_back.store(true, Ordering::SeqCst);
            let at = places.iter().position(|hanging| *hanging == is_here);
            at.map(|at| places.swap_remove(at))
        });
        // Nobody waits any more where the time was up.
        let _ = answer.send(done);
    };
    // A small stack: it reads, and no more. Where no thread can be had, nothing is looked at.
    let small = thread::Builder::new().stack_size(256 * 1024);
    let reader = crash::thread_point().and_then(|()| small.spawn(reader));
    if let Err(error) = reader {
        tracing::warn!(%error, "no thread to look at files in");
        return None;
    }
    let done = answered.recv_timeout(limit);
    if let Err(RecvTimeoutError::Timeout) = done {
        hanging(|places| {
            if !came_back.load(Ordering::SeqCst) {
                places.push(place.to_owned());
            }
        });
    }
    done.ok()
}

fn hanging<T>(ask: impl FnOnce(&mut Vec<PathBuf>) -> T) -> T {
    ask(&mut HANGING.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_hangs_is_waited_for_once_and_asked_again_when_it_has_come_back() {
        let place = Path::new("/a/place/that/hangs");
        let limit = Duration::from_millis(30);
        let (wake, asleep) = mpsc::channel::<()>();
        let started = Instant::now();
        assert_eq!(within(limit, place, move || asleep.recv().is_ok()), None);
        assert!(started.elapsed() < Duration::from_secs(2));

        assert_eq!(within(limit, place, || 1), None);
        assert_eq!(within(limit, Path::new("/another"), || 1), Some(1));

        wake.send(()).unwrap();
        while hanging(|places| places.iter().any(|hanging| hanging == place)) {
            thread::yield_now();
        }
        assert_eq!(within(limit, place, || 1), Some(1));
    }
}
