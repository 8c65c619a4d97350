//! What a start has to do with the fleet: keys, TPM states and placements of the shared store.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::fixture::{Defined, Fixture};
use super::fleet_program::{FleetStore, Member, reinstalled};
use crate::clock::Timestamp;
use crate::fleet::status::KeyStatus;
use crate::fleet::{Fact, FactId, State};
use crate::guard::{Mode, prepare};
use crate::ids::ProviderUuid;
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::manage::checks::{Finding, HostFinding, KeyFinding, RecoveryFiles, examine};
use crate::manage::figures::figures;
use crate::manage::fleet::{FleetCommandError, lost};
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::manage::prune::{Rule, prune};
use crate::manage::reset::{ResetError, reset};
use crate::manage::restore_state::{CopiesError, restore};
use crate::manage::unknown_guests;
use crate::messages::outcome_json;
use crate::store::{Merge, NewProvider, Origin, previous_key_name};
use crate::tpm_copies::CopyStore;
use crate::verdict::Decision;
use crate::verdict::outcome::Outcome;

/// Of a provider key that is nowhere.
fn key_id() -> KeyId {
    KeyId::parse("3f2a9c01000000000000000000000000").unwrap()
}

/// Now, in milliseconds.
pub(super) fn now() -> i64 {
    Timestamp::now().0
}

pub(super) fn start(fixture: &Fixture, guest: &Defined, mode: Mode) -> Outcome {
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let domain = Ok(fixture.domain(guest));
    prepare(&guard, &domain, Origin::Prepare, mode, default_deadline())
}

/// The code of a refusal, "allow", and the kinds of findings and repairs.
pub(super) fn words(outcome: &Outcome) -> String {
    let json = outcome_json(None, outcome);
    let code = json["code"].as_str().unwrap_or("allow").to_owned();
    let kinds = |of: &str| {
        let list = json[of].as_array().unwrap().iter();
        list.map(|it| it["kind"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    [vec![code], kinds("findings"), kinds("repairs")]
        .concat()
        .join(" ")
}

pub(super) fn carried_out(fixture: &Fixture, guest: &Defined) -> String {
    words(&start(fixture, guest, Mode::CarryOut))
}

/// A guest of a host that has died, and the host that is to start it.
pub(super) struct Moved {
    pub(super) first: Fixture,
    pub(super) second: Fixture,
    pub(super) guest: Defined,
}

pub(super) fn moved() -> Moved {
    let first = Fixture::new();
    let guest = first.guest_in_use("vm1");
    let second = reinstalled(&first, &guest);
    Moved {
        first,
        second,
        guest,
    }
}

impl Moved {
    pub(super) fn member(&self) -> Member<'_> {
        Member::new(&self.first, "host1")
    }
}

#[test]
fn a_guest_of_a_host_that_died_starts_with_its_key_and_its_tpm() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let state = member.state(guest, now() - 1000);
    let store = FleetStore::with(&member.keys(guest), &[state]);
    store.configure(second, "");
    assert_eq!(
        carried_out(second, guest),
        "allow fleet-key-learnt state-gone learn-key restore-tpm-state"
    );
    assert!(second.would_start(guest));
    assert_eq!(store.times_asked(), 1);
    let bytes = |fixture: &Fixture| fs::read(fixture.state_file(guest)).unwrap();
    assert!(bytes(&moved.first) == bytes(second));
    // As this host makes a new state.
    let file = second.state_file(guest);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let tpm2 = file.parent().unwrap();
    let modes = [mode(&file), mode(tpm2), mode(tpm2.parent().unwrap())];
    assert_eq!(modes, [0o600, 0o700, 0o711]);
    let owners = [&file, tpm2].map(|path| fs::metadata(path).unwrap().uid());
    assert_eq!(owners[0], owners[1]);
    // From here on it is a guest of this host.
    assert_eq!(carried_out(second, guest), "allow");
    assert_eq!(store.times_asked(), 1);
}

#[test]
fn what_starts_without_an_answer_asks_nobody() {
    let first = Fixture::new();
    let guest = first.guest_in_use("vm1");
    let store = FleetStore::with(&[], &[]);
    store.configure(&first, "");
    assert_eq!(carried_out(&first, &guest), "allow");
    // A guest that is not the guard's, with a secret of libvirt's own.
    let unmanaged = first.define("vm2");
    let secret = format!(
        "<secret ephemeral='no' private='no'><uuid>{}</uuid></secret>",
        unmanaged.secret
    );
    let secrets = &first.libvirt.secrets;
    secrets.define(&secret).unwrap();
    secrets.set_value(unmanaged.secret, b"value").unwrap();
    assert!(start(&first, &unmanaged, Mode::CarryOut).is_allowed());
    assert_eq!(store.times_asked(), 0);
    // Nor one that is told to ask nobody, or that is in no fleet.
    let missing = first.define("vm3");
    store.configure(&first, "ask = \"0s\"\n");
    assert_eq!(carried_out(&first, &missing), "VG201");
    assert_eq!(store.times_asked(), 0);
    store.configure(&first, "");
    assert_eq!(carried_out(&first, &missing), "VG201");
    assert_eq!(store.times_asked(), 1);
}

#[test]
fn a_check_foresees_what_the_start_does_and_changes_nothing() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let store = FleetStore::with(&member.keys(guest), &[member.state(guest, now() - 1000)]);
    store.configure(second, "");
    let foreseen = words(&start(second, guest, Mode::DryRun));
    assert_eq!(second.rows(guest), []);
    assert!(!second.state_file(guest).exists());
    assert_eq!(carried_out(second, guest), foreseen);
}

