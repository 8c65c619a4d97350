//! What monitoring sees: metrics, plugins, and guests whose key is somebody else's concern.

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::Tpm;
use crate::host::Host;

const METRICS: &str = "/run/vtpm-guard.prom";

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_libvirt_that_does_not_answer_leaves_no_file_of_yesterday() {
    let (host, _) = Host::with_used_guest();
    let check = ["check", "--all", "--nagios", "--metrics", METRICS];
    let fine = host.guard(&check).ok();
    assert!(
        fine.stdout
            .starts_with("VTPM-GUARD OK - 1 guest would start | "),
        "{fine:?}"
    );
    let metrics = host.read(METRICS);
    assert!(
        metrics.contains("\nvtpm_guard_check_success 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("domain=\"vm1\""), "{metrics}");
    let last = "\nvtpm_guard_check_last_success_timestamp_seconds ";
    let succeeded_at = metrics.split(last).nth(1).unwrap().trim().to_owned();

    host.stop_libvirtd();
    let down = host.guard(&check);
    assert_eq!(down.status, 3, "{down:?}");
    assert!(
        down.stdout.starts_with("VTPM-GUARD UNKNOWN - libvirt"),
        "{down:?}"
    );
    let metrics = host.read(METRICS);
    assert!(
        metrics.contains("\nvtpm_guard_check_success 0\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains(&format!("{last}{succeeded_at}\n")),
        "{metrics}"
    );
    assert!(!metrics.contains("vm1"), "{metrics}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_whose_client_brings_its_key_is_no_failure() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let secret = SecretUuid::random();
    let guest = host.define_guest("instance-1", Tpm::Encrypted(secret));
    // As Nova does: defined for the start alone, private and ephemeral.
    host.write(
        "/run/secret.xml",
        format!(
            "<secret ephemeral='yes' private='yes'><uuid>{secret}</uuid>\
             <usage type='vtpm'><name>instance-1</name></usage></secret>"
        ),
    );
    host.write("/run/value", "the key that the client keeps");
    let uuid = secret.to_string();
    let bring_key = || {
        host.virsh(&["secret-define", "/run/secret.xml"]).ok();
        let set = ["secret-set-value", &uuid, "--plain", "--file", "/run/value"];
        host.virsh(&set).ok();
    };
    let take_key_away = || host.virsh(&["secret-undefine", &uuid]).ok();
    for _ in 0..2 {
        bring_key();
        host.start_running(&guest);
        take_key_away();
        for running in [true, false] {
            if !running {
                host.stop(&guest);
            }
            let check = ["check", "--all", "--nagios", "--metrics", METRICS];
            let checked = host.guard(&check).ok();
            assert!(checked.stdout.contains(" clients_key=1;"), "{checked:?}");
            let metrics = host.read(METRICS);
            assert!(
                metrics.contains("clients_key{domain=\"instance-1\""),
                "{metrics}"
            );
            assert!(!metrics.contains("VG202"), "{metrics}");
            let status = host.guard(&["status"]).ok();
            assert!(status.stdout.contains("by its client"), "{status:?}");
            assert_eq!(host.guard(&["doctor"]).status, 0);
        }
    }
    assert_eq!(host.tpms_made(&guest), 1);
    assert!(host.key_refs(&guest).is_empty());
}
