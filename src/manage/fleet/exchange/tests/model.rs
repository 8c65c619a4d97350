//! Random operations on many hosts, whatever happens to the shared store. At any moment: where a guest's TPM is,
//! its key is a candidate, and no other key is taken for it. In the end, when all hosts have exchanged facts: all know
//! the same, and no key that a state needs is lost.
//!
//! 10,000 operations on 20 hosts by default; `VTPM_GUARD_FLEET_OPERATIONS` says otherwise, and
//! `VTPM_GUARD_FLEET_HISTORY` plays one history again, by the number that it failed with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::host::{Host, dek, guest, kek};
use super::shared::Memory;
use crate::clock::{Deadline, Timestamp};
use crate::fleet::claim::{Claim, Signed, StatusClaim};
use crate::fleet::status::KeyStatus;
use crate::fleet::{Fact, FactId, Kind};
use crate::ids::HostUuid;
use crate::key::kek::Kek;
use crate::store::{Event, KeyRefRecord, Origin, Prune};

const HOSTS: usize = 20;
const GUESTS: u8 = 12;
const HISTORY: usize = 500;
const PROVIDERS: [&str; 2] = ["nkp-a", "nkp-b"];

/// `SplitMix64`: enough for histories that can be repeated by their number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    /// Whether something happens that happens so often in a hundred.
    fn percent(&mut self, often: usize) -> bool {
        self.below(100) < often
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }
}

struct Model {
    number: u64,
    rng: Random,
    hosts: Vec<Host>,
    shared: Memory,
    yesterday: Memory,
    /// Where each guest's TPM is, and the key of its state.
    tpms: BTreeMap<u8, (usize, Vec<u8>)>,
    /// The provider keys, the newest of each provider last.
    keks: [Vec<[u8; Kek::LEN]>; 2],
    /// Every key that was ever made: which guest's, and its bytes.
    keys: Vec<(u8, Vec<u8>)>,
    now: i64,
    log: Vec<String>,
}

impl Model {
    fn new(number: u64) -> Self {
        let mut rng = Random(number);
        let keks = [vec![rng.bytes()], vec![rng.bytes()]];
        let hosts = (0..HOSTS)
            .map(|number| {
                // Some hosts hold one of the provider keys alone.
                let all = [(PROVIDERS[0], keks[0][0]), (PROVIDERS[1], keks[1][0])];
                let held = match number % 5 {
                    3 => &all[..1],
                    4 => &all[1..],
                    _ => &all[..],
                };
                Host::new(&format!("host{number}"), held)
            })
            .collect();
        Self {
            number,
            rng,
            hosts,
            shared: Memory::default(),
            yesterday: Memory::default(),
            tpms: BTreeMap::new(),
            keks,
            keys: Vec::new(),
            now: 1_800_000_000_000,
            log: Vec::new(),
        }
    }

    fn at(&mut self) -> Timestamp {
        // The clocks of hosts differ, and jump.
        self.now += 1 + i64::try_from(self.rng.below(2000)).unwrap();
        let off = i64::try_from(self.rng.below(10_000)).unwrap() - 5000;
        Timestamp(self.now + off)
    }

    fn any_host(&mut self) -> usize {
        self.rng.below(HOSTS)
    }

    fn any_guest(&mut self) -> u8 {
        u8::try_from(self.rng.below(usize::from(GUESTS))).unwrap()
    }

    fn step(&mut self) {
        let name = match self.rng.below(100) {
            0..42 => self.sync(),
            42..52 => self.start(),
            52..64 => self.migrate(),
            64..72 => self.renew(),
            72..75 => self.rotate(),
            75..80 => self.take_over_a_key(),
            80..84 => self.prune(),
            84..87 => self.retire_another(),
            87 => self.back_to_yesterday(),
            88..91 => self.by_another_tool(),
            91..95 => self.lie(),
            95..98 => self.define_a_copy(),
            _ => self.leave_a_state_behind(),
        };
        self.log.push(name);
        // What is lost stays lost: it is noticed soon enough.
        if self.log.len().is_multiple_of(10) {
            self.check();
        }
    }

    /// Of any host, perhaps cut off in the middle.
    fn sync(&mut self) -> String {
        let host = self.any_host();
        let fails_after = u32::try_from(self.rng.below(10)).unwrap();
        self.shared.fails_after = self.rng.percent(30).then_some(fails_after);
        self.shared.fails_late = self.rng.percent(50);
        let compare = self.rng.percent(10);
        let now = self.at();
        let done = self.hosts[host].sync(&mut self.shared, compare, now);
        let result = done.map_or_else(|error| error.to_string(), |done| format!("{done:?}"));
        self.shared.fails_after = None;
        if self.rng.percent(5) {
            self.yesterday = self.shared.clone();
        }
        format!("sync {host}, compare {compare}: {result}")
    }