#[test]
fn a_store_that_does_not_answer_leaves_the_refusal_that_there_would_be() {
    let moved = moved();
    let (guest, second) = (&moved.guest, &moved.second);
    let silent = FleetStore::answering("{}", Duration::from_secs(30));
    silent.configure(second, "ask = \"300ms\"\n");
    let began = Instant::now();
    assert_eq!(carried_out(second, guest), "VG201 fleet-silent");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    let refusing = FleetStore::refusing("no route to host");
    refusing.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG201 fleet-silent");
    let nonsense = FleetStore::answering("nonsense", Duration::ZERO);
    nonsense.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG201 fleet-silent");
    let empty = FleetStore::with(&[], &[]);
    empty.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG201");
}

#[test]
fn a_reset_finds_the_key_of_the_fleet_as_a_start_does() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let silent = FleetStore::refusing("down");
    silent.configure(second, "");
    assert!(matches!(
        reset(&second.host, "vm1"),
        Err(ResetError::FleetSilent(_, why)) if why.contains("down")
    ));
    // What is here is reset without it, as a start is judged without it.
    second.encrypt_state(guest, &Dek::generate().unwrap());
    second.save_copy(guest);
    fs::remove_file(second.state_file(guest)).unwrap();
    let done = reset(&second.host, "vm1").unwrap();
    assert_eq!((done.copies_set_aside, done.has_key), (1, false));
    let empty = FleetStore::with(&[], &[]);
    empty.configure(second, "");
    assert!(matches!(
        reset(&second.host, "vm1"),
        Err(ResetError::NoKey(_))
    ));
    assert_eq!(second.rows(guest), []);

    let store = FleetStore::with(&member.keys(guest), &[]);
    store.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG205");
    let done = reset(&second.host, "vm1").unwrap();
    assert!(done.changed && done.was_used && done.has_key);
    assert_eq!(second.rows(guest)[0].key_ref.first_used_at, None);
    assert_eq!(carried_out(second, guest), "allow");
    // Where a row is here, nobody is asked.
    assert_eq!(store.times_asked(), 2);
    reset(&second.host, "vm1").unwrap();
    assert_eq!(store.times_asked(), 2);
}

#[test]
fn a_store_that_was_silent_is_asked_about_no_other_guest() {
    let moved = moved();
    let (guest, second) = (&moved.guest, &moved.second);
    let other = second.define("vm2");
    let store = FleetStore::refusing("down");
    store.configure(second, "");
    let guard = second.host.guard(BrokenConfig::Fail).unwrap();
    for guest in [guest, &other] {
        let domain = Ok(second.domain(guest));
        let deadline = default_deadline();
        let outcome = prepare(&guard, &domain, Origin::Check, Mode::DryRun, deadline);
        assert_eq!(words(&outcome), "VG201 fleet-silent");
    }
    assert_eq!(store.times_asked(), 1);
}

