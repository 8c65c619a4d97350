//! What is refused, because something would be lost: it is refused, too, where something cannot be read for a moment.

use super::key_managers::{slots, with_slot};
use super::*;
use crate::manage::open::open;
use crate::tpm_copies::MAX_COPIES;

pub(super) fn refused() -> Vec<Scenario> {
    vec![
        command!(
            "state drop",
            ["state", "drop", "vm1"],
            with_a_copy_alone,
            has_a_copy_that_opens,
            of: "the only state",
            ends: 1
        ),
        command!(
            "provider slot remove",
            ["provider", "slot", "remove", "a", "toy:one"],
            |host| {
                with_slot(host);
                host.with_toy("boot");
                open(&host.host, &[]).unwrap();
            },
            |host| {
                assert_eq!(slots(host), 1);
                starts_with_one_key(host);
            },
            of: "the last one",
            ends: 1
        ),
        command!(
            "provider delete",
            ["provider", "delete", "a"],
            in_use,
            |host| {
                has_provider(host, "a");
                starts_with_one_key(host);
            },
            of: "needed",
            ends: 1
        ),
        command!(
            "hook prepare",
            ["vm1", "prepare", "begin", "-"],
            with_many_copies,
            has_a_copy_that_opens,
            tool: Tool::Hook,
            of: "refused, with many copies",
            ends: 1
        ),
    ]
}

/// Of a transient guest whose state another key has encrypted. The copy of its own is neither the earliest nor the
/// latest.
fn with_many_copies(host: &Fixture) {
    transient(host);
    let guest = guest(host);
    let own = fs::read(host.state_file(&guest)).unwrap();
    for number in 0..=MAX_COPIES {
        if number == 1 {
            fs::write(host.state_file(&guest), &own).unwrap();
        } else {
            host.encrypt_state(&guest, &Dek::generate().unwrap());
        }
        host.save_copy(&guest);
    }
}

fn has_a_copy_that_opens(host: &Fixture) {
    let copies = host.host.all_copies().unwrap().judged;
    assert!(copies.iter().any(|copy| copy.opened), "{copies:?}");
}
