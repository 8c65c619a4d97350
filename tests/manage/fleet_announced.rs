//! Provider keys that other hosts announced: opened through their slots, accepted, declined.

use std::fs;

use super::fixture::Fixture;
use super::fleet_shared::{SharedStore, exchange, exchange_ends};
use super::slots::toy;
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, ProviderClaim, Signed, SlotClaim, SuccessorClaim};
use crate::ids::{HostUuid, ProviderUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::manage::fleet::{
    AcceptedProvider, FleetCommandError, Follower, accept, round, to_accept,
};
use crate::manage::host::default_deadline;
use crate::manage::provider_delete::delete;
use crate::manage::slots::add;
use crate::manage::store_backup::{backup, restore};
use crate::store::NewProvider;
use crate::verdict::facts::Provider;

/// A host that reaches the key manager `toy`, in the fleet under this name.
fn host(store: &SharedStore, name: &str) -> Fixture {
    let fixture = Fixture::new();
    fixture.with_toy("sealed");
    store.join(&fixture, name);
    fixture
}

/// Says, as another host, that this key has this name.
fn announce(store: &SharedStore, name: &str, kek: &Kek) {
    let says = ProviderClaim {
        name: name.to_owned(),
        key_id: kek.key_id(),
        key_version: 1,
    };
    say(store, &Claim::Provider(Signed::new(says, kek)));
}

fn say(store: &SharedStore, claim: &Claim) {
    store.put(claim.write(HostUuid::random(), Timestamp::now()));
}

/// Announces a slot of this key with this blob.
fn slot(store: &SharedStore, key_id: KeyId, kms: &str, remote_key: &str, blob: Vec<u8>) {
    let claim = SlotClaim {
        key_id,
        kind: "pad".to_owned(),
        label: None,
        kms: kms.to_owned(),
        remote_key: remote_key.to_owned(),
        remote_version: None,
        blob,
    };
    say(store, &Claim::Slot(claim));
}

/// As the key manager `toy` wraps a key.
fn wrapped(kek: &Kek) -> Vec<u8> {
    kek.expose().iter().map(|byte| byte ^ 0x5a).collect()
}

/// Announces a key with a slot that opens it.
fn announced(store: &SharedStore, name: &str) -> Kek {
    let kek = Kek::generate().unwrap();
    announce(store, name, &kek);
    slot(store, kek.key_id(), "toy", name, wrapped(&kek));
    kek
}

fn successor(old: &Kek, new: KeyId, finished: bool) -> SuccessorClaim {
    SuccessorClaim {
        name: "c".to_owned(),
        old: old.key_id(),
        new,
        key_version: 2,
        finished,
    }
}

fn follows(store: &SharedStore, old: &Kek, new: KeyId, finished: bool) {
    let says = successor(old, new, finished);
    say(store, &Claim::Successor(Signed::new(says, old)));
}

fn accepted(fixture: &Fixture, name: &str) -> AcceptedProvider {
    accept(&fixture.host, name, None).unwrap()
}

/// The providers of a host that have this key.
fn with_key(fixture: &Fixture, key_id: KeyId) -> Vec<Provider> {
    let mut providers = fixture.store().providers().unwrap();
    providers.retain(|it| it.key_id == key_id);
    providers
}

#[test]
fn an_announced_key_opens_here_and_wraps_new_keys_once_it_is_accepted() {
    let store = SharedStore::new();
    let (one, two) = (host(&store, "one"), host(&store, "two"));
    let made = one.make_provider("c");
    for remote_key in ["c", "c2"] {
        add(&one.host, "c", &toy(remote_key), None).unwrap();
    }
    let guest = one.define("vm1");
    let dek = crate::key::dek::Dek::generate().unwrap();
    one.add_key(&guest, "c", &dek);
    exchange(&one);
    // Its own configuration says whom it asks.
    slot(
        &store,
        Kek::generate().unwrap().key_id(),
        "elsewhere",
        "c",
        vec![1],
    );
    let done = exchange(&two);
    assert_eq!(done.trouble, [""; 0]);
    let [opened] = &done.opened[..] else {
        panic!("{:?}", done.opened);
    };
    assert_eq!((opened.name.as_str(), opened.key_id), ("c", made.key_id));
    assert!(opened.slot.starts_with("toy:c"));
    // With the key its guests are heard of at once.
    assert_eq!((done.exchanged.added, two.rows(&guest).len()), (1, 1));
    assert!(done.exchanged.pulled > 0 && done.exchanged.pushed > 0);
    let kept = with_key(&two, made.key_id);
    let [kept] = &kept[..] else {
        panic!("{kept:?}");
    };
    assert_eq!((kept.announced_as(), kept.is_default), (Some("c"), false));
    let slots = two.store().slots().unwrap();
    assert!(slots.len() == 1 && slots[0].verified_at.is_some());
    assert_eq!(to_accept(&two.store().providers().unwrap()), [kept.into()]);
    assert!(
        two.host
            .keyring()
            .open(made.key_id, default_deadline())
            .is_ok()
    );
    // Once.
    assert_eq!(exchange(&two).opened.len(), 0);
    let first = accepted(&two, "c");
    assert_eq!((first.key_id, first.previous_key_id), (made.key_id, None));
    assert!(!first.was_accepted && accepted(&two, "c").was_accepted);
    assert_eq!(two.provider("c").key_id, made.key_id);
    assert_eq!(to_accept(&two.store().providers().unwrap()), []);
}

#[test]
fn accepting_asks_the_key_manager_when_no_exchange_has() {
    let store = SharedStore::new();
    let two = Fixture::new();
    store.join(&two, "two");
    let kek = announced(&store, "c");
    exchange(&two);
    let unknown = accept(&two.host, "d", None).unwrap_err();
    assert!(matches!(&unknown, FleetCommandError::NotAnnounced(name) if name == "d"));
    let other = Some(Kek::generate().unwrap().key_id());
    let unknown = accept(&two.host, "c", other).unwrap_err();
    assert!(matches!(unknown, FleetCommandError::NotAnnounced(_)));
    // Nobody here can open it.
    let closed = accept(&two.host, "c", None).unwrap_err();
    let FleetCommandError::NotOpened(name, trouble) = &closed else {
        panic!("{closed:?}");
    };
    assert_eq!((name.as_str(), trouble.len()), ("c", 0));
    two.with_toy("sealed");
    assert_eq!(accepted(&two, "c").key_id, kek.key_id());
}

#[test]
fn why_a_key_that_is_sealed_here_does_not_open_is_said() {
    let store = SharedStore::new();
    let two = host(&store, "two");
    let kek = announced(&store, "c");
    assert_eq!(exchange(&two).opened.len(), 1);
    let file = two.host.state_dir().keys().join(kek.key_id().to_string());
    fs::write(&file, "damaged").unwrap();
    let closed = accept(&two.host, "c", None).unwrap_err();
    let FleetCommandError::NotOpened(_, trouble) = &closed else {
        panic!("{closed:?}");
    };
    let [why] = &trouble[..] else {
        panic!("{closed:?}");
    };
    assert!(why.contains(file.to_str().unwrap()), "{why}");
}

#[test]
fn a_provider_of_this_host_gets_the_announced_key_and_keeps_its_own() {
    let store = SharedStore::new();
    let two = host(&store, "two");
    let guest = two.guest_in_use("vm1");
    let before = two.provider("a").key_id;
    let kek = announced(&store, "a");
    exchange(&two);
    assert_eq!(two.provider("a").key_id, before);
    // Its own key has that name, too.
    let unclear = accept(&two.host, "a", None).unwrap_err();
    assert!(matches!(unclear, FleetCommandError::AmbiguousKey(..)));
    // What an exchange does that has begun goes by its own key.
    let meanwhile = exchange_ends(&two);
    let done = accept(&two.host, "a", Some(kek.key_id())).unwrap();
    assert_eq!(meanwhile.join().unwrap(), before);
    assert_eq!(done.previous_key_id, Some(before));
    assert_eq!((done.key_id, done.was_accepted), (kek.key_id(), false));
    assert_eq!(two.provider("a").key_id, kek.key_id());
    assert!(two.would_start(&guest));
}

#[test]
fn a_key_that_another_provider_of_this_host_has_is_not_renamed() {
    let store = SharedStore::new();
    let two = host(&store, "two");
    let kek = announced(&store, "c");
    two.put_key(&kek);
    let own = NewProvider {
        uuid: ProviderUuid::random(),
        name: "mine".to_owned(),
        key_id: kek.key_id(),
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    two.store()
        .create_provider(&own, &[], Timestamp::now())
        .unwrap();
    assert_eq!(exchange(&two).opened.len(), 0, "it is here");
    let refused = accept(&two.host, "c", None).unwrap_err();
    let FleetCommandError::OtherName(named, other) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!((named.as_str(), other.as_str()), ("c", "mine"));
}

#[test]
fn of_several_keys_of_one_name_the_administrator_says_which() {
    let store = SharedStore::new();
    let two = host(&store, "two");
    let (first, second) = (announced(&store, "c"), announced(&store, "c"));
    exchange(&two);
    let ambiguous = || {
        exchange(&two);
        let refused = accept(&two.host, "c", None).unwrap_err();
        let FleetCommandError::AmbiguousKey(name, keys) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((name.as_str(), keys.len()), ("c", 2));
    };
    ambiguous();
    // Neither a rotation that has not ended nor one of another key decides it.
    follows(&store, &first, second.key_id(), false);
    let other = Kek::generate().unwrap();
    follows(&store, &other, second.key_id(), true);
    ambiguous();
    // Nor what another key has signed of this one, the one that would be left among them.
    for signer in [&other, &second] {
        let says = successor(&first, second.key_id(), true);
        say(&store, &Claim::Successor(Signed::new(says, signer)));
    }
    ambiguous();
    let chosen = accept(&two.host, "c", Some(first.key_id())).unwrap();
    assert_eq!(chosen.key_id, first.key_id());
    // One that another key follows is not meant.
    follows(&store, &first, second.key_id(), true);
    exchange(&two);
    assert_eq!(accepted(&two, "c").key_id, second.key_id());
}

#[test]
fn the_only_key_of_a_name_is_meant_also_where_another_one_follows_it() {
    let store = SharedStore::new();
    let two = host(&store, "two");
    let kek = announced(&store, "c");
    follows(&store, &kek, Kek::generate().unwrap().key_id(), true);
    exchange(&two);
    assert_eq!(accepted(&two, "c").key_id, kek.key_id());
}

#[test]
fn a_name_counts_as_the_key_itself_has_signed_it() {
    let store = SharedStore::new();
    let two = host(&store, "two");
    let (kek, other) = (Kek::generate().unwrap(), Kek::generate().unwrap());
    slot(&store, kek.key_id(), "toy", "c", wrapped(&kek));
    // Signed with another key, and by this one of another.
    let claim = |key_id, signer: &Kek| {
        let says = ProviderClaim {
            name: "lie".to_owned(),
            key_id,
            key_version: 1,
        };
        say(&store, &Claim::Provider(Signed::new(says, signer)));
    };
    claim(kek.key_id(), &other);
    claim(other.key_id(), &kek);
    let opened = exchange(&two).opened;
    assert_eq!((opened.len(), opened[0].name.as_str()), (1, "unnamed"));
    let refused = accept(&two.host, "lie", None).unwrap_err();
    assert!(
        matches!(refused, FleetCommandError::NotOpened(..)),
        "{refused:?}"
    );
}

#[test]
fn a_key_that_was_deleted_here_stays_away_until_somebody_asks_for_it() {
    let store = SharedStore::new();
    let two = host(&store, "two");
    let kek = announced(&store, "c");
    assert_eq!(exchange(&two).opened.len(), 1);
    accepted(&two, "c");
    delete(&two.host, "c", true).unwrap();
    assert_eq!(exchange(&two).opened.len(), 0);
    assert_eq!(accepted(&two, "c").key_id, kek.key_id());
}

#[test]
fn a_slot_that_does_not_open_is_left_alone_for_a_while() {
    let store = SharedStore::new();
    let two = host(&store, "two");
    let mut follower = Follower::default();
    let mut round = || round(&two.host, &mut follower, false).unwrap().unwrap();
    // Of a key manager that does not answer it says nothing.
    let kek = announced(&store, "c");
    let pad = two.host.state_dir().with_extension("plugins").join("pad");
    let away = pad.with_extension("away");
    fs::rename(&pad, &away).unwrap();
    assert_eq!(round().trouble.len(), 1);
    fs::rename(&away, &pad).unwrap();
    assert_eq!(round().opened[0].key_id, kek.key_id());
    for number in 0..20 {
        let key_id = Kek::generate().unwrap().key_id();
        slot(&store, key_id, "toy", "junk", vec![number; Kek::LEN]);
    }
    // Few are tried at once, and none of those the next time.
    assert_eq!(round().trouble.len(), 16);
    assert_eq!(round().trouble.len(), 4);
    assert_eq!(round().trouble.len(), 0);
}

/// What it had said itself counted as known: it never heard of that provider again, and refused its guests.
#[test]
fn a_host_whose_store_was_restored_opens_again_what_it_had_announced_since() {
    for keys_are_lost in [true, false] {
        let store = SharedStore::new();
        let one = host(&store, "one");
        exchange(&one);
        let file = one.root().join("backup");
        backup(&one.host, &file).unwrap();
        let made = one.make_provider("c");
        add(&one.host, "c", &toy("c"), None).unwrap();
        let guest = one.define("vm1");
        let dek = crate::key::dek::Dek::generate().unwrap();
        one.add_key(&guest, "c", &dek);
        exchange(&one);
        if keys_are_lost {
            one.lose_key("c");
        }
        restore(&one.host, &file).unwrap();
        assert_eq!(with_key(&one, made.key_id), []);
        let done = exchange(&one);
        assert_eq!(done.trouble, [""; 0]);
        assert_eq!((done.opened.len(), done.opened[0].name.as_str()), (1, "c"));
        assert_eq!((done.exchanged.added, one.rows(&guest).len()), (1, 1));
        let accepted = accepted(&one, "c");
        assert_eq!(
            (accepted.key_id, accepted.was_accepted),
            (made.key_id, false)
        );
    }
}