#[test]
fn a_key_that_was_retired_anywhere_is_not_taken() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let keys = member.keys(guest);
    let retired = member.status(guest, keys[0].id, KeyStatus::Retired, &member.kek());
    let store = FleetStore::with(&[keys.clone(), vec![retired]].concat(), &[]);
    store.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG201");
    // Whoever keeps the store cannot say so.
    let forged = member.status(
        guest,
        keys[0].id,
        KeyStatus::Retired,
        &Kek::generate().unwrap(),
    );
    let mut lying = forged;
    lying.key_id = keys[0].key_id;
    let store = FleetStore::with(&[keys, vec![lying]].concat(), &[]);
    store.configure(second, "");
    assert_eq!(
        carried_out(second, guest),
        "VG205 fleet-facts-ignored",
        "it counts, and the guest has a TPM somewhere"
    );
    assert_eq!(second.rows(guest), []);
}

#[test]
fn a_key_that_does_not_open_here_names_its_provider_and_makes_no_refusal() {
    let first = Fixture::new();
    let guest = first.guest_in_use("vm1");
    let second = Fixture::new();
    let encryption = format!("<encryption secret='{}'/>", guest.secret);
    let guest = second.define_with("vm1", guest.uuid, guest.secret, &encryption);
    let member = Member::new(&first, "host1");
    let store = FleetStore::with(&member.keys(&first.defined("vm1")), &[]);
    store.configure(&second, "");
    assert_eq!(carried_out(&second, &guest), "VG102 fleet-key-out-of-reach");
    // A start that would go on goes on.
    crate::manage::bind::bind(&second.host, "vm1", Some("b")).unwrap();
    let began = carried_out(&second, &guest);
    assert!(
        began.starts_with("allow fleet-key-out-of-reach create-key"),
        "{began}"
    );
}

/// It may be whole: it is not called forged, and what helps is the later release.
#[test]
fn a_key_of_the_fleet_that_a_later_release_has_wrapped_is_named() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let mut newer = member.keys(guest)[0].clone();
    // The first bytes in Base64: magic, version, algorithm.
    newer.body = newer
        .body
        .replace("\"key\":\"VkdXRAIB", "\"key\":\"VkdXRAkB");
    assert_ne!(newer.body, member.keys(guest)[0].body);
    let store = FleetStore::with(std::slice::from_ref(&newer), &[]);
    store.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG206 fleet-key-out-of-reach");
    // One of another guest is none of its.
    let uuid = |guest: &Defined| guest.uuid.to_string();
    newer.body = newer
        .body
        .replace(&uuid(guest), &uuid(&second.define("vm2")));
    let store = FleetStore::with(&[newer], &[]);
    store.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG201 fleet-facts-ignored");
}

/// A hostile store: forged keys, states and statements.
#[test]
fn a_hostile_store_stops_nothing_and_provides_nothing() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let foreign = Kek::generate().unwrap();
    let mut forged_key = member.keys(guest)[0].clone();
    let body = forged_key.body.replace("\"key\":\"", "\"key\":\"AAAA");
    forged_key.body = body;
    let data = fs::read(moved.first.state_file(guest)).unwrap();
    let mut cut = member.state_of(guest, &data, now(), &member.kek());
    cut.data.as_mut().unwrap()[40] ^= 1;
    let other = member.state_of(guest, b"not a state", now(), &foreign);
    let placement = member.placement(guest, true, now(), &foreign);
    let mut lying = placement.clone();
    lying.key_id = Some(moved.second.provider("a").key_id);
    let states = [cut, other];
    let facts = [forged_key, placement, lying];
    let store = FleetStore::with(&facts, &states);
    store.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG201 fleet-facts-ignored");
    crate::manage::bind::bind(&second.host, "vm1", Some("b")).unwrap();
    assert_eq!(
        carried_out(second, guest),
        "allow fleet-facts-ignored create-key",
        "as without a fleet"
    );
}

/// A guest that this host knows, whose TPM state is gone.
pub(super) fn without_state() -> Moved {
    let moved = moved();
    let keys = moved.member().keys(&moved.guest);
    let store = FleetStore::with(&keys, &[moved.member().state(&moved.guest, now() - 5000)]);
    store.configure(&moved.second, "");
    assert!(start(&moved.second, &moved.guest, Mode::CarryOut).is_allowed());
    fs::remove_file(moved.second.state_file(&moved.guest)).unwrap();
    moved
}

