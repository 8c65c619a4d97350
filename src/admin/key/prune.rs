//! `key prune`: removes the key references of guests that are gone for good.
//!
//! The one command that may remove the last copy of a key without naming it. So it goes by
//! four facts together: libvirt does not know the guest, no TPM state of it is left on this
//! host, no copy of its state is kept, and nothing was heard of it for a while. And it copies
//! the store beside itself first.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::context::{self, Context};
use crate::admin::error::AdminError;
use crate::admin::forgotten::{self, Forgotten};
use crate::admin::guests;
use crate::admin::output::{count, time};
use crate::admin::table::table;
use crate::clock::Timestamp;
use crate::report::{Arg, quoted};
use crate::store::{Access, Event, Prune};

/// What becomes of a forgotten guest's key references.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Removed,
    /// TPM state is there.
    HasState(PathBuf),
    /// It was heard of not so long ago.
    TooYoung,
}

pub(super) fn run(context: &Context, older_than: &str, dry_run: bool) -> Result<(), AdminError> {
    let age = age(older_than)?;
    let known: BTreeSet<_> = guests::list()?.iter().map(|guest| guest.uuid).collect();
    let access = if dry_run { Access::Read } else { Access::Write };
    let store = context.store(access)?;
    let now = Timestamp::now();
    let mut judged = Vec::new();
    let mut backup = None;
    if let Some(mut store) = store {
        let forgotten = forgotten::find(&store, &known, &context.state_places())?;
        judged = forgotten
            .into_iter()
            .map(|guest| (fate(&guest, age, now), guest))
            .collect();
        let removed: Vec<_> = removed(&judged).collect();
        if !dry_run && !removed.is_empty() {
            let kept = store.backup_beside("pruned", now, context::patience())?;
            let events: Vec<_> = removed.iter().map(|guest| event(guest, now)).collect();
            let prune = |(guest, event)| {
                let Forgotten { uuid, rows, .. }: &Forgotten = guest;
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
        }
    }
    answer(context, &judged, backup.as_deref(), dry_run)
}

fn removed(judged: &[(Fate, Forgotten)]) -> impl Iterator<Item = &Forgotten> {
    let removed = judged.iter().filter(|(fate, _)| *fate == Fate::Removed);
    removed.map(|(_, guest)| guest)
}

fn fate(guest: &Forgotten, age: Duration, now: Timestamp) -> Fate {
    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    match &guest.state {
        Some(path) => Fate::HasState(path.clone()),
        None if guest.last_change.0 > now.0.saturating_sub(age_ms) => Fate::TooYoung,
        None => Fate::Removed,
    }
}

fn event(guest: &Forgotten, now: Timestamp) -> Event {
    Event {
        at: now,
        domain_uuid: guest.uuid,
        domain_name: guest.name.clone().unwrap_or_default(),
        operation: "prune".to_owned(),
        allowed: true,
        code: None,
        message: format!(
            "libvirt no longer knows it and no TPM state is left: {} removed",
            count(guest.rows.len(), "key reference")
        ),
        repairs_json: "[]".to_owned(),
    }
}

/// An age as digits and a unit: `90m`, `12h`, `30d`, `4w`.
fn age(text: &str) -> Result<Duration, AdminError> {
    let parse = || {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        let unit_s = match &text[digits..] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            "w" => 7 * 24 * 3600,
            _ => return None,
        };
        number.checked_mul(unit_s).map(Duration::from_secs)
    };
    parse().ok_or_else(|| {
        AdminError::usage(format!("invalid age {}", quoted(text)))
            .with_hint("a number and a unit: 12h, 30d, 8w")
    })
}

fn answer(
    context: &Context,
    judged: &[(Fate, Forgotten)],
    backup: Option<&Path>,
    dry_run: bool,
) -> Result<(), AdminError> {
    let guests = removed(judged).count();
    let rows: usize = removed(judged).map(|guest| guest.rows.len()).sum();
    let document = json!({
        "removed": { "guests": guests, "key_refs": rows },
        "kept": judged.len() - guests,
        "backup": backup.map(|path| path.to_string_lossy()),
        "dry_run": dry_run,
        "guests": judged.iter().map(|(fate, guest)| json!({
            "domain": { "name": guest.name, "uuid": guest.uuid.to_string() },
            "key_refs": guest.rows.iter().map(|row| row.key_ref.id.0).collect::<Value>(),
            "last_change": guest.last_change.0,
            "result": fate.word(),
            "reason": fate.reason(),
        })).collect::<Value>(),
    });
    context.output.answer(&document, |out| {
        if judged.is_empty() {
            return writeln!(out, "libvirt knows every guest that has a key reference");
        }
        let mut lines = table(&["DOMAIN", "KEY REFS", "LAST CHANGE", "RESULT", "WHY"]);
        for (fate, guest) in judged {
            lines.add_row([
                guest.name.clone().unwrap_or_else(|| guest.uuid.to_string()),
                guest.rows.len().to_string(),
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
            count(rows, "key reference"),
            count(guests, "guest")
        )
    })?;
    if let Some(backup) = backup {
        context.output.note(&format!(
            "the store of before is kept; to undo this: vtpm-guard store restore {}",
            Arg::file(backup)
        ));
    }
    Ok(())
}

impl Fate {
    fn word(&self) -> &'static str {
        match self {
            Self::Removed => "remove",
            Self::HasState(_) | Self::TooYoung => "keep",
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Removed => "libvirt does not know it, and no TPM state is left".to_owned(),
            Self::HasState(path) => format!("TPM state is left: {}", path.display()),
            Self::TooYoung => "it changed not so long ago: --older-than AGE".to_owned(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::ids::DomainUuid;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const DAY_MS: i64 = 24 * 3600 * 1000;

    fn last_heard_of(days: i64) -> Forgotten {
        Forgotten {
            uuid: DomainUuid::random(),
            name: None,
            rows: Vec::new(),
            last_change: Timestamp(NOW.0 - days * DAY_MS),
            state: None,
        }
    }

    #[test]
    fn a_guest_is_removed_when_it_is_old_enough_and_has_no_state() {
        let month = age("30d").unwrap();
        assert_eq!(fate(&last_heard_of(31), month, NOW), Fate::Removed);
        assert_eq!(fate(&last_heard_of(30), month, NOW), Fate::Removed);
        assert_eq!(fate(&last_heard_of(29), month, NOW), Fate::TooYoung);
        assert_eq!(
            fate(&last_heard_of(-1), age("0s").unwrap(), NOW),
            Fate::TooYoung,
            "the clock was set back"
        );
    }

    #[test]
    fn a_guest_with_state_is_never_removed() {
        let place = PathBuf::from("/var/lib/libvirt/swtpm/x");
        let guest = Forgotten {
            state: Some(place.clone()),
            ..last_heard_of(10_000)
        };
        assert_eq!(fate(&guest, age("0d").unwrap(), NOW), Fate::HasState(place));
    }

    #[test]
    fn an_age_is_a_number_and_a_unit() {
        assert_eq!(age("12h").unwrap(), Duration::from_hours(12));
        assert_eq!(age("4w").unwrap(), age("28d").unwrap());
        assert_eq!(age("0d").unwrap(), Duration::ZERO);
        for text in [
            "",
            "d",
            "30",
            "30x",
            "-1d",
            "1.5d",
            "99999999999999999999d",
            "3 d",
        ] {
            assert!(age(text).is_err(), "{text:?}");
        }
        assert!(age("18446744073709551615w").is_err());
    }
}
