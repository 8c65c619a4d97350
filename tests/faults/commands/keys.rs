//! `key ...`.

use super::*;

pub(super) fn keys() -> Vec<Scenario> {
    vec![
        command!(
            "key bind",
            ["key", "bind", "vm1", "--provider", "b"],
            |host| drop(host.define("vm1")),
            |host| assert_eq!(host.rows(&guest(host)).len(), 1)
        ),
        command!(
            "key unbind",
            ["key", "unbind", "vm1"],
            in_use,
            |host| {
                let rows = host.rows(&guest(host));
                assert!(rows.len() == 1 && rows[0].retired_at.is_some());
            },
            again: &[2],
            allowed: Allowed { refuses_until_again: true, ..STRICT }
        ),
        command!(
            "key retire",
            ["key", "retire", "2"],
            two_keys,
            starts_with_one_key
        ),
        command!(
            "key use",
            ["key", "use", "1"],
            two_keys,
            starts_with_one_key
        ),
        command!(
            "key renew",
            ["key", "renew", "vm1"],
            in_use,
            starts_with_one_key,
            may_leave_out: true
        ),
        command!(
            "key clone",
            ["key", "clone", "vm1", "vm2"],
            |host| {
                let original = host.guest_in_use("vm1");
                let copy = host.define("vm2");
                copy_state(host, &original, &copy);
            },
            |host| {
                starts_with_one_key(host);
                host.assert_starts_with_one_key(&host.defined("vm2"));
            }
        ),
        command!(
            "key clone",
            ["key", "clone", "vm1", "vm2"],
            |host| {
                host.guest_in_use("vm1");
                host.define("vm2");
            },
            |host| {
                starts_with_one_key(host);
                assert_eq!(host.rows(&host.defined("vm2")).len(), 1);
            },
            of: "no state"
        ),
        command!(
            "key import",
            ["key", "import", "vm1", "--from", "{root}/backup"],
            |host| {
                in_use(host);
                backup(host);
                host.sql("DELETE FROM key_ref");
            },
            starts_with_one_key
        ),
        command!(
            "key prune",
            ["key", "prune", "--older-than", "0h", "--standby"],
            |host| {
                let gone = host.guest_in_use("vm2");
                host.save_copy(&gone);
                let states = host.libvirt.dirs().tpm_states();
                fs::remove_dir_all(states.join(gone.uuid.to_string())).unwrap();
                host.libvirt.guests.undefine("vm2");
                in_use(host);
            },
            |host| {
                assert_eq!(host.store().all_key_refs(None, true).unwrap().len(), 1);
                assert_eq!(copies(host), 0);
                starts_with_one_key(host);
            },
            may_leave_out: true,
            allowed: Allowed { forgets_keys: true, ..STRICT }
        ),
        command!(
            "key metadata",
            ["key", "metadata", "vm1", "--write"],
            in_use,
            |host| host.assert_travels(&guest(host))
        ),
    ]
}
