//! A fleet: hosts, each a private one, with a PostgreSQL as their shared store, and what happens to them.
//!
//! docs/fleet.md has the table of what happens when; each of the files beside this plays rows of it with real guests.

mod back;
mod database;
mod down;
mod elsewhere;
mod hostile;
mod key_paths;
mod lost;
mod memory;
mod nowhere;
mod reinstalled;
mod restored;
mod split;
mod storm;

use std::env;
use std::fs;
use std::path::PathBuf;

use database::{ADDRESS, Database};

use crate::built::built;
use crate::guest::{Guest, Tpm};
use crate::host::{Host, PROGRAMS};
use crate::tpm::{Identity, identity};

/// A key manager that each host reaches: it turns one bit of each byte.
const BOX: &str = "#!/bin/sh\nexec tr '\\000-\\377' '\\200-\\377\\000-\\177'\n";

/// Names of hosts, and the roles with which the database knows them.
const NAMES: [(&str, &str); 3] = [("alpha", "host"), ("beta", "host2"), ("gamma", "host3")];

const RECOVERY: [&str; 2] = ["/run/nkp-a.recovery", "/run/passphrase"];

/// A shared store. The hosts come before it: they end first.
pub(crate) struct Fleet {
    database: Database,
}

impl Fleet {
    /// A database with the schema, and this many hosts in it. The first one has the provider `nkp-a`, whose key the
    /// others have by their own access to the key manager.
    fn with_hosts<const N: usize>() -> (Self, [Host; N]) {
        let fleet = Self {
            database: Database::up(),
        };
        let hosts: [Host; N] = std::array::from_fn(|number| fleet.host(number));
        let first = &hosts[0];
        fleet.init(first);
        first
            .guard(&["provider", "create", "nkp-a", "--slot", "box:one"])
            .ok();
        first.export_provider("nkp-a");
        first.guard(&["fleet", "join"]).ok();
        for host in &hosts[1..] {
            host.take_recovery(&first.recovery());
            host.guard(&["fleet", "join"]).ok();
            host.guard(&["provider", "accept", "nkp-a"]).ok();
        }
        (fleet, hosts)
    }

    /// A new host on the network, configured, in no fleet yet.
    fn host(&self, number: usize) -> Host {
        let (name, role) = NAMES[number];
        let host = Host::new();
        self.database.connect(&host, name);
        host.connect_wire(name, &format!("10.98.0.{}", number + 11));
        host.write_program("/usr/sbin/box", BOX);
        host.install_program("kms-exec");
        host.install_program("store-postgresql");
        for (from, to) in [("tls/ca.pem", "ca.pem"), (role, "password")] {
            let content = fs::read(self.database.file(from)).unwrap();
            host.write(&format!("/etc/vtpm-guard/fleet/{to}"), content);
        }
        host.configure(&configuration(role, ""));
        host
    }

    fn init(&self, host: &Host) {
        let password = fs::read(self.database.file("vtpm_guard_owner")).unwrap();
        host.write("/run/owner/password", password);
        let owner = configuration("vtpm_guard_owner", "");
        let owner = owner.replace("/etc/vtpm-guard/fleet/password", "/run/owner/password");
        host.write("/run/owner/config.toml", owner);
        host.guard(&["--config", "/run/owner/config.toml", "fleet", "init"])
            .ok();
    }
}

/// A host's configuration, with these lines in its section `[policy]`.
fn configuration(role: &str, policy: &str) -> String {
    format!(
        "[policy]\n{policy}\n[fleet]\nstore = \"postgresql://{role}@{ADDRESS}:5480/vtpm_guard\"\n\
         ca = \"/etc/vtpm-guard/fleet/ca.pem\"\n\
         password_file = \"/etc/vtpm-guard/fleet/password\"\nask = \"5s\"\nstate = \"stopped\"\n\
         [kms.box]\nkind = \"exec\"\nwrap = [\"/usr/sbin/box\"]\nunwrap = [\"/usr/sbin/box\"]\n"
    )
}

impl Host {
    /// Installs a program of another package, where programs are the host's own. Another process writes it: a program
    /// that is open for writing cannot be run, and what this process has open, children of other tests may have.
    pub(crate) fn install_program(&self, program: &str) {
        let other = env::var_os(PROGRAMS).map(|dir| PathBuf::from(dir).join(program));
        let other = other.filter(|path| path.exists());
        let built = other.unwrap_or_else(|| built(program));
        let to = format!("/usr/sbin/{program}");
        let install = ["install", "-m", "755", built.to_str().unwrap(), &to];
        self.run(&install).ok();
    }

    /// What the test itself looks at keys with.
    fn recovery(&self) -> [Vec<u8>; 2] {
        RECOVERY.map(|file| fs::read(self.path(file)).unwrap())
    }

    fn take_recovery(&self, files: &[Vec<u8>; 2]) {
        for (file, content) in RECOVERY.iter().zip(files) {
            self.write(file, content);
        }
    }

    /// Defines a guest of another host, as an orchestrator does; nothing else comes with it.
    fn define_too(&self, guest: &Guest) {
        let _ = self.redefine_guest(guest.clone(), Tpm::Encrypted(guest.secret));
    }

    /// Exchanges facts.
    #[track_caller]
    fn exchange(&self) -> String {
        self.guard(&["sync"]).ok().stdout
    }

    /// What it knows of the fleet, as `fleet status` tells it.
    fn outbox(&self) -> u64 {
        let status = self.guard(&["fleet", "status", "--json"]).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["outbox"].as_u64().unwrap()
    }

    /// Cuts the host off from all others, or lets it reach them again.
    fn cut_off(&self, is_cut: bool) {
        let to = if is_cut { "down" } else { "up" };
        self.run(&["ip", "link", "set", "wire", to]).ok();
    }

    /// The key references of a guest that count, as what is in them.
    fn live_keys(&self, guest: &Guest) -> Vec<Vec<u8>> {
        let rows = self.key_refs(guest).into_iter();
        rows.filter(|row| row.retired_at.is_none())
            .filter_map(|row| row.wrapped_dek)
            .collect()
    }

    /// Starts a guest, which must then run with this TPM.
    #[track_caller]
    fn starts_with(&self, guest: &Guest, tpm: &Identity) {
        self.start_running(guest);
        self.runs_with(guest, tpm);
    }

    /// The guest's TPM, by the one of its keys that counts, whatever others it has.
    fn tpm_of_rows(&self, guest: &Guest) -> Identity {
        let rows = self.key_refs(guest).into_iter();
        let mut live = rows.filter(|row| row.retired_at.is_none());
        let dek = live.next().unwrap().dek(guest, &self.kek("nkp-a"));
        identity(&self.tpm_state(guest), Some(dek.expose()))
    }

    /// Starts a guest that has retired keys, too.
    #[track_caller]
    fn starts_with_rows(&self, guest: &Guest, tpm: &Identity) {
        self.start_running(guest);
        assert_eq!(self.tpm_of_rows(guest), *tpm);
    }
}
