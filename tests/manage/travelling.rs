//! A guest's wrapped key travels in its XML from one host to another.

use super::fixture::{Defined, Fixture};
use super::fleet_program::FleetStore;
use super::start_keys::has_opened;
use crate::domain::{Domain, TravellingKey, TravellingKeys};
use crate::guard::{Guard, HookCall, Mode, Operation, follow_up, prepare};
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::key::wrap::Generation;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::manage::reset::{ResetError, reset};
use crate::manage::store_rebuild::{NotRebuilt, RebuildResult, Rebuilt, rebuild};
use crate::store::Origin;
use crate::verdict::code::Code;
use crate::verdict::outcome::Outcome;
use crate::verdict::refusal::Refusal;
use crate::verdict::{Decision, Finding};

/// Two hosts. The guest has run on the first; the second has its provider, and its XML.
pub(super) struct Hosts {
    pub(super) first: Fixture,
    pub(super) second: Fixture,
    pub(super) guest: Defined,
    pub(super) dek: Dek,
}

impl Hosts {
    pub(super) fn new() -> Self {
        let (first, second) = (Fixture::new(), Fixture::new());
        let guest = first.define("vm1");
        let dek = Dek::generate().unwrap();
        first.add_key(&guest, "a", &dek);
        first.encrypt_state(&guest, &dek);
        second.adopt_provider_of(&first, "a");
        let encryption = format!("<encryption secret='{}'/>", guest.secret);
        second.define_with(&guest.name, guest.uuid, guest.secret, &encryption);
        Self {
            first,
            second,
            guest,
            dek,
        }
    }

    /// The guest's XML, with the keys that the first host has of it.
    pub(super) fn xml(&self) -> Domain {
        self.xml_of(self.guest.uuid)
    }

    /// Likewise, as the XML of this guest.
    fn xml_of(&self, owner: DomainUuid) -> Domain {
        let rows = self
            .first
            .store()
            .all_key_refs(Some(self.guest.uuid), false);
        let key = |row: crate::store::KeyRefRecord| TravellingKey {
            wrapped_dek: row.key_ref.wrapped_dek.unwrap(),
            provider: row.key_ref.provider_name,
        };
        let mut domain = self.second.domain(&self.guest);
        domain.travelling = Some(TravellingKeys {
            domain: Some(owner),
            keys: rows.unwrap().into_iter().map(key).collect(),
            fault: None,
        });
        domain
    }

    /// Puts the TPM's state on the second host.
    pub(super) fn bring_state(&self) {
        self.second.encrypt_state(&self.guest, &self.dek);
    }

    pub(super) fn start(&self, domain: Domain) -> Outcome {
        let guard = self.second.host.guard(BrokenConfig::Fail).unwrap();
        let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
        prepare(&guard, &Ok(domain), origin, mode, default_deadline())
    }

    /// The guest arrives on the second host, and its state with it.
    pub(super) fn arrive(&self, domain: Domain) -> Outcome {
        self.arrive_by(domain).1
    }

    /// Likewise, with the guard that let it in.
    fn arrive_by(&self, domain: Domain) -> (Guard, Outcome) {
        let mut guard = self.second.host.guard(BrokenConfig::Fail).unwrap();
        guard.call = Some(HookCall {
            attempt: Box::new(|| "1".to_owned()),
            xml: Vec::new().into(),
        });
        let deadline = default_deadline();
        follow_up(&guard, Operation::MigrateIn, &domain, deadline).unwrap();
        let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
        let outcome = prepare(&guard, &Ok(domain), origin, mode, deadline);
        (guard, outcome)
    }

    /// From now on the first host has this key of the guest alone.
    fn choose(&self, dek: &Dek, generation: u32) {
        self.first.sql("UPDATE key_ref SET retired_at = 1");
        let generation = Generation(generation);
        self.first.add_key_of(&self.guest, "a", dek, generation);
    }

