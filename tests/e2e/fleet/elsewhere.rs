//! Two hosts have one guest.

use super::{Fleet, configuration};

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_runs_elsewhere_is_told_and_refused_where_that_is_wanted() {
    let (_fleet, [alpha, beta]) = Fleet::with_hosts();
    let guest = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&guest);
    let tpm = alpha.tpm(&guest);
    alpha.start_running(&guest);
    alpha.exchange();
    beta.define_too(&guest);
    beta.exchange();
    let finding = beta.guard(&["check", "vm1", "--json"]);
    assert!(finding.stdout.contains("runs-elsewhere"), "{finding:#?}");
    assert!(finding.stdout.contains("alpha"), "{finding:#?}");

    // Its TPM state is there, as on storage that is replicated.
    let states = "/var/lib/libvirt/swtpm";
    let save = format!("tar -C {states} -cp {} | base64", guest.uuid);
    let saved = alpha.run(&["sh", "-c", &save]).ok().stdout;
    let bring = format!("install -d -m 0711 {states} && base64 -d | tar -C {states} -xp");
    beta.run_with_input(&["sh", "-c", &bring], &saved).ok();
    beta.configure(&configuration("host2", "elsewhere = \"deny\""));
    let refused = beta.start(&guest).refused_with("VG504");
    assert!(refused.stderr.contains("alpha"), "{refused:#?}");
    assert!(
        refused.stderr.contains("vtpm-guard fleet lost alpha"),
        "{refused:#?}"
    );

    // It is fenced, and that is said.
    drop(alpha);
    let lost = beta.guard(&["fleet", "lost", "alpha"]).ok().stdout;
    assert!(lost.contains("vm1"), "{lost}");
    beta.starts_with(&guest, &tpm);
}

// What was said is not forgotten by the host that has said it, and a start there is none elsewhere.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_went_over_and_came_back_starts_where_elsewhere_is_denied() {
    let (_fleet, [alpha, beta]) = Fleet::with_hosts();
    for (host, role) in [(&alpha, "host"), (&beta, "host2")] {
        host.configure(&configuration(role, "elsewhere = \"deny\""));
    }
    let guest = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&guest);
    let tpm = alpha.tpm(&guest);
    alpha.exchange();
    beta.define_too(&guest);
    beta.exchange();
    beta.starts_with(&guest, &tpm);
    beta.exchange();
    alpha.exchange();
    alpha.start(&guest).refused_with("VG504");
    beta.stop(&guest);
    // It has not heard that yet.
    alpha.start(&guest).refused_with("VG504");
    beta.exchange();
    alpha.exchange();
    // Its own state is that of the run before: an older TPM.
    alpha.remove_tpm_state(&guest);
    alpha.starts_with(&guest, &tpm);
}
