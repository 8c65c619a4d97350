//! A kill at any moment leaves the store as before or as after, and the next opening works.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vtpm_guard::internals::clock::{Deadline, Timestamp};
use vtpm_guard::internals::ids::{DomainUuid, ProviderUuid};
use vtpm_guard::internals::key::id::KeyId;
use vtpm_guard::internals::key::new_key::NewKey;
use vtpm_guard::internals::key::wrap::WrappedDek;
use vtpm_guard::internals::store::{
    Access, Change, Event, EventFilter, NewProvider, Origin, Store, StoreError,
};
use vtpm_guard::internals::verdict::repair::{KeyOrigin, Repair};

/// The store of a child process of these tests; set only in child processes.
const CHILD_DIR: &str = "STORE_KILL_DIR";

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

fn open(dir: &Path, access: Access) -> Result<Store, StoreError> {
    Store::open(dir, access, soon())
}

/// Where the child is to work; `None` in the tests themselves.
fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// When a child is killed: so long after this many of its transactions.
#[derive(Clone, Copy)]
struct Moment {
    transactions: usize,
    later: Duration,
}

/// One of the children below, working on `dir`. It says each transaction that was committed.
fn start_child(child: &str, dir: &Path) -> (Child, impl Iterator<Item = ()> + use<>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines = lines.map_while(Result::ok);
    let said = lines.filter(|line| line == "done").map(|_| ());
    (child, said)
}

/// Kills a child at this moment, and returns the number of transactions that it has said.
fn kill_child(child: &str, dir: &Path, moment: Moment) -> usize {
    let (mut child, mut said) = start_child(child, dir);
    let transactions = said.by_ref().take(moment.transactions).count();
    assert_eq!(transactions, moment.transactions, "it ended by itself");
    std::thread::sleep(moment.later);
    child.kill().unwrap();
    child.wait().unwrap();
    transactions + said.count()
}

/// How fast this machine is at the moment: the time to a child's first transaction, and from one to the next.
fn pace(child: &str, dir: &Path) -> [Duration; 2] {
    const MORE: u32 = 6;
    let started = Instant::now();
    let (mut child, mut said) = start_child(child, dir);
    said.next().expect("it ended by itself");
    let (first, since) = (started.elapsed(), Instant::now());
    assert_eq!(said.by_ref().take(MORE as usize).count(), MORE as usize);
    let next = since.elapsed() / MORE;
    child.kill().unwrap();
    child.wait().unwrap();
    [first, next]
}

fn print_done() {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(b"\ndone\n").unwrap();
    stdout.flush().unwrap();
}

/// From before the first instruction to long after the first commit, in no order.
fn moments(count: u32, [first, next]: [Duration; 2]) -> impl Iterator<Item = Moment> {
    (0..count).map(move |i| {
        let transactions = i as usize % 4;
        let one = if transactions == 0 { first } else { next };
        let later = one * (i * 7_919 % 6_000) / 4_000;
        Moment {
            transactions,
            later,
        }
    })
}

#[test]
#[ignore = "the child of a_kill_between_any_two_instructions_..., which runs it"]
fn child_makes_keys() {
    let Some(dir) = child_dir() else { return };
    let mut store = open(&dir, Access::Create).unwrap();
    let provider = NewProvider {
        uuid: ProviderUuid::random(),
        name: "p".to_owned(),
        key_id: KeyId::from_bytes([1; KeyId::LEN]),
        key_version: 1,
        is_default: true,
        exported_at: None,
    };
    match store.create_provider(&provider, &[], Timestamp::now()) {
        Ok(()) | Err(StoreError::NameTaken(_)) => {}
        Err(error) => panic!("{error}"),
    }
    drop(store);
    loop {
        let mut store = open(&dir, Access::Write).unwrap();
        make_key(&mut store, DomainUuid::random());
        print_done();
    }
}