    /// The rows on the second host: provider, whether it counts as used, whether it is retired.
    fn rows(&self) -> Vec<(String, bool, bool)> {
        let rows = self
            .second
            .store()
            .all_key_refs(Some(self.guest.uuid), true);
        let describe = |row: crate::store::KeyRefRecord| {
            let used = row.key_ref.first_used_at.is_some();
            (row.key_ref.provider_name, used, row.retired_at.is_some())
        };
        rows.unwrap().into_iter().map(describe).collect()
    }
}

pub(super) fn code(outcome: &Outcome) -> Option<Code> {
    match outcome.verdict.decision() {
        Decision::Allow(_) => None,
        Decision::Deny(why) => Some(why.code()),
    }
}

pub(super) fn kinds(outcome: &Outcome) -> Vec<&'static str> {
    let repairs = outcome.verdict.repairs().iter();
    repairs.map(crate::verdict::repair::Repair::kind).collect()
}

#[test]
fn a_guest_starts_on_the_other_host_with_the_key_of_its_xml() {
    let hosts = Hosts::new();
    hosts.bring_state();
    let outcome = hosts.start(hosts.xml());
    assert_eq!((code(&outcome), kinds(&outcome)), (None, vec!["learn-key"]));
    assert!(outcome.key.is_some());
    assert_eq!(hosts.rows(), [("a".to_owned(), true, false)]);
    // libvirt has the very key.
    let value = hosts.second.libvirt.secrets.value(hosts.guest.secret);
    assert_eq!(value.as_deref(), Some(hosts.dek.expose()));

    let again = hosts.start(hosts.xml());
    assert_eq!((code(&again), kinds(&again)), (None, vec![]));
    // From then on the XML is not needed.
    let without = hosts.start(hosts.second.domain(&hosts.guest));
    assert_eq!((code(&without), kinds(&without)), (None, vec![]));
}

#[test]
fn without_its_tpm_state_the_guest_is_refused_and_nothing_is_stored() {
    let hosts = Hosts::new();
    let outcome = hosts.start(hosts.xml());
    assert_eq!(code(&outcome), Some(Code::TpmStateMissing));
    assert_eq!(hosts.rows(), []);
}

#[test]
fn a_damaged_state_gets_the_copy_that_the_key_of_the_xml_opens() {
    let hosts = Hosts::new();
    hosts.bring_state();
    hosts.second.save_copy(&hosts.guest);
    // A later copy is another guest's.
    let dek = Dek::generate().unwrap();
    hosts.second.encrypt_state(&hosts.guest, &dek);
    hosts.second.save_copy(&hosts.guest);
    hosts.second.write_state(&hosts.guest, b"damaged");
    let without = hosts.second.domain(&hosts.guest);
    assert_eq!(code(&hosts.start(without)), Some(Code::TpmStateDamaged));
    let outcome = hosts.start(hosts.xml());
    assert_eq!(code(&outcome), None);
    assert_eq!(kinds(&outcome), ["learn-key", "restore-tpm-state"]);
    assert!(hosts.second.would_start(&hosts.guest));

    // A key that was retired here opens nothing.
    hosts.second.sql("UPDATE key_ref SET retired_at = 1");
    assert!(hosts.second.libvirt.secrets.undefine(hosts.guest.secret));
    hosts.second.save_copy(&hosts.guest);
    hosts.second.write_state(&hosts.guest, b"damaged");
    let outcome = hosts.start(hosts.xml());
    assert_eq!(code(&outcome), Some(Code::TpmStateDamaged));
}

#[test]
fn a_copy_that_a_row_opens_is_put_back_whatever_else_the_xml_has() {
    let hosts = Hosts::new();
    hosts.bring_state();
    assert_eq!(code(&hosts.start(hosts.xml())), None);
    hosts.second.save_copy(&hosts.guest);
    hosts.second.write_state(&hosts.guest, b"damaged");
    hosts.choose(&Dek::generate().unwrap(), 1);
    let outcome = hosts.start(hosts.xml());
    assert_eq!(code(&outcome), None);
    assert_eq!(kinds(&outcome), ["restore-tpm-state"]);
    assert!(hosts.second.would_start(&hosts.guest));
}

