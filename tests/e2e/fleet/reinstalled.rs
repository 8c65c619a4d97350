//! A host is installed anew: its guests start, and nobody has copied a key to it.

use std::time::Instant;

use super::Fleet;
use crate::page;

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_guests_of_a_reinstalled_host_start_without_a_key_being_copied() {
    let number = std::env::var("GUESTS").map_or(3, |guests| guests.parse().unwrap());
    let (fleet, [alpha]) = Fleet::with_hosts();
    let guests: Vec<_> = (0..number)
        .map(|number| {
            let guest = alpha.define_bound_guest(&format!("vm{number}"), "nkp-a");
            alpha.start_and_stop(&guest);
            let tpm = alpha.tpm(&guest);
            (guest, tpm)
        })
        .collect();
    alpha.exchange();
    let keys: Vec<_> = guests
        .iter()
        .map(|(guest, _)| alpha.live_keys(guest))
        .collect();
    let for_the_test = alpha.recovery();
    drop(alpha);

    let alpha = fleet.host(0);
    assert!(!alpha.path("/var/lib/vtpm-guard/store.db").exists());
    let begun = Instant::now();
    // The page's commands, word for word.
    let commands = page::blocks_in("text", "fleet.md", "A host is reinstalled");
    let joined = alpha.play(&commands.concat()).ok();
    assert!(joined.stdout.contains("nkp-a"), "{joined:#?}");
    assert!(joined.stderr.contains("fleet lost"), "{joined:#?}");
    let has_joined = begun.elapsed();
    for (guest, _) in &guests {
        alpha.define_too(guest);
        alpha.start_running(guest);
    }
    eprintln!(
        "{number} guests of a reinstalled host: it has joined after {has_joined:?}, all run after {:?}",
        begun.elapsed()
    );
    alpha.take_recovery(&for_the_test);
    for ((guest, tpm), keys) in guests.iter().zip(&keys) {
        assert_eq!(alpha.tpms_made(guest), 0);
        assert_eq!(alpha.live_keys(guest), *keys);
        assert!(alpha.tpm_of_rows(guest) == *tpm, "it is another TPM");
    }
    let new = alpha.define_bound_guest("new", "nkp-a");
    alpha.start_running(&new);
}
