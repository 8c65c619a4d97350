//! A fleet: hosts, each a private one, with a PostgreSQL as their shared store, and what happens to them.
//!
//! docs/fleet.md has the table of what happens when; each of the files beside this plays rows of it with real guests.

mod database;
mod lost;

use std::fs;

use database::{ADDRESS, Database};

use crate::built::built;
use crate::guest::{Guest, Tpm};
use crate::host::Host;
use crate::tpm::Identity;

/// A key manager that each host reaches: it turns one bit of each byte.
const BOX: &str = "#!/bin/sh\nexec tr '\\000-\\377' '\\200-\\377\\000-\\177'\n";

/// Names of hosts, and the roles with which the database knows them.
const NAMES: [(&str, &str); 3] = [("alpha", "host"), ("beta", "host2"), ("gamma", "host3")];

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
            for file in ["/run/nkp-a.recovery", "/run/passphrase"] {
                // For the test, which looks at keys with it.
                host.write(file, fs::read(first.path(file)).unwrap());
            }
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
         password_file = \"/etc/vtpm-guard/fleet/password\"\nstate = \"stopped\"\n\
         [kms.box]\nkind = \"exec\"\nwrap = [\"/usr/sbin/box\"]\nunwrap = [\"/usr/sbin/box\"]\n"
    )
}

impl Host {
    /// Installs a program of another package, where programs are the host's own. Another process writes it: a program
    /// that is open for writing cannot be run, and what this process has open, children of other tests may have.
    pub(crate) fn install_program(&self, program: &str) {
        let built = built(program);
        let to = format!("/usr/sbin/{program}");
        let install = ["install", "-m", "755", built.to_str().unwrap(), &to];
        self.run(&install).ok();
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

    /// Starts a guest, which must then run with this TPM.
    #[track_caller]
    fn starts_with(&self, guest: &Guest, tpm: &Identity) {
        self.start_running(guest);
        self.runs_with(guest, tpm);
    }
}
