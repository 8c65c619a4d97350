//! What a start would do, without one: the verdicts of `check`, `status` and `replay --dry-run`.
//!
//! Many guests are checked on all processors: proving a key takes a millisecond of computing
//! (swtpm's key derivation), and a host may have a thousand guests.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::guests::{ListedGuest, Source};
use super::host::{BrokenConfig, DEFAULT_DEADLINE, Host, HostError, default_deadline};
use crate::clock::Deadline;
use crate::domain::{Domain, UnreadableDomain};
use crate::guard::{Guard, Mode, prepare};
use crate::ids::DomainUuid;
pub(crate) use crate::keyring::unlock::UnsealedKeks;
use crate::messages::{Named, outcome_json};
use crate::store::Origin;
use crate::verdict::outcome::Outcome;
use crate::verdict::refusal::Refusal;
use crate::verdict::{Decision, Finding, Verdict};

/// Fewer guests than this are not worth one more thread: each opens keys of its own, and asks
/// libvirt through a helper of its own.
const WORTH_A_THREAD: usize = 16;

/// How much longer than for one guest many may be examined, for each of them. It is some thirty
/// times what one takes, and far less than to wait for each.
const FOR_ONE_OF_MANY: Duration = Duration::from_millis(100);

/// A guest, and what its start would do or did.
#[derive(Debug)]
pub(crate) struct CheckedGuest {
    /// The guest's name; the file's where the XML could not be read.
    pub(crate) name: String,
    pub(crate) source: Source,
    pub(crate) outcome: Outcome,
}

impl CheckedGuest {
    /// The guest for messages.
    pub(crate) fn named(&self) -> Named<'_> {
        Named {
            name: &self.name,
            uuid: self.uuid(),
        }
    }

    /// Its UUID: that of its XML, else the one under which libvirt lists it.
    pub(crate) fn uuid(&self) -> Option<DomainUuid> {
        match (&self.outcome.domain, self.source) {
            (Some(domain), _) => Some(domain.uuid),
            (None, Source::Libvirt(uuid)) => Some(uuid),
            (None, Source::Definition | Source::File) => None,
        }
    }

    /// What the guard cannot answer for, of a guest that would start all the same: a key that libvirt alone has may be gone
    /// when its daemon, or the guest, stops.
    pub(crate) fn risk(&self) -> Option<&Finding> {
        let mut findings = self.outcome.verdict.findings().iter();
        let risk = findings.find(|finding| {
            matches!(
                finding,
                Finding::Degraded(_)
                    | Finding::StoreUnusable(_)
                    | Finding::KeyInMemoryOnly { .. }
                    | Finding::NotRecorded(_)
            )
        });
        risk.filter(|_| self.outcome.is_allowed())
    }

    /// Whether it has repairs that a start would make, or that were made.
    pub(crate) fn has_repairs(&self) -> bool {
        !self.outcome.verdict.repairs().is_empty()
    }
}

impl Serialize for CheckedGuest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let called = match self.source {
            Source::Libvirt(_) | Source::Definition => Some(self.named()),
            Source::File => None,
        };
        outcome_json(called, &self.outcome).serialize(to)
    }
}

/// Returns what the hook would do at a start of this guest now. Changes nothing.
pub(crate) fn dry_start(
    guard: &Guard,
    domain: &Result<Domain, UnreadableDomain>,
    deadline: Deadline,
) -> Outcome {
    prepare(guard, domain, Origin::Check, Mode::DryRun, deadline)
}

/// Returns why a start of this guest would be refused now, if it would.
pub(crate) fn refusal(host: &Host, domain: &Domain) -> Option<Refusal> {
    let guard = host.guard(BrokenConfig::UseDefaults).ok()?;
    let outcome = dry_start(&guard, &Ok(domain.clone()), default_deadline());
    match outcome.verdict.decision() {
        Decision::Deny(why) => Some(why.clone()),
        Decision::Allow(_) => None,
    }
}

/// Checks these guests, in their order, with one deadline for all. Each provider key is opened once for
/// all of them, unless it is among `keks` already. `progress` is called with the name of each.
pub(crate) fn check(
    host: &Host,
    guests: &[ListedGuest],
    keks: &UnsealedKeks,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Vec<CheckedGuest>, HostError> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(guests.len().div_ceil(WORTH_A_THREAD)).max(1);
    let next = AtomicUsize::new(0);
    let number = u32::try_from(guests.len()).unwrap_or(u32::MAX);
    let time = DEFAULT_DEADLINE + FOR_ONE_OF_MANY.saturating_mul(number);
    let deadline = Deadline::after(time);
    let work = || check_some(host, guests, keks, &next, deadline, progress);
    let mut checked = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut checked = work()?;
        for other in others {
            checked.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok::<_, HostError>(checked)
    })?;
    checked.sort_by_key(|(index, _)| *index);
    Ok(checked.into_iter().map(|(_, checked)| checked).collect())
}

/// Checks guest after guest, each being the next that no other thread has taken.
fn check_some(
    host: &Host,
    guests: &[ListedGuest],
    keks: &UnsealedKeks,
    next: &AtomicUsize,
    deadline: Deadline,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Vec<(usize, CheckedGuest)>, HostError> {
    let mut guard = host.guard(BrokenConfig::UseDefaults)?;
    guard.unsealed_keks = keks.clone();
    let mut checked = Vec::new();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(guest) = guests.get(index) else {
            return Ok(checked);
        };
        let ListedGuest { name, domain, .. } = guest;
        progress(name);
        let for_one = deadline.at_most(DEFAULT_DEADLINE);
        let mut outcome = dry_start(&guard, domain, for_one);
        if let Err(unreadable) = domain {
            would_not_start(&mut outcome, unreadable);
        }
        let (name, source) = (name.clone(), guest.source);
        let guest = CheckedGuest {
            name,
            source,
            outcome,
        };
        checked.push((index, guest));
    }
}

/// The hook lets a guest pass whose XML it cannot read. Its encrypted vTPM would get no key
/// then, so nobody may be told that it would start.
pub(super) fn would_not_start(outcome: &mut Outcome, unreadable: &UnreadableDomain) {
    if outcome.is_allowed() {
        let reason = unreadable.reason.clone();
        outcome.verdict = Verdict::deny(Refusal::DomainXmlInvalid { reason });
    }
}
