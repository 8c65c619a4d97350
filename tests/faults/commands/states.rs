//! `state ...`, `store ...`, `sync` and `check`.

use super::*;

pub(super) fn states_and_store() -> Vec<Scenario> {
    vec![
        command!(
            "state restore",
            ["state", "restore", "vm1"],
            with_a_copy_alone,
            starts_with_one_key
        ),
        command!(
            "state persist",
            ["state", "persist", "vm1"],
            in_use,
            |host| {
                let definition = host.host.defined_guest("vm1").unwrap().xml;
                assert!(
                    definition.contains("persistent_state='yes'"),
                    "{definition}"
                );
            }
        ),
        command!(
            "state drop",
            ["state", "drop", "vm1"],
            |host| {
                in_use(host);
                host.save_copy(&guest(host));
            },
            |host| {
                assert_eq!(copies(host), 0);
                starts_with_one_key(host);
            },
            again: &[2]
        ),
        command!(
            "state drop",
            ["state", "drop", "vm1", "--force"],
            with_a_copy_alone,
            |host| assert_eq!(copies(host), 0),
            of: "the only state, by force",
            again: &[2],
            allowed: Allowed { forgets_tpms: true, refuses_until_again: true, ..STRICT }
        ),
        command!(
            "store backup",
            ["store", "backup", "{root}/copy.db"],
            in_use,
            |host| {
                use crate::store::Store;
                let copy = Store::open_copy(&host.root().join("copy.db"), default_deadline());
                assert_eq!(copy.unwrap().all_key_refs(None, true).unwrap().len(), 1);
            },
            again: &[1]
        ),
        command!(
            "store restore",
            ["store", "restore", "{root}/backup"],
            |host| {
                in_use(host);
                backup(host);
                host.define("vm2");
                crate::manage::bind::bind(&host.host, "vm2", Some("b")).unwrap();
            },
            |host| {
                assert_eq!(host.store().all_key_refs(None, true).unwrap().len(), 1);
                starts_with_one_key(host);
            },
            allowed: Allowed { refuses_until_again: true, ..STRICT }
        ),
        command!(
            "store rebuild",
            ["store", "rebuild"],
            |host| {
                travelling(host);
                host.synced();
                host.sql("DELETE FROM key_ref");
            },
            starts_with_one_key
        ),
        command!("sync", ["sync"], travelling, |host| host
            .assert_travels(&guest(host))),
        command!(
            "sync",
            ["sync", "--metadata-only"],
            |host| {
                travelling(host);
                host.synced();
                host.set_metadata("off");
            },
            |host| host.assert_bare(&guest(host)),
            of: "off again"
        ),
        command!(
            "check",
            ["check", "--all", "--metrics", "{root}/metrics"],
            in_use,
            |host| assert!(host.root().join("metrics").exists())
        ),
    ]
}
