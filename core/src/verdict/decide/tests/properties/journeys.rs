//! Random histories of one guest on three hosts, among which its key travels in its XML.
//!
//! There is one TPM. Its state is on the disk of hosts, and a DEK opens it, which `renew` replaces.
//! Every start is decided by the table, and what it repairs changes the rows of its host.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::given::{key, nothing_elsewhere, uuid};
use super::model::{Host, NEW_DEK, NEW_GENERATION, Tpm, World, Xml, blank, unwrapped, wrap};
use crate::clock::Timestamp;
use crate::domain::TravellingKey;
use crate::ids::KeyRefId;
use crate::key::wrap::{Generation, WrappedDek};
use crate::verdict::facts::{
    KekState, KeyRef, KeySource, KmsSlots, Policy, Provider, References, kek_ref,
};
use crate::verdict::repair::Repair;
use crate::verdict::{Decision, Verdict};

const HOSTS: usize = 3;
const KEKS: [char; 3] = ['A', 'B', 'C'];

/// What happens. Hosts are numbers; what cannot happen then does not.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// The guest is defined here by the XML that it has there.
    DefineAs {
        here: usize,
        there: usize,
    },
    /// By an XML of some time ago, by one without keys, by a copy of another guest's.
    DefineByOld {
        here: usize,
        age: usize,
    },
    DefineWithoutKeys(usize),
    DefineAsCopy(usize),
    Undefine(usize),
    Start(usize),
    Stop,
    /// With `breaks` the migration fails after the destination has been judged.
    Migrate {
        to: usize,
        breaks: bool,
    },
    Save,
    Restore(usize),
    CopyState {
        from: usize,
        to: usize,
    },
    Renew(usize),
    /// `key use` of the key that is the oldest but so many; its TPM state is put back, or a saved guest
    /// waits for it.
    Use {
        here: usize,
        key: usize,
    },
    /// `key clone`: the TPM of another guest was copied over the one that this guest has.
    Clone(usize),
    Rotate(usize),
    Import {
        from: usize,
        to: usize,
    },
    Sync(usize),
    Prune(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    let host = 0..HOSTS;
    let two = (host.clone(), host.clone());
    prop_oneof![
        2 => two.clone().prop_map(|(here, there)| Happens::DefineAs { here, there }),
        1 => two.clone().prop_map(|(here, age)| Happens::DefineByOld { here, age }),
        1 => host.clone().prop_map(Happens::DefineWithoutKeys),
        1 => host.clone().prop_map(Happens::DefineAsCopy),
        1 => host.clone().prop_map(Happens::Undefine),
        4 => host.clone().prop_map(Happens::Start),
        3 => Just(Happens::Stop),
        4 => (host.clone(), any::<bool>()).prop_map(|(to, breaks)| Happens::Migrate { to, breaks }),
        1 => Just(Happens::Save),
        1 => host.clone().prop_map(Happens::Restore),
        2 => two.clone().prop_map(|(from, to)| Happens::CopyState { from, to }),
        2 => host.clone().prop_map(Happens::Renew),
        2 => (host.clone(), 0..3_usize).prop_map(|(here, key)| Happens::Use { here, key }),
        1 => host.clone().prop_map(Happens::Clone),
        1 => host.clone().prop_map(Happens::Rotate),
        2 => two.prop_map(|(from, to)| Happens::Import { from, to }),
        3 => host.clone().prop_map(Happens::Sync),
        1 => host.prop_map(Happens::Prune),
    ]
}

/// The keys in an XML; `None` if they are another guest's.
type Keys = Option<Vec<TravellingKey>>;

#[derive(Debug, Clone, Default)]
struct Machine {
    rows: Vec<KeyRef>,
    retired: Vec<KeyRef>,
    /// The KEKs that it has; the last is its provider's, the others are from before rotations.
    keks: Vec<char>,
    definition: Option<Keys>,
    /// The DEK of the TPM state on its disk.
    state: Option<u8>,
}