#[test]
fn a_state_from_before_a_run_that_is_known_is_put_back_on_demand_alone() {
    // This host has started the guest, by its history.
    let moved = without_state();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let old = member.state(guest, now() - 60_000);
    let store = FleetStore::with(&[], std::slice::from_ref(&old));
    store.configure(second, "");
    let outcome = start(second, guest, Mode::CarryOut);
    assert_eq!(words(&outcome), "VG205");
    let json = outcome_json(None, &outcome);
    let (message, hint) = (json["message"].to_string(), json["hint"].to_string());
    assert!(
        message.contains("in the fleet's store is older"),
        "{message}"
    );
    assert!(hint.contains("vtpm-guard state restore vm1"), "{hint}");
    assert!(!second.state_file(guest).exists());
    // A newer one is none of those.
    let new = member.state(guest, now() + 1000);
    let store = FleetStore::with(&[], &[old, new]);
    store.configure(second, "");
    assert_eq!(
        carried_out(second, guest),
        "allow state-gone restore-tpm-state"
    );
}

#[test]
fn a_state_is_as_old_as_its_host_has_signed() {
    let moved = without_state();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let foreign = Kek::generate().unwrap();
    let data = fs::read(moved.first.state_file(guest)).unwrap();
    // Made newer by whoever keeps it.
    let old = member.state(guest, now() - 60_000);
    let mut newer = old.clone();
    newer.info.at = Timestamp(now() + 1000);
    newer.info.body = newer.info.body.replace(
        &format!(":{},", old.info.at.0),
        &format!(":{},", newer.info.at.0),
    );
    assert_ne!(newer.info.body, old.info.body);
    let by_another = member.state_of(guest, &data, now() + 1000, &foreign);
    for state in [newer, by_another] {
        let store = FleetStore::with(&[], &[state]);
        store.configure(second, "");
        assert_eq!(carried_out(second, guest), "VG205");
    }
}

#[test]
fn a_later_word_of_any_host_makes_a_state_old() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let third = Member::new(&moved.first, "host3");
    let kek = member.kek();
    let at = now() - 5000;
    let keys = member.keys(guest);
    let outcome = |facts: &[Fact], states: &[State]| {
        let facts = [keys.clone(), facts.to_vec()].concat();
        let store = FleetStore::with(&facts, states);
        store.configure(second, "");
        words(&start(second, guest, Mode::DryRun))
    };
    let state = member.state(guest, at);
    let fine = "allow fleet-key-learnt state-gone learn-key restore-tpm-state";
    let stopped = member.placement(guest, false, at, &kek);
    assert_eq!(outcome(&[stopped], std::slice::from_ref(&state)), fine);
    for (running, findings) in [(true, " runs-elsewhere"), (false, "")] {
        let later = third.placement(guest, running, at + 1, &kek);
        let refused = outcome(&[later], std::slice::from_ref(&state));
        assert_eq!(refused, format!("VG205{findings}"));
    }
    // A later state that cannot be read says so, too.
    let mut lost = member.state_of(guest, b"later", at + 1, &kek);
    lost.data = Some(b"cut".to_vec());
    assert_eq!(outcome(&[], &[lost, state]), "VG205 fleet-facts-ignored");
}

#[test]
fn a_guest_that_runs_elsewhere_is_told_or_refused() {
    let moved = moved();
    let (member, guest, first) = (moved.member(), &moved.guest, &moved.first);
    let third = Member::new(first, "host3");
    let store = FleetStore::with(&[], &[]);
    store.configure(first, "");
    let mut known = first.store();
    known.join_fleet("host1", Timestamp::now()).unwrap();
    let mut hear = |placements| {
        let merge = Merge {
            placements,
            ..Merge::default()
        };
        known.merge(&merge, Timestamp::now()).unwrap();
    };
    let at = now() + 1000;
    hear(vec![third.says(guest, true, at)]);
    let outcome = start(first, guest, Mode::DryRun);
    assert_eq!(words(&outcome), "allow runs-elsewhere");
    let message = outcome_json(None, &outcome)["findings"][0]["message"].to_string();
    assert!(message.contains("host3"), "{message}");

    let deny = |fixture: &Fixture| {
        let path = fixture.root().join("config.toml");
        let config = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("[policy]\nelsewhere = \"deny\"\n{config}")).unwrap();
    };
    deny(first);
    assert_eq!(carried_out(first, guest), "VG504");
    // It has stopped there; or another host has it since.
    hear(vec![third.says(guest, false, at + 1)]);
    assert_eq!(words(&start(first, guest, Mode::DryRun)), "allow");
    hear(vec![
        third.says(guest, true, at + 2),
        member.says(guest, true, at + 3),
    ]);
    let outcome = start(first, guest, Mode::DryRun);
    let Decision::Deny(why) = outcome.verdict.decision() else {
        panic!("allowed")
    };
    assert!(format!("{why:?}").contains("host1"), "{why:?}");
    assert_eq!(store.times_asked(), 0, "nobody was asked for it");
}

