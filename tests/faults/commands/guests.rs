//! What is done to guests.

use super::*;

pub(super) fn guests() -> Vec<Scenario> {
    vec![
        command!("adopt", ["adopt", "vm1"], persistent_secret, |host| {
            starts_with_one_key(host);
            secret_is_dropped(host);
        }),
        command!("repair", ["repair", "vm1"], placeholder_beside, |host| {
            assert_eq!(host.rows(&guest(host)).len(), 1);
            starts_with_one_key(host);
        }),
        command!(
            "replay",
            ["replay", "{root}/vm1.xml"],
            |host| {
                placeholder_beside(host);
                let xml = host.host.defined_guest("vm1").unwrap().xml;
                fs::write(host.root().join("vm1.xml"), xml).unwrap();
            },
            |host| {
                assert_eq!(host.rows(&guest(host)).len(), 1);
                starts_with_one_key(host);
            },
            may_leave_out: true
        ),
        command!(
            "encrypt",
            ["encrypt", "vm1"],
            plain,
            starts_with_one_key,
            allowed: Allowed { refuses_until_again: true, ..STRICT }
        ),
        command!(
            "reset",
            ["reset", "vm1"],
            |host| {
                in_use(host);
                host.save_copy(&guest(host));
            },
            |host| {
                let rows = host.rows(&guest(host));
                assert!(rows.iter().all(|row| row.key_ref.first_used_at.is_none()));
                starts_with_one_key(host);
            }
        ),
        command!(
            "stage",
            ["stage"],
            autostart,
            |host| assert_eq!(staged(host), 1),
            may_leave_out: true
        ),
        command!(
            "unstage",
            ["unstage"],
            |host| {
                autostart(host);
                crate::manage::stage::stage(&host.host).unwrap();
            },
            |host| assert_eq!(staged(host), 0)
        ),
    ]
}
