//! Calls of the hook.

use super::*;

macro_rules! hook {
    ($operation:literal, $arguments:expr, $set_up:expr, $done:expr $(, $field:ident: $value:expr)*) => {
        command!($operation, $arguments, $set_up, $done, tool: Tool::Hook $(, $field: $value)*)
    };
}

const PREPARE: [&str; 4] = ["vm1", "prepare", "begin", "-"];

/// A start that learns its key from the fleet.
pub(super) fn asks_the_fleet(set_up: fn(&Fixture)) -> Scenario {
    hook!("hook prepare", PREPARE, set_up, has_its_key, of: "asks the fleet")
}

pub(super) fn hook() -> Vec<Scenario> {
    vec![
        hook!("hook prepare", PREPARE, in_use, has_its_key),
        hook!(
            "hook prepare",
            PREPARE,
            |host| {
                host.define("vm1");
                crate::manage::bind::bind(&host.host, "vm1", Some("a")).unwrap();
            },
            |host| {
                let guest = guest(host);
                assert!(host.libvirt.secrets.value(guest.secret).is_some());
                assert!(host.is_allowed(&guest));
            },
            of: "first start"
        ),
        hook!("hook prepare", PREPARE, placeholder_beside, has_its_key, of: "repairs"),
        hook!(
            "hook prepare",
            PREPARE,
            |host| {
                in_use(host);
                host.sql("UPDATE key_ref SET provider_uuid = NULL");
            },
            has_its_key,
            of: "rebind"
        ),
        hook!("hook prepare", PREPARE, transient, has_its_key, of: "transient"),
        hook!(
            "hook prepare",
            PREPARE,
            |host| {
                with_a_copy_alone(host);
                host.libvirt.guests.start("vm1");
                host.libvirt.guests.undefine("vm1");
            },
            has_its_key,
            of: "restores a copy"
        ),
        hook!(
            "hook started",
            ["vm1", "started", "begin", "-"],
            started,
            secret_is_dropped
        ),
        hook!(
            "hook stopped",
            ["vm1", "stopped", "end", "-"],
            |host| {
                started(host);
                host.libvirt.guests.stop("vm1");
            },
            secret_is_dropped
        ),
        hook!(
            "hook release",
            ["vm1", "release", "end", "-"],
            |host| {
                transient(host);
                give_key(host);
            },
            |host| {
                secret_is_dropped(host);
                // A state that was out of libvirt's reach comes back with the next start.
                give_key(host);
                has_its_key(host);
            },
            allowed: Allowed { refuses_until_again: true, ..STRICT }
        ),
        hook!(
            "hook migrate",
            ["vm1", "migrate", "begin", "-"],
            in_use,
            |_| ()
        ),
        hook!(
            "hook restore",
            ["vm1", "restore", "begin", "-"],
            in_use,
            |_| ()
        ),
    ]
}