/// One transaction that writes a row, its key, the record that it is fresh, and an event.
fn make_key(store: &mut Store, domain: DomainUuid) {
    let now = Timestamp::now();
    let provider = store.provider("p").unwrap();
    let seen = store.references(domain, now).unwrap();
    let repairs = [
        Repair::BindProvider {
            key_ref: None,
            provider: provider.uuid,
            provider_name: provider.name.clone(),
        },
        Repair::CreateKey {
            key_ref: None,
            provider: provider.uuid,
            origin: KeyOrigin::Random,
        },
    ];
    let new_key = NewKey {
        wrapped_dek: WrappedDek::from_stored(vec![7; 300]),
        key_id: provider.key_id,
        key_version: 1,
        algorithm: "none",
    };
    let event = Event::new(now, Origin::Prepare, domain, "vm", "x".repeat(500));
    let change = Change {
        domain,
        seen: &seen,
        repairs: &repairs,
        new_key: Some(&new_key),
        secret_uuid: None,
        clients_key: None,
        event: Some(&event),
        now,
    };
    store.apply(&change).unwrap();
}

#[test]
fn a_kill_between_any_two_instructions_leaves_the_store_as_before_or_as_after() {
    let [dir, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let pace = pace("child_makes_keys", other.path());
    let (mut acknowledged, mut kills) = (0, 0);
    for moment in moments(120, pace) {
        acknowledged += kill_child("child_makes_keys", dir.path(), moment);
        kills += 1;
        let store = match open(dir.path(), Access::Write) {
            Err(StoreError::Missing) if acknowledged == 0 => continue,
            store => store.unwrap(),
        };
        assert_eq!(store.check().unwrap(), [], "after kill {kills}");
        let rows = store.all_key_refs(None, true).unwrap();
        let events = store.history(EventFilter::All, usize::MAX).unwrap();
        assert!(
            rows.iter().all(|row| row.key_ref.wrapped_dek.is_some()),
            "a row between"
        );
        assert_eq!(rows.len(), events.len(), "an event for each row");
        // The child may have been killed after the commit, before it said so.
        let unsaid = rows
            .len()
            .checked_sub(acknowledged)
            .expect("an acknowledged row is gone");
        assert!(unsaid <= kills, "{unsaid} rows more than {acknowledged}");
    }
}

#[test]
fn processes_that_create_a_store_at_once_lose_nothing() {
    const PROCESSES: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let moment = Moment {
        transactions: 1,
        later: Duration::from_millis(500),
    };
    let run = || kill_child("child_makes_keys", dir.path(), moment);
    let acknowledged: usize = std::thread::scope(|scope| {
        let children: Vec<_> = (0..PROCESSES).map(|_| scope.spawn(run)).collect();
        children.into_iter().map(|it| it.join().unwrap()).sum()
    });
    let store = open(dir.path(), Access::Read).unwrap();
    let rows = store.all_key_refs(None, true).unwrap().len();
    assert!(
        (acknowledged..=acknowledged + PROCESSES).contains(&rows),
        "{rows} of {acknowledged}"
    );
    assert_eq!(store.check().unwrap(), []);
}

#[test]
#[ignore = "the child of a_kill_during_a_restore_..., which runs it"]
fn child_restores() {
    let Some(dir) = child_dir() else { return };
    loop {
        for backup in ["small", "large"] {
            let from = dir.join(backup);
            let now = Timestamp::now();
            let restored = Store::restore(&dir.join("state"), &from, now, soon()).unwrap();
            std::fs::remove_file(restored.previous.unwrap()).unwrap();
            print_done();
        }
    }
}

#[test]
fn a_kill_during_a_restore_leaves_one_store_or_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    let mut store = open(&state_dir, Access::Create).unwrap();
    let event = |i| {
        let (domain, message) = (DomainUuid::random(), "x".repeat(2000));
        Event::new(Timestamp(i), Origin::Prepare, domain, "vm", message)
    };
    store.record_event(&event(0)).unwrap();
    store.backup(&dir.path().join("small"), soon()).unwrap();
    for i in 1..300 {
        store.record_event(&event(i)).unwrap();
    }
    store.backup(&dir.path().join("large"), soon()).unwrap();
    drop(store);
    let pace = pace("child_restores", dir.path());
    let mut seen = std::collections::BTreeSet::new();
    for moment in moments(60, pace) {
        kill_child("child_restores", dir.path(), moment);
        let store = open(&state_dir, Access::Write).unwrap();
        assert_eq!(store.check().unwrap(), []);
        seen.insert(store.history(EventFilter::All, usize::MAX).unwrap().len());
    }
    assert_eq!(seen, [1, 300].into());
}
