//! Reads that may never return, as from a network file system whose server is gone: each runs in
//! a thread of its own and has a time limit.

use std::io;
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

/// Why a look at files has no result.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// It did not come back in time, or an earlier one at the same place has not come back yet.
    #[error("its file system does not answer")]
    TimedOut,
    /// There was no thread to look in.
    #[error("no thread to read it in: {0}")]
    NoThread(#[source] io::Error),
}

/// Does `work`, which looks at files below `place`.
pub fn bounded<T: Send + 'static>(
    place: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    within(TIME_LIMIT, place, work)
}

fn within<T: Send + 'static>(
    limit: Duration,
    place: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    if hanging(|places| places.iter().any(|hanging| hanging == place)) {
        return Err(Unanswered::TimedOut);
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
    // A small stack: it reads, and no more.
    let small = thread::Builder::new().stack_size(256 * 1024);
    crash::thread_point()
        .and_then(|()| small.spawn(reader))
        .map_err(Unanswered::NoThread)?;
    let done = answered.recv_timeout(limit);
    if let Err(RecvTimeoutError::Timeout) = done {
        hanging(|places| {
            if !came_back.load(Ordering::SeqCst) {
                places.push(place.to_owned());
            }
        });
    }
    done.map_err(|_| Unanswered::TimedOut)
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
        let hung = within(limit, place, move || asleep.recv().is_ok());
        assert!(matches!(hung, Err(Unanswered::TimedOut)));
        assert!(started.elapsed() < Duration::from_secs(2));

        assert!(matches!(
            within(limit, place, || 1),
            Err(Unanswered::TimedOut)
        ));
        let long = Duration::from_secs(20);
        assert_eq!(within(long, Path::new("/another"), || 1).unwrap(), 1);

        wake.send(()).unwrap();
        while hanging(|places| places.iter().any(|hanging| hanging == place)) {
            thread::yield_now();
        }
        assert_eq!(within(long, place, || 1).unwrap(), 1);
    }

    #[test]
    fn that_there_is_no_thread_is_not_blamed_on_the_file_system() {
        crash::armed::refuse_threads(1);
        let error = bounded(Path::new("/a/place"), || 1).unwrap_err();
        assert!(
            error.to_string().starts_with("no thread to read it in: "),
            "{error}"
        );
        assert_eq!(bounded(Path::new("/a/place"), || 1).unwrap(), 1);
    }
}
