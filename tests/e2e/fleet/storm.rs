//! A storm: many starts at once, of many guests and of one, while an administrator's commands run on a host with many other
//! guests, in a fleet. Nothing is lost, nothing hangs, and nobody holds the store for long.
//!
//! The starts are calls of the hook past libvirtd, so that there can be more of them than this machine has room for guests;
//! libvirtd gets their keys. `./dev storm` has ten thousand other guests, which libvirt knows, with a TPM state each; with
//! `--long` it plays more rounds, and starts real guests at the end.

mod history;
mod holder;
mod others;

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use rusqlite::params;
use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};
use vtpm_guard::internals::key::wrap::WrappedDek;

use self::holder::holder;
use self::others::{Keys, Others};
use super::{Fleet, RECOVERY};
use crate::guest::{Guest, Tpm};
use crate::host::{Host, Output, PROGRAMS};

/// How many starts there are at once.
const STARTS: usize = 64;

/// How many rounds there are, and real guests at the end: set by `./dev storm`.
const ROUNDS: &str = "VTPM_GUARD_STORM_ROUNDS";
const REAL_GUESTS: &str = "VTPM_GUARD_STORM_GUESTS";

/// How often a start asks for a lock again.
const PAUSE: Duration = Duration::from_micros(500);

/// After so many of these pauses somebody waits too long: half a second, and more on a busy machine.
const MANY_PAUSES: i32 = 1000;

/// Calls the hook for each line of its argument (name, file of the XML, operation), all at once, and says of each call the
/// status, the milliseconds, and what it said.
const CALL_ALL: &str = r#"
import os, sys, time
calls = [line.split() for line in open(sys.argv[1])]
running = {}
for number, (name, xml, operation) in enumerate(calls):
    said = f"/run/storm/{number}.said"
    actions = [(os.POSIX_SPAWN_OPEN, 0, xml, os.O_RDONLY, 0),
               (os.POSIX_SPAWN_OPEN, 1, said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
               (os.POSIX_SPAWN_DUP2, 1, 2)]
    hook = "/usr/sbin/vtpm-guard-hook"
    began = time.perf_counter()
    pid = os.posix_spawn(hook, [hook, name, operation, "begin", "-"], {"LC_ALL": "C"}, file_actions=actions)
    running[pid] = (name, said, began)
while running:
    pid, status = os.wait()
    name, said, began = running.pop(pid)
    took = (time.perf_counter() - began) * 1000
    words = " ".join(open(said).read().split())
    print(name, os.waitstatus_to_exitcode(status), round(took), words)
"#;

fn number(variable: &str, without: usize) -> usize {
    let set = env::var(variable).ok();
    set.map_or(without, |text| text.parse().unwrap())
}

/// Whether the programs are as they are installed.
fn is_for_release() -> bool {
    env::var_os(PROGRAMS).is_some()
}

/// What somebody waited for the longest while commands ran.
struct Waits {
    /// For the store's lock, as a start does.
    store: Duration,
    /// For the disk: that what was written to a small file beside the store is on it.
    disk: Duration,
}

impl Waits {
    /// Programs that were built for tests do several times as much, and share a disk with builds: while that stands still,
    /// whoever has the lock waits for it.
    #[track_caller]
    fn assert_short(&self) {
        let Self { store, disk } = *self;
        let allowed = if is_for_release() {
            Duration::from_secs(1)
        } else {
            Duration::from_secs(2) + disk
        };
        assert!(store < allowed, "{store:?}, of the disk {disk:?}");
    }

    /// How many starts may be missing in the history: a row is given up after a second, and then the log says so.
    fn most_lost(&self) -> usize {
        match self.disk {
            _ if is_for_release() => 0,
            disk if disk < Duration::from_millis(500) => STARTS / 8,
            _ => 3 * STARTS,
        }
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, disk } = self;
        write!(
            f,
            "the longest wait for the store {store:.1?}, for the disk {disk:.1?}"
        )
    }
}

impl Host {
    /// Guests that are bound to the provider and have no key yet. libvirt does not know them.
    fn new_guests(&self, round: usize) -> Vec<Guest> {
        let store = self.store();
        let guest = |number: usize| {
            let guest = Guest {
                name: format!("storm-{round}-{number}"),
                uuid: DomainUuid::random(),
                secret: SecretUuid::random(),
            };
            self.write(&format!("/run/storm/{}.xml", guest.name), guest.storm_xml());
            let bind = "INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name)
                        SELECT ?1, uuid, name FROM key_provider WHERE name = 'nkp-a'";
            store
                .execute(bind, params![guest.uuid.to_string()])
                .unwrap();
            guest
        };
        (0..STARTS).map(guest).collect()
    }

