//! A host comes back that was cut off for a month.

use super::Fleet;

const MONTH: &str = "UPDATE fleet SET synced_at = synced_at - 2592000000, \
                     compared_at = compared_at - 2592000000";

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_host_that_was_away_for_a_month_learns_and_tells_what_happened() {
    let (fleet, [alpha, beta]) = Fleet::with_hosts();
    let guest = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&guest);
    alpha.exchange();
    beta.define_too(&guest);
    beta.exchange();
    let own = beta.define_bound_guest("vm2", "nkp-a");
    beta.start_and_stop(&own);
    let tpm = beta.tpm(&own);
    let old = beta.live_keys(&guest);
    assert_eq!(old, alpha.live_keys(&guest));

    beta.cut_off(true);
    beta.store().execute(MONTH, []).unwrap();
    alpha.guard(&["key", "renew", "vm1"]).ok();
    alpha.start_and_stop(&guest);
    alpha.exchange();
    // The owner tidies up.
    fleet.database.sql("SELECT vtpm_guard.trim('0 seconds')");
    assert_ne!(beta.guard(&["sync"]).status, 0);
    beta.starts_with(&own, &tpm);
    beta.stop(&own);
    let made_meanwhile = beta.define_bound_guest("vm3", "nkp-a");
    beta.start_and_stop(&made_meanwhile);
    assert_ne!(beta.outbox(), 0);

    beta.cut_off(false);
    beta.exchange();
    assert_eq!(beta.outbox(), 0);
    assert_eq!(beta.live_keys(&guest), alpha.live_keys(&guest));
    assert_ne!(beta.live_keys(&guest), old);
    assert_eq!(beta.key_refs(&guest).len(), 2, "the old key is retired");
    beta.starts_with(&own, &tpm);
    alpha.exchange();
    assert_eq!(alpha.live_keys(&made_meanwhile).len(), 1);
    assert_eq!(
        alpha.live_keys(&made_meanwhile),
        beta.live_keys(&made_meanwhile)
    );

    // Told twice, as after a backup of the host's disk was restored: nothing changes.
    let rows = beta.key_refs(&guest);
    beta.store()
        .execute("UPDATE fleet SET cursor = ''", [])
        .unwrap();
    beta.exchange();
    assert_eq!(beta.key_refs(&guest), rows);
}
