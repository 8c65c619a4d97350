//! Several things at a time: as many as JOBS says, else as there are cores.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};

use crate::Result;

/// Does the same with each thing, and shows how far it has come, on a terminal. The results are in the order of the things;
/// the first error ends it.
pub fn each<T: Sync, R: Send>(
    verb: &'static str,
    things: &[T],
    one: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let bar = ProgressBar::new(things.len() as u64).with_prefix(verb);
    let style =
        ProgressStyle::with_template("{prefix} {pos}/{len} {bar:24} {elapsed}, {eta} to go");
    bar.set_style(style.map_err(|error| error.to_string())?);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(things.len()));
    let work = || -> Result<()> {
        while let place = next.fetch_add(1, Ordering::Relaxed)
            && let Some(thing) = things.get(place)
        {
            let result = one(thing).inspect_err(|_| next.store(things.len(), Ordering::Relaxed))?;
            done.lock()
                .map_err(|error| error.to_string())?
                .push((place, result));
            bar.inc(1);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count()?).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| "a worker has panicked")??;
        }
        Ok::<(), String>(())
    })?;
    bar.finish_and_clear();
    let mut done = done.into_inner().map_err(|error| error.to_string())?;
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

fn count() -> Result<usize> {
    match std::env::var("JOBS") {
        Ok(jobs) => jobs
            .parse()
            .map_err(|_| format!("JOBS: {jobs:?} is no number")),
        Err(_) => Ok(thread::available_parallelism().map_or(1, usize::from)),
    }
}
