//! What a start has to do with the fleet.

use super::given::{
    clients, corrupt, findings, guest, hidden, keyless, opens, placeholder, refusal, sealed,
    verdict,
};
use crate::clock::Timestamp;
use crate::ids::KeyRefId;
use crate::verdict::Finding;
use crate::verdict::elsewhere::SearchCut;
use crate::verdict::facts::{
    CopyReason, CopyToRestore, Facts, FleetQuestion, NotOpened, Permission, RunsOn,
    StoreAccessError, TpmState, TransientState, Trial,
};
use crate::verdict::refusal::Refusal;
use TpmState::Encrypted;

const ASKS: &str = "ask the fleet";

impl Facts {
    /// The shared store can be asked.
    fn in_a_fleet(mut self) -> Self {
        self.fleet.question = FleetQuestion::Open;
        self
    }

    /// It was, and has answered.
    fn answered(mut self) -> Self {
        self.fleet.question = FleetQuestion::Answered;
        self
    }

    /// A key of the fleet's store, and what trying it gave.
    fn in_fleet(self, row: super::given::Row) -> Self {
        let number = self.travelling.keys.len();
        let mut facts = self.in_xml(row);
        let key = facts.travelling.keys.last_mut().unwrap();
        let id = KeyRefId::of_fleet(number);
        if let Some(trial) = facts.trials.remove(&key.id) {
            facts.trials.insert(id, trial);
        }
        key.id = id;
        facts
    }

    fn runs_on(mut self, host: &str) -> Self {
        self.fleet.runs_on = Some(RunsOn {
            host: host.to_owned(),
            since: Timestamp(8),
        });
        self
    }
}

/// A guest, a provider, and a key reference that opens.
fn keyed() -> Facts {
    guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used())
        .in_a_fleet()
}

/// Row 102.
#[test]
fn the_fleet_is_asked_where_something_is_missing_or_made_anew() {
    let fleet = || guest().provider("a", 1, 'A').in_a_fleet();
    for facts in [
        fleet(),
        fleet().state(Encrypted),
        fleet().arriving(),
        fleet().row(keyless(1, "b", 9, 'B')),
        fleet().row(sealed(1, "a", 1, 'A')),
        fleet().row(corrupt(1, "a", 1, 'A')),
        fleet().in_xml(keyless(0, "b", 9, 'B')),
        fleet().row(placeholder(1, "a", 1)),
        keyed(),
        keyed().policy(|policy| policy.missing_state = Permission::Allow),
        fleet().policy(|policy| policy.auto_bind = Some("a".to_owned())),
        fleet()
            .policy(|policy| policy.auto_bind = Some("a".to_owned()))
            .elsewhere(|found| {
                found.unanswered = Some(SearchCut::Definitions("too slow".to_owned()));
            }),
        keyed().row(opens(2, "a", 1, 'A', 1)),
        keyed().state(TpmState::Damaged("cut".into())),
        guest()
            .in_a_fleet()
            .row(opens(1, "a", 1, 'A', 0).refuted())
            .state(Encrypted),
    ] {
        assert_eq!(verdict(&facts), ASKS, "{facts:#?}");
        // Once.
        assert_ne!(verdict(&facts.answered()), ASKS);
    }
}

/// Row 103.
#[test]
fn a_start_that_goes_on_asks_nobody() {
    let proven = || keyed().state(Encrypted);
    let mut healthy = proven();
    healthy = healthy.row(opens(2, "a", 1, 'A', 0).proven());
    let fresh = keyed()
        .ended_normally()
        .policy(|policy| policy.transient_state = TransientState::Fresh);
    for facts in [
        healthy,
        fresh,
        guest().in_a_fleet().host(hidden()),
        guest().in_a_fleet().host(clients()),
        guest()
            .in_a_fleet()
            .row(keyless(1, "b", 9, 'B'))
            .host(hidden()),
        guest().in_a_fleet().vtpm(None),
        guest()
            .in_a_fleet()
            .store(StoreAccessError::Unavailable("locked".to_owned())),
    ] {
        assert_ne!(verdict(&facts), ASKS, "{facts:#?}");
    }
}

