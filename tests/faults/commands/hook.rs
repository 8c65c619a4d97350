//! Calls of the hook.

use super::*;

macro_rules! hook {
    ($operation:literal, $arguments:expr, $set_up:expr, $done:expr $(, $field:ident: $value:expr)*) => {
        command!($operation, $arguments, $set_up, $done, tool: Tool::Hook $(, $field: $value)*)
    };
}

const PREPARE: [&str; 4] = ["vm1", "prepare", "begin", "-"];

/// A start that learns something from the fleet.
pub(super) fn asks_the_fleet(of: &'static str, set_up: fn(&Fixture)) -> Scenario {
    hook!("hook prepare", PREPARE, set_up, has_its_key, of: of)
}

/// A guest that has never been started.
fn bound(host: &Fixture) {
    host.define("vm1");
    crate::manage::bind::bind(&host.host, "vm1", Some("a")).unwrap();
}

/// libvirt has a key for the guest's new TPM.
fn has_a_first_key(host: &Fixture) {
    let guest = guest(host);
    assert!(host.libvirt.secrets.value(guest.secret).is_some());
    assert!(host.is_allowed(&guest));
}

fn stopped(host: &Fixture) {
    started(host);
    host.libvirt.guests.stop("vm1");
}

fn released(host: &Fixture) {
    transient(host);
    give_key(host);
}

fn comes_back(host: &Fixture) {
    secret_is_dropped(host);
    // A state that was out of libvirt's reach comes back with the next start.
    give_key(host);
    has_its_key(host);
}

/// libvirt has another value, which may be a key of something else.
fn another_value(host: &Fixture) {
    in_use(host);
    let secret = guest(host).secret;
    let xml = format!(
        "<secret ephemeral='no' private='no'><uuid>{secret}</uuid><usage type='vtpm'><name>mine</name></usage></secret>"
    );
    let secrets = &host.libvirt.secrets;
    secrets.define(&xml).unwrap();
    secrets
        .set_value(secret, Dek::generate().unwrap().expose())
        .unwrap();
}

/// The value that libvirt had is kept as a retired key: that none is lost is held of all hosts.
fn has_its_key_beside_a_retired_one(host: &Fixture) {
    has_its_key(host);
    let rows = host.rows(&guest(host));
    let retired = rows.iter().filter(|row| row.retired_at.is_some());
    assert_eq!((rows.len(), retired.count()), (2, 1), "{rows:#?}");
}

fn damaged(host: &Fixture) {
    in_use(host);
    host.save_copy(&guest(host));
    host.write_state(&guest(host), b"damaged");
}

/// The calls that a hook makes of libvirt's daemon itself, over its socket: a healthy start, a first one, one over a value
/// that has to be read and replaced, and what follows.
pub(super) fn over_the_socket() -> Vec<Scenario> {
    vec![
        hook!("hook prepare", PREPARE, in_use, has_its_key, of: "over the socket", over_the_socket: true),
        hook!(
            "hook prepare",
            PREPARE,
            bound,
            has_a_first_key,
            of: "first start, over the socket",
            over_the_socket: true
        ),
        hook!(
            "hook prepare",
            PREPARE,
            another_value,
            has_its_key_beside_a_retired_one,
            of: "another value is kept, over the socket",
            over_the_socket: true
        ),
        hook!(
            "hook started",
            ["vm1", "started", "begin", "-"],
            started,
            secret_is_dropped,
            of: "over the socket",
            over_the_socket: true
        ),
        hook!(
            "hook stopped",
            ["vm1", "stopped", "end", "-"],
            stopped,
            secret_is_dropped,
            of: "over the socket",
            over_the_socket: true
        ),
        hook!(
            "hook release",
            ["vm1", "release", "end", "-"],
            released,
            comes_back,
            of: "over the socket",
            over_the_socket: true,
            allowed: Allowed { refuses_until_again: true, ..STRICT }
        ),
    ]
}

pub(super) fn hook() -> Vec<Scenario> {
    vec![
        hook!("hook prepare", PREPARE, in_use, has_its_key),
        hook!(
            "hook prepare",
            PREPARE,
            bound,
            has_a_first_key,
            of: "first start"
        ),
        hook!(
            "hook prepare",
            PREPARE,
            |host| {
                host.configure("[policy]\nauto_bind = \"b\"");
                host.define("vm1");
            },
            |host| {
                has_a_first_key(host);
                assert_eq!(host.rows(&guest(host))[0].key_ref.provider_name, "b");
            },
            of: "bound by itself"
        ),
        hook!(
            "hook prepare",
            PREPARE,
            another_value,
            has_its_key_beside_a_retired_one,
            of: "another value is kept"
        ),
        hook!(
            "hook prepare",
            PREPARE,
            damaged,
            has_its_key,
            of: "a copy for a damaged state"
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
            stopped,
            secret_is_dropped
        ),
        hook!(
            "hook release",
            ["vm1", "release", "end", "-"],
            released,
            comes_back,
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
