//! `key prune`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fixture::{Defined, Fixture};
use super::{kill, meanwhile};
use crate::host::crash::armed;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::Guest;
use crate::libvirt::fake::{Call, Failure};
use crate::manage::host::{HostError, default_deadline};
use crate::manage::prune::{PruneDecision, PruneError, Pruned, Rule, prune};
use crate::store::Store;

/// A guest that is gone for good, with a saved copy of its state; its key was used on this host.
fn gone(fixture: &Fixture, name: &str) -> Defined {
    let guest = fixture.guest_in_use(name);
    fixture.save_copy(&guest);
    let states = fixture.libvirt.dirs().tpm_states();
    fs::remove_dir_all(states.join(guest.uuid.to_string())).unwrap();
    fixture.libvirt.guests.undefine(name);
    guest
}

/// Whatever its age, and wherever it ran.
const ALL: Rule = Rule {
    older_than: Some(Duration::ZERO),
    standby: true,
};

fn pruned(fixture: &Fixture, dry_run: bool) -> Pruned {
    prune(&fixture.host, ALL, dry_run).unwrap()
}

#[test]
fn what_is_left_of_a_guest_is_removed_after_the_store_was_copied() {
    let fixture = Fixture::new();
    let guest = gone(&fixture, "vm1");
    let kept = fixture.guest_in_use("vm2");
    let damaged = fixture.damaged_state(&guest);
    let would = pruned(&fixture, true);
    assert_eq!((would.removed.guests, &would.backup), (1, &None));
    assert_eq!(fixture.rows(&guest).len(), 1);

    let done = pruned(&fixture, false);
    let counts = &done.removed;
    assert_eq!((counts.guests, counts.key_refs, counts.copies), (1, 1, 1));
    assert!(done.backup.unwrap().exists());
    assert!(fixture.rows(&guest).is_empty() && !damaged.exists());
    assert!(fixture.host.all_copies().unwrap().judged.is_empty());
    assert!(fixture.would_start(&kept), "libvirt knows it");
    let nothing = pruned(&fixture, false);
    assert!(nothing.guests.is_empty() && nothing.backup.is_none());
}

#[test]
fn a_guest_that_may_come_back_is_kept() {
    let fixture = Fixture::new();
    let with_state = fixture.guest_in_use("vm1");
    fixture.libvirt.guests.undefine("vm1");
    let elsewhere = gone(&fixture, "vm2");
    let young = Rule::default();
    let decisions = |rule| {
        let done = prune(&fixture.host, rule, false).unwrap();
        let of = |uuid| {
            let mut guests = done.guests.iter();
            guests
                .find(|pruned| pruned.guest.uuid == uuid)
                .unwrap()
                .decision
                .clone()
        };
        (of(with_state.uuid), of(elsewhere.uuid))
    };
    let (state, never_here) = decisions(young);
    assert!(matches!(state, PruneDecision::HasState(_)), "{state:?}");
    assert_eq!(never_here, PruneDecision::RunsElsewhere);
    let standby = Rule {
        standby: true,
        ..young
    };
    assert_eq!(decisions(standby).1, PruneDecision::TooYoung);
    assert_eq!(fixture.rows(&elsewhere).len(), 1);
}

#[test]
fn who_is_kept_is_counted_beside_who_goes() {
    let fixture = Fixture::new();
    gone(&fixture, "vm1");
    fixture.guest_in_use("vm2");
    fixture.libvirt.guests.undefine("vm2");
    let done = pruned(&fixture, false);
    let document = serde_json::to_value(&done).unwrap();
    assert_eq!((done.removed.guests, &document["kept"]), (1, &1.into()));
}

