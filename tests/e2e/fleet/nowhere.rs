//! Every path by which keys go, on two hosts with a shared store, with keys that the test knows: then they are looked for
//! wherever they could have been left.

use std::collections::BTreeSet;
use std::fs;

use clap::CommandFactory;
use sha2::Sha512;
use vtpm_guard::internals::cli::args::Cli;

use super::database::Database;
use super::key_paths::{live, live_elsewhere};
use super::{Fleet, configuration};
use crate::commands::{are_played_or_left_out, every_command};
use crate::guest::{Guest, recovery_file};
use crate::host::Host;
use crate::traces::{Processes, Secrets, Seen};

/// Where a host has files of its own, and what is mounted from elsewhere.
const PLACES: [&str; 6] = [
    "/etc/libvirt",
    "/etc/vtpm-guard",
    "/run",
    "/var/lib/libvirt",
    "/var/lib/vtpm-guard",
    "/var/log",
];

/// So that the journal has all that can be in it.
const TALKATIVE: &str = "[log]\nlevel = \"trace\"\n[state]\nkeep = \"all\"\n";

/// Commands whose status says what they found: others must have been done.
const FIND: [&str; 2] = ["doctor", "store check"];

/// Which programs must have been seen as they ran, by the name of the file that is run, or their arguments were not looked
/// at. That the test itself names them in a command line says nothing.
const PROGRAMS: [&str; 6] = [
    "vtpm-guard",
    "vtpm-guard-hook",
    "vtpm-guard-libvirt",
    "kms-exec",
    "store-postgresql",
    "systemd-creds",
];

impl Host {
    /// Notes the key of each row of a guest, and what swtpm derives from it.
    pub(crate) fn note_keys(&self, guest: &Guest, secrets: &mut Secrets, round: &str) {
        let is_here = |provider: &&str| self.path(&recovery_file(provider)).exists();
        let providers = ["nkp-a", "nkp-b"].into_iter().filter(is_here);
        let keks: Vec<_> = providers.map(|provider| self.kek(provider)).collect();
        for row in self.key_refs(guest) {
            let name = format!("{round} key {} of {}", row.id, guest.name);
            let Some(kek) = keks.iter().find(|kek| {
                let id = row.kek_ref.as_deref().unwrap_or_default();
                id.ends_with(&kek.key_id().to_string())
            }) else {
                continue;
            };
            let dek = row.dek(guest, kek);
            secrets.add(&name, dek.expose());
            let mut file_key = [0; 32];
            pbkdf2::pbkdf2_hmac::<Sha512>(dek.expose(), b"swtpm", 1000, &mut file_key);
            secrets.add(&format!("swtpm's {name}"), &file_key);
        }
    }

    pub(crate) fn note_provider(&self, provider: &str, secrets: &mut Secrets, round: &str) {
        self.export_over(provider);
        secrets.add(&format!("{round} {provider}"), self.kek(provider).expose());
    }

    fn export_over(&self, provider: &str) {
        let _ = fs::remove_file(self.path(&recovery_file(provider)));
        self.export_provider(provider);
    }
}

/// The search of the server's files finds what is in the database.
fn has_all_of(database: &Database) {
    let witness = "a witness in the database";
    database.sql(&format!(
        "CREATE TABLE witness AS SELECT '{witness}' AS it; CHECKPOINT"
    ));
    let mut planted = Secrets::new();
    planted.add("witness", witness.as_bytes());
    let (found, _) = planted.in_files(&database.place());
    assert!(!found.is_empty());
    assert!(!planted.in_bytes(database.rows().as_bytes()).is_empty());
    database.sql("DROP TABLE witness");
}

/// Searches what the database and the hosts have, and what was said and seen.
#[track_caller]
fn is_nowhere(secrets: &Secrets, fleet: &Fleet, hosts: &[&Host], seen: &Seen) {
    let database = &fleet.database;
    has_all_of(database);
    let rows = database.rows();
    assert!(rows.contains("vm1"), "no rows: {rows}");
    let found = secrets.in_bytes(rows.as_bytes());
    assert!(found.is_empty(), "{found:?} in the database");
    let mut dirs = vec![database.file(""), database.place()];
    for host in hosts {
        dirs.extend(PLACES.map(|place| host.path(place)));
        let found = secrets.in_bytes(host.said().as_bytes());
        assert!(found.is_empty(), "{found:?} was said");
    }
    let files = secrets.are_in_no_file(&dirs);
    secrets.are_in_no_process(seen);
    eprintln!(
        "looked for in {files} files, {} command lines and environments: nowhere",
        seen.texts.len()
    );
}

/// None is left out: whatever a new one is for, a key could be in what it says.
#[track_caller]
fn every_command_was_played(hosts: &[&Host]) {
    let ended = hosts.iter().flat_map(|host| host.ended());
    let lines = ended.filter_map(|(line, status)| {
        let line = line.strip_prefix("/usr/sbin/vtpm-guard ")?;
        // The owner of the database has a configuration of its own.
        let line = line
            .strip_prefix("--config /run/owner/config.toml ")
            .unwrap_or(line);
        let is_done = status == 0 || FIND.iter().any(|command| line.starts_with(command));
        is_done.then(|| line.to_owned())
    });
    are_played_or_left_out(
        &every_command(&Cli::command()),
        &lines.collect::<Vec<_>>(),
        &[],
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_found_anywhere_whatever_was_done_with_it() {
    let processes = Processes::watch();
    let mut secrets = Secrets::new();
    let (fleet, [alpha, beta]) = Fleet::with_hosts();
    for (host, role) in [(&alpha, "host"), (&beta, "host2")] {
        host.start_journald();
        host.configure(&configuration(role, TALKATIVE));
    }
    let vm1 = live(&alpha, &mut secrets);
    alpha.exchange();
    beta.exchange();
    live_elsewhere(&beta, &vm1);
    for host in [&alpha, &beta] {
        host.print_everything();
        // By the hook, and by a command.
        for operation in ["prepare", "replay"] {
            assert!(host.journal_has(operation), "{operation}");
        }
    }
    beta.guard(&["fleet", "leave"]).ok();
    alpha.guard(&["fleet", "lost", "beta"]).ok();
    every_command_was_played(&[&alpha, &beta]);

    let seen = processes.end();
    for program in PROGRAMS {
        let count = seen.programs.get(program).map_or(0, BTreeSet::len);
        eprintln!("{program} was seen in {count} processes");
        assert!(
            count > 0,
            "{program} was not seen: {:?}",
            seen.programs.keys()
        );
    }
    let dir = tempfile::tempdir().unwrap();
    secrets.finds_each_form(dir.path());
    is_nowhere(&secrets, &fleet, &[&alpha, &beta], &seen);
}