    /// Calls the hook for all of these guests at once. Each start must be allowed, without a word. Returns the longest call.
    #[track_caller]
    fn call_at_once<'g>(&self, guests: impl Iterator<Item = &'g Guest>) -> Duration {
        let line = |guest: &Guest| format!("{0} /run/storm/{0}.xml prepare\n", guest.name);
        let calls: String = guests.map(line).collect();
        self.write("/run/storm/calls", &calls);
        let called = self
            .run(&["python3", "/run/storm/call-all.py", "/run/storm/calls"])
            .ok();
        let mut longest = 0;
        for line in called.stdout.lines() {
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!(words[1], "0", "{line}");
            assert_eq!(words[3..].concat(), "", "{line}");
            longest = longest.max(words[2].parse().unwrap());
        }
        assert_eq!(called.stdout.lines().count(), calls.lines().count());
        Duration::from_millis(longest)
    }
}

impl Guest {
    fn storm_xml(&self) -> String {
        let Self { name, uuid, secret } = self;
        format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>16384</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><tpm model='tpm-crb'>\
             <backend type='emulator' version='2.0'><encryption secret='{secret}'/></backend></tpm></devices></domain>"
        )
    }
}

/// Asks for the lock of the store as a start does, over and over. Says who has it where that takes long. Returns the
/// longest wait.
fn longest_wait(host: &Host, ends: &AtomicBool) -> Duration {
    let file = host.path("/var/lib/vtpm-guard/store.db");
    let of = file.clone();
    let own = format!("process {}: ", std::process::id());
    let mut store = host.store();
    store
        .busy_handler(Some(move |tries| {
            if tries == MANY_PAUSES {
                eprintln!("  somebody has the lock for long:\n{}", holder(&of));
            }
            sleep(PAUSE);
            true
        }))
        .unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!((0..5).any(|_| holder(&file).starts_with(&own)));
    store.execute_batch("ROLLBACK").unwrap();
    let mut longest = Duration::ZERO;
    while !ends.load(Ordering::Relaxed) {
        let began = Instant::now();
        store.execute_batch("BEGIN IMMEDIATE").unwrap();
        longest = longest.max(began.elapsed());
        store.execute_batch("ROLLBACK").unwrap();
        sleep(Duration::from_millis(2));
    }
    longest
}

/// Writes to the disk over and over. Returns the longest wait for it.
fn longest_write(file: &Path, ends: &AtomicBool) -> Duration {
    let file = File::create(file).unwrap();
    let mut longest = Duration::ZERO;
    while !ends.load(Ordering::Relaxed) {
        let began = Instant::now();
        file.write_all_at(&[0; 4096], 0).unwrap();
        file.sync_all().unwrap();
        longest = longest.max(began.elapsed());
        sleep(Duration::from_millis(2));
    }
    longest
}

/// Sets it when it is dropped, also by a test that fails: others wait for that.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the administrator does meanwhile, each list by somebody else.
const MEANWHILE: [&[&[&str]]; 3] = [
    &[&["provider", "rotate", "nkp-a"]],
    &[
        &["store", "backup", "/run/storm/backup"],
        &["status"],
        &["store", "check"],
        &["key", "list"],
    ],
    &[&["sync", "--compare"], &["check", "--all"], &["sync"]],
];

/// `status` and `check --all` have looked at each guest that libvirt knows, and each would start.
#[track_caller]
fn saw_all(command: &[&str], said: &Output, defined: usize) {
    let sum = match command {
        ["status"] => format!(
            "{defined} guests: {defined} encrypted, 0 unencrypted; {defined} would start now, 0 would not"
        ),
        ["check", "--all"] => format!("{defined} guests: {defined} would start, 0 would not"),
        _ => return,
    };
    let last = said.stdout.lines().last();
    assert_eq!(last, Some(&*sum), "{command:?}: {}", said.stderr);
}

/// Does `work` while the administrator's commands run, one after another, on a host where libvirt knows this many guests.
fn beside_commands(host: &Host, defined: usize, work: impl FnOnce()) -> Waits {
    let (ends, probe_ends) = (AtomicBool::new(false), AtomicBool::new(false));
    let beside = host.path("/var/lib/libvirt/beside");
    scope(|threads| {
        let probe_until = SetAtEnd(&probe_ends);
        let until = SetAtEnd(&ends);
        let store = threads.spawn(|| longest_wait(host, &probe_ends));
        let disk = threads.spawn(|| longest_write(&beside, &probe_ends));
        let run = |commands: &[&[&str]]| {
            for command in commands.iter().cycle() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let began = Instant::now();
                let _ = fs::remove_file(host.path("/run/storm/backup"));
                let said = host.guard(command).ok();
                saw_all(command, &said, defined);
                eprintln!("  {}: {:.1?}", command.join(" "), began.elapsed());
            }
        };
        let administrators: Vec<_> = MEANWHILE
            .iter()
            .map(|commands| threads.spawn(move || run(commands)))
            .collect();
        // They are at it when the starts come.
        sleep(Duration::from_millis(500));
        work();
        drop(until);
        for administrator in administrators {
            administrator.join().unwrap();
        }
        drop(probe_until);
        let waits = [store, disk].map(|probe| probe.join().unwrap());
        fs::remove_file(&beside).unwrap();
        let [store, disk] = waits;
        Waits { store, disk }
    })
}