#[test]
fn a_run_here_is_later_than_what_another_host_said_before() {
    let moved = moved();
    let (guest, first) = (&moved.guest, &moved.first);
    let third = Member::new(first, "host3");
    let store = FleetStore::with(&[], &[]);
    store.configure(first, "");
    let mut known = first.store();
    known.join_fleet("host1", Timestamp::now()).unwrap();
    let merge = Merge {
        placements: vec![third.says(guest, true, now() - 1000)],
        ..Merge::default()
    };
    known.merge(&merge, Timestamp::now()).unwrap();
    drop(known);
    assert_eq!(carried_out(first, guest), "allow runs-elsewhere");
    // A start that was allowed may have failed: it is no run.
    assert_eq!(carried_out(first, guest), "allow runs-elsewhere");
    let mut known = first.store();
    let noted = known.note_placement(guest.uuid, &guest.name, true, Timestamp::now());
    noted.unwrap();
    drop(known);
    assert_eq!(carried_out(first, guest), "allow");
}

#[test]
fn a_state_of_another_guest_is_none() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let other = moved.first.guest_in_use("vm2");
    let data = fs::read(moved.first.state_file(&other)).unwrap();
    let state = member.state_of(guest, &data, now() - 1000, &member.kek());
    assert_eq!(state.info.id, FactId::of_state(guest.uuid, &data));
    let store = FleetStore::with(&member.keys(guest), &[state]);
    store.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG205 fleet-facts-ignored");
    // Nor does the key of one guest open for another one.
    let dek = Dek::generate().unwrap();
    moved.first.add_key(&other, "a", &dek);
    let store = FleetStore::with(&member.keys(&other), &[]);
    store.configure(second, "");
    assert_eq!(carried_out(second, guest), "VG201 fleet-facts-ignored");
}

#[test]
fn a_person_restores_a_state_of_the_fleet_whatever_is_known_since() {
    let moved = without_state();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let data = fs::read(moved.first.state_file(guest)).unwrap();
    let old = member.state(guest, now() - 60_000);
    let foreign = member.state_of(guest, b"no state", now() - 1000, &member.kek());
    let id = old.info.id.to_string();
    let store = FleetStore::with(&[], &[foreign, old]);
    store.configure(second, "");
    let missing = restore(&second.host, "vm1", Some("00000000"));
    assert!(
        matches!(missing, Err(CopiesError::NoSuchCopy(..))),
        "{missing:?}"
    );
    let done = restore(&second.host, "vm1", Some(&id[..12])).unwrap();
    assert!(done.changed && done.copy.opened && done.copy.outdated);
    assert_eq!(done.copy.occasion, "fleet");
    assert!(fs::read(second.state_file(guest)).unwrap() == data);
    assert!(!restore(&second.host, "vm1", None).unwrap().changed);
    // The same bytes here and there are one state.
    second.save_copy(guest);
    let here = restore(&second.host, "vm1", Some(&done.copy.sha256[..4]));
    assert!(!here.unwrap().changed);
    for few in ["", &id[..3]] {
        let ambiguous = restore(&second.host, "vm1", Some(few));
        assert!(
            matches!(ambiguous, Err(CopiesError::Ambiguous(..))),
            "{ambiguous:?}"
        );
    }
    let copies = CopyStore::of(second.host.state_dir(), guest.uuid);
    copies.remove().unwrap();
    let silent = FleetStore::refusing("no route");
    silent.configure(second, "");
    for is_down in [false, true] {
        if is_down {
            // The guest is defined all the same.
            second.libvirt.go_down();
        }
        let silent = restore(&second.host, &guest.uuid.to_string(), None);
        assert!(
            matches!(silent, Err(CopiesError::FleetSilent(..))),
            "{silent:?}"
        );
    }
}

