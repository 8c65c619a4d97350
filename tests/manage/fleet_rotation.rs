//! `provider rotate` of a host in a fleet.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::fixture::Fixture;
use super::fleet_shared::{SharedStore, exchange, exchange_ends};
use super::provider_rotate::bring_rows_back;
use super::slots::toy;
use crate::clock::Timestamp;
use crate::fleet::Kind;
use crate::fleet::claim::{Claim, ReportClaim, Signed, SuccessorClaim};
use crate::host::crash::armed;
use crate::ids::{HostUuid, ProviderUuid};
use crate::key::kek::Kek;
use crate::keyring::WeakerSeal;
use crate::manage::fleet::rotation::{HostResult, HostState, Patience, RotateError, not_in_fleet};
use crate::manage::fleet::{FleetCommandError, kept_name, lost};
use crate::manage::host::{DEFAULT_DEADLINE, default_deadline};
use crate::manage::provider_rotate::{self, RotatedProvider, rotate_everywhere};
use crate::manage::slots::add;
use crate::store::NewProvider;
use crate::verdict::facts::Provider;

/// Rotates `a`; `waits` is told who is waited for, for how long.
fn rotate(
    fixture: &Fixture,
    without: &[&str],
    wait: Duration,
    waits: &mut dyn FnMut(&[HostResult]),
) -> Result<RotatedProvider, RotateError> {
    let without: Vec<_> = without.iter().map(|&name| name.to_owned()).collect();
    let patience = Patience {
        without: &without,
        wait: Some(wait),
    };
    let (host, weaker) = (&fixture.host, WeakerSeal::Refused);
    rotate_everywhere(host, "a", weaker, patience, waits, &mut |_| {})
}

fn states(hosts: &[HostResult]) -> Vec<(&str, HostState)> {
    let all = hosts.iter();
    all.map(|it| (it.name.as_str(), it.result)).collect()
}

/// The key that was announced as the next one of `a`, as a host has it.
pub(super) fn next_key(fixture: &Fixture) -> Option<Provider> {
    let providers = fixture.store().providers().unwrap().into_iter();
    let mut announced = providers.filter(|it| it.announced_as() == Some("a"));
    announced.next()
}

/// Brings an announced key to another host.
pub(super) fn bring(from: &Fixture, next: &Provider, to: &Fixture) {
    let kek = from.host.keyring().open(next.key_id, default_deadline());
    to.put_key(&kek.unwrap());
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: next.name.clone(),
        key_id: next.key_id,
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    to.store()
        .create_provider(&new, &[], Timestamp::now())
        .unwrap();
}

fn successors(store: &SharedStore) -> Vec<SuccessorClaim> {
    let said = store.claims(Kind::Successor).into_iter();
    let mut said: Vec<_> = said
        .map(|claim| match claim {
            Claim::Successor(signed) => signed.says,
            other => panic!("{other:?}"),
        })
        .collect();
    said.sort_by_key(|says| says.finished);
    said
}

