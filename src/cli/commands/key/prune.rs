//! `key prune`: removes the key references of guests that are gone for good, and the guard's own
//! copies of their TPM state, which are nothing without a key.
//!
//! The one command that may remove the last copy of a key without naming it. So it goes by four
//! facts together: libvirt does not know the guest, no TPM state of it is left in libvirt's
//! place, it has run on this host, and nothing was heard of it for a while. And it copies the
//! store beside itself first.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::ui::answer::{count, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::table;
use crate::clock::Timestamp;
use crate::config::duration;
use crate::guard::plain_state;
use crate::host::dirs::StateDir;
use crate::manage::host::default_deadline;
use crate::manage::unknown_guests::{self, UnknownGuest};
use crate::messages::{Arg, quoted};
use crate::store::{Access, Event, Origin, Prune};
use crate::tpm_copies::CopyStore;

/// How long nothing must have been heard of a guest that has a key.
const AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The same for a guest that never had one: most often an attempt of virt-install.
const AGE_WITHOUT_KEY: Duration = Duration::from_secs(24 * 60 * 60);

/// Which guests are removed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rule {
    /// The age that was asked for.
    older_than: Option<Duration>,
    /// Also keys that were used, and never on this host.
    standby: bool,
}

/// What becomes of a forgotten guest's key references.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Removed,
    /// TPM state is there.
    HasState(PathBuf),
    /// Its key was used, and not on this host.
    RunsElsewhere,
    /// It was heard of not so long ago.
    TooYoung,
}

pub(crate) fn run(
    context: &Context,
    older_than: Option<&str>,
    standby: bool,
    dry_run: bool,
) -> Result<(), CommandError> {
    let rule = Rule {
        older_than: older_than.map(age).transpose()?,
        standby,
    };
    let known: BTreeSet<_> = context
        .host
        .guests()?
        .iter()
        .map(|guest| guest.uuid)
        .collect();
    let access = if dry_run { Access::Read } else { Access::Write };
    let store = context.host.store(access)?;
    let now = Timestamp::now();
    let mut judged = Vec::new();
    let mut backup = None;
    if let Some(mut store) = store {
        let forgotten = unknown_guests::find(&context.host, &store, &known)?;
        judged = forgotten
            .into_iter()
            .map(|guest| (fate(&guest, rule, now), guest))
            .collect();
        let removed: Vec<_> = removed(&judged).collect();
        if !dry_run && !removed.is_empty() {
            let kept = store.backup_beside("pruned", now, default_deadline())?;
            let events: Vec<_> = removed.iter().map(|guest| event(guest, now)).collect();
            let prune = |(guest, event)| {
                let UnknownGuest { uuid, rows, .. }: &UnknownGuest = guest;
                Prune {
                    domain: *uuid,
                    seen: rows,
                    event,
                }
            };
            let domains: Vec<_> = removed.iter().copied().zip(&events).map(prune).collect();
            store.prune(&domains).inspect_err(|_| {
                // Nothing was removed, so nobody needs the copy; the first error is to be told.
                let _ = std::fs::remove_file(&kept);
            })?;
            backup = Some(kept);
            // Without their keys they are nothing; what a kill leaves here is found again.
            for guest in &removed {
                drop_copies(context.host.state_dir(), guest)?;
            }
        }
    }
    answer(context, &judged, backup.as_deref(), dry_run)
}

fn drop_copies(state_dir: &StateDir, guest: &UnknownGuest) -> Result<(), CommandError> {
    CopyStore::of(state_dir, guest.uuid).remove()?;
    plain_state::remove(state_dir, guest.uuid).map_err(|error| {
        let shelf = state_dir.plain_states();
        CommandError::failed(format!("{}: {error}", shelf.display()))
    })?;
    Ok(())
}

fn removed(judged: &[(Fate, UnknownGuest)]) -> impl Iterator<Item = &UnknownGuest> {
    let removed = judged.iter().filter(|(fate, _)| *fate == Fate::Removed);
    removed.map(|(_, guest)| guest)
}

fn fate(guest: &UnknownGuest, rule: Rule, now: Timestamp) -> Fate {
    let never_had_a_tpm = guest.has_no_key() && guest.copies == 0;
    let age = rule.older_than.unwrap_or(if never_had_a_tpm {
        AGE_WITHOUT_KEY
    } else {
        AGE
    });
    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    match &guest.state {
        Some(path) => Fate::HasState(path.clone()),
        None if guest.is_used() && !guest.was_here && !rule.standby => Fate::RunsElsewhere,
        None if guest.last_change.0 > now.0.saturating_sub(age_ms) => Fate::TooYoung,
        None => Fate::Removed,
    }
}