/// Row 104.
#[test]
fn without_an_answer_a_start_is_judged_as_without_a_fleet() {
    let mut facts = keyed();
    let why = "no route".to_owned();
    facts.fleet.question = FleetQuestion::Silent(why.clone());
    assert_eq!(verdict(&facts), "deny VG205");
    assert_eq!(findings(&facts), [Finding::FleetSilent(why)]);
}

/// Rows 105, 89 to 91.
#[test]
fn a_key_of_the_fleet_is_judged_as_one_of_the_xml() {
    let fleet = || guest().provider("a", 1, 'A').answered();
    let learnt = "learn-key of a; provide the fleet's";
    let proven = fleet()
        .in_fleet(opens(0, "a", 1, 'A', 0).proven())
        .state(Encrypted);
    assert_eq!(verdict(&proven), format!("allow Proven; {learnt}"));
    let from = Finding::FleetKeyLearnt {
        provider: "a".to_owned(),
    };
    assert_eq!(findings(&proven), [from]);
    let opens_it = || opens(0, "a", 1, 'A', 0);
    let arrives = fleet().in_fleet(opens_it()).arriving();
    assert_eq!(verdict(&arrives), format!("allow Unproven; {learnt}"));
    // The guest has a TPM somewhere.
    let absent = fleet().in_fleet(opens_it());
    assert_eq!(verdict(&absent), "deny VG205");
    assert_eq!(
        verdict(&absent.row(placeholder(1, "a", 1))),
        "deny VG205",
        "no key is made beside it"
    );
    // Another key in the fleet is nothing to be told: hosts keep each other's keys.
    let other = keyed()
        .answered()
        .in_fleet(opens(0, "a", 1, 'A', 1).refuted());
    let other = other
        .row(opens(2, "a", 1, 'A', 2).proven())
        .state(Encrypted);
    assert!(!findings(&other).contains(&Finding::OtherKeyInXml));
    for state in [Encrypted, super::given::unreadable()] {
        let passed_over = keyed()
            .answered()
            .in_fleet(opens(0, "a", 1, 'A', 1).refuted())
            .state(state);
        assert!(!findings(&passed_over).contains(&Finding::OtherKeyInXml));
    }
    // While state arrives the newest is taken, wherever it comes from.
    let preferred = keyed()
        .answered()
        .in_fleet(opens(0, "a", 1, 'A', 1))
        .arriving();
    assert!(findings(&preferred).contains(&Finding::FleetKeyPreferred(KeyRefId(1))));
}

/// Row 106.
#[test]
fn a_key_of_the_fleet_that_does_not_open_makes_no_refusal() {
    let fleet = || {
        let facts = guest().provider("a", 1, 'A').answered();
        facts.in_fleet(keyless(0, "there", 9, 'T'))
    };
    let named = || Refusal::ProviderMissing {
        provider: "there".to_owned(),
        key_id: Some(super::given::key('T')),
    };
    for facts in [fleet(), fleet().state(Encrypted), fleet().arriving()] {
        assert_eq!(refusal(&facts), named());
        assert_eq!(
            findings(&facts),
            [Finding::FleetKeyOutOfReach(named())],
            "it says where the key is"
        );
    }
    let made = fleet().row(placeholder(1, "a", 1));
    assert_eq!(
        verdict(&made),
        "allow NewKey; create-key 1; provide the new key"
    );
    assert!(findings(&made).contains(&Finding::FleetKeyOutOfReach(named())));
    let retired = fleet().retired(opens(7, "a", 1, 'A', 0).used());
    assert_eq!(refusal(&retired), named());
    // One in the format of a later release is not forged.
    let too_new = || {
        let mut row = corrupt(0, "a", 1, 'A');
        if let Some(Trial::NotOpened(NotOpened::Corrupt { is_newer, .. })) = &mut row.trial {
            *is_newer = true;
        }
        row
    };
    let newer = || guest().provider("a", 1, 'A').answered().in_fleet(too_new());
    let reason = "not authentic".to_owned();
    assert_eq!(refusal(&newer()), Refusal::FleetKeyTooNew { reason });
    assert_eq!(verdict(&newer()), "deny VG206");
    // An import helps sooner.
    let both = newer().in_fleet(keyless(0, "there", 9, 'T'));
    assert_eq!(refusal(&both), named());
    // What this host knows better is said.
    let damaged = fleet().row(corrupt(1, "a", 1, 'A'));
    assert_eq!(verdict(&damaged), "deny VG206");
    // One that opens is enough.
    let both = fleet()
        .in_fleet(opens(0, "a", 1, 'A', 0).proven())
        .state(Encrypted);
    assert_eq!(
        verdict(&both),
        "allow Proven; learn-key of a; provide the fleet's"
    );
}

