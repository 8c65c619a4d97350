//! The database is that of yesterday, or new: the hosts give it back what it lacks.

use super::Fleet;

/// What hosts give back: keys and what they count as, providers and the hosts themselves.
const FACTS: &str = "SELECT count(*) FROM vtpm_guard.fact \
                     WHERE kind IN ('key', 'status', 'provider', 'slot', 'successor', 'host')";

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_database_of_yesterday_or_a_new_one_is_healed_by_the_hosts() {
    let (fleet, [alpha, beta]) = Fleet::with_hosts();
    let database = &fleet.database;
    let old = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&old);
    alpha.exchange();
    database.tell("dump");
    let new = alpha.define_bound_guest("vm2", "nkp-a");
    alpha.start_and_stop(&new);
    alpha.guard(&["key", "renew", "vm1"]).ok();
    alpha.start_and_stop(&old);
    alpha.exchange();
    beta.exchange();
    let facts = database.sql(FACTS);
    let (tpm_old, tpm_new) = (alpha.tpm_of_rows(&old), alpha.tpm(&new));

    database.tell("restore");
    assert_ne!(database.sql(FACTS), facts);
    alpha.starts_with_rows(&old, &tpm_old);
    alpha.stop(&old);
    // Each host does this once a day.
    alpha.guard(&["sync", "--compare"]).ok();
    assert_eq!(database.sql(FACTS), facts);
    beta.exchange();
    assert_eq!(beta.live_keys(&old), alpha.live_keys(&old));

    database.tell("remake-database");
    assert_ne!(alpha.guard(&["sync"]).status, 0);
    alpha.starts_with(&new, &tpm_new);
    alpha.stop(&new);
    fleet.init(&beta);
    for host in [&alpha, &beta] {
        host.exchange();
    }
    assert_eq!(
        database.sql(FACTS),
        facts,
        "it is another database: compared at once"
    );
    let gamma = fleet.host(2);
    gamma.guard(&["fleet", "join"]).ok();
    for guest in [&old, &new] {
        assert_eq!(gamma.live_keys(guest), alpha.live_keys(guest));
    }
}
