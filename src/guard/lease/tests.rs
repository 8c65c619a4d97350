use std::thread;
use std::time::Instant;

use zeroize::Zeroizing;

use super::*;
use crate::libvirt::Process;

fn dek(bytes: &[u8]) -> Dek {
    Dek::from_bytes(Zeroizing::new(bytes.to_vec()))
}

fn guest(name: &str) -> Domain {
    Domain {
        name: name.to_owned(),
        uuid: DomainUuid::random(),
        vtpm: None,
        travelling: None,
    }
}

fn within(milliseconds: u64) -> Deadline {
    Deadline::after(Duration::from_millis(milliseconds))
}

/// A directory of leases and a secret.
fn leases() -> (tempfile::TempDir, PathBuf, SecretUuid) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("secrets");
    (parent, dir, SecretUuid::random())
}

fn start(dir: &Path, secret: SecretUuid, guest: &Domain, key: &[u8]) -> Result<bool, LeaseError> {
    let lease = take(dir, secret, guest.uuid, &dek(key), within(60))?;
    let shared = lease.is_shared();
    lease.hold(guest, &dek(key), !shared)?;
    Ok(shared)
}

#[test]
fn a_leased_secret_is_refused_to_a_guest_with_another_key() {
    let (_parent, dir, secret) = leases();
    let (a, b) = (guest("a"), guest("b"));
    assert!(!start(&dir, secret, &a, b"A").unwrap());
    let begin = Instant::now();
    let refused = start(&dir, secret, &b, b"B");
    assert!(matches!(refused, Err(LeaseError::InUse(name)) if name == "a"));
    assert!(begin.elapsed() >= Duration::from_millis(60));
    assert!(
        !start(&dir, SecretUuid::random(), &b, b"B").unwrap(),
        "another secret is free"
    );

    let dropped = release(&dir, secret, a.uuid, within(60), |domain| domain).unwrap();
    assert_eq!(dropped, Some(a.uuid));
    assert!(!start(&dir, secret, &b, b"B").unwrap());
}

#[test]
fn a_waiting_guest_proceeds_when_the_other_has_started() {
    let (_parent, dir, secret) = leases();
    let (a, b) = (guest("a"), guest("b"));
    start(&dir, secret, &a, b"A").unwrap();
    thread::scope(|scope| {
        let (dir, b) = (&dir, &b);
        let waiting = scope.spawn(move || {
            let lease = take(dir, secret, b.uuid, &dek(b"B"), within(5000)).unwrap();
            lease.hold(b, &dek(b"B"), true).unwrap();
        });
        thread::sleep(Duration::from_millis(50));
        release(dir, secret, a.uuid, within(60), drop).unwrap();
        waiting.join().unwrap();
    });
}

#[test]
fn guests_with_the_same_key_share_the_secret_until_the_last_has_started() {
    let (_parent, dir, secret) = leases();
    let (a, b) = (guest("a"), guest("b"));
    assert!(!start(&dir, secret, &a, b"K").unwrap());
    assert!(start(&dir, secret, &b, b"K").unwrap());
    assert_eq!(
        release(&dir, secret, a.uuid, within(60), |_| ()).unwrap(),
        None
    );
    let dropped = release(&dir, secret, b.uuid, within(60), |domain| domain).unwrap();
    assert_eq!(dropped, Some(a.uuid), "it was defined for a");
    assert_eq!(dir.read_dir().unwrap().count(), 0, "nothing is left");
}

#[test]
fn the_first_that_has_started_leaves_the_secret_to_the_others() {
    let (_parent, dir, secret) = leases();
    let (a, b) = (guest("a"), guest("b"));
    start(&dir, secret, &a, b"K").unwrap();
    start(&dir, secret, &b, b"K").unwrap();
    let released = |guest: &Domain| release(&dir, secret, guest.uuid, within(60), drop).unwrap();
    assert_eq!(released(&b), None, "a is still being started");
    assert_eq!(released(&a), Some(()));
}

/// The next one to start has another file then, and its own lock.
#[test]
fn a_lock_that_was_removed_while_it_was_waited_for_is_taken_anew() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("lock");
    let held = lock(&path, within(5000)).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| lock(&path, within(5000)).unwrap());
        thread::sleep(Duration::from_millis(50));
        std::fs::remove_file(&path).unwrap();
        drop(held);
        let taken = waiting.join().unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!(taken.metadata().unwrap().ino(), found.ino());
    });
}

/// What is fuzzed is this file.
#[cfg(feature = "internals")]
#[test]
fn the_file_of_a_lease_is_read_as_the_fuzzers_read_it() {
    let (_parent, dir, secret) = leases();
    start(&dir, secret, &guest("a"), b"A").unwrap();
    let bytes = std::fs::read(dir.join(secret.to_string())).unwrap();
    assert!(is_record(&bytes));
    assert!(!is_record(b"{}"));
}

#[test]
fn a_dispatcher_may_call_prepare_twice() {
    let (_parent, dir, secret) = leases();
    let a = guest("a");
    assert!(!start(&dir, secret, &a, b"A").unwrap());
    assert!(!start(&dir, secret, &a, b"A").unwrap());
}

#[test]
fn starts_end_with_their_daemon() {
    let now = Timestamp::now();
    let mut holder = Holder {
        domain: DomainUuid::random().to_string(),
        name: "a".to_owned(),
        daemon: None,
        since: now.0,
    };
    assert!(holder.is_starting(now));
    assert!(!holder.is_starting(Timestamp(now.0 + 31_000)));
    holder.daemon = Some(Process { pid: 1, started: 0 });
    assert!(
        !holder.is_starting(now),
        "the process 1 that started then is no more"
    );
}

#[test]
fn of_many_concurrent_starts_none_sees_the_key_of_another() {
    let (_parent, dir, secret) = leases();
    let libvirt = std::sync::Mutex::new(None::<Vec<u8>>);
    thread::scope(|scope| {
        for number in 0..8_u8 {
            let (dir, libvirt) = (&dir, &libvirt);
            scope.spawn(move || {
                let guest = guest(&number.to_string());
                let key = vec![number % 4];
                let lease = take(dir, secret, guest.uuid, &dek(&key), within(10_000)).unwrap();
                let shared = lease.is_shared();
                if !shared {
                    *libvirt.lock().unwrap() = Some(key.clone());
                }
                lease.hold(&guest, &dek(&key), !shared).unwrap();
                thread::sleep(Duration::from_millis(3));
                assert_eq!(*libvirt.lock().unwrap(), Some(key));
                release(dir, secret, guest.uuid, within(10_000), |_| {
                    *libvirt.lock().unwrap() = None;
                })
                .unwrap();
            });
        }
    });
}

#[test]
fn the_file_of_a_lease_contains_no_key() {
    let (_parent, dir, secret) = leases();
    let key = b"5ec2e75ec2e75ec2e7";
    start(&dir, secret, &guest("a"), key).unwrap();
    let bytes = std::fs::read(dir.join(secret.to_string())).unwrap();
    assert!(!bytes.windows(key.len()).any(|window| window == key));
}
