//! `provider slot ...` and `open`, with the plugin of docs/kms-plugins.md.

use super::*;

pub(super) fn with_slot(host: &Fixture) {
    in_use(host);
    host.with_toy("sealed");
    crate::manage::slots::add(&host.host, "a", &toy("one"), None).unwrap();
}

pub(super) fn slots(host: &Fixture) -> usize {
    slots_of(host, "a")
}

fn slots_of(host: &Fixture, provider: &str) -> usize {
    let slots = crate::manage::slots::list(&host.host, provider)
        .unwrap()
        .slots;
    slots.iter().filter(|slot| slot.slot_uuid.is_some()).count()
}

pub(super) fn key_managers() -> Vec<Scenario> {
    vec![
        command!(
            "provider create",
            ["provider", "create", "c", "--slot", "toy:c"],
            |host| host.with_toy("sealed"),
            |host| {
                has_provider(host, "c");
                assert_eq!(slots_of(host, "c"), 1);
            },
            of: "with a slot",
            again: &[1]
        ),
        command!(
            "provider slot add",
            ["provider", "slot", "add", "a", "toy:one"],
            |host| {
                in_use(host);
                host.with_toy("sealed");
            },
            |host| {
                assert_eq!(slots(host), 1);
                starts_with_one_key(host);
            }
        ),
        command!(
            "provider slot verify",
            ["provider", "slot", "verify", "a"],
            with_slot,
            |host| {
                assert_eq!(slots(host), 1);
                starts_with_one_key(host);
            }
        ),
        command!(
            "provider slot remove",
            ["provider", "slot", "remove", "a", "toy:one"],
            with_slot,
            |host| {
                assert_eq!(slots(host), 0);
                starts_with_one_key(host);
            },
            again: &[1, 2]
        ),
        command!(
            "open",
            ["open"],
            |host| {
                with_slot(host);
                host.with_toy("boot");
            },
            |host| {
                let key_id = host.provider("a").key_id;
                let place = host.host.keyring().place(key_id).unwrap();
                assert_eq!(place, crate::keyring::KekPlace::Tmpfs);
                starts_with_one_key(host);
            }
        ),
        command!(
            "provider rotate",
            ["provider", "rotate", "a"],
            with_slot,
            |host| {
                assert!(host.provider("a").key_version > 1);
                assert_eq!(slots(host), 1);
                starts_with_one_key(host);
            },
            of: "with a slot"
        ),
    ]
}
