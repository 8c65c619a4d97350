//! What transient guests in loops, failed attempts and a standby host leave behind, and how it
//! goes.

use std::fs;

use serde_json::Value;
use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};

use crate::guest::{Guest, Tpm};
use crate::host::Host;

fn json(host: &Host, arguments: &[&str]) -> Value {
    let answer = host.guard(&[arguments, &["--json"]].concat()).ok();
    serde_json::from_str(&answer.stdout).unwrap()
}

const PRUNE: [&str; 4] = ["key", "prune", "--older-than", "0d"];

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn what_transient_guests_leave_ages_out_with_their_keys() {
    let host = Host::new();
    host.create_provider("nkp-a");
    host.configure("[policy]\nauto_bind = \"nkp-a\"\n");
    let guests = [1, 2, 3].map(|number| Guest {
        name: format!("job-{number}"),
        uuid: DomainUuid::random(),
        secret: SecretUuid::random(),
    });
    for guest in &guests {
        host.create_running(guest);
        host.stop(guest);
        assert_eq!(host.copies(guest).len(), 1);
    }
    let young = json(&host, &["key", "prune"]);
    assert_eq!(young["removed"]["guests"], 0, "{young:#}");

    // One is dropped by hand, which must be meant.
    let drop = ["state", "drop", &guests[0].uuid.to_string()];
    let refused = host.guard(&drop);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert_eq!(host.copies(&guests[0]).len(), 1);
    host.guard(&[&drop[..], &["--force"]].concat()).ok();
    assert!(host.copies(&guests[0]).is_empty());

    // One runs, and keeps what it has.
    host.create_running(&guests[1]);
    let pruned = json(&host, &PRUNE);
    assert_eq!(pruned["removed"]["guests"], 2, "{pruned:#}");
    assert_eq!(pruned["removed"]["copies"], 1, "{pruned:#}");
    for guest in [&guests[0], &guests[2]] {
        assert!(host.key_refs(guest).is_empty());
        let shelf = format!("/var/lib/vtpm-guard/tpm-state/{}", guest.uuid);
        assert!(!host.path(&shelf).exists());
    }
    host.stop(&guests[1]);
    host.create_running(&guests[1]);
    assert_eq!(host.tpms_made(&guests[1]), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn keys_that_were_used_on_another_host_stay_until_that_is_asked_for() {
    let (first, guest) = Host::with_used_guest();
    first.guard(&["store", "backup", "/run/backup"]).ok();
    let host = Host::new();
    for file in ["/run/backup", "/run/nkp-a.recovery", "/run/passphrase"] {
        host.write(file, fs::read(first.path(file)).unwrap());
    }
    host.import_provider("nkp-a", None);
    host.guard(&["key", "import", "vm1", "--from", "/run/backup"])
        .ok();
    let kept = json(&host, &PRUNE);
    assert_eq!(kept["kept"], 1, "{kept:#}");
    let reason = kept["guests"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("may run on another"), "{reason}");
    assert_eq!(host.key_refs(&guest).len(), 1);
    let pruned = json(&host, &[&PRUNE[..], &["--standby"]].concat());
    assert_eq!(pruned["removed"]["key_refs"], 1, "{pruned:#}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_plain_state_of_a_guest_that_is_gone_can_be_dropped() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_guest("vm1", Tpm::Plain);
    host.start_and_stop(&guest);
    host.guard(&["encrypt", "vm1", "--provider", "nkp-a"]).ok();
    let kept = host.path("/var/lib/vtpm-guard/plain-state");
    assert_eq!(kept.read_dir().unwrap().count(), 1);
    host.virsh(&["undefine", "vm1"]).ok();
    let doctor = host.guard(&["doctor"]).stdout;
    let drop = format!("fix: remove it: vtpm-guard state drop {}\n", guest.uuid);
    assert!(doctor.contains(&drop), "{doctor}");
    host.guard(&["state", "drop", &guest.uuid.to_string()]).ok();
    assert_eq!(kept.read_dir().unwrap().count(), 0);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_transient_guest_with_a_new_uuid_at_each_run_is_one_where_its_tpm_is_to_be_new() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let secret = SecretUuid::random();
    let run = || Guest {
        name: "job".to_owned(),
        uuid: DomainUuid::random(),
        secret,
    };
    host.configure("[policy]\nauto_bind = \"nkp-a\"\ntransient_state = \"fresh\"\n");
    for _ in 0..2 {
        let guest = run();
        host.create_running(&guest);
        host.stop(&guest);
    }
    // Where it is to be kept, the guard does not know which one is meant.
    host.configure("[policy]\nauto_bind = \"nkp-a\"\n");
    host.create(&run()).refused_with("VG201");
}