#[test]
fn the_key_changes_once_the_other_hosts_have_opened_it_and_they_follow() {
    let store = SharedStore::new();
    let (one, two) = (Fixture::new(), Fixture::new());
    two.adopt_provider_of(&one, "a");
    for host in [&one, &two] {
        host.with_toy("sealed");
    }
    add(&one.host, "a", &toy("one"), None).unwrap();
    store.join(&one, "one");
    store.join(&two, "two");
    let guest = one.guest_in_use("vm1");
    let old = one.provider("a");
    for host in [&one, &two] {
        exchange(host);
    }
    let mut waited = 0;
    let done = rotate(&one, &[], DEFAULT_DEADLINE, &mut |hosts| {
        waited += 1;
        assert_eq!(states(hosts), [("two", HostState::Waiting)]);
        // Nothing is wrapped with it yet.
        assert_eq!(one.provider("a").key_id, old.key_id);
        assert_eq!(next_key(&one).unwrap().key_version, 2);
        let opened = exchange(&two).opened;
        assert_eq!((opened.len(), opened[0].name.as_str()), (1, "a"));
        assert_eq!(opened[0].slot, "toy:one");
    });
    let done = done.unwrap();
    assert_eq!(waited, 1);
    assert_eq!(states(&done.hosts), [("two", HostState::Opened)]);
    let new = one.provider("a");
    assert!(done.rotated && done.not_told.is_none());
    assert_eq!(
        (done.previous_key_id, done.rewrapped),
        (Some(old.key_id), 1)
    );
    assert_eq!((new.key_id, new.key_version), (done.key_id, 2));
    assert!(new.key_id != old.key_id && one.would_start(&guest));
    // Signed with the key before, first that it is coming, then that it is there.
    let said = successors(&store);
    assert_eq!(
        said.iter().map(|it| it.finished).collect::<Vec<_>>(),
        [false, true]
    );
    for says in &said {
        assert_eq!((says.name.as_str(), says.key_version), ("a", 2));
        assert_eq!((says.old, says.new), (old.key_id, new.key_id));
    }
    // The guests' keys were told at once.
    let told = store.claims(Kind::Key).into_iter();
    let mut told = told.filter_map(|claim| match claim {
        Claim::Key(key) => Some(key.key_id),
        _ => None,
    });
    assert!(told.any(|key_id| key_id == new.key_id));
    assert_eq!(exchange(&two).followed, ["a"]);
    assert_eq!(two.provider("a").key_id, new.key_id);
    let rows = two.rows(&guest);
    let wrapped = rows[0].key_ref.wrapped_dek.as_ref().unwrap();
    assert_eq!((rows.len(), wrapped.key_id().unwrap()), (1, new.key_id));
}

/// An exchange that had begun before would wrap keys of guests with the previous key, and nobody would re-wrap them.
#[test]
fn the_key_changes_when_the_exchange_of_this_host_has_ended() {
    let store = SharedStore::new();
    let (one, two) = (store.host("one"), Fixture::new());
    two.adopt_provider_of(&one, "a");
    store.join(&two, "two");
    let old = one.provider("a").key_id;
    for host in [&one, &two] {
        exchange(host);
    }
    let mut ends = None;
    let done = rotate(&one, &[], DEFAULT_DEADLINE, &mut |_| {
        bring(&one, &next_key(&one).unwrap(), &two);
        exchange(&two);
        ends.get_or_insert_with(|| exchange_ends(&one));
    });
    let meanwhile = ends.unwrap().join().unwrap();
    assert_eq!(meanwhile, old);
    assert_eq!(one.provider("a").key_id, done.unwrap().key_id);
}

#[test]
fn hosts_that_have_not_opened_the_key_are_named_and_it_goes_on_without_them() {
    let store = SharedStore::new();
    let one = store.host("one");
    let (two, four) = (Fixture::new(), Fixture::new());
    for host in [&two, &four] {
        host.adopt_provider_of(&one, "a");
    }
    let two_uuid = store.join(&two, "two");
    store.join(&four, "four");
    let three = store.host("three");
    let guest = one.guest_in_use("vm1");
    let old = one.provider("a");
    // It has the provider, whose key does not open there now: it is waited for, too.
    let six = Fixture::new();
    six.adopt_provider_of(&one, "a");
    store.join(&six, "six");
    six.lose_key("a");
    for host in [&one, &two, &three, &four, &six] {
        exchange(host);
    }
    // What anybody could say in its name is no proof.
    let lie = ReportClaim {
        host: two_uuid,
        name: "two".to_owned(),
        at: Timestamp::now().0 + 1000,
        version: String::new(),
        keks: vec![old.key_id.to_string()],
        proofs: std::collections::BTreeMap::new(),
        guests: None,
        refused: Vec::new(),
        outbox: 0,
    };
    store.put(Claim::Report(lie).write(HostUuid::random(), Timestamp::now()));
    let missing = rotate(&one, &[], Duration::ZERO, &mut |_| {}).unwrap_err();
    let hosts = waited_for(&missing);
    assert_eq!(
        states(hosts),
        [
            ("four", HostState::Waiting),
            ("six", HostState::Waiting),
            ("three", HostState::NotConcerned),
            ("two", HostState::Waiting),
        ]
    );
    assert_eq!(one.provider("a").key_id, old.key_id);
    let next = next_key(&one).unwrap();
    let nobody = rotate(&one, &["five"], Duration::ZERO, &mut |_| {}).unwrap_err();
    let is_unknown =
        matches!(&nobody, RotateError::Fleet(FleetCommandError::NoHost(name)) if name == "five");
    assert!(is_unknown, "{nobody:?}");
    // It goes on with the key that was announced.
    bring(&one, &next, &four);
    exchange(&four);
    let without = [&two_uuid.to_string(), "six"];
    let done = rotate(&one, &without, Duration::ZERO, &mut |_| {}).unwrap();
    assert_eq!(
        states(&done.hosts),
        [
            ("four", HostState::Opened),
            ("six", HostState::LeftOut),
            ("three", HostState::NotConcerned),
            ("two", HostState::LeftOut),
        ]
    );
    assert_eq!(done.key_id, next.key_id);
    assert!(one.would_start(&guest) && next_key(&one).is_none());
}