#[test]
fn a_start_that_asks_the_fleet_restores_the_later_copy_of_this_host_though_the_clock_was_set_back()
{
    let first = Fixture::new();
    let (guest, last) = first.guest_with_postdated_copy("vm1");
    let store = FleetStore::with(&Member::new(&first, "host1").keys(&guest), &[]);
    store.configure(&first, "");
    first.sql("DELETE FROM key_ref");
    assert_eq!(
        carried_out(&first, &guest),
        "allow fleet-key-learnt state-gone learn-key restore-tpm-state"
    );
    assert!(fs::read(first.state_file(&guest)).unwrap() == last);
}

/// A start that asks a fleet which has these facts.
fn told(fixture: &Fixture, guest: &Defined, facts: &[Fact], mode: Mode) -> Outcome {
    let store = FleetStore::with(facts, &[]);
    store.configure(fixture, "");
    start(fixture, guest, mode)
}

/// It had asked for a key, and restored its own copy from before that run.
#[test]
fn what_a_start_is_told_of_runs_elsewhere_makes_the_copies_of_this_host_old() {
    let first = Fixture::new();
    let (guest, last) = first.guest_with_postdated_copy("vm1");
    let (member, third) = (Member::new(&first, "host1"), Member::new(&first, "host3"));
    let (keys, kek) = (member.keys(&guest), member.kek());
    first.sql("DELETE FROM key_ref");
    let outcome = |at, mode| {
        let ended = third.placement(&guest, false, at, &kek);
        words(&told(
            &first,
            &guest,
            &[keys.clone(), vec![ended]].concat(),
            mode,
        ))
    };
    assert_eq!(outcome(now() + 60_000, Mode::CarryOut), "VG205");
    assert!(!first.state_file(&guest).exists());
    assert_eq!(
        outcome(now() - 60_000, Mode::CarryOut),
        "allow fleet-key-learnt state-gone learn-key restore-tpm-state"
    );
    assert!(fs::read(first.state_file(&guest)).unwrap() == last);
}

/// The whole state directory was restored from a backup, with its copies: a later run is known to the fleet alone.
#[test]
fn what_this_host_has_said_of_a_run_that_it_has_forgotten_makes_its_copies_old() {
    let first = Fixture::new();
    let (guest, last) = first.guest_with_postdated_copy("vm1");
    let host = first.store().join_fleet("host1", Timestamp::now()).unwrap();
    let own = Member {
        host,
        ..Member::new(&first, "host1")
    };
    let (keys, kek) = (own.keys(&guest), own.kek());
    first.sql("DELETE FROM key_ref");
    let outcome = |at, mode| {
        let ended = own.placement(&guest, false, at, &kek);
        words(&told(
            &first,
            &guest,
            &[keys.clone(), vec![ended]].concat(),
            mode,
        ))
    };
    let later = now() + 60_000;
    assert_eq!(outcome(later, Mode::DryRun), "VG205");
    let fine = "allow fleet-key-learnt state-gone learn-key restore-tpm-state";
    assert_eq!(outcome(now() - 60_000, Mode::DryRun), fine);
    // It knows that run: the copy is of its end.
    let noted = Timestamp(later);
    let mut store = first.store();
    store
        .note_placement(guest.uuid, "vm1", false, noted)
        .unwrap();
    assert_eq!(outcome(later, Mode::CarryOut), fine);
    assert!(fs::read(first.state_file(&guest)).unwrap() == last);
}

#[test]
fn a_person_waits_longer_for_the_store_than_a_start_does() {
    let moved = without_state();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let states = [member.state(guest, now() - 60_000)];
    let answer = serde_json::json!({ "ok": true, "facts": [], "states": states });
    let slow = FleetStore::answering(&answer.to_string(), Duration::from_secs(1));
    slow.configure(second, "ask = \"300ms\"\n");
    assert_eq!(carried_out(second, guest), "VG205 fleet-silent");
    assert!(restore(&second.host, "vm1", None).unwrap().changed);
}