#[test]
fn a_guest_whose_saved_copy_cannot_be_read_is_kept_with_the_reason() {
    let fixture = Fixture::new();
    let guest = gone(&fixture, "vm1");
    let store = fixture.host.state_dir().store();
    let copies = store.parent().unwrap().join("tpm-state");
    let copies = copies.join(guest.uuid.to_string());
    let mut manifest = fs::read_dir(&copies).unwrap().map(|it| it.unwrap().path());
    let is_manifest = |path: &PathBuf| path.extension().is_some_and(|it| it == "json");
    let manifest = manifest.find(is_manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    fs::create_dir(&manifest).unwrap();
    let done = pruned(&fixture, false);
    let PruneDecision::HasState(left) = &done.guests[0].decision else {
        panic!("{done:?}");
    };
    assert_eq!(left.path, copies);
    let trouble = left.trouble.as_deref().unwrap();
    assert!(
        trouble.contains("not a regular file") || trouble.contains("Is a directory"),
        "{trouble}"
    );
    assert_eq!(fixture.rows(&guest).len(), 1);
}

#[test]
fn without_libvirt_nothing_is_removed() {
    let fixture = Fixture::new();
    let guest = gone(&fixture, "vm1");
    fixture
        .libvirt
        .fail_each(Call::Guests, Failure::Unreachable);
    assert!(matches!(
        prune(&fixture.host, ALL, false),
        Err(PruneError::Host(HostError::Libvirt(_)))
    ));
    assert_eq!(fixture.rows(&guest).len(), 1);
}

#[test]
fn a_kill_removes_no_key_that_the_copied_store_does_not_have() {
    kill::everywhere(
        |fixture| drop(gone(fixture, "vm1")),
        |fixture| drop(pruned(fixture, false)),
        |fixture| {
            let keys = fixture.store().all_key_refs(None, true).unwrap().len();
            let files = fs::read_dir(fixture.host.state_dir()).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let copied = names.filter(|name| name.contains("pruned")).count();
            assert!(keys == 1 || copied == 1, "{keys} keys, {copied} copies");
        },
        |fixture| {
            assert!(fixture.store().all_key_refs(None, true).unwrap().is_empty());
            assert!(fixture.host.all_copies().unwrap().judged.is_empty());
        },
    );
}

/// Without an age of the administrator's, by which everything may go.
#[test]
fn what_a_kill_has_left_is_removed_by_the_next_one() {
    let rule = Rule {
        older_than: None,
        ..ALL
    };
    let prune = |fixture: &Fixture| prune(&fixture.host, rule, false).unwrap();
    kill::everywhere(
        |fixture| {
            let guest = gone(fixture, "vm1");
            fixture.date_copies(&guest, |_| 1);
            fixture
                .sql("UPDATE key_ref SET created_at = 1, updated_at = 1; UPDATE event SET at = 1");
        },
        |fixture| drop(prune(fixture)),
        |_| {},
        |fixture| {
            assert!(fixture.store().all_key_refs(None, true).unwrap().is_empty());
            assert!(fixture.host.all_copies().unwrap().judged.is_empty());
        },
    );
}

#[test]
fn what_stopped_halfway_is_said_with_how_far_it_came_and_where_the_keys_are() {
    const GUESTS: usize = 60;
    let mut stopped_after = BTreeSet::new();
    for nth in 1.. {
        let fixture = Fixture::new();
        for _ in 0..GUESTS {
            let unknown = Defined {
                name: "gone".to_owned(),
                uuid: DomainUuid::random(),
                secret: SecretUuid::random(),
            };
            fixture.add_key(&unknown, "a", &Dek::generate().unwrap());
        }
        let root = fixture.root().to_owned();
        // Within a transaction the store is locked for somebody else.
        let rename = |root: &Path, from, to| {
            let store = rusqlite::Connection::open(root.join("guard/store.db")).unwrap();
            store.busy_timeout(Duration::ZERO).unwrap();
            let sql = format!("ALTER TABLE key_ref RENAME COLUMN {from} TO {to}");
            let _ = store.execute_batch(&sql);
        };
        armed::meanwhile(nth, move || rename(&root, "algorithm", "cipher"));
        let result = prune(&fixture.host, ALL, false);
        if armed::forget() {
            break;
        }
        rename(fixture.root(), "cipher", "algorithm");
        let left = fixture.store().all_key_refs(None, true).unwrap().len();
        match result {
            Ok(done) => assert_eq!((done.removed.guests, left), (GUESTS, 0)),
            Err(PruneError::Host(_)) => assert_eq!(left, GUESTS),
            Err(PruneError::Interrupted(stopped)) => {
                assert_eq!((stopped.done, stopped.of), (GUESTS - left, GUESTS));
                let backup = Store::open_copy(&stopped.backup, default_deadline()).unwrap();
                assert_eq!(backup.all_key_refs(None, true).unwrap().len(), GUESTS);
                stopped_after.insert(stopped.done);
            }
        }
    }
    assert!(stopped_after.contains(&50), "{stopped_after:?}");
}

/// The guest of the only key is defined again, and started.
fn comes_back(fixture: &Fixture) {
    // A start waits for who is writing, and finds what was written.
    let store = rusqlite::Connection::open(fixture.host.state_dir().join("store.db")).unwrap();
    store.busy_timeout(Duration::ZERO).unwrap();
    if store.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err() {
        return;
    }
    let rows = fixture.store().all_key_refs(None, true).unwrap();
    let Some(row) = rows.first() else {
        return;
    };
    let secret = row.key_ref.secret_uuid.unwrap();
    let encryption = format!("<encryption secret='{secret}'/>");
    let guest = fixture.define_with("vm1", row.domain, secret, &encryption);
    meanwhile::start_within(fixture, &guest, Duration::from_secs(2));
}

#[test]
fn a_guest_that_comes_back_meanwhile_keeps_its_key_or_does_not_start() {
    let (mut kept, mut gone_for_good) = (0, 0);
    meanwhile::everywhere(
        |fixture| drop(gone(fixture, "vm1")),
        comes_back,
        |fixture| prune(&fixture.host, ALL, false),
        |fixture, result| {
            let guests = fixture.host.guests().unwrap();
            if result.is_ok_and(|done| done.removed.guests > 0) {
                gone_for_good += 1;
                let has_state = |guest: &Guest| {
                    let guest = fixture.defined(&guest.name);
                    fixture.state_file(&guest).exists()
                };
                assert!(!guests.iter().any(has_state), "it started");
            } else {
                kept += 1;
                // Where it did not start, as from a locked store, its copy is there.
                let guest = fixture.defined("vm1");
                let copies = fixture.host.all_copies().unwrap().judged.len();
                assert!(!fixture.rows(&guest).is_empty());
                assert!(copies > 0 || fixture.opening_row(&guest).is_some());
            }
        },
    );
    assert!(kept > 0 && gone_for_good > 0, "{kept}, {gone_for_good}");
}

#[test]
fn with_a_configuration_that_cannot_be_used_nothing_is_pruned() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.libvirt.guests.undefine("vm1");
    // It names the directory in which the guest's TPM state is.
    fs::write(fixture.root().join("config.toml"), "nonsense").unwrap();
    let error = prune(&fixture.host, ALL, false).unwrap_err();
    assert!(
        matches!(error, PruneError::Host(HostError::Config(_))),
        "{error:?}"
    );
    assert_eq!(fixture.rows(&guest).len(), 1);
}