#[test]
fn a_state_that_is_gone_gets_it_too() {
    let hosts = Hosts::new();
    hosts.bring_state();
    hosts.second.save_copy(&hosts.guest);
    let dek = Dek::generate().unwrap();
    hosts.second.encrypt_state(&hosts.guest, &dek);
    hosts.second.save_copy(&hosts.guest);
    std::fs::remove_file(hosts.second.state_file(&hosts.guest)).unwrap();
    let listed = hosts.second.host.all_copies().unwrap().judged;
    let opened: Vec<_> = listed.iter().map(|copy| copy.opened).collect();
    assert_eq!(opened, [false, false], "no key is known");
    let outcome = hosts.start(hosts.xml());
    assert_eq!(kinds(&outcome), ["learn-key", "restore-tpm-state"]);
    assert!(hosts.second.would_start(&hosts.guest));
}

#[test]
fn the_provider_that_the_other_host_lacks_is_named() {
    let hosts = Hosts::new();
    hosts.bring_state();
    hosts
        .second
        .sql("DELETE FROM key_provider WHERE name = 'a'");
    let outcome = hosts.start(hosts.xml());
    assert_eq!(code(&outcome), Some(Code::ProviderMissing));
    assert_eq!(hosts.rows(), []);
}

#[test]
fn a_key_that_was_retired_here_is_not_learnt_again() {
    let hosts = Hosts::new();
    hosts.bring_state();
    hosts.start(hosts.xml());
    hosts.second.sql("UPDATE key_ref SET retired_at = 1");
    assert!(hosts.second.libvirt.secrets.undefine(hosts.guest.secret));
    let outcome = hosts.start(hosts.xml());
    assert_eq!(code(&outcome), Some(Code::KeyLost));
    assert_eq!(hosts.rows(), [("a".to_owned(), true, true)]);
}

#[test]
fn a_copied_xml_gives_its_guest_no_key() {
    let hosts = Hosts::new();
    hosts.bring_state();
    let outcome = hosts.start(hosts.xml_of(DomainUuid::random()));
    assert_eq!(code(&outcome), Some(Code::KeyLost));
    assert_eq!(hosts.rows(), []);
    // Whoever writes his own UUID over the original's gets no further.
    let mut forged = hosts.xml();
    let other = DomainUuid::random();
    forged.uuid = other;
    forged.travelling.as_mut().unwrap().domain = Some(other);
    let outcome = hosts.start(forged);
    assert_eq!(code(&outcome), Some(Code::KeyCorrupt));
}

#[test]
fn a_key_that_was_renewed_elsewhere_takes_the_place_of_the_old_one() {
    let hosts = Hosts::new();
    hosts.bring_state();
    hosts.start(hosts.xml());
    let renewed = crate::manage::renew::renew(&hosts.first.host, "vm1").unwrap();
    assert_eq!(renewed.retired.len(), 1);
    let states = hosts.first.libvirt.dirs().tpm_states();
    let state = states
        .join(hosts.guest.uuid.to_string())
        .join("tpm2/tpm2-00.permall");
    hosts
        .second
        .write_state(&hosts.guest, &std::fs::read(state).unwrap());
    // The old key alone opens nothing, and says so; the XML brings the new one.
    let without = hosts.start(hosts.second.domain(&hosts.guest));
    assert_eq!(code(&without), Some(Code::KeyDoesNotOpenTpm));
    let outcome = hosts.start(hosts.xml());
    assert_eq!(code(&outcome), None);
    assert_eq!(kinds(&outcome), ["learn-key", "retire-key"]);
    let row = |retired| ("a".to_owned(), true, retired);
    assert_eq!(hosts.rows(), [row(true), row(false)]);
    let rows = hosts
        .second
        .store()
        .all_key_refs(Some(hosts.guest.uuid), true);
    let generations = rows
        .unwrap()
        .into_iter()
        .map(|row| row.key_ref.generation().0);
    assert_eq!(generations.collect::<Vec<_>>(), [1, 2]);
}

