//! Commands of a fleet, and a start that asks it. The shared store's program is that of the contract of `--json`; its
//! facts are files of the host.

use std::collections::BTreeMap;

use super::*;
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, HostClaim, ProviderClaim, ReportClaim, Signed, SlotClaim};
use crate::fleet::{Fact, State};
use crate::ids::HostUuid;
use crate::key::kek::Kek;
use crate::manage::tests::fleet_follow::{follows, opens, present};
use crate::manage::tests::fleet_program::Member;
use crate::store::{KnownFact, Merge};

/// A shared store that has these facts.
fn shared_store(host: &Fixture, facts: &[Fact]) {
    let dir = host.root().join("fleet");
    fs::create_dir(&dir).unwrap();
    let lines = facts
        .iter()
        .map(|fact| serde_json::to_string(fact).unwrap() + "\n");
    fs::write(dir.join("facts"), lines.collect::<String>()).unwrap();
    let config = host.root().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, format!("{text}[fleet]\nstore = \"test://there\"\n")).unwrap();
}

/// It has these TPM states, too.
fn with_states(host: &Fixture, states: &[State]) {
    let lines = states
        .iter()
        .map(|state| serde_json::to_string(state).unwrap() + "\n");
    fs::write(host.root().join("fleet/states"), lines.collect::<String>()).unwrap();
}

/// How many facts the shared store has.
fn told(host: &Fixture) -> usize {
    let facts = fs::read_to_string(host.root().join("fleet/facts"));
    facts.unwrap_or_default().lines().count()
}

fn join(host: &Fixture) {
    let now = Timestamp::now();
    host.store().join_fleet("host1", now).unwrap();
}

/// A guest in use, of a host that is in a fleet and has told it nothing.
fn member(host: &Fixture) {
    in_use(host);
    shared_store(host, &[]);
    join(host);
}

fn is_member(host: &Fixture) -> bool {
    host.store().membership().unwrap().is_some()
}

/// A guest of another host that has died. This one has its provider key, and neither its key nor its TPM.
struct OfAnotherHost {
    other: Fixture,
    guest: Defined,
}

impl OfAnotherHost {
    fn on(host: &Fixture) -> Self {
        let other = Fixture::new();
        let guest = other.guest_in_use("vm1");
        host.adopt_provider_of(&other, "a");
        let encryption = format!("<encryption secret='{}'/>", guest.secret);
        host.define_with("vm1", guest.uuid, guest.secret, &encryption);
        shared_store(host, &Member::new(&other, "host2").keys(&guest));
        Self { other, guest }
    }

    /// Its TPM is in the fleet.
    fn with_its_tpm_in_the_fleet(&self, host: &Fixture) {
        let at = Timestamp::now().0 - 1000;
        let state = Member::new(&self.other, "host2").state(&self.guest, at);
        with_states(host, &[state]);
        join(host);
    }
}

/// Its TPM is here, its key is in the fleet.
fn of_another_host(host: &Fixture) {
    let known = OfAnotherHost::on(host);
    let state = fs::read(known.other.state_file(&known.guest)).unwrap();
    host.write_state(&known.guest, &state);
}

/// Both are in the fleet.
fn all_of_another_host(host: &Fixture) {
    OfAnotherHost::on(host).with_its_tpm_in_the_fleet(host);
}

/// Its TPM is in the fleet, its key is here.
fn tpm_of_another_host(host: &Fixture) {
    let other = Fixture::new();
    let guest = other.define("vm1");
    let dek = Dek::generate().unwrap();
    other.add_key(&guest, "a", &dek);
    other.encrypt_state(&guest, &dek);
    host.adopt_provider_of(&other, "a");
    let encryption = format!("<encryption secret='{}'/>", guest.secret);
    host.define_with("vm1", guest.uuid, guest.secret, &encryption);
    host.add_key(&guest, "a", &dek);
    shared_store(host, &[]);
    OfAnotherHost { other, guest }.with_its_tpm_in_the_fleet(host);
}

/// This host has heard that its guest runs on another one.
fn runs_elsewhere(host: &Fixture) {
    member(host);
    let now = Timestamp::now();
    let says = Member::new(host, "host2").says(&guest(host), true, now.0 - 1000);
    let merge = Merge {
        placements: vec![says],
        ..Merge::default()
    };
    host.store().merge(&merge, now).unwrap();
}

fn runs_nowhere(host: &Fixture) {
    let known = host.store().all_placements().unwrap();
    let others = known.iter().filter(|row| !row.is_own);
    let runs: Vec<_> = others.map(|row| row.placement.running).collect();
    assert_eq!(runs, [false]);
    starts_with_one_key(host);
}

/// That there is another host, and that these keys open there.
fn another_member(opens: &[&Kek]) -> [Fact; 2] {
    let (host, now) = (HostUuid::random(), Timestamp::now());
    let mut report = ReportClaim {
        host,
        name: "host2".to_owned(),
        at: now.0,
        version: "1".to_owned(),
        keks: opens.iter().map(|kek| kek.key_id().to_string()).collect(),
        proofs: BTreeMap::new(),
        guests: None,
        refused: Vec::new(),
        outbox: 0,
    };
    for kek in opens {
        report.prove(kek);
    }
    let is_there = HostClaim::new(host, "host2", now, false);
    [Claim::Host(is_there), Claim::Report(report)].map(|claim| claim.write(host, now))
}