/// A host of the fleet that has the provider `a` of another one, and its UUID there.
/// The hosts of a rotation of "a" that waited for some of them in vain.
fn waited_for(error: &RotateError) -> &[HostResult] {
    let RotateError::HostsWait(provider, hosts) = error else {
        panic!("{error:?}");
    };
    assert_eq!(provider.name, "a");
    hosts
}

fn with_provider_of(first: &Fixture, store: &SharedStore, name: &str) -> (Fixture, HostUuid) {
    let fixture = Fixture::new();
    fixture.adopt_provider_of(first, "a");
    let uuid = store.join(&fixture, name);
    exchange(&fixture);
    (fixture, uuid)
}

#[test]
fn of_hosts_that_are_called_the_same_only_the_one_whose_uuid_was_said_is_left_out() {
    let store = SharedStore::new();
    let one = store.host("one");
    exchange(&one);
    let (_gone, gone_uuid) = with_provider_of(&one, &store, "host-a");
    // It was installed again: another UUID, the same name.
    let (_again, again_uuid) = with_provider_of(&one, &store, "host-a");
    let old = one.provider("a");
    let nobody = &mut |_: &[HostResult]| panic!("nobody is waited for");
    let both = rotate(&one, &["host-a"], Duration::ZERO, nobody).unwrap_err();
    let is_ambiguous = matches!(&both, RotateError::Fleet(FleetCommandError::AmbiguousHost(name)) if name == "host-a");
    assert!(is_ambiguous, "{both:?}");
    assert!(next_key(&one).is_none(), "nothing was announced");
    let waits = rotate(&one, &[&gone_uuid.to_string()], Duration::ZERO, nobody).unwrap_err();
    let hosts = waited_for(&waits);
    let mut result: Vec<_> = hosts.iter().map(|it| (it.host, it.result)).collect();
    result.sort_by_key(|(_, result)| *result == HostState::LeftOut);
    assert_eq!(
        result,
        [
            (again_uuid, HostState::Waiting),
            (gone_uuid, HostState::LeftOut),
        ]
    );
    assert_eq!(one.provider("a").key_id, old.key_id);
    // Once the fleet knows that the first one is gone, the name is the other's alone.
    lost(&one.host, &gone_uuid.to_string()).unwrap();
    let done = rotate(&one, &["host-a"], Duration::ZERO, nobody).unwrap();
    assert_eq!(states(&done.hosts), [("host-a", HostState::LeftOut)]);
}