    /// A first start makes a key, where no key and no TPM is known.
    fn start(&mut self) -> String {
        let (guest_no, host) = (self.any_guest(), self.any_host());
        let now = self.at();
        let provider = PROVIDERS[usize::from(guest_no % 2)];
        let here = &mut self.hosts[host];
        if self.tpms.contains_key(&guest_no)
            || !here.rows(guest(guest_no)).is_empty()
            || here.store.provider(provider).is_err()
        {
            return "no start".to_owned();
        }
        let bytes: [u8; 16] = self.rng.bytes();
        here.make_key(guest(guest_no), provider, &bytes, now);
        self.arrives(guest_no, host, &bytes, now);
        format!("guest {guest_no} starts on {host}")
    }

    fn arrives(&mut self, guest_no: u8, host: usize, bytes: &[u8], now: Timestamp) {
        let here = &mut self.hosts[host];
        here.tpms.defined.insert(guest(guest_no));
        here.tpms.states.insert(guest(guest_no), bytes.to_vec());
        let noted = here.store.note_placement(guest(guest_no), "vm", true, now);
        noted.unwrap();
        self.tpms.insert(guest_no, (host, bytes.to_vec()));
        if !self.keys.contains(&(guest_no, bytes.to_vec())) {
            self.keys.push((guest_no, bytes.to_vec()));
        }
    }

    /// Only where the key is known: else libvirt refuses, and the source runs on.
    fn migrate(&mut self) -> String {
        let (guest_no, to) = (self.any_guest(), self.any_host());
        let now = self.at();
        let Some((from, bytes)) = self.tpms.get(&guest_no).cloned() else {
            return "no migration".to_owned();
        };
        if from == to
            || self.hosts[to]
                .candidates(guest(guest_no), &bytes)
                .is_empty()
        {
            return "no migration".to_owned();
        }
        let source = &mut self.hosts[from];
        source.tpms.states.remove(&guest(guest_no));
        source.tpms.defined.remove(&guest(guest_no));
        let noted = source
            .store
            .note_placement(guest(guest_no), "vm", false, now);
        noted.unwrap();
        self.arrives(guest_no, to, &bytes, Timestamp(now.0 + 1));
        format!("guest {guest_no} migrates from {from} to {to}")
    }

    fn renew(&mut self) -> String {
        let guest_no = self.any_guest();
        let now = self.at();
        let Some((host, _)) = self.tpms.get(&guest_no).cloned() else {
            return "no renewal".to_owned();
        };
        let bytes: [u8; 16] = self.rng.bytes();
        let provider = PROVIDERS[usize::from(guest_no % 2)];
        self.hosts[host].make_key(guest(guest_no), provider, &bytes, now);
        self.arrives(guest_no, host, &bytes, now);
        format!("guest {guest_no} gets another key on {host}")
    }

    /// A provider gets another key on one host, which the others take over later.
    fn rotate(&mut self) -> String {
        let (which, host) = (self.rng.below(2), self.any_host());
        let now = self.at();
        let newest = *self.keks[which].last().unwrap();
        let has_newest = self.hosts[host].keks.contains(&newest);
        if !has_newest || self.keks[which].len() > 5 {
            return "no rotation".to_owned();
        }
        let bytes = self.rng.bytes();
        self.keks[which].push(bytes);
        self.hosts[host].rotate(PROVIDERS[which], bytes, now);
        format!("{} is rotated on {host}", PROVIDERS[which])
    }

    fn take_over_a_key(&mut self) -> String {
        let (which, host) = (self.rng.below(2), self.any_host());
        let now = self.at();
        self.follow(which, host, now);
        format!("{} is followed on {host}", PROVIDERS[which])
    }

    fn follow(&mut self, which: usize, host: usize, now: Timestamp) {
        let here = &mut self.hosts[host];
        let own = here.keks.clone();
        let last = self.keks[which].iter().rposition(|it| own.contains(it));
        for next in last.map_or(&[][..], |last| &self.keks[which][last + 1..]) {
            here.rotate(PROVIDERS[which], *next, now);
        }
    }

    /// On a host that does not define the guest, as far as it knows.
    fn prune(&mut self) -> String {
        let (guest_no, host) = (self.any_guest(), self.any_host());
        let now = self.at();
        let is_here = self.tpms.get(&guest_no).is_some_and(|(at, _)| *at == host);
        let here = &mut self.hosts[host];
        let seen = here.rows(guest(guest_no));
        if is_here || seen.is_empty() || here.tpms.defined.contains(&guest(guest_no)) {
            return "nothing is pruned".to_owned();
        }
        let event = Event::new(now, Origin::Prune, guest(guest_no), "vm", "pruned");
        let prune = Prune {
            domain: guest(guest_no),
            seen: &seen,
            event: &event,
        };
        here.store.prune(&[prune], i64::MAX).unwrap();
        format!("guest {guest_no} is pruned on {host}")
    }