/// Every key is there, wrapped by the provider's present key.
fn assert_nothing_is_lost(host: &Host, keys: &Keys, guests: &[Guest]) {
    // What the last one has left, if it was overtaken.
    host.guard(&["provider", "rotate", "nkp-a"]).ok();
    let found = host.guard(&["store", "check"]).ok();
    assert!(!found.stdout.contains("damaged"), "{found:#?}");
    for file in RECOVERY {
        fs::remove_file(host.path(file)).unwrap();
    }
    host.export_provider("nkp-a");
    let kek = host.kek("nkp-a");
    let store = host.store();
    let mut query = store
        .prepare("SELECT resource_uuid, wrapped_dek FROM key_ref WHERE wrapped_dek IS NOT NULL")
        .unwrap();
    let rows = query
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
        .unwrap();
    let mut opened = BTreeMap::<DomainUuid, Vec<u8>>::new();
    for row in rows {
        let (domain, wrapped) = row.unwrap();
        let domain = DomainUuid::parse(&domain).unwrap();
        let dek = WrappedDek::from_stored(wrapped).unwrap(&kek, domain);
        let dek = dek.unwrap().expect("a row was left under another key");
        let second = opened.insert(domain, dek.expose().to_vec());
        assert!(second.is_none(), "{domain} has two keys");
    }
    assert_eq!(opened.len(), keys.len() + guests.len());
    for (domain, dek) in keys {
        assert!(opened.get(domain) == Some(dek), "{domain} has another key");
    }
    for guest in guests {
        assert!(opened.contains_key(&guest.uuid));
        assert_eq!(host.only_key_ref(guest).retired_at, None);
    }
}

fn start_real_guests(host: &Host, defined: usize, number: usize) {
    let guests: Vec<_> = (0..number)
        .map(|guest| {
            host.define_guest(
                &format!("real{guest}"),
                Tpm::Encrypted(SecretUuid::random()),
            )
        })
        .collect();
    for guest in &guests {
        host.insert_placeholder(guest, "nkp-a");
    }
    let began = Instant::now();
    let waits = beside_commands(host, defined + number, || {
        scope(|threads| {
            for guest in &guests {
                threads.spawn(|| host.start(guest).ok());
            }
        });
    });
    eprintln!(
        "{number} real guests at once: {:.1?}, {waits}",
        began.elapsed()
    );
    waits.assert_short();
    for guest in &guests {
        assert_eq!(host.state(guest), "running");
        assert_eq!(host.starts_of(guest).len(), 1);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn in_a_storm_nothing_is_lost_and_nobody_waits_for_long() {
    let (_fleet, [host]) = Fleet::with_hosts();
    host.write("/run/storm/call-all.py", CALL_ALL);
    if !is_for_release() {
        // The last of so many wait for all before them, and each does several times as much.
        let config = host.read("/etc/vtpm-guard/config.toml");
        host.configure(&format!("{config}[hook]\ndeadline = \"60s\"\n"));
    }
    let began = Instant::now();
    let Others { keys, defined } = host.add_others();
    eprintln!(
        "{} other guests, of which libvirt knows {defined}: {:.1?}",
        keys.len(),
        began.elapsed()
    );
    host.guard(&["sync", "--compare"]).ok();
    let (mut all, mut lost, mut most_lost) = (Vec::new(), 0, 0);
    for round in 0..number(ROUNDS, 1) {
        let guests = host.new_guests(round);
        let mut calls = [Duration::ZERO; 3];
        let waits = beside_commands(&host, defined, || {
            // Each gets its key; each has it; and many starts of one guest.
            calls[0] = host.call_at_once(guests.iter());
            calls[1] = host.call_at_once(guests.iter());
            calls[2] = host.call_at_once(guests.iter().take(1).cycle().take(STARTS));
        });
        let [first, healthy, of_one] = calls;
        eprintln!(
            "round {round}: {STARTS} first starts at once, the longest {first:.1?}; healthy ones {healthy:.1?}; of one \
             guest {of_one:.1?}; {waits}"
        );
        waits.assert_short();
        let log = host.read("/var/log/vtpm-guard.log");
        most_lost += waits.most_lost();
        for (number, guest) in guests.iter().enumerate() {
            let at_once = if number == 0 { STARTS } else { 0 };
            lost += host.has_all_starts_of(guest, 2 + at_once, &log);
        }
        all.extend(guests);
    }
    eprintln!("{lost} starts are not in the history, and the log says so");
    assert!(
        lost <= most_lost,
        "{lost} starts are not in the history, at most {most_lost} may be"
    );
    assert_nothing_is_lost(&host, &keys, &all);
    let real = number(REAL_GUESTS, 0);
    if real > 0 {
        start_real_guests(&host, defined, real);
    }
}