fn event(guest: &UnknownGuest, now: Timestamp) -> Event {
    let message = format!(
        "libvirt no longer knows it and no TPM state of it is left: {} removed",
        things(guest.rows.len(), guest.copies)
    );
    let name = guest.name.clone().unwrap_or_default();
    Event::new(now, Origin::Prune, guest.uuid, name, message)
}

/// Key references and copies, as far as there are any.
fn things(key_refs: usize, copies: usize) -> String {
    let copies_words = match copies {
        0 => String::new(),
        1 => "1 saved copy of TPM state".to_owned(),
        _ => format!("{copies} saved copies of TPM state"),
    };
    match (key_refs, copies) {
        (_, 0) => count(key_refs, "key reference"),
        (0, _) => copies_words,
        _ => format!("{} and {copies_words}", count(key_refs, "key reference")),
    }
}

/// An age: `90m`, `12h`, `30d`, `4w`.
fn age(text: &str) -> Result<Duration, CommandError> {
    duration::parse(text).ok_or_else(|| {
        CommandError::usage(format!("invalid age {}", quoted(text)))
            .with_hint("a number and a unit: 12h, 30d, 8w")
    })
}

fn answer(
    context: &Context,
    judged: &[(Fate, UnknownGuest)],
    backup: Option<&Path>,
    dry_run: bool,
) -> Result<(), CommandError> {
    let guests = removed(judged).count();
    let rows: usize = removed(judged).map(|guest| guest.rows.len()).sum();
    let copies: usize = removed(judged).map(|guest| guest.copies).sum();
    let document = json!({
        "removed": { "guests": guests, "key_refs": rows, "copies": copies },
        "kept": judged.len() - guests,
        "backup": backup.map(|path| path.to_string_lossy()),
        "dry_run": dry_run,
        "guests": judged.iter().map(|(fate, guest)| json!({
            "domain": { "name": guest.name, "uuid": guest.uuid.to_string() },
            "key_refs": guest.rows.iter().map(|row| row.key_ref.id.0).collect::<Value>(),
            "copies": guest.copies,
            "last_change": guest.last_change.0,
            "result": fate.word(),
            "reason": fate.reason(),
        })).collect::<Value>(),
    });
    context.output.answer(&document, |out| {
        if judged.is_empty() {
            return writeln!(out, "libvirt knows every guest that has a key reference");
        }
        let heading = [
            "DOMAIN",
            "KEY REFS",
            "COPIES",
            "LAST CHANGE",
            "RESULT",
            "WHY",
        ];
        let mut lines = table(&heading);
        for (fate, guest) in judged {
            lines.add_row([
                guest.name.clone().unwrap_or_else(|| guest.uuid.to_string()),
                guest.rows.len().to_string(),
                guest.copies.to_string(),
                time(Some(guest.last_change)),
                fate.word().to_owned(),
                fate.reason(),
            ]);
        }
        out.table(&lines)?;
        let tense = if dry_run { "would remove" } else { "removed" };
        writeln!(
            out,
            "{tense} {} of {}",
            things(rows, copies),
            count(guests, "guest")
        )
    })?;
    if let Some(backup) = backup {
        context.output.note(&format!(
            "the previous store is kept, with these keys: vtpm-guard store restore {}",
            Arg::file(backup)
        ));
    }
    Ok(())
}