#[test]
fn a_host_that_is_called_like_the_uuid_of_another_one_is_not_taken_for_it() {
    let store = SharedStore::new();
    let one = store.host("one");
    exchange(&one);
    let (_two, two_uuid) = with_provider_of(&one, &store, "two");
    let (_evil, evil_uuid) = with_provider_of(&one, &store, &two_uuid.to_string());
    let said = [two_uuid.to_string()];
    let waits = rotate(&one, &[&said[0]], Duration::ZERO, &mut |_| {}).unwrap_err();
    let hosts = waited_for(&waits);
    let waiting = hosts.iter().filter(|it| it.result == HostState::Waiting);
    assert_eq!(waiting.map(|it| it.host).collect::<Vec<_>>(), [evil_uuid]);
    assert_eq!(lost(&one.host, &said[0]).unwrap().host, two_uuid);
}

#[test]
fn this_host_is_never_waited_for_even_if_it_is_named() {
    let store = SharedStore::new();
    let one = store.host("one");
    let (_two, _) = with_provider_of(&one, &store, "one");
    // The other one is meant: it alone could be waited for.
    let done = rotate(&one, &["one"], Duration::ZERO, &mut |_| {}).unwrap();
    assert_eq!(states(&done.hosts), [("one", HostState::LeftOut)]);
    let store = SharedStore::new();
    let alone = store.host("alone");
    let done = rotate(&alone, &["alone"], Duration::ZERO, &mut |_| {}).unwrap();
    assert!(done.rotated && done.hosts.is_empty());
}

/// A report looks at every guest: with ten thousand a rotation took most of a minute, on a busy host, for words that nobody
/// waited for.
#[test]
fn a_rotation_leaves_it_to_the_next_exchange_to_say_how_this_host_is() {
    let store = SharedStore::new();
    let one = store.host("one");
    one.guest_in_use("vm1");
    let reports = || store.claims(Kind::Report).len();
    exchange(&one);
    assert_eq!(reports(), 1);
    rotate(&one, &[], Duration::ZERO, &mut |_| {}).unwrap();
    assert_eq!(reports(), 1);
    exchange(&one);
    assert_eq!(reports(), 2);
}

#[test]
fn why_a_host_is_in_no_fleet_is_told() {
    let one = Fixture::new();
    assert!(matches!(
        not_in_fleet(&one.host),
        FleetCommandError::NoAddress
    ));
    SharedStore::new().configure(&one, "");
    assert!(matches!(
        not_in_fleet(&one.host),
        FleetCommandError::NoMember
    ));
}

#[test]
fn a_host_that_is_in_no_fleet_rotates_alone() {
    let store = SharedStore::new();
    for is_configured in [false, true] {
        let alone = Fixture::new();
        let guest = alone.guest_in_use("vm1");
        if is_configured {
            store.configure(&alone, "");
        }
        // A host to leave out there is not here: this is another host than whoever said so thinks.
        let mut waits = |_: &[HostResult]| panic!("nobody is waited for");
        let key = alone.provider("a").key_id;
        let refused = rotate(&alone, &["nobody"], Duration::ZERO, &mut waits).unwrap_err();
        assert!(
            matches!(&refused, RotateError::Fleet(why) if why.is_of_no_fleet()),
            "{refused:?}"
        );
        assert_eq!(alone.provider("a").key_id, key);
        let done = rotate(&alone, &[], Duration::ZERO, &mut waits);
        assert!(done.unwrap().rotated && alone.would_start(&guest));
    }
    assert_eq!(store.conversations(), 0);
}

/// It may join while its rotation waits for its turn: the others would not hear which key follows.
#[test]
fn a_host_that_has_joined_a_fleet_rotates_no_key_alone() {
    let store = SharedStore::new();
    let one = store.host("one");
    let before = one.provider("a").key_id;
    let alone = provider_rotate::rotate(&one.host, "a", WeakerSeal::Refused, &mut |_| {});
    let refused = alone.unwrap_err();
    let RotateError::Slot(error) = refused else {
        panic!("{refused:?}");
    };
    assert!(error.to_string().contains("changed"), "{error}");
    assert_eq!(one.provider("a").key_id, before);
    let done = rotate(&one, &[], Duration::ZERO, &mut |_| {}).unwrap();
    assert!(done.rotated);
}