    /// An administrator retires a key on a host where the guest's TPM is not.
    fn retire_another(&mut self) -> String {
        let (guest_no, host) = (self.any_guest(), self.any_host());
        let now = self.at();
        if self.tpms.get(&guest_no).is_some_and(|(at, _)| *at == host) {
            return "nothing is retired".to_owned();
        }
        let rows = self.hosts[host].rows(guest(guest_no));
        // A placeholder is not retired.
        let keyed = rows.iter().filter(|row| row.key_ref.wrapped_dek.is_some());
        for row in keyed {
            self.hosts[host].store.retire(row.key_ref.id, now).unwrap();
        }
        format!("the keys of guest {guest_no} are retired on {host}")
    }

    /// The shared store is restored from a backup, or made anew.
    fn back_to_yesterday(&mut self) -> String {
        let backup = if self.rng.percent(30) {
            Memory::default()
        } else {
            self.yesterday.clone()
        };
        let is_told = self.rng.percent(70);
        if is_told {
            self.shared.replace_by(backup);
        } else {
            self.shared.go_back_to(backup);
        }
        format!("the shared store is restored, with another identity: {is_told}")
    }

    /// Another tool writes a placeholder, and a row that nobody can open.
    fn by_another_tool(&mut self) -> String {
        let (guest_no, host) = (self.any_guest(), self.any_host());
        let other = rusqlite::Connection::open(self.hosts[host].dir.path().join("store.db"));
        let other = other.unwrap();
        let guest = guest(guest_no).to_string().to_uppercase();
        let sql =
            "INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek) VALUES (?1, 'x', ?2)";
        other.execute(sql, (&guest, None::<Vec<u8>>)).unwrap();
        other.execute(sql, (&guest, b"no key".to_vec())).unwrap();
        format!("another tool writes rows of guest {guest_no} on {host}")
    }

    /// The database's administrator says that keys are retired, in the name of any host.
    fn lie(&mut self) -> String {
        let guest_no = self.any_guest();
        let key = self
            .shared
            .facts
            .values()
            .map(|(_, fact)| fact)
            .find(|fact| fact.kind == Kind::Key && fact.domain == Some(guest(guest_no)));
        let Some(key) = key.cloned() else {
            return "no lie".to_owned();
        };
        let says = StatusClaim {
            key: key.id,
            domain: guest(guest_no),
            revision: 1000,
            status: KeyStatus::Retired,
            host: HostUuid::random(),
        };
        let forged = Claim::Status(Signed::new(says, &kek(&[0x55; 32])));
        let forged = Fact {
            key_id: key.key_id,
            ..forged.write(HostUuid::random(), Timestamp(0))
        };
        self.shared
            .facts
            .insert(forged.id, (self.rng.below(1000) as u64, forged));
        format!("a lie about guest {guest_no}")
    }

    /// Another host defines the guest too, as clusters do.
    fn define_a_copy(&mut self) -> String {
        let (guest_no, host) = (self.any_guest(), self.any_host());
        self.hosts[host].tpms.defined.insert(guest(guest_no));
        format!("guest {guest_no} is defined on {host} too")
    }

    /// And has an old state of it.
    fn leave_a_state_behind(&mut self) -> String {
        let host = self.any_host();
        if self.keys.is_empty() {
            return "no state".to_owned();
        }
        let which = self.rng.below(self.keys.len());
        let (guest_no, bytes) = self.keys[which].clone();
        if self.tpms.get(&guest_no).is_some_and(|(at, _)| *at == host) {
            return "no state".to_owned();
        }
        self.hosts[host].tpms.states.insert(guest(guest_no), bytes);
        format!("an old state of guest {guest_no} is on {host}")
    }

    fn recent(&self) -> String {
        let from = self.log.len().saturating_sub(80);
        self.log[from..].join("\n")
    }

