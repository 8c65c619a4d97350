//! What always holds (docs/invariants.md), asked of what this test knows.

use std::fs;
use std::path::{Path, PathBuf};

use crate::domain::Domain;
use crate::guard::{Mode, prepare};
use crate::ids::DomainUuid;
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;
use crate::store::{KeyRefRecord, Origin};
use crate::verdict::outcome::Outcome;
use crate::verdict::repair::Repair;
use crate::verdict::{Decision, Reason};

use super::host::{DekBytes, Host, soon};
use super::tpm;

/// What there was before a start was judged.
pub(crate) struct Seen {
    rows: Vec<KeyRefRecord>,
    has_state: bool,
}

pub(crate) fn before_a_start(host: &Host, guest: usize) -> Seen {
    Seen {
        rows: host.rows(guest),
        has_state: host.state_file(guest).exists(),
    }
}

/// After each event.
pub(crate) fn hold(host: &mut Host) {
    for guest in 0..host.guests.len() {
        no_key_of_a_tpm_is_lost(host, guest);
        if !host.guests[guest].running {
            what_can_start_would_start(host, guest);
        }
    }
}

/// Once, after the last event.
pub(crate) fn hold_at_the_end(host: &mut Host) {
    no_key_lies_in_clear(host);
    a_guest_without_a_vtpm_starts(host);
}

/// Statement 1: whatever libvirt was ever given when a TPM was made is still in the store, in a
/// row that may be retired, wrapped by a KEK that a recovery file can bring back.
fn no_key_of_a_tpm_is_lost(host: &Host, guest: usize) {
    let rows = host.rows(guest);
    let kept: Vec<DekBytes> = rows.iter().filter_map(|row| host.unwrapped(row)).collect();
    for dek in &host.guests[guest].made_with {
        assert!(
            kept.contains(dek),
            "the key of a TPM is lost: {:#?}",
            host.told
        );
    }
}

/// Statement 7, and the reason for all this: a guest whose key is on this host starts.
fn what_can_start_would_start(host: &Host, guest: usize) {
    let store = host.store();
    let keyring = host.guard.keyring();
    let opens_here = |row: &&KeyRefRecord| {
        let providers = store.providers().unwrap();
        row.retired_at.is_none()
            && providers.iter().any(|provider| {
                let Ok(kek) = keyring.open(provider.key_id, soon()) else {
                    return false;
                };
                let wrapped = row.key_ref.wrapped_dek.as_ref();
                let opened = wrapped.and_then(|it| it.unwrap(&kek, row.domain).ok().flatten());
                opened.is_some_and(|dek| host.opens_state(guest, dek.expose()) == Some(true))
            })
    };
    if host.rows(guest).iter().any(|row| opens_here(&row)) {
        let outcome = host.prepare(guest, Mode::DryRun);
        assert!(outcome.is_allowed(), "{outcome:#?} {:#?}", host.told);
    }
}

/// Statements 1 to 4, at a start that was judged and carried out.
pub(crate) fn of_a_start(host: &Host, guest: usize, seen: &Seen, outcome: &Outcome) {
    let repairs = outcome.verdict.repairs();
    let allowed = outcome.is_allowed();
    assert!(allowed || repairs.is_empty(), "a refusal changes nothing");
    if !allowed {
        assert_eq!(host.rows(guest), seen.rows, "a refusal changes nothing");
    }
    let kept: Vec<_> = host
        .rows(guest)
        .iter()
        .filter_map(|row| host.unwrapped(row))
        .collect();
    for dek in seen.rows.iter().filter_map(|row| host.unwrapped(row)) {
        assert!(kept.contains(&dek), "a start lost a key: {:#?}", host.told);
    }
    for repair in repairs {
        match repair {
            Repair::RebindProvider {
                key_ref, provider, ..
            } => {
                let row = seen.rows.iter().find(|row| row.key_ref.id == *key_ref);
                let row = row.unwrap();
                let provider = host.store().provider(&provider.to_string()).unwrap();
                let kek = host.guard.keyring().open(provider.key_id, soon()).unwrap();
                let wrapped = row.key_ref.wrapped_dek.as_ref();
                // A placeholder that goes with a rebind has nothing to be unwrapped.
                let opened = wrapped.map(|it| it.unwrap(&kek, row.domain));
                assert!(
                    matches!(opened, Some(Ok(Some(_)))),
                    "rebound, never unwrapped"
                );
            }
            Repair::CreateKey { .. } => {
                assert!(
                    !seen.has_state,
                    "a key is made over a state: {:#?}",
                    host.told
                );
            }
            _ => {}
        }
    }
    // Nor where a dispatcher has the hook called twice in one attempt.
    let again = host.prepare(guest, Mode::DryRun);
    assert_eq!(
        again.verdict.repairs(),
        [],
        "planned twice: {:#?}",
        host.told
    );
}