#[test]
fn what_an_earlier_rotation_has_missed_comes_before_another_key() {
    let store = SharedStore::new();
    let one = store.host("one");
    let guest = one.guest_in_use("vm1");
    let alone = |_: &[HostResult]| panic!("nobody is waited for");
    bring_rows_back(&one, || {
        let done = rotate(&one, &[], Duration::ZERO, &mut { alone });
        assert!(done.unwrap().rotated);
    });
    let present = one.provider("a").key_id;
    let done = rotate(&one, &[], Duration::ZERO, &mut { alone }).unwrap();
    assert_eq!((done.rotated, done.rewrapped), (false, 1));
    assert_eq!((done.key_id, successors(&store).len()), (present, 2));
    assert!(one.would_start(&guest));
}

/// Where the sealed file of the previous key of `a` is, if key references still need it.
fn needed_previous_key(fixture: &Fixture) -> Option<PathBuf> {
    let store = fixture.store();
    let previous = store.previous_keys(&fixture.provider("a")).unwrap().pop()?;
    let is_needed = store.needs_previous_key(&previous).unwrap();
    let keys = fixture.host.state_dir().keys();
    is_needed.then(|| keys.join(previous.key_id.to_string()))
}

/// Somebody moves that file aside as soon as key references need it.
fn move_aside_once_needed(root: PathBuf) {
    armed::meanwhile(1, move || match needed_previous_key(&Fixture::at(&root)) {
        Some(file) => fs::rename(file, root.join("aside")).unwrap(),
        None => move_aside_once_needed(root),
    });
}

#[test]
fn a_previous_key_that_opens_no_more_interrupts_it_and_the_next_run_completes_it() {
    let store = SharedStore::new();
    let one = store.host("one");
    let guest = one.guest_in_use("vm1");
    move_aside_once_needed(one.root().to_owned());
    let stopped = rotate(&one, &[], Duration::ZERO, &mut |_| {});
    assert!(!armed::forget());
    let Err(RotateError::Interrupted(rotation)) = stopped else {
        panic!("{stopped:?}");
    };
    let now = one.provider("a");
    assert_eq!((now.key_version, rotation.new_key), (2, Some(now.key_id)));
    assert_eq!((rotation.done, rotation.of), (0, 1));
    let file = needed_previous_key(&one).expect("nothing was re-wrapped");
    fs::rename(one.root().join("aside"), file).unwrap();
    let completed = rotate(&one, &[], Duration::ZERO, &mut |_| {}).unwrap();
    assert_eq!((completed.rotated, completed.rewrapped), (false, 1));
    assert!(one.would_start(&guest));
}

#[test]
fn only_a_key_that_was_announced_as_the_next_one_and_is_here_is_taken_for_it() {
    let store = SharedStore::new();
    let one = store.host("one");
    let present = one
        .host
        .keyring()
        .open(one.provider("a").key_id, default_deadline());
    let present = present.unwrap();
    let (announced, nowhere) = (Kek::generate().unwrap(), Kek::generate().unwrap());
    one.put_key(&announced);
    let kept = NewProvider {
        uuid: ProviderUuid::random(),
        name: kept_name("a", announced.key_id()),
        key_id: announced.key_id(),
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    one.store()
        .create_provider(&kept, &[], Timestamp::now())
        .unwrap();
    let other = one.provider("b");
    // Whoever has the key can sign this.
    for (old, new) in [
        (nowhere.key_id(), announced.key_id()),
        (present.key_id(), nowhere.key_id()),
        (present.key_id(), other.key_id),
    ] {
        let says = SuccessorClaim {
            name: "a".to_owned(),
            old,
            new,
            key_version: 2,
            finished: false,
        };
        let claim = Claim::Successor(Signed::new(says, &present));
        store.put(claim.write(HostUuid::random(), Timestamp::now()));
    }
    let done = rotate(&one, &[], Duration::ZERO, &mut |_| {}).unwrap();
    let known = [
        announced.key_id(),
        nowhere.key_id(),
        other.key_id,
        present.key_id(),
    ];
    assert!(!known.contains(&done.key_id));
    assert_eq!(one.provider("b"), other);
}