    /// What was done with a guest and with providers, and in which forms hosts know the key that its TPM needs.
    fn about(&self, guest_no: u8, bytes: &[u8]) -> String {
        let of_guest = format!("guest {guest_no} ");
        let is_about = |line: &&String| {
            line.contains(&of_guest) || line.starts_with("nkp") || line.contains("restored")
        };
        let mut about: Vec<String> = self.log.iter().filter(is_about).cloned().collect();
        for (number, host) in self.hosts.iter().enumerate() {
            let mut unlocker = host.unlocker();
            let rows = host.rows(guest(guest_no));
            for fact in host.store.facts_about(guest(guest_no), Kind::Key).unwrap() {
                let Ok(Claim::Key(key)) = Claim::read(&fact) else {
                    continue;
                };
                let deadline = Deadline::after(Duration::from_secs(60));
                let opened = unlocker.open(&key.wrapped, key.domain, deadline);
                if !opened.is_ok_and(|it| it.same_as(&dek(bytes))) {
                    continue;
                }
                let is_its =
                    |row: &&KeyRefRecord| row.key_ref.wrapped_dek.as_ref() == Some(&key.wrapped);
                let retired = rows.iter().find(is_its).map(|row| row.retired_at.is_some());
                let stated = host.store.stated_key(fact.id).unwrap().stated;
                about.push(format!(
                    "host {number}: {} under {}: row (retired) {retired:?}, {stated:?}",
                    fact.id, key.key_id
                ));
            }
        }
        about.join("\n")
    }

    /// What holds at any moment.
    fn check(&mut self) {
        for (guest_no, (host, bytes)) in &self.tpms {
            let candidates = self.hosts[*host].candidates(guest(*guest_no), bytes);
            assert!(
                !candidates.is_empty(),
                "history {}: guest {guest_no} has lost its key on {host}:\n{}",
                self.number,
                self.recent()
            );
        }
    }

    /// What holds once all have heard each other.
    fn settle(&mut self) {
        let now = self.at();
        for host in 0..HOSTS {
            for which in 0..PROVIDERS.len() {
                self.follow(which, host, now);
            }
        }
        let mut rounds = 0;
        loop {
            let mut is_quiet = true;
            for host in 0..HOSTS {
                let now = self.at();
                let synced = self.hosts[host].sync(&mut self.shared, rounds > 2, now);
                let number = self.number;
                let synced = synced.unwrap_or_else(|error| panic!("history {number}: {error}"));
                is_quiet &= synced.pushed + synced.added + synced.changed == 0;
                self.log.push(format!("settling, {host}: {synced:?}"));
            }
            rounds += 1;
            if is_quiet && rounds > 3 {
                break;
            }
            // What a host hears in one round it has answered in the next.
            let (number, recent) = (self.number, self.recent());
            assert!(rounds < 8, "history {number} does not settle:\n{recent}");
        }
        self.check();
        let of_all: BTreeSet<FactId> = self
            .shared
            .facts
            .values()
            .filter(|(_, fact)| matches!(fact.kind, Kind::Key | Kind::Status))
            .filter(|(_, fact)| fact.body.len() < 10_000)
            .map(|(_, fact)| fact.id)
            .collect();
        for which in 0..PROVIDERS.len() {
            let first = kek(&self.keks[which][0]);
            let mut known: Option<BTreeSet<FactId>> = None;
            for host in self
                .hosts
                .iter()
                .filter(|it| it.keks.contains(&self.keks[which][0]))
            {
                let facts = host
                    .store
                    .facts_of_kind(&[Kind::Key, Kind::Status])
                    .unwrap();
                let facts = facts.into_iter();
                let facts = facts.filter(|fact| fact.key_id == Some(first.key_id()));
                let facts: BTreeSet<_> = facts.map(|fact| fact.id).collect();
                assert!(facts.is_subset(&of_all));
                assert_eq!(known.get_or_insert_with(|| facts.clone()), &facts);
            }
        }
        // Every host that holds the provider key has the key that a guest's state needs.
        for (guest_no, (_, bytes)) in &self.tpms {
            let first = self.keks[usize::from(guest_no % 2)][0];
            for (number, host) in self.hosts.iter().enumerate() {
                assert!(
                    !host.keks.contains(&first)
                        || !host.with_dek(guest(*guest_no), bytes).is_empty(),
                    "history {}: host {number} lacks the key of guest {guest_no}:\n{}",
                    self.number,
                    self.about(*guest_no, bytes)
                );
            }
        }
    }
}

#[test]
fn whatever_happens_no_guest_loses_its_key_and_all_hosts_agree_in_the_end() {
    let operations = std::env::var("VTPM_GUARD_FLEET_OPERATIONS");
    let operations: usize = operations.map_or(10_000, |text| text.parse().unwrap());
    // Many short histories, each of which its number repeats; a few at a time.
    let again = std::env::var("VTPM_GUARD_FLEET_HISTORY").ok();
    let again: Option<u64> = again.map(|text| text.parse().unwrap());
    let histories = again.map_or(operations.div_ceil(HISTORY) as u64, |number| number + 1);
    let next = AtomicU64::new(again.unwrap_or(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= histories {
                        break;
                    }
                    let mut model = Model::new(number);
                    for _ in 0..HISTORY.min(operations) {
                        model.step();
                    }
                    model.settle();
                }
            });
        }
    });
}
