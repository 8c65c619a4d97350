//! The database is hostile: its superuser forges whatever hosts would believe. No start of a known guest notices, and
//! nothing is granted.

use std::fmt::Write;

use serde_json::json;
use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::fleet::claim::{
    Claim, HostClaim, KeyClaim, PlacementClaim, ProviderClaim, Signed, SlotClaim, StatusClaim,
    SuccessorClaim,
};
use vtpm_guard::internals::fleet::status::KeyStatus;
use vtpm_guard::internals::fleet::{Fact, FactId};
use vtpm_guard::internals::ids::{DomainUuid, HostUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::id::KeyId;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::key::wrap::{Generation, WrappedDek};

use super::{Fleet, configuration};
use crate::guest::{Guest, Tpm};
use crate::host::Host;

/// Far later than all that hosts say.
const LATER: i64 = 9_000_000_000_000;

/// What the superuser has: a key of his own, and all that is stored.
struct Forger {
    kek: Kek,
    /// The key that he claims to have signed with.
    claimed: KeyId,
    host: HostUuid,
}

impl Forger {
    fn new(claimed: KeyId) -> Self {
        let host = HostUuid::parse(&DomainUuid::random().to_string()).unwrap();
        Self {
            kek: Kek::generate().unwrap(),
            claimed,
            host,
        }
    }

    fn signed<T: vtpm_guard::internals::fleet::claim::Statement>(&self, says: T) -> Signed<T> {
        let mut signed = Signed::new(says, &self.kek);
        signed.key_id = self.claimed;
        signed
    }

    /// A key that nobody has made: right in form, and with the id of the true provider key in its header.
    fn key(&self, domain: DomainUuid, generation: u32) -> KeyClaim {
        let dek = Dek::generate().unwrap();
        let wrapped = WrappedDek::wrap(&self.kek, &dek, domain, Generation(generation)).unwrap();
        let mut bytes = wrapped.as_bytes().to_vec();
        let own = *self.kek.key_id().as_bytes();
        let at = bytes.windows(own.len()).position(|part| part == own);
        let at = at.unwrap();
        bytes[at..at + own.len()].copy_from_slice(self.claimed.as_bytes());
        let wrapped = WrappedDek::from_stored(bytes);
        KeyClaim::new(domain, wrapped, "nkp-a", Some(1)).unwrap()
    }

    /// All that might refuse or delay a start of the guest, or make it trust a key of his.
    fn claims(&self, guest: &Guest, live: &WrappedDek, victim: HostUuid) -> Vec<Claim> {
        let domain = guest.uuid;
        let own = self.kek.key_id();
        let mut claims: Vec<_> = (0..100)
            .map(|generation| Claim::Key(self.key(domain, generation)))
            .collect();
        for status in [KeyStatus::Retired, KeyStatus::Pruned] {
            claims.push(Claim::Status(self.signed(StatusClaim {
                key: FactId::of_key(domain, live),
                domain,
                revision: u32::MAX,
                status,
                host: victim,
            })));
        }
        for host in [self.host, victim] {
            claims.push(Claim::Placement(self.signed(PlacementClaim {
                domain,
                name: guest.name.clone(),
                host,
                host_name: "elsewhere".to_owned(),
                at: LATER,
                running: true,
            })));
        }
        claims.push(Claim::Successor(self.signed(SuccessorClaim {
            name: "nkp-a".to_owned(),
            old: self.claimed,
            new: own,
            key_version: 1000,
            finished: true,
        })));
        for key_id in [own, self.claimed] {
            claims.push(Claim::Provider(self.signed(ProviderClaim {
                name: "nkp-a".to_owned(),
                key_id,
                key_version: 1000,
            })));
            // What the key manager of the hosts opens: it is a key, and not the one that it is said to be.
            for blob in [vec![0; 32], self.kek_in_the_box()] {
                claims.push(Claim::Slot(SlotClaim {
                    key_id,
                    kind: "exec".to_owned(),
                    label: None,
                    kms: "box".to_owned(),
                    remote_key: "one".to_owned(),
                    remote_version: None,
                    blob,
                }));
            }
        }
        claims.push(Claim::Host(HostClaim {
            host: victim,
            name: "alpha".to_owned(),
            at: LATER,
            left: true,
        }));
        claims
    }

    /// His key, as the key manager would open it.
    fn kek_in_the_box(&self) -> Vec<u8> {
        self.kek.expose().iter().map(|byte| byte ^ 0x80).collect()
    }

    fn facts(&self, claims: &[Claim]) -> Vec<Fact> {
        let write = |claim: &Claim| claim.write(self.host, Timestamp(LATER));
        claims.iter().map(write).collect()
    }
}

/// The statements that store facts, in whatever form they are.
fn statements(facts: &[Fact]) -> String {
    let mut sql = String::new();
    for fact in facts {
        let text = |value: Option<String>| value.map_or("NULL".to_owned(), |it| format!("'{it}'"));
        writeln!(
            sql,
            "INSERT INTO vtpm_guard.fact (id, kind, domain, key_id, host, at, body) VALUES \
             ('\\x{}', '{}', {}, {}, '{}', {}, $body${}$body$) ON CONFLICT DO NOTHING;",
            fact.id,
            fact.kind.as_str(),
            text(fact.domain.map(|it| it.to_string())),
            text(fact.key_id.map(|it| it.to_string())),
            fact.host,
            fact.at.0,
            fact.body,
        )
        .unwrap();
    }
    sql
}

/// Facts that are what no host writes, and states that are none, under the guard of no rule.
fn rubbish(guest: &Guest, key_id: KeyId) -> String {
    let domain = guest.uuid;
    let body = json!({"key": "AAAA", "domain": "nobody", "statement": "{}", "mac": ""});
    format!(
        "ALTER TABLE vtpm_guard.fact DROP CONSTRAINT fact_is_what_its_id_says;
         ALTER TABLE vtpm_guard.tpm_state DROP CONSTRAINT state_is_what_its_id_says;
         INSERT INTO vtpm_guard.fact (id, kind, domain, key_id, host, at, body)
         SELECT sha256(convert_to(kind || number, 'UTF8')), kind, '{domain}', '{key_id}',
                gen_random_uuid(), {LATER}, body
         FROM unnest(ARRAY['key', 'status', 'provider', 'slot', 'successor', 'placement', 'host',
                           'report', 'event', 'other']) AS kind,
              unnest(ARRAY['', 'null', '[]', '{{', '{body}']) AS body,
              generate_series(1, 20) AS number
         ON CONFLICT DO NOTHING;
         INSERT INTO vtpm_guard.tpm_state (id, domain, host, at, body, data)
         SELECT sha256(convert_to('state' || number, 'UTF8')), '{domain}', gen_random_uuid(),
                {LATER} + number, '{body}', convert_to(repeat('x', 100000), 'UTF8')
         FROM generate_series(1, 3) AS number;"
    )
}

fn host_of(host: &Host) -> HostUuid {
    let query = "SELECT host_uuid FROM fleet";
    let uuid: String = host.store().query_row(query, [], |row| row.get(0)).unwrap();
    HostUuid::parse(&uuid).unwrap()
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_superuser_of_the_database_refuses_delays_and_grants_nothing() {
    let (fleet, [alpha, beta]) = Fleet::with_hosts();
    let guest = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&guest);
    alpha.exchange();
    let tpm = alpha.tpm(&guest);
    let row = alpha.only_key_ref(&guest);
    let live = WrappedDek::from_stored(row.wrapped_dek.clone().unwrap());
    let claimed = live.key_id().unwrap();
    let providers = alpha.guard(&["provider", "list", "--json"]).ok().stdout;

    let forger = Forger::new(claimed);
    let facts = forger.facts(&forger.claims(&guest, &live, host_of(&alpha)));
    fleet.database.sql(&statements(&facts));
    fleet.database.sql(&rubbish(&guest, claimed));
    // A guest of which there is nothing but what he made up.
    let invented = alpha.define_guest("vm2", Tpm::Encrypted(guest.secret));
    let facts = forger.facts(&[Claim::Key(forger.key(invented.uuid, 1))]);
    fleet.database.sql(&statements(&facts));

    for (host, role) in [(&alpha, "host"), (&beta, "host2")] {
        host.configure(&configuration(role, "elsewhere = \"deny\""));
        host.exchange();
        host.guard(&["sync", "--compare"]).ok();
    }
    // The guest is known here.
    alpha.starts_with(&guest, &tpm);
    assert_eq!(alpha.only_key_ref(&guest), row);
    alpha.stop(&guest);
    let after = alpha.guard(&["provider", "list", "--json"]).ok().stdout;
    assert_eq!(named(&after), named(&providers));
    alpha.start(&invented).refused_with("VG201");
    assert_eq!(alpha.key_refs(&invented), []);
    alpha.exchange();

    // It is not known there: the true key and the true state are found beside all others.
    beta.define_too(&guest);
    beta.starts_with(&guest, &tpm);
    assert_eq!(beta.tpms_made(&guest), 0);
}

/// Names and keys of providers, but for announced keys, which wrap nothing.
fn named(list: &str) -> Vec<(String, String)> {
    let list: serde_json::Value = serde_json::from_str(list).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let all = list.as_array().unwrap().iter();
    let named = all.map(|it| (text(&it["name"]), text(&it["key_id"])));
    named.filter(|(name, _)| !name.contains('/')).collect()
}