#[derive(Debug, Clone)]
struct Journey {
    hosts: Vec<Machine>,
    runs_on: Option<usize>,
    /// The XML that the running guest has.
    live: Keys,
    /// A saved guest: its XML, and its TPM.
    saved: Option<(Keys, u8)>,
    old: Vec<Keys>,
    /// The DEK of the TPM.
    dek: Option<u8>,
    /// The DEK that is made last.
    last_dek: u8,
    /// The generations that DEKs were given, by commands and by first starts.
    given: BTreeSet<(u8, Generation)>,
}

impl Journey {
    /// The guest is bound on the first host; all have its provider.
    fn new() -> Self {
        let host = Machine {
            keks: vec![KEKS[0]],
            ..Machine::default()
        };
        let mut hosts = vec![host; HOSTS];
        let placeholder = KeyRef {
            id: KeyRefId(1),
            provider_uuid: Some(uuid(1)),
            provider_name: "a".to_owned(),
            ..blank()
        };
        hosts[0].rows.push(placeholder);
        hosts[0].definition = Some(Some(Vec::new()));
        Self {
            hosts,
            runs_on: None,
            live: Some(Vec::new()),
            saved: None,
            old: Vec::new(),
            dek: None,
            last_dek: NEW_DEK,
            given: BTreeSet::from([(NEW_DEK, Generation(NEW_GENERATION))]),
        }
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::DefineAs { here, there } => {
                if let Some(keys) = self.hosts[there].definition.clone() {
                    self.define(here, keys);
                }
            }
            Happens::DefineByOld { here, age } => {
                let old = self.old.iter().rev().nth(age).cloned();
                self.define(here, old.unwrap_or(Some(Vec::new())));
            }
            Happens::DefineWithoutKeys(here) => self.define(here, Some(Vec::new())),
            Happens::DefineAsCopy(here) => self.define(here, None),
            Happens::Undefine(here) if self.runs_on != Some(here) => {
                self.hosts[here].definition = None;
            }
            Happens::Start(here) => self.start(here),
            Happens::Stop => self.runs_on = None,
            Happens::Migrate { to, breaks } => self.migrate(to, breaks),
            Happens::Save => {
                if let (Some(_), Some(dek)) = (self.runs_on.take(), self.dek) {
                    self.saved = Some((self.live.clone(), dek));
                }
            }
            Happens::Restore(here) => self.restore(here),
            Happens::CopyState { from, to } if self.runs_on.is_none() => {
                if self.hosts[from].state == self.dek {
                    self.hosts[to].state = self.dek;
                }
            }
            Happens::Renew(here) => self.renew(here),
            Happens::Use { here, key } => self.use_key(here, key),
            Happens::Clone(here) => self.clone_over(here),
            Happens::Rotate(here) => self.rotate(here),
            Happens::Import { from, to } => {
                let mut keks = self.hosts[from].keks.clone();
                let own = &mut self.hosts[to].keks;
                keks.retain(|kek| !own.contains(kek));
                own.splice(0..0, keks);
            }
            Happens::Sync(here) => self.sync(here),
            Happens::Prune(here) => self.prune(here),
            Happens::Undefine(_) | Happens::CopyState { .. } => {}
        }
    }

    fn define(&mut self, here: usize, keys: Keys) {
        let before = self.hosts[here].definition.replace(keys);
        self.old.extend(before);
    }

    /// The verdict on a start here, and the DEK that it provides. Its repairs are made.
    fn judge(&mut self, here: usize, keys: &Keys, arrives: bool) -> (Verdict, Option<u8>) {
        let host = &self.hosts[here];
        let world = World {
            xml: Xml::Encrypted,
            store: Ok(()),
            references: References {
                key_refs: host.rows.clone(),
                providers: providers(&host.keks),
                state_arrives: arrives,
                ..References::default()
            },
            retired: host.retired.clone(),
            travelling: keys.clone(),
            closed: BTreeSet::new(),
            closed_how: KekState::TimedOut,
            tpm: host.state.map_or(Tpm::Absent, Tpm::Encrypted),
            obstacle: None,
            copy: None,
            copy_is_outdated: false,
            ended_normally: false,
            host_secret: Some(Host::Absent),
            elsewhere: Some(nothing_elsewhere()),
            policy: Policy::default(),
        };
        let verdict = world.verdict();
        let facts = world.facts();
        let after = world.after(&verdict.repairs);
        let dek = verdict.secret.and_then(|secret| match secret.key {
            KeySource::Created => Some(NEW_DEK),
            KeySource::Row(id) => {
                let rows = world.references.key_refs.iter();
                let mut all = rows.chain(&facts.travelling.keys);
                let row = all.find(|row| row.id == id)?;
                Some(unwrapped(row.wrapped_dek.as_ref()?)?.1)
            }
        });
        let host = &mut self.hosts[here];
        host.rows = after.references.key_refs;
        host.retired = after.retired;
        self.number_rows(here);
        (verdict, dek)
    }

    fn number_rows(&mut self, here: usize) {
        let host = &mut self.hosts[here];
        let rows = host.rows.iter_mut().chain(&mut host.retired);
        for (row, id) in rows.zip(1..) {
            row.id = KeyRefId(id);
            row.created_at = Timestamp(id);
        }
    }

    fn start(&mut self, here: usize) {
        let Some(keys) = self.hosts[here].definition.clone() else {
            return;
        };
        // Nobody starts a TPM that the guest has left behind.
        let state = self.hosts[here].state;
        if self.runs_on.is_some() || (state.is_some() && state != self.dek) {
            return;
        }
        let (verdict, provided) = self.judge(here, &keys, false);
        if !verdict.is_allowed() {
            return;
        }
        let made = verdict
            .repairs
            .iter()
            .any(|repair| matches!(repair, Repair::CreateKey { .. }));
        if let Some(dek) = self.hosts[here].state {
            assert_eq!(provided, Some(dek), "a wrong key for a state that is here");
        } else {
            assert_eq!(self.dek, None, "a new TPM in the place of another");
            assert!(made);
            self.dek = provided;
            self.hosts[here].state = provided;
        }
        self.runs_with(here, keys, provided);
    }

    fn runs_with(&mut self, here: usize, keys: Keys, dek: Option<u8>) {
        // A state that was left behind somewhere, and is started again, is the TPM from now on.
        self.dek = dek;
        self.runs_on = Some(here);
        self.live = keys;
        self.saved = None;
        for row in &mut self.hosts[here].rows {
            row.first_used_at = Some(Timestamp(7));
        }
    }

    fn migrate(&mut self, to: usize, breaks: bool) {
        let (Some(from), keys) = (self.runs_on, self.live.clone()) else {
            return;
        };
        if from == to {
            return;
        }
        let has_all = self.has_what_it_needs(to, &keys);
        let (verdict, provided) = self.judge(to, &keys, true);
        let takes_it = verdict.is_allowed() && provided == self.dek;
        assert!(
            takes_it || !has_all,
            "a migration with its key is refused: {verdict:?}"
        );
        // With another key swtpm rejects the state: the guest runs on where it was.
        if verdict.is_allowed() && provided == self.dek && !breaks {
            self.hosts[to].state = self.dek;
            self.hosts[to].definition = Some(keys.clone());
            self.hosts[from].definition = None;
            self.runs_with(to, keys, provided);
        }
    }

    /// The XML has the guest's key as the newest one, the host can open it, has not retired it, and
    /// has no other that is as new.
    fn has_what_it_needs(&self, to: usize, keys: &Keys) -> bool {
        let host = &self.hosts[to];
        let mut keys = keys.iter().flatten().map(|key| &key.wrapped_dek);
        let all = keys.clone().map(|key| key.generation().unwrap()).max();
        let is_it = |wrapped: &WrappedDek| {
            let (kek, dek, _) = unwrapped(wrapped).unwrap();
            let opens = host.keks.iter().any(|known| key(*known) == kek);
            opens && Some(dek) == self.dek && wrapped.generation().ok() == all
        };
        let is_retired = host.retired.iter().any(|row| {
            let found = row.wrapped_dek.as_ref().and_then(unwrapped);
            found.map(|(_, dek, _)| dek) == self.dek && Some(row.generation()) >= all
        });
        // Hosts that have not heard of each other's keys may have given one generation twice.
        let is_older = |row: &KeyRef| {
            let found = row.wrapped_dek.as_ref().and_then(unwrapped);
            let is_it = found.is_some_and(|(_, dek, _)| Some(dek) == self.dek);
            Some(row.generation()) < all || (is_it && Some(row.generation()) == all)
        };
        keys.any(is_it) && !is_retired && host.rows.iter().all(is_older)
    }

    fn restore(&mut self, here: usize) {
        let Some((keys, dek)) = self.saved.clone().filter(|_| self.runs_on.is_none()) else {
            return;
        };
        let (verdict, provided) = self.judge(here, &keys, true);
        if verdict.is_allowed() && provided == Some(dek) {
            self.hosts[here].state = Some(dek);
            self.hosts[here].definition = Some(keys.clone());
            self.runs_with(here, keys, provided);
        }
    }

    /// `key renew`: the state proves the old key.
    fn renew(&mut self, here: usize) {
        let host = &self.hosts[here];
        let (None, None, Some(state)) = (self.runs_on, &self.saved, host.state) else {
            return;
        };
        let opens = |row: &KeyRef| host.opens(row) == Some(state);
        if self.dek != Some(state) || !host.rows.iter().any(opens) || self.last_dek == u8::MAX {
            return;
        }
        self.last_dek += 1;
        let (dek, generation) = (self.last_dek, self.newest(here).next());
        let host = &mut self.hosts[here];
        host.retired.append(&mut host.rows);
        self.give(here, dek, generation);
        self.hosts[here].state = Some(dek);
        self.dek = Some(dek);
    }

    /// The highest generation that this host knows of, in its rows and in the XML that it has.
    fn newest(&self, here: usize) -> Generation {
        let host = &self.hosts[here];
        let rows = host.rows.iter().chain(&host.retired);
        let rows = rows.map(KeyRef::generation);
        let in_xml = host.keys_that_open().map(|(_, generation)| generation);
        rows.chain(in_xml).max().unwrap_or_default()
    }

    /// The host gets a row with this DEK.
    fn give(&mut self, here: usize, dek: u8, generation: Generation) {
        let host = &mut self.hosts[here];
        let kek = *host.keks.last().unwrap();
        host.rows.push(KeyRef {
            provider_uuid: Some(uuid(1)),
            provider_name: "a".to_owned(),
            key_version: Some(1),
            kek_ref: Some(kek_ref(key(kek))),
            wrapped_dek: Some(wrap(key(kek), dek, generation.0, true)),
            first_used_at: Some(Timestamp(7)),
            ..blank()
        });
        self.given.insert((dek, generation));
        self.number_rows(here);
    }

    /// `key use`, as `manage::choose_key` does it.
    fn use_key(&mut self, here: usize, number: usize) {
        let host = &self.hosts[here];
        let rows = host.retired.iter().chain(&host.rows);
        let chosen = rows.filter_map(|row| host.opens(row)).nth(number);
        let (None, Some(dek)) = (self.runs_on, chosen) else {
            return;
        };
        let rows = || host.rows.iter().chain(&host.retired);
        let holds = |row: &&KeyRef| host.opens(row) == Some(dek);
        let held = rows().filter(holds).map(KeyRef::generation).max();
        let others = rows().filter(|row| !holds(row) && row.wrapped_dek.is_some());
        let is_newest = others.map(KeyRef::generation).all(|of| Some(of) < held)
            && host
                .keys_that_open()
                .all(|(other, of)| Some(of) < held || (other == dek && Some(of) == held));
        let newest = self.newest(here);
        let host = &mut self.hosts[here];
        host.retired.append(&mut host.rows);
        if is_newest {
            let is_it =
                |row: &KeyRef| host.opens(row) == Some(dek) && Some(row.generation()) == held;
            let at = host.retired.iter().position(is_it).unwrap();
            let row = host.retired.remove(at);
            host.rows.push(row);
            self.number_rows(here);
        } else {
            self.give(here, dek, newest.next());
        }
        let waits = self.saved.as_ref().is_some_and(|(_, saved)| *saved == dek);
        if waits {
            self.restore(here);
            assert_eq!(
                self.runs_on,
                Some(here),
                "its chosen key restores a saved guest"
            );
        } else if self.dek.is_some() {
            self.hosts[here].state = Some(dek);
            self.dek = Some(dek);
        }
    }

    /// The state of another guest takes the place of the one that is here, and its key is wrapped for
    /// this guest, beside those that it has.
    fn clone_over(&mut self, here: usize) {
        let has_its_own = self.hosts[here].state.is_some() && self.dek.is_some();
        if self.runs_on.is_some() || !has_its_own || self.last_dek == u8::MAX {
            return;
        }
        self.last_dek += 1;
        // The original's key is of an early generation; it must go before the clone's own.
        let generation = Generation(1).max(self.newest(here).next());
        self.give(here, self.last_dek, generation);
        self.hosts[here].state = Some(self.last_dek);
        self.dek = Some(self.last_dek);
    }

    /// `provider rotate`: what opens is wrapped by the new KEK.
    fn rotate(&mut self, here: usize) {
        let host = &mut self.hosts[here];
        let Some(new) = KEKS.iter().find(|kek| !host.keks.contains(kek)) else {
            return;
        };
        for row in host.rows.iter_mut().chain(&mut host.retired) {
            let Some((kek, dek, _)) = row.wrapped_dek.as_ref().and_then(unwrapped) else {
                continue;
            };
            if host.keks.iter().any(|known| key(*known) == kek) {
                let generation = row.generation();
                row.wrapped_dek = Some(wrap(key(*new), dek, generation.0, true));
                row.kek_ref = Some(kek_ref(key(*new)));
            }
        }
        host.keks.push(*new);
    }

    /// `sync`: the XML gets the keys in use, unless it has a newer one.
    fn sync(&mut self, here: usize) {
        let host = &self.hosts[here];
        let keyed = host.rows.iter().filter_map(|row| {
            Some(TravellingKey {
                wrapped_dek: row.wrapped_dek.clone()?,
                provider: row.provider_name.clone(),
            })
        });
        let keys: Vec<_> = keyed.collect();
        let newest = |keys: &Keys| {
            let keys = keys.iter().flatten();
            keys.filter_map(|key| key.wrapped_dek.generation().ok())
                .max()
        };
        let written = Some(keys);
        let Some(definition) = &host.definition else {
            return;
        };
        if newest(definition) > newest(&written) {
            return;
        }
        if self.runs_on == Some(here) && newest(&self.live) <= newest(&written) {
            self.live = written.clone();
        }
        self.define(here, written);
    }

    /// `key prune` on a host that the guest has left for one that has its key.
    fn prune(&mut self, here: usize) {
        let is_elsewhere = |journey: &Self| {
            let others = journey
                .hosts
                .iter()
                .enumerate()
                .filter(|(number, _)| *number != here);
            let rows = others.flat_map(|(_, host)| &host.rows);
            rows.filter_map(|row| unwrapped(row.wrapped_dek.as_ref()?))
                .any(|(_, dek, _)| Some(dek) == journey.dek)
        };
        let host = &self.hosts[here];
        if host.definition.is_none() && host.state.is_none() && is_elsewhere(self) {
            self.hosts[here].rows.clear();
            self.hosts[here].retired.clear();
        }
    }

    /// What holds at every moment.
    fn check(&self) {
        let rows = self
            .hosts
            .iter()
            .flat_map(|host| host.rows.iter().chain(&host.retired));
        let wrapped = rows.filter_map(|row| row.wrapped_dek.as_ref());
        let mut known = BTreeSet::new();
        for wrapped in wrapped {
            let (_, dek, _) = unwrapped(wrapped).unwrap();
            known.insert(dek);
            // A DEK keeps its generation, wherever it goes and however often it is wrapped, until
            // somebody chooses it again.
            let generation = wrapped.generation().unwrap();
            assert!(self.given.contains(&(dek, generation)));
        }
        if let Some(dek) = self.dek {
            assert!(known.contains(&dek), "the TPM's key is lost");
        }
    }

    /// On no host does the generation of a DEK go back.
    fn check_generations(&self, before: &Self, what: Happens) {
        if matches!(what, Happens::Prune(_)) {
            return;
        }
        let of_deks = |host: &Machine| {
            let mut newest = BTreeMap::new();
            for row in host.rows.iter().chain(&host.retired) {
                if let Some((_, dek, _)) = row.wrapped_dek.as_ref().and_then(unwrapped) {
                    let of = newest.entry(dek).or_insert(Generation(0));
                    *of = row.generation().max(*of);
                }
            }
            newest
        };
        for (now, before) in self.hosts.iter().zip(&before.hosts) {
            let now = of_deks(now);
            for (dek, of) in of_deks(before) {
                assert!(now[&dek] >= of, "a generation went back: {what:?}");
            }
        }
    }
}