/// Another host has the present key of the provider, and the next one is not announced.
fn beside_another_member(host: &Fixture) {
    in_use(host);
    shared_store(host, &another_member(&[&present(host)]));
    join(host);
}

/// The next key was announced, and opens on the other host, too.
fn announced_before(host: &Fixture) {
    in_use(host);
    let (present, next) = (present(host), opens(host));
    shared_store(host, &another_member(&[&present, &next]));
    let claim = follows(&present, next.key_id(), 2, false);
    join(host);
    let mut store = host.store();
    let own = store.membership().unwrap().unwrap().host;
    let said = KnownFact::said(claim, own, Timestamp::now());
    store.mark_sent(&[said], &[]).unwrap();
}

/// Another host has rotated the key of `a`.
fn rotated_elsewhere(host: &Fixture) {
    in_use(host);
    let next = opens(host);
    let claim = follows(&present(host), next.key_id(), 2, true);
    shared_store(host, &[claim.write(HostUuid::random(), Timestamp::now())]);
    join(host);
}

/// Said again, a rotation that has ended is another one, with a key after that.
fn has_the_next_key(host: &Fixture) {
    let now = host.provider("a");
    assert!(now.key_version > 1);
    let rows = host.rows(&guest(host));
    let wrapped = rows[0].key_ref.wrapped_dek.as_ref().unwrap();
    assert_eq!(wrapped.key_id().unwrap(), now.key_id);
    has_provider(host, "a");
    starts_with_one_key(host);
}

/// The other host re-wraps the guests' keys, and tells them: here the previous key opens them until then.
fn follows_the_other(host: &Fixture) {
    assert_eq!(host.provider("a").key_version, 2);
    has_provider(host, "a");
    starts_with_one_key(host);
}

/// The host has heard of a provider of another one, whose key its own key manager opens.
fn announced_provider(host: &Fixture) {
    in_use(host);
    host.with_toy("sealed");
    shared_store(host, &[]);
    join(host);
    let kek = Kek::generate().unwrap();
    let says = ProviderClaim {
        name: "c".to_owned(),
        key_id: kek.key_id(),
        key_version: 1,
    };
    let slot = SlotClaim {
        key_id: kek.key_id(),
        kind: "pad".to_owned(),
        label: None,
        kms: "toy".to_owned(),
        remote_key: "c".to_owned(),
        remote_version: None,
        blob: kek.expose().iter().map(|byte| byte ^ 0x5a).collect(),
    };
    let claims = [Claim::Provider(Signed::new(says, &kek)), Claim::Slot(slot)];
    let (other, now) = (HostUuid::random(), Timestamp::now());
    let known = claims.map(|claim| KnownFact::said(claim, other, now));
    host.store().mark_sent(&known, &[]).unwrap();
}

pub(super) fn fleet() -> Vec<Scenario> {
    vec![
        command!(
            "fleet init",
            ["fleet", "init"],
            |host| {
                in_use(host);
                shared_store(host, &[]);
            },
            |host| {
                assert!(host.root().join("fleet/schema").exists());
                starts_with_one_key(host);
            }
        ),
        command!(
            "provider accept",
            ["provider", "accept", "c"],
            announced_provider,
            |host| {
                has_provider(host, "c");
                starts_with_one_key(host);
            }
        ),
        command!(
            "state restore",
            ["state", "restore", "vm1"],
            tpm_of_another_host,
            starts_with_one_key,
            of: "from the fleet"
        ),
        command!(
            "fleet join",
            ["fleet", "join", "--name", "host1"],
            |host| {
                of_another_host(host);
                host.guest_in_use("vm2");
            },
            |host| {
                assert!(is_member(host));
                assert!(told(host) > 1, "its own keys");
                starts_with_one_key(host);
            },
            may_leave_out: true
        ),
        command!(
            "fleet leave",
            ["fleet", "leave"],
            member,
            |host| {
                assert!(!is_member(host));
                assert!(told(host) > 0);
                starts_with_one_key(host);
            },
            again: &[2]
        ),
        command!(
            "fleet lost",
            ["fleet", "lost", "host2"],
            runs_elsewhere,
            runs_nowhere
        ),
        command!(
            "sync",
            ["sync"],
            member,
            |host| {
                assert_eq!(host.store().outbox_len().unwrap(), 0);
                assert!(told(host) > 0);
                starts_with_one_key(host);
            },
            of: "a fleet",
            may_leave_out: true
        ),
        hook::asks_the_fleet("asks the fleet", |host| {
            of_another_host(host);
            join(host);
        }),
        hook::asks_the_fleet("a TPM from the fleet", all_of_another_host),
    ]
}

pub(super) fn rotations() -> Vec<Scenario> {
    vec![
        command!(
            "provider rotate",
            ["provider", "rotate", "a", "--without", "host2"],
            beside_another_member,
            has_the_next_key,
            of: "a fleet"
        ),
        command!(
            "provider rotate",
            ["provider", "rotate", "a", "--wait", "0s"],
            announced_before,
            has_the_next_key,
            of: "a fleet, announced before",
            // Another one waits for the other host.
            again: &[1]
        ),
        command!(
            "sync",
            ["sync"],
            rotated_elsewhere,
            follows_the_other,
            of: "another host's rotation",
            may_leave_out: true
        ),
    ]
}