/// Row 107.
#[test]
fn what_is_forged_is_told_and_ignored() {
    let fleet = || {
        let facts = guest().provider("a", 1, 'A').answered();
        facts.in_fleet(corrupt(0, "a", 1, 'A'))
    };
    let mut facts = fleet();
    facts.fleet.ignored = 1;
    assert_eq!(verdict(&facts), "deny VG201");
    assert_eq!(findings(&facts), [Finding::FleetFactsIgnored(1)]);
    let bound = fleet().row(placeholder(1, "a", 1));
    assert_eq!(
        verdict(&bound),
        "allow NewKey; create-key 1; provide the new key"
    );
}

fn with_state_of_fleet(mut facts: Facts, is_outdated: bool) -> Facts {
    facts.saved.copy = Some(CopyToRestore {
        reason: CopyReason::Fleet,
        saved_at: Timestamp(5),
        is_encrypted: true,
        is_proven: true,
        is_outdated,
    });
    facts
}

/// Rows 108 and 109.
#[test]
fn a_state_of_the_fleet_is_restored_unless_it_is_older_than_a_run() {
    let facts = |row| guest().provider("a", 1, 'A').row(row).answered();
    let newest = with_state_of_fleet(facts(opens(1, "a", 1, 'A', 0).used().proven()), false);
    assert_eq!(
        verdict(&newest),
        "allow Proven; restore-tpm-state of fleet; provide 1"
    );
    let old = with_state_of_fleet(facts(opens(1, "a", 1, 'A', 0).used()), true);
    let older = Refusal::SavedCopyOutdated {
        reason: CopyReason::Fleet,
        saved_at: Timestamp(5),
    };
    assert_eq!(refusal(&old), older);
}

/// Rows 110, 111 and 112.
#[test]
fn a_second_run_is_told_or_refused_unless_the_guest_is_migrating() {
    let healthy = |facts: Facts| facts.state(Encrypted);
    let proven = || {
        let facts = guest().provider("a", 1, 'A');
        healthy(facts.row(opens(1, "a", 1, 'A', 0).proven())).runs_on("host2")
    };
    assert_eq!(verdict(&proven()), "allow Proven; provide 1");
    let told = Finding::RunsElsewhere(RunsOn {
        host: "host2".to_owned(),
        since: Timestamp(8),
    });
    assert_eq!(findings(&proven()), [told]);
    let deny = |facts: Facts| facts.policy(|policy| policy.elsewhere = Permission::Deny);
    assert_eq!(verdict(&deny(proven())), "deny VG504");
    let migrates = deny(proven().arriving());
    assert_eq!(verdict(&migrates), "allow Proven; provide 1");
    assert_eq!(findings(&migrates), []);
    // A saved guest that is restored here is a start like any other.
    let mut restored = deny(proven().arriving());
    restored.arrival = Some(crate::verdict::facts::Arrival::Restore);
    assert_eq!(verdict(&restored), "deny VG504");
    // What refuses it anyway is said first; and whoever has no TPM is no concern.
    let refused = deny(guest().runs_on("host2"));
    assert_eq!(verdict(&refused), "deny VG201");
    let none = deny(guest().vtpm(None).runs_on("host2"));
    assert_eq!(verdict(&none), "allow NoEmulatedTpm");
}
