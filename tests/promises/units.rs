//! What systemd lets the guard's units do is what the pages say, and what the guard needs.

use std::fs;
use std::path::Path;

use crate::{ROOT, read};

/// A unit's name, and its settings.
fn units() -> Vec<(String, Vec<(String, String)>)> {
    let listed = fs::read_dir(Path::new(ROOT).join("packaging/systemd")).unwrap();
    let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let services = names.filter(|name| name.ends_with(".service"));
    services
        .map(|name| {
            let text = read(Path::new("packaging/systemd").join(&name));
            let settings = text.lines().filter_map(|line| line.split_once('='));
            let settings = settings.filter(|(key, _)| !key.starts_with('#'));
            let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
            (name, settings.collect())
        })
        .collect()
}

fn values<'a>(settings: &'a [(String, String)], key: &str) -> Vec<&'a str> {
    let of_key = settings.iter().filter(|(it, _)| it == key);
    of_key
        .flat_map(|(_, value)| value.split_whitespace())
        .collect()
}

/// The units that open slots, and so run plugins.
fn opening() -> Vec<(String, Vec<(String, String)>)> {
    let mut opening = units();
    opening.retain(|(_, settings)| {
        let runs = |command: &[&str]| values(settings, "ExecStart") == command;
        let guard = "/usr/sbin/vtpm-guard";
        runs(&[guard, "open"]) || runs(&[guard, "sync", "--follow"])
    });
    opening.sort();
    let names: Vec<_> = opening.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["vtpm-guard-fleet.service", "vtpm-guard-open.service"]
    );
    opening
}

/// tpm2-pkcs11 locks a file in its store, and opens nothing where it cannot.
#[test]
fn each_unit_that_opens_slots_may_write_the_documented_store_of_a_module() {
    let page = read("docs/kms-settings.md");
    let (_, rest) = page.split_once("TPM2_PKCS11_STORE=").unwrap();
    let store = rest.split('"').next().unwrap();
    for (name, settings) in opening() {
        let writable = values(&settings, "ReadWritePaths");
        // With "-": most hosts have none.
        assert!(
            writable.contains(&format!("-{store}").as_str()),
            "{name}: {writable:?}"
        );
        assert!(page.contains(name.trim_end_matches(".service")), "{name}");
    }
}

/// `setpriv` and `runuser` need these, and no unit has them.
#[test]
fn what_a_command_needs_to_become_another_user_is_documented_and_not_given_to_every_host() {
    let page = read("docs/kms-settings.md");
    for (key, needed) in [
        ("CapabilityBoundingSet", &["CAP_SETUID", "CAP_SETGID"][..]),
        ("SystemCallFilter", &["@setuid"]),
    ] {
        let line = format!("\n{key}={}\n", needed.join(" "));
        assert!(page.contains(&line), "{line}");
        for (name, settings) in opening() {
            let given = values(&settings, key);
            assert!(!needed.iter().any(|it| given.contains(it)), "{name}");
        }
    }
}

/// Where the hook sees a TPM state, the check must not report that it is missing.
#[test]
fn the_nightly_check_sees_every_place_where_a_domain_xml_may_put_a_tpm_state() {
    let units = units();
    let check = units
        .iter()
        .find(|(name, _)| name == "vtpm-guard-check.service");
    let (_, check) = check.unwrap();
    for hiding in [
        "PrivateTmp",
        "PrivateDevices",
        "InaccessiblePaths",
        "TemporaryFileSystem",
        "RootDirectory",
    ] {
        assert_eq!(values(check, hiding), [""; 0], "{hiding}");
    }
    assert_eq!(values(check, "ProtectHome"), ["read-only"]);
    // Also a partition or a logical volume, in the linear format.
    assert_eq!(values(check, "DevicePolicy"), ["closed"]);
    let allowed = values(check, "DeviceAllow");
    assert!(
        allowed.windows(2).any(|it| it == ["block-*", "r"]),
        "{allowed:?}"
    );
}

/// "Privileges" and "Swap" of docs/reliability.md.
#[test]
fn no_unit_dumps_cores_swaps_keys_or_has_more_capabilities_than_the_page_says() {
    let units = units();
    assert_eq!(units.len(), 5, "{units:?}");
    for (name, settings) in &units {
        for (key, promised) in [
            ("UMask", &["0077"][..]),
            ("LimitCORE", &["0"]),
            ("LimitMEMLOCK", &["infinity"]),
            ("NoNewPrivileges", &["yes"]),
            (
                "CapabilityBoundingSet",
                &["CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE"],
            ),
        ] {
            assert_eq!(values(settings, key), promised, "{name}: {key}");
        }
    }
}

/// Those that run the programs that read what a server sends.
#[test]
fn a_unit_that_opens_slots_writes_where_the_page_says_and_lets_programs_confine_themselves() {
    // Whatever its lines are.
    let page = read("docs/reliability.md");
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, promised) = page
        .split_once("none of the file system writable but ")
        .unwrap();
    let (promised, _) = promised.split_once("of their own").unwrap();
    for (name, settings) in opening() {
        assert_eq!(values(&settings, "ProtectSystem"), ["strict"], "{name}");
        assert_eq!(values(&settings, "ProtectHome"), ["read-only"], "{name}");
        assert_eq!(values(&settings, "PrivateTmp"), ["yes"], "{name}");
        let writable = values(&settings, "ReadWritePaths");
        let places = [
            "-/var/lib/vtpm-guard",
            "-/var/lib/systemd",
            "-/etc/tpm2_pkcs11",
        ];
        assert_eq!(writable, places, "{name}");
        assert_eq!(
            values(&settings, "RuntimeDirectory"),
            ["vtpm-guard"],
            "{name}"
        );
        let calls = values(&settings, "SystemCallFilter");
        for call in [
            "capset",
            "landlock_add_rule",
            "landlock_create_ruleset",
            "landlock_restrict_self",
            "prlimit64",
            "seccomp",
        ] {
            assert!(calls.contains(&call), "{name}: {call}: {calls:?}");
        }
    }
    for place in [
        "the state directory",
        "`/run/vtpm-guard`",
        "`/var/lib/systemd`",
        "the store of tpm2-pkcs11",
        "a `/tmp`",
    ] {
        assert!(promised.contains(place), "{place}: {promised}");
    }
}