impl Machine {
    /// The DEK that this row gives here.
    fn opens(&self, row: &KeyRef) -> Option<u8> {
        self.unwrap(row.wrapped_dek.as_ref()?)
    }

    fn unwrap(&self, wrapped: &WrappedDek) -> Option<u8> {
        let (kek, dek, _) = unwrapped(wrapped)?;
        let is_here = self.keks.iter().any(|known| key(*known) == kek);
        is_here.then_some(dek)
    }

    /// The DEKs that the XML gives here, and their generations.
    fn keys_that_open(&self) -> impl Iterator<Item = (u8, Generation)> {
        let in_xml = self.definition.iter().flatten().flatten();
        in_xml.filter_map(|key| {
            let wrapped = &key.wrapped_dek;
            Some((self.unwrap(wrapped)?, wrapped.generation().ok()?))
        })
    }
}

fn providers(keks: &[char]) -> Vec<Provider> {
    let last = keks.len() - 1;
    let numbered = keks.iter().zip(1..).enumerate();
    numbered
        .map(|(index, (kek, number))| {
            let is_current = index == last;
            Provider {
                uuid: uuid(if is_current { 1 } else { number + 1 }),
                name: if is_current {
                    "a".to_owned()
                } else {
                    format!("before {kek}")
                },
                key_id: key(*kek),
                key_version: 1,
                is_default: false,
                exported_at: None,
                created_at: Timestamp(1),
                kms: KmsSlots::default(),
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..super::many() })]

    #[test]
    fn on_three_hosts_no_key_is_lost_and_no_wrong_one_used(history in vec(happens(), 1..60)) {
        let mut journey = Journey::new();
        journey.happen(Happens::Start(0));
        for what in history {
            let before = journey.clone();
            journey.happen(what);
            journey.check();
            journey.check_generations(&before, what);
        }
    }
}