impl Fate {
    fn word(&self) -> &'static str {
        match self {
            Self::Removed => "remove",
            Self::HasState(_) | Self::RunsElsewhere | Self::TooYoung => "keep",
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Removed => "libvirt does not know it, and no TPM state is left".to_owned(),
            Self::HasState(path) => format!("TPM state is left: {}", path.display()),
            Self::RunsElsewhere => {
                "its key was used, but never on this host: it may run on another one (--standby \
                 removes it)"
                    .to_owned()
            }
            Self::TooYoung => "it changed not so long ago: --older-than AGE".to_owned(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::ids::{DomainUuid, KeyRefId};
    use crate::key::wrap::WrappedDek;
    use crate::store::KeyRefRecord;
    use crate::verdict::facts::KeyRef;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const DAY_MS: i64 = 24 * 3600 * 1000;

    /// A guest that has run here with a key, of which nothing is left.
    fn last_heard_of(days: i64) -> UnknownGuest {
        UnknownGuest {
            uuid: DomainUuid::random(),
            name: None,
            rows: vec![row(true, true)],
            last_change: Timestamp(NOW.0 - days * DAY_MS),
            state: None,
            copies: 0,
            was_here: true,
        }
    }

    fn row(keyed: bool, used: bool) -> KeyRefRecord {
        KeyRefRecord {
            domain: DomainUuid::random(),
            key_ref: KeyRef {
                id: KeyRefId(1),
                secret_uuid: None,
                provider_uuid: None,
                provider_name: "a".to_owned(),
                key_version: None,
                kek_ref: None,
                wrapped_dek: keyed.then(|| WrappedDek::from_stored(vec![1])),
                first_used_at: used.then_some(Timestamp(1)),
                created_at: Timestamp(1),
            },
            retired_at: None,
            algorithm: None,
            updated_at: Timestamp(1),
        }
    }

    fn older_than(text: &str) -> Rule {
        Rule {
            older_than: Some(age(text).unwrap()),
            standby: false,
        }
    }

    #[test]
    fn a_guest_is_removed_when_it_is_old_enough_and_has_no_state() {
        let month = Rule::default();
        assert_eq!(fate(&last_heard_of(31), month, NOW), Fate::Removed);
        assert_eq!(fate(&last_heard_of(30), month, NOW), Fate::Removed);
        assert_eq!(fate(&last_heard_of(29), month, NOW), Fate::TooYoung);
        assert_eq!(
            fate(&last_heard_of(-1), older_than("0s"), NOW),
            Fate::TooYoung,
            "the clock was set back"
        );
        // The guard's own copies age out with the key.
        let with_copies = |days| UnknownGuest {
            copies: 2,
            ..last_heard_of(days)
        };
        assert_eq!(fate(&with_copies(31), month, NOW), Fate::Removed);
        assert_eq!(fate(&with_copies(29), month, NOW), Fate::TooYoung);
    }

    #[test]
    fn an_attempt_that_never_had_a_tpm_is_forgotten_after_a_day() {
        let attempt = |days, copies| UnknownGuest {
            rows: vec![row(false, false)],
            was_here: false,
            copies,
            ..last_heard_of(days)
        };
        assert_eq!(fate(&attempt(1, 0), Rule::default(), NOW), Fate::Removed);
        assert_eq!(fate(&attempt(0, 0), Rule::default(), NOW), Fate::TooYoung);
        assert_eq!(fate(&attempt(2, 1), Rule::default(), NOW), Fate::TooYoung);
        assert_eq!(fate(&attempt(1, 0), older_than("2d"), NOW), Fate::TooYoung);
    }

    #[test]
    fn a_key_that_is_used_elsewhere_goes_only_when_it_is_asked_for() {
        let standby = UnknownGuest {
            was_here: false,
            ..last_heard_of(1000)
        };
        assert_eq!(fate(&standby, older_than("0d"), NOW), Fate::RunsElsewhere);
        let asked = Rule {
            standby: true,
            ..Rule::default()
        };
        assert_eq!(fate(&standby, asked, NOW), Fate::Removed);
        // One that was made and never used is none.
        let unused = UnknownGuest {
            rows: vec![row(true, false)],
            ..standby
        };
        assert_eq!(fate(&unused, Rule::default(), NOW), Fate::Removed);
    }

    #[test]
    fn a_guest_with_state_is_never_removed() {
        let place = PathBuf::from("/var/lib/libvirt/swtpm/x");
        let guest = UnknownGuest {
            state: Some(place.clone()),
            ..last_heard_of(10_000)
        };
        let asked = Rule {
            standby: true,
            ..older_than("0d")
        };
        assert_eq!(fate(&guest, asked, NOW), Fate::HasState(place));
    }

    #[test]
    fn an_age_is_a_number_and_a_unit() {
        assert_eq!(age("12h").unwrap(), Duration::from_secs(12 * 60 * 60));
        assert_eq!(age("4w").unwrap(), age("28d").unwrap());
        assert_eq!(age("0d").unwrap(), Duration::ZERO);
        for text in ["", "30", "-1d"] {
            assert!(age(text).is_err(), "{text:?}");
        }
    }
}
