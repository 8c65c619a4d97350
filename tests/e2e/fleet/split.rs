//! The network is split: both sides start what they have, and afterwards both have all.

use super::Fleet;

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn both_sides_of_a_split_network_start_their_guests_and_have_all_keys_afterwards() {
    let (_fleet, [alpha, beta, gamma]) = Fleet::with_hosts();
    let here = alpha.define_bound_guest("vm1", "nkp-a");
    let there = beta.define_bound_guest("vm2", "nkp-a");
    alpha.start_and_stop(&here);
    beta.start_and_stop(&there);
    alpha.exchange();
    beta.exchange();
    let (first_tpm, second_tpm) = (alpha.tpm(&here), beta.tpm(&there));

    for host in [&alpha, &beta] {
        host.cut_off(true);
    }
    alpha.starts_with(&here, &first_tpm);
    beta.starts_with(&there, &second_tpm);
    let third = alpha.define_bound_guest("vm3", "nkp-a");
    let fourth = beta.define_bound_guest("vm4", "nkp-a");
    alpha.start_running(&third);
    beta.start_running(&fourth);
    for host in [&alpha, &beta] {
        assert_ne!(host.guard(&["sync"]).status, 0);
    }

    for host in [&alpha, &beta] {
        host.cut_off(false);
    }
    for host in [&alpha, &beta, &gamma, &alpha] {
        host.exchange();
    }
    for guest in [&here, &there, &third, &fourth] {
        let keys = gamma.live_keys(guest);
        assert_eq!(keys.len(), 1, "{guest:?}");
        for host in [&alpha, &beta] {
            assert_eq!(host.live_keys(guest), keys, "{guest:?}");
        }
    }
}