/// The histories get somewhere: the guest moves, with keys of several generations.
#[test]
fn a_guest_can_go_round_all_hosts_and_back() {
    let mut journey = Journey::new();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        for what in [
            Happens::Start(from),
            Happens::Sync(from),
            Happens::Migrate { to, breaks: true },
            Happens::Migrate { to, breaks: false },
            Happens::Prune(from),
            Happens::Stop,
            Happens::Renew(to),
        ] {
            journey.happen(what);
            journey.check();
        }
        assert_eq!(journey.hosts[to].state, journey.dek);
    }
    assert_eq!(journey.dek, Some(NEW_DEK + 3));
    journey.happen(Happens::Start(0));
    assert_eq!(journey.runs_on, Some(0));
    // Another guest's TPM takes its place; then an older key of the guest is chosen again. Both go to
    // the next host, which knows the keys of before.
    for (what, dek) in [
        (Happens::Clone(0), NEW_DEK + 4),
        (Happens::Use { here: 2, key: 0 }, NEW_DEK + 1),
    ] {
        let (from, to) = match what {
            Happens::Clone(_) => (0, 2),
            _ => (2, 0),
        };
        let next = [
            Happens::Stop,
            what,
            Happens::Sync(from),
            Happens::Start(from),
            Happens::Sync(from),
            Happens::Migrate { to, breaks: false },
        ];
        for what in next {
            journey.happen(what);
            journey.check();
        }
        assert_eq!((journey.runs_on, journey.dek), (Some(to), Some(dek)));
    }
    // A host that has the provider alone gets nothing from another guest's XML.
    journey.hosts[1] = Machine {
        keks: vec![KEKS[0]],
        ..Machine::default()
    };
    let (verdict, _) = journey.judge(1, &None, true);
    assert!(matches!(verdict.decision, Decision::Deny(_)));
}
