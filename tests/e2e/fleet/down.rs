//! The database is down: no start of a known guest notices.

use super::Fleet;
use crate::guest::Guest;
use crate::host::Host;

/// Where it is written down that the store's program was started.
const ASKED: &str = "/run/store-was-asked";

impl Host {
    /// Notes each start of the store's program.
    fn watch_store(&self) {
        let (program, real) = ("/usr/sbin/store-postgresql", "/usr/sbin/real-store");
        self.run(&["mv", program, real]).ok();
        let script = format!("#!/bin/sh\necho asked >>{ASKED}\nexec {real} \"$@\"\n");
        self.write_program(program, &script);
    }

    /// How often the store was asked since the last time.
    fn store_was_asked(&self) -> usize {
        let script = format!("[ ! -e {ASKED} ] || wc -l <{ASKED}; rm -f {ASKED}");
        let lines = self.run(&["sh", "-c", &script]).ok().stdout;
        lines.trim().parse().unwrap_or_default()
    }

    /// A known guest starts and stops, and a new one gets its key.
    fn starts_as_ever(&self, known: &Guest, new: &str) -> Guest {
        self.start_and_stop(known);
        assert_eq!(self.store_was_asked(), 0, "a start with all it needs asks");
        let new = self.define_bound_guest(new, "nkp-a");
        self.start_and_stop(&new);
        assert_eq!(self.store_was_asked(), 1, "a new key is made only then");
        new
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn guests_start_and_get_keys_while_the_database_is_cut_off_or_stands_still() {
    let (fleet, [alpha, beta]) = Fleet::with_hosts();
    let known = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&known);
    alpha.exchange();
    let tpm = alpha.tpm(&known);
    assert_eq!(alpha.outbox(), 0);
    alpha.watch_store();

    alpha.cut_off(true);
    let first = alpha.starts_as_ever(&known, "vm2");
    let waiting = alpha.outbox();
    assert_ne!(waiting, 0);
    assert_ne!(alpha.guard(&["sync"]).status, 0);
    alpha.cut_off(false);

    fleet.database.tell("freeze");
    alpha.store_was_asked();
    let second = alpha.starts_as_ever(&known, "vm3");
    assert!(alpha.outbox() > waiting, "it grows");
    fleet.database.tell("thaw");

    alpha.exchange();
    assert_eq!(alpha.outbox(), 0, "it drains");
    alpha.starts_with(&known, &tpm);
    for guest in [&first, &second] {
        beta.define_too(guest);
        beta.start_running(guest);
        assert_eq!(beta.tpms_made(guest), 0);
    }
}

// A start that misses something says that the fleet might have it.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_refusal_says_that_the_store_was_not_heard() {
    let (_fleet, [alpha, beta]) = Fleet::with_hosts();
    let guest = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&guest);
    alpha.exchange();
    beta.cut_off(true);
    beta.define_too(&guest);
    let refused = beta.start(&guest).refused_with("VG201");
    assert!(
        refused.stderr.contains("retry once it answers; or bind it"),
        "{refused:#?}"
    );
    beta.cut_off(false);
    beta.start_running(&guest);
    assert_eq!(beta.tpms_made(&guest), 0);
}
