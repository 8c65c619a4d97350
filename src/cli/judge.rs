//! Judges the starts of many guests, on all processors: proving a key takes a millisecond of
//! computing (swtpm's key derivation), and a host may have a thousand guests.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::cli::context::Context;
use crate::cli::ui::check_table::Judged;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::domain::UnreadableDomain;
use crate::guard::{Mode, prepare};
use crate::manage::guests::ListedGuest;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::store::Origin;
use crate::verdict::Verdict;
use crate::verdict::outcome::Outcome;
use crate::verdict::refusal::Refusal;

/// Fewer guests than this are not worth a thread more: each opens keys of its own, and asks
/// libvirt through a helper of its own.
const WORTH_A_THREAD: usize = 16;

/// Judges these guests as a start would, in their order; changes nothing.
pub(crate) fn all(
    context: &Context,
    guests: &[ListedGuest],
    progress: &Progress,
) -> Result<Vec<Judged>, CommandError> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(guests.len().div_ceil(WORTH_A_THREAD)).max(1);
    let next = AtomicUsize::new(0);
    let work = || some(context, guests, &next, progress);
    let mut judged = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut judged = work()?;
        for other in others {
            judged.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok::<_, CommandError>(judged)
    })?;
    judged.sort_by_key(|(index, _)| *index);
    Ok(judged.into_iter().map(|(_, judged)| judged).collect())
}

/// Judges guest after guest, each being the next that nobody else has taken.
fn some(
    context: &Context,
    guests: &[ListedGuest],
    next: &AtomicUsize,
    progress: &Progress,
) -> Result<Vec<(usize, Judged)>, CommandError> {
    let guard = context.host.guard(BrokenConfig::UseDefaults)?;
    let mut judged = Vec::new();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(ListedGuest { name, domain }) = guests.get(index) else {
            return Ok(judged);
        };
        progress.at(name);
        let mut outcome = prepare(
            &guard,
            domain,
            Origin::Check,
            Mode::DryRun,
            default_deadline(),
        );
        if let Err(unreadable) = domain {
            would_not_start(&mut outcome, unreadable);
        }
        let name = name.clone();
        judged.push((index, Judged { name, outcome }));
    }
}

/// The hook lets a guest pass whose XML it cannot read. Its encrypted vTPM would get no key
/// then, so nobody may be told that it would start.
fn would_not_start(outcome: &mut Outcome, unreadable: &UnreadableDomain) {
    if outcome.is_allowed() {
        let reason = unreadable.reason.clone();
        outcome.verdict = Verdict::deny(Refusal::DomainXmlInvalid { reason });
    }
}