#[test]
fn the_doctor_says_what_is_wrong_with_the_exchange() {
    let fixture = Fixture::new();
    let found = || -> Vec<String> {
        let recovery = RecoveryFiles {
            files: &[],
            passphrase: None,
        };
        let found = examine(&fixture.host, &recovery).into_iter();
        found
            .filter_map(|one| match one {
                Finding::Host(HostFinding::NotInFleet) => Some("not joined".to_owned()),
                Finding::Host(HostFinding::NoExchange { last, .. }) => Some(last.0.to_string()),
                Finding::Key(KeyFinding::NotAccepted(them)) => Some(them[0].name.clone()),
                _ => None,
            })
            .collect()
    };
    assert!(found().is_empty());
    let shared = FleetStore::with(&[], &[]);
    shared.configure(&fixture, "");
    assert_eq!(found(), ["not joined"]);
    let mut store = fixture.store();
    let joined = Timestamp(now() - 3_600_000);
    store.join_fleet("host1", joined).unwrap();
    assert_eq!(found(), [joined.0.to_string()]);
    store.mark_synced(true, None, Timestamp::now()).unwrap();
    assert!(found().is_empty());
    // The clock was set back by an hour since: nobody knows how long ago that was.
    let ahead = Timestamp(now() + 3_600_000);
    store.mark_synced(true, None, ahead).unwrap();
    assert_eq!(found(), [ahead.0.to_string()]);
    let lag = figures(&fixture.host, Timestamp::now())
        .fleet
        .unwrap()
        .lag_ms;
    assert!((3_500_000..3_700_000).contains(&lag), "{lag}");
    // Nobody exchanges more often than twice a day here.
    store.mark_synced(true, None, joined).unwrap();
    shared.configure(&fixture, "interval = \"12h\"");
    assert!(found().is_empty());
    let announced = NewProvider {
        uuid: ProviderUuid::random(),
        name: previous_key_name("fleet/far", key_id()),
        key_id: key_id(),
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    let now = Timestamp::now();
    store.create_provider(&announced, &[], now).unwrap();
    assert_eq!(found(), [announced.name]);
}

#[test]
fn a_guest_of_another_host_is_no_unknown_guest() {
    let moved = moved();
    let (guest, first) = (&moved.guest, &moved.first);
    first.libvirt.guests.undefine(&guest.name);
    let count = || unknown_guests::count(&first.host, &first.host.guests().unwrap());
    let all = Rule {
        older_than: Some(Duration::ZERO),
        standby: true,
    };
    let pruned = || prune(&first.host, all, true).unwrap().guests.len();
    assert_eq!((count(), pruned()), (Some(1), 1));
    let mut store = first.store();
    store.join_fleet("host1", Timestamp::now()).unwrap();
    assert_eq!((count(), pruned()), (Some(1), 1));
    let other = Member::new(first, "host2");
    let merge = Merge {
        placements: vec![other.says(guest, false, now())],
        ..Merge::default()
    };
    store.merge(&merge, Timestamp::now()).unwrap();
    assert_eq!((count(), pruned()), (Some(0), 0));
    store.leave_fleet().unwrap();
    assert_eq!((count(), pruned()), (Some(1), 1));
}

#[test]
fn a_lost_host_runs_no_guest() {
    let moved = moved();
    let (guest, first) = (&moved.guest, &moved.first);
    let third = Member::new(first, "host3");
    let store = FleetStore::with(&[], &[]);
    store.configure(first, "");
    let alone = lost(&first.host, "host3").unwrap_err();
    assert!(matches!(alone, FleetCommandError::NoMember));
    let mut known = first.store();
    known.join_fleet("host1", Timestamp::now()).unwrap();
    let unknown = lost(&first.host, "host3").unwrap_err();
    assert!(matches!(unknown, FleetCommandError::NoHost(_)));
    let itself = lost(&first.host, "host1").unwrap_err();
    assert!(matches!(itself, FleetCommandError::ThisHost));
    let at = now() + 1000;
    let merge = Merge {
        placements: vec![third.says(guest, true, at)],
        ..Merge::default()
    };
    known.merge(&merge, Timestamp::now()).unwrap();
    assert_eq!(
        words(&start(first, guest, Mode::DryRun)),
        "allow runs-elsewhere"
    );
    let done = lost(&first.host, "host3").unwrap();
    assert_eq!(done.guests.len(), 1);
    assert_eq!(words(&start(first, guest, Mode::DryRun)), "allow");
    assert_eq!(
        lost(&first.host, &third.host.to_string()).unwrap().guests,
        []
    );
    // It is back.
    let merge = Merge {
        placements: vec![third.says(guest, true, at + 2)],
        ..Merge::default()
    };
    known.merge(&merge, Timestamp::now()).unwrap();
    assert_eq!(
        words(&start(first, guest, Mode::DryRun)),
        "allow runs-elsewhere"
    );
    // Why nobody was told is not always that the shared store is silent.
    drop(store);
    let done = lost(&first.host, "host3").unwrap();
    let why = done.trouble.unwrap();
    assert!(!done.told && why.contains("store-"), "{why}");
}