/// The guard proves a key before it lets a start go on. It cannot where the state is yet to
/// arrive, nor where libvirt's own secret carries the start.
pub(crate) fn of_a_value_that_does_not_open(
    host: &Host,
    guest: usize,
    outcome: &Outcome,
    announced: bool,
) {
    let unprovable = matches!(
        outcome.verdict.decision(),
        Decision::Allow(Reason::HostSecret)
    );
    let name = &host.guests[guest].domain.name;
    assert!(
        announced || unprovable,
        "{name} was let start with a key that does not open its TPM: {:#?}",
        host.told
    );
}

/// A TPM that was made for a start whose own had not arrived is nobody's.
pub(crate) fn of_a_tpm_that_is_there(host: &Host, guest: usize) {
    assert!(
        !tpm::is_makeshift(&host.state_file(guest)),
        "a TPM that was made for a restore is taken for the guest's: {:#?}",
        host.told
    );
}

/// A rotation leaves nothing behind under the key that was the provider's before.
pub(crate) fn of_a_rotation(host: &Host, before: KeyId) {
    for guest in 0..host.guests.len() {
        for row in host.rows(guest) {
            let is_under = |it: &WrappedDek| it.key_id() == Ok(before);
            let left = row.key_ref.wrapped_dek.as_ref().is_some_and(is_under);
            assert!(!left, "{row:#?} was left behind: {:#?}", host.told);
        }
    }
}

/// VG205: libvirt makes a new TPM under a used key only after a reset.
pub(crate) fn of_a_new_tpm(host: &Host, guest: usize, value: &[u8]) {
    let used = &host.guests[guest].used;
    assert!(
        !used.contains(value),
        "a used TPM is silently made anew: {:#?}",
        host.told
    );
}

/// Statement 6: of all that is on a disk, only a sealed KEK's own file may give a key away, and only that one.
fn no_key_lies_in_clear(host: &Host) {
    let site = host.manage();
    let keys = site.state_dir().keys();
    let dirs = [
        site.state_dir().to_path_buf(),
        host.libvirt.dirs().definitions(),
    ];
    let files = dirs.iter().flat_map(|dir| files_below(dir));
    let mut saw_the_store = false;
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let file = path.display();
        let deks = host.deks();
        let dek = deks.keys().find(|dek| holds(&bytes, dek));
        assert!(dek.is_none(), "{file} holds a DEK in clear");
        for (name, kek) in &host.keks {
            let is_its_own = path == keys.join(kek.key_id().to_string());
            let is_in_clear = !is_its_own && holds(&bytes, kek.expose());
            assert!(!is_in_clear, "{file} holds the KEK of {name} in clear");
        }
        saw_the_store |= path.ends_with("store.db");
    }
    // Which others there are, each story says: its providers may be deleted, with the files of their keys.
    assert!(saw_the_store, "the store was not seen");
}

fn holds(bytes: &[u8], key: &[u8]) -> bool {
    memchr::memmem::find(bytes, key).is_some()
}

#[test]
#[should_panic(expected = "below/file holds the KEK of a in clear")]
fn a_key_in_clear_is_found_however_deep_it_lies() {
    let host = Host::new();
    no_key_lies_in_clear(&host);
    let dir = host.manage().state_dir().join("captures/below");
    fs::create_dir_all(&dir).unwrap();
    let (_, kek) = &host.keks[0];
    fs::write(dir.join("file"), [b"before", &kek.expose()[..]].concat()).unwrap();
    no_key_lies_in_clear(&host);
}

#[test]
#[should_panic(expected = "holds the KEK of a in clear")]
fn a_providers_key_in_the_file_of_another_one_is_found() {
    let host = Host::new();
    let [(_, kek), (_, other)] = &host.keks[..] else {
        panic!("two providers")
    };
    let file = host
        .manage()
        .state_dir()
        .keys()
        .join(other.key_id().to_string());
    fs::write(file, kek.expose()).unwrap();
    no_key_lies_in_clear(&host);
}

/// All files below a directory; what is a link leads to another one.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

/// Statement 5: a domain without an emulated vTPM is never refused, whatever the store is.
fn a_guest_without_a_vtpm_starts(host: &mut Host) {
    let plain = Domain {
        name: "plain".to_owned(),
        uuid: DomainUuid::random(),
        vtpm: None,
        travelling: None,
    };
    fs::write(host.guard.state_dir.store(), "no store at all").unwrap();
    let outcome = prepare(
        &host.guard,
        &Ok(plain),
        Origin::Prepare,
        Mode::CarryOut,
        soon(),
    );
    assert!(outcome.is_allowed());
}