/// The state that is here may be an older one; but a key of its generation, or a newer one, is not passed over
/// without a word.
#[test]
fn a_guest_that_arrives_with_another_key_says_so_unless_it_is_an_older_one() {
    let other_in_xml = |generation| {
        let hosts = Hosts::new();
        hosts.bring_state();
        assert_eq!(code(&hosts.start(hosts.xml())), None);
        hosts.choose(&Dek::generate().unwrap(), generation);
        let outcome = hosts.arrive(hosts.xml());
        assert_eq!(code(&outcome), None);
        let findings = outcome.verdict.findings();
        findings.contains(&Finding::OtherKeyInXml)
    };
    assert!(other_in_xml(1));
    assert!(!other_in_xml(0));
}

/// Each provider key may take seconds to open.
#[test]
fn a_guest_that_arrives_with_the_key_that_it_has_here_opens_no_retired_one() {
    let hosts = Hosts::new();
    hosts.bring_state();
    assert_eq!(code(&hosts.start(hosts.xml())), None);
    let second = &hosts.second;
    second.add_key(&hosts.guest, "b", &Dek::generate().unwrap());
    second.sql("UPDATE key_ref SET retired_at = 1 WHERE provider_name = 'b'");
    let (guard, outcome) = hosts.arrive_by(hosts.xml());
    assert_eq!(code(&outcome), None);
    assert!(!has_opened(second, &guard, "b"));
    hosts.choose(&Dek::generate().unwrap(), 1);
    let (guard, _) = hosts.arrive_by(hosts.xml());
    assert!(has_opened(second, &guard, "b"), "it may be the retired one");
}

/// The host of guests whose XML in libvirt has their keys, after it lost its rows.
fn host_that_lost_its_rows() -> (Fixture, Vec<Defined>) {
    let fixture = Fixture::new();
    let guests: Vec<_> = ["vm1", "vm2", "vm3"]
        .map(|name| fixture.guest_in_use(name))
        .into();
    for guest in &guests {
        let mut keys = fixture.rows(guest);
        let key = keys.remove(0).key_ref;
        fixture.redefine_with_keys(
            guest,
            &TravellingKeys {
                domain: Some(guest.uuid),
                keys: vec![TravellingKey {
                    wrapped_dek: key.wrapped_dek.unwrap(),
                    provider: key.provider_name,
                }],
                fault: None,
            },
        );
    }
    fixture.sql("DELETE FROM key_ref");
    (fixture, guests)
}

fn results(rebuilt: &Rebuilt) -> Vec<RebuildResult> {
    rebuilt.guests.iter().map(|guest| guest.result).collect()
}

fn rebuild_store(fixture: &Fixture, dry_run: bool) -> Rebuilt {
    let guests = fixture.host.guests().unwrap();
    rebuild(&fixture.host, guests, dry_run, &|_| {}).unwrap()
}

#[test]
fn a_store_is_rebuilt_from_the_xmls_and_doing_it_again_changes_nothing() {
    use RebuildResult::{Known, Stored};
    let (fixture, guests) = host_that_lost_its_rows();
    // Also a guest whose TPM state has not been put back yet.
    std::fs::remove_dir_all(fixture.state_file(&guests[1]).parent().unwrap()).unwrap();
    let planned = rebuild_store(&fixture, true);
    assert_eq!(results(&planned), [Stored; 3]);
    assert!(planned.guests.iter().all(|guest| guest.key_ref.is_none()));
    assert_eq!(fixture.rows(&guests[0]).len(), 0);

    let rebuilt = rebuild_store(&fixture, false);
    assert_eq!(results(&rebuilt), [Stored; 3]);
    assert!(rebuilt.is_complete());
    for guest in [&guests[0], &guests[2]] {
        fixture.assert_starts_with_one_key(guest);
    }
    assert!(fixture.rows(&guests[1])[0].key_ref.first_used_at.is_some());
    assert_eq!(results(&rebuild_store(&fixture, false)), [Known; 3]);
}

