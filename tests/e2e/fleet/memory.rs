//! What is left of keys in the memory of programs of a host in a fleet as they end: nothing. Beside tests/e2e/memory.rs.

use super::{Fleet, configuration};
use crate::memory::Dumped;

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_left_in_memory_when_a_program_of_a_fleet_ends() {
    let (fleet, [alpha]) = Fleet::with_hosts();
    let guest = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&guest);
    alpha.exchange();
    let beta = fleet.host(1);
    beta.take_recovery(&alpha.recovery());
    let Some(mut programs) = Dumped::on(&beta) else {
        return;
    };
    beta.configure(&configuration("host2", "[hook]\ndeadline = \"60s\"\n"));
    programs.note(|secrets| {
        secrets.add("the provider's key", beta.kek("nkp-a").expose());
        alpha.note_keys(&guest, secrets, "first");
    });
    programs.guard(&["fleet join", "provider accept nkp-a"]);
    beta.define_too(&guest);
    programs.add_guest(&guest);
    // It finds key and state in the fleet.
    let xml = beta.xml(&guest);
    let prepare = ["vtpm-guard-hook", "vm1", "prepare", "begin", "-"];
    programs.run(&prepare, &xml);
    beta.start_and_stop(&guest);
    programs.guard(&["sync"]);
    beta.remove_tpm_state(&guest);
    programs.guard(&["state list --fleet", "state restore vm1"]);
    beta.start_and_stop(&guest);
    // Another key, which the fleet does not have yet.
    beta.guard(&["key", "renew", "vm1"]).ok();
    programs.guard(&["sync --compare"]);
    beta.start_and_stop(&guest);
    assert_eq!(beta.tpms_made(&guest), 0);
}
