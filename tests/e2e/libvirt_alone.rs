//! What the tests stand on: the private host itself, with hooks of a line or two.

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::Tpm;
use crate::host::Host;

const PASS: &str = "#!/bin/sh\nexit 0\n";

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_empty_host_comes_up_and_has_no_guests() {
    let host = Host::new();
    assert_eq!(
        host.virsh(&["list", "--all", "--name"]).ok().stdout.trim(),
        ""
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn two_hosts_side_by_side_do_not_see_each_other() {
    let (one, other) = (Host::with_hook(PASS), Host::with_hook(PASS));
    let guest = one.define_guest("vm1", Tpm::None);
    one.start(&guest).ok();
    assert_eq!(
        other.virsh(&["list", "--all", "--name"]).ok().stdout.trim(),
        ""
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_with_a_plain_vtpm_starts_and_stops() {
    let host = Host::with_hook(PASS);
    let guest = host.define_guest("vm1", Tpm::Plain);
    host.start(&guest).ok();
    assert_eq!(host.state(&guest), "running");
    host.stop(&guest);
    assert_eq!(host.state(&guest), "shut off");
    assert_eq!(host.tpm_state(&guest)[5] & 1, 0, "the state is encrypted");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_with_an_encrypted_vtpm_starts_with_a_secret_made_by_hand() {
    let host = Host::with_hook(PASS);
    let secret = SecretUuid::random();
    let guest = host.define_guest("vm1", Tpm::Encrypted(secret));
    host.define_secret(secret, "by hand", Some("a made-up key"));
    host.start(&guest).ok();
    assert_eq!(host.state(&guest), "running");
    assert_eq!(
        host.tpm_state(&guest)[5] & 1,
        1,
        "the state is not encrypted"
    );
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_encrypted_vtpm_does_not_start_without_its_secret() {
    let host = Host::with_hook(PASS);
    let guest = host.define_guest("vm1", Tpm::Encrypted(SecretUuid::random()));
    let refused = host.start(&guest);
    assert!(refused.stderr.contains("Secret not found"), "{refused:#?}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn virsh_shows_what_a_hook_says_when_it_refuses() {
    let host =
        Host::with_hook("#!/bin/sh\n[ \"$2\" != prepare ] || { echo no such day >&2; exit 1; }\n");
    let guest = host.define_guest("vm1", Tpm::None);
    let refused = host.start(&guest);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("no such day"), "{refused:#?}");
    assert_eq!(host.state(&guest), "shut off");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_survives_the_restart_of_its_daemon() {
    let host = Host::with_hook(PASS);
    let guest = host.define_guest("vm1", Tpm::Plain);
    host.start(&guest).ok();
    host.restart_libvirtd();
    assert_eq!(host.state(&guest), "running");
}