#[test]
fn what_cannot_be_rebuilt_is_told_for_each_guest() {
    let (fixture, guests) = host_that_lost_its_rows();
    fixture.encrypt_state(&guests[0], &Dek::generate().unwrap());
    fixture.define("vm4");
    let plain = DomainUuid::random();
    fixture.define_with("plain", plain, SecretUuid::random(), "");
    let rebuilt = rebuild_store(&fixture, false);
    let why = |name: &str| {
        let mut guests = rebuilt.guests.iter();
        let found = guests.find(|guest| guest.guest.name.as_deref() == Some(name));
        found.map(|guest| (guest.result, format!("{:?}", guest.why)))
    };
    let failed = |why: &str| Some((RebuildResult::Failed, format!("Some({why})")));
    assert_eq!(why("vm1"), failed("Refuted"));
    assert_eq!(
        why("vm4"),
        Some((RebuildResult::NoKey, "Some(NoKey)".to_owned()))
    );
    assert_eq!(why("plain"), None);
    assert!(!rebuilt.is_complete());

    fixture.sql("DELETE FROM key_provider; DELETE FROM key_ref");
    let rebuilt = rebuild_store(&fixture, false);
    let lost = &rebuilt.guests[1];
    assert_eq!(lost.result, RebuildResult::Failed);
    assert!(matches!(
        &lost.why,
        Some(NotRebuilt::OutOfReach(Refusal::ProviderMissing { .. }))
    ));
}

#[test]
fn whether_a_copied_xml_has_a_state_whose_key_is_missing_is_told() {
    let (fixture, guests) = host_that_lost_its_rows();
    let other = &guests[1];
    let keys = fixture.domain(other).travelling.unwrap();
    fixture.redefine_with_keys(&fixture.define("copy"), &keys);
    let has_state = || {
        let rebuilt = rebuild_store(&fixture, true).guests;
        let mut copies = rebuilt.into_iter().filter_map(|guest| guest.why);
        match copies.next() {
            Some(NotRebuilt::OfOther {
                original,
                has_state,
            }) if original == other.uuid => has_state,
            why => panic!("{why:?}"),
        }
    };
    assert!(!has_state());
    fixture.encrypt_state(&fixture.defined("copy"), &Dek::generate().unwrap());
    assert!(has_state());
}

#[test]
fn reset_finds_the_key_of_the_xml() {
    let (fixture, guests) = host_that_lost_its_rows();
    let guest = &guests[0];
    std::fs::remove_file(fixture.state_file(guest)).unwrap();
    assert!(!fixture.is_allowed(guest));
    let fleet = FleetStore::with(&[], &[]);
    fleet.configure(&fixture, "");
    let reset = reset(&fixture.host, &guest.name).unwrap();
    assert!(reset.changed && reset.was_used && reset.has_key);
    assert_eq!(fleet.times_asked(), 0);
    assert!(fixture.is_allowed(guest));
    assert_eq!(fixture.rows(guest)[0].key_ref.first_used_at, None);
}

/// A transient guest, after its refused start: libvirt does not have the XML with its key.
#[test]
fn a_reset_of_a_guest_that_libvirt_does_not_define_says_so() {
    let (fixture, guests) = host_that_lost_its_rows();
    let guest = &guests[0];
    std::fs::remove_file(fixture.state_file(guest)).unwrap();
    fixture.libvirt.guests.undefine(&guest.name);
    let reset = || reset(&fixture.host, &guest.uuid.to_string());
    assert!(matches!(reset(), Err(ResetError::NotDefined(_))));
    assert_eq!(fixture.rows(guest), []);
    // Nor where only libvirt's files say so.
    fixture.libvirt.go_down();
    assert!(matches!(reset(), Err(ResetError::NotDefined(_))));
}
