//! `provider slot …`, `provider create --slot`, `open`: with the real `kms-exec`, whose command turns one bit of each byte.

use std::fs;

use serde_json::{Value, json};

use crate::built::built;
use crate::env::{Host, Ran, VM1, golden};

/// Two key managers that wrap, and some that do not.
const KEY_MANAGERS: &str = r#"
[kms.box]
kind = "exec"
wrap = ['/usr/bin/tr', '\000-\377', '\200-\377\000-\177']
unwrap = ['/usr/bin/tr', '\000-\377', '\200-\377\000-\177']
[kms.other]
kind = "exec"
wrap = ['/usr/bin/tr', '\000-\377', '\200-\377\000-\177']
unwrap = ['/usr/bin/tr', '\000-\377', '\200-\377\000-\177']
[kms.clear]
kind = "exec"
wrap = ["/bin/cat"]
unwrap = ["/bin/cat"]
[kms.closed]
kind = "exec"
wrap = ["/bin/false"]
unwrap = ["/bin/false"]
[kms.liar]
kind = "exec"
wrap = ['/usr/bin/tr', '\000-\377', '\200-\377\000-\177']
unwrap = ["/bin/sh", "-c", "cat >/dev/null; printf '%032d' 0"]
[kms.nobody]
kind = "no-such-kind"
[kms.wrong]
kind = "exec"
wrap = ['/usr/bin/tr', '\000-\377', '\200-\377\000-\177']
unwrap = ['/usr/bin/tr', '\000-\377', '\200-\377\000-\177']
typo = "x"
"#;

/// A host with these key managers.
fn host() -> Host {
    built("kms-exec");
    let host = Host::new();
    configure(&host, "");
    host
}

fn configure(host: &Host, provider: &str) {
    host.file(
        "config.toml",
        &format!("[provider]\n{provider}\n{KEY_MANAGERS}"),
    );
}

fn run(host: &Host, line: &str) -> Ran {
    let words: Vec<_> = ["--config", "config.toml"]
        .into_iter()
        .chain(line.split(' '))
        .collect();
    host.run(&words)
}

fn json(host: &Host, line: &str) -> Value {
    let answer = run(host, &format!("{line} --json"));
    serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn lose_sealed_keys(host: &Host) {
    fs::remove_dir_all(host.state_dir().join("keys")).unwrap();
}

fn sql(host: &Host, sql: &str) {
    let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    store.execute_batch(sql).unwrap();
}

#[test]
fn a_provider_is_made_with_a_slot_and_loses_it_again() {
    let host = host();
    golden(
        "slot-create",
        &run(&host, "provider create nkp-a --slot box:one"),
    );
    golden(
        "slot-add",
        &run(&host, "provider slot add nkp-a other:two --label second"),
    );
    golden("slot-list", &run(&host, "provider slot list nkp-a"));
    golden("slot-verify", &run(&host, "provider slot verify nkp-a"));
    golden(
        "slot-remove",
        &run(&host, "provider slot remove nkp-a second"),
    );
    golden(
        "slot-remove-host",
        &run(&host, "provider slot remove nkp-a host").ends_with(1),
    );
    golden(
        "slot-remove-unknown",
        &run(&host, "provider slot remove nkp-a x:y").ends_with(2),
    );
    // Its sealed key on this host opens.
    run(&host, "provider slot remove nkp-a box:one").succeeds();
    golden("slot-list-none", &run(&host, "provider slot list nkp-a"));
}

#[test]
fn a_slot_that_is_added_again_is_wrapped_anew_and_stays_one() {
    let host = host();
    run(&host, "provider create nkp-a --slot box:one").succeeds();
    let before = json(&host, "provider slot list nkp-a");
    sql(
        &host,
        "UPDATE kek_slot SET blob = x'00', verified_at = NULL",
    );
    run(&host, "provider slot add nkp-a box:one").succeeds();
    let after = json(&host, "provider slot list nkp-a");
    assert_eq!(after["slots"].as_array().unwrap().len(), 2);
    assert_eq!(
        after["slots"][1]["slot_uuid"],
        before["slots"][1]["slot_uuid"]
    );
    let verified = json(&host, "provider slot verify nkp-a");
    assert_eq!(verified["slots"][1]["opens"], true);
}

#[test]
fn a_key_manager_that_does_not_take_the_key_changes_nothing() {
    let host = host();
    run(&host, "provider create nkp-a").succeeds();
    let before = host.stored();
    for (kms, status, says) in [
        ("closed", 4, "it failed: /bin/false"),
        ("liar", 4, "is not the key"),
        ("clear", 1, "has not wrapped the key"),
        ("nobody", 4, "kms-no-such-kind is not installed"),
        ("wrong", 2, "unknown key \"typo\""),
        ("absent", 2, "no section [kms.absent]"),
    ] {
        for line in [
            format!("provider create nkp-b --slot box:good --slot {kms}:key"),
            format!("provider slot add nkp-a {kms}:key"),
        ] {
            run(&host, &line).ends_with(status).saying(says);
        }
    }
    for spec in ["box", "box:", ":key"] {
        run(&host, &format!("provider slot add nkp-a {spec}"))
            .ends_with(2)
            .saying("KMS:REMOTE-KEY");
    }
    assert_eq!(host.stored(), before);
}

#[test]
fn a_slot_that_opens_no_more_is_told() {
    let host = host();
    run(
        &host,
        "provider create nkp-a --slot box:one --slot other:two",
    )
    .succeeds();
    sql(&host, "UPDATE kek_slot SET blob = x'00' WHERE kms = 'box'");
    sql(
        &host,
        "UPDATE kek_slot SET kms = 'closed' WHERE kms = 'other'",
    );
    let verified = run(&host, "provider slot verify nkp-a").ends_with(4);
    assert!(verified.stdout.contains("is not the key"), "{verified:?}");
    assert!(
        verified.stdout.contains("it does not open the wrapped key"),
        "{verified:?}"
    );
}

#[test]
fn a_key_that_is_gone_from_this_host_comes_back_by_its_slot() {
    let host = host();
    run(&host, "provider create nkp-a --slot closed:one").ends_with(4);
    run(
        &host,
        "provider create nkp-a --slot box:one --slot other:two",
    )
    .succeeds();
    let here = json(&host, "open");
    assert_eq!(
        (&here[0]["result"], &here[0]["slot"]),
        (&json!("here"), &Value::Null)
    );
    lose_sealed_keys(&host);
    golden("open", &run(&host, "open nkp-a"));
    assert_eq!(json(&host, "provider show nkp-a")["opens"], true);
    // The first slot does not open it, the second does.
    lose_sealed_keys(&host);
    sql(
        &host,
        "UPDATE kek_slot SET kms = 'closed' WHERE kms = 'box'",
    );
    let opened = json(&host, "open");
    assert_eq!(opened[0]["result"], "opened");
    assert_eq!(opened[0]["slot"], "other:two");
    assert_eq!(opened[0]["trouble"].as_array().unwrap().len(), 1);
    // None does.
    lose_sealed_keys(&host);
    sql(&host, "UPDATE kek_slot SET kms = 'closed'");
    golden("open-not-opened", &run(&host, "open").ends_with(4));
    golden("open-nothing", &self::host().run(&["open"]));
}

#[test]
fn a_rotation_gives_the_new_key_the_same_slots_or_does_not_begin() {
    let host = host();
    run(&host, "provider create nkp-a --slot box:one").succeeds();
    run(&host, "provider slot add nkp-a other:two --label second").succeeds();
    host.start_for_the_first_time(VM1, "nkp-a");
    let before = json(&host, "provider slot list nkp-a");
    let rotated = json(&host, "provider rotate nkp-a");
    let after = json(&host, "provider slot list nkp-a");
    for slot in [1, 2] {
        let (before, after) = (&before["slots"][slot], &after["slots"][slot]);
        for key in ["kms", "remote_key", "label", "kind"] {
            assert_eq!(before[key], after[key]);
        }
        assert_eq!(after["key_id"], rotated["key_id"]);
        assert_ne!(before["slot_uuid"], after["slot_uuid"]);
    }
    // The previous key has kept its own.
    let previous = rotated["former_keys"][0]["name"].as_str().unwrap();
    let previous = json(&host, &format!("provider slot verify {previous}"));
    assert_eq!(previous["slots"][2]["opens"], true);

    sql(
        &host,
        "UPDATE kek_slot SET kms = 'closed' WHERE kms = 'other'",
    );
    let stored = host.stored();
    run(&host, "provider rotate nkp-a")
        .ends_with(4)
        .saying("kms.closed");
    assert_eq!(host.stored(), stored);
}

/// vm1, bound to nkp-a; its XML is in vm1.xml.
fn define_bound_guest(host: &Host) {
    host.start_for_the_first_time(VM1, "nkp-a");
    let xml = format!(
        "<domain type='kvm'><name>vm1</name><uuid>{VM1}</uuid><devices><tpm model='tpm-crb'>\
         <backend type='emulator' version='2.0'><encryption \
         secret='6dd3e4a5-1f2e-4a0b-9c8d-000000000001'/></backend></tpm></devices></domain>"
    );
    host.file("vm1.xml", &xml);
    sql(host, "UPDATE key_ref SET first_used_at = NULL");
}

/// Would vm1 start? Without asking libvirt; a start that goes on says nothing.
fn check(host: &Host) -> Ran {
    run(host, "replay vm1.xml --no-secret --dry-run")
}

/// VG104: without a key manager only the recovery file helps, with one a command does, and both are named.
#[test]
fn a_damaged_sealed_key_is_opened_by_its_key_manager_and_every_hint_says_so() {
    let host = host();
    run(&host, "provider create nkp-a").succeeds();
    define_bound_guest(&host);
    let spoil = || {
        let key = host.kek("nkp-a").key_id().to_string();
        fs::write(host.state_dir().join("keys").join(key), "nonsense").unwrap();
    };
    let advised_by_doctor = || {
        let found = json(&host, "doctor");
        let found = found.as_array().unwrap().iter();
        let mut advised = found.filter(|it| it["what"].as_str().unwrap().contains("does not open"));
        advised.next().unwrap()["command"].clone()
    };
    run(&host, "provider slot add nkp-a box:one").succeeds();
    spoil();
    let hint = "open it: vtpm-guard open nkp-a; or restore it: vtpm-guard provider import FILE";
    let refused = check(&host).ends_with(1);
    assert!(refused.stdout.contains("VG104"), "{refused:?}");
    assert!(refused.stdout.contains(hint), "{refused:?}");
    assert_eq!(advised_by_doctor(), hint);
    run(&host, "provider slot add nkp-a other:two")
        .ends_with(4)
        .saying("if a key manager has it: vtpm-guard open; else restore it");
    run(&host, "open nkp-a").succeeds();
    check(&host).succeeds();

    run(&host, "provider slot remove nkp-a box:one").succeeds();
    spoil();
    let hint = "restore it: vtpm-guard provider import FILE";
    let refused = check(&host).ends_with(1);
    assert!(refused.stdout.contains(hint), "{refused:?}");
    assert!(!refused.stdout.contains("vtpm-guard open"), "{refused:?}");
    assert_eq!(advised_by_doctor(), hint);
}

#[test]
fn check_names_the_key_manager_where_the_key_is_not_here_or_has_expired() {
    let host = host();
    run(&host, "provider create nkp-a --slot box:one").succeeds();
    define_bound_guest(&host);
    let check = || check(&host);
    check().succeeds();
    configure(&host, "max_age = \"1h\"");
    check().succeeds();
    sql(
        &host,
        "UPDATE kek_slot SET verified_at = verified_at - 3601000",
    );
    let refused = check().ends_with(1);
    assert!(refused.stdout.contains("VG106"), "{refused:?}");
    // Half of the time being over, it is opened again.
    assert_eq!(json(&host, "open")[0]["result"], "opened");
    check().succeeds();
    sql(
        &host,
        "UPDATE kek_slot SET verified_at = verified_at - 1801000",
    );
    assert_eq!(json(&host, "open")[0]["result"], "opened");
    assert_eq!(json(&host, "open")[0]["result"], "here");
    configure(&host, "");
    lose_sealed_keys(&host);
    let refused = check().ends_with(1);
    assert!(refused.stdout.contains("VG105"), "{refused:?}");
    assert!(refused.stdout.contains("kms.box"), "{refused:?}");
    assert!(
        refused.stdout.contains("vtpm-guard open nkp-a"),
        "{refused:?}"
    );
}

#[test]
fn open_tries_slots_that_nobody_has_needed_for_long_and_metrics_tell_of_those_that_do_not_open() {
    let host = host();
    run(
        &host,
        "provider create nkp-a --slot box:one --slot other:two",
    )
    .succeeds();
    let age = || {
        sql(
            &host,
            "UPDATE kek_slot SET verified_at = verified_at - 13 * 3600 * 1000",
        );
    };
    let xml = format!("<domain><name>vm1</name><uuid>{VM1}</uuid><devices/></domain>");
    let xml = host.file("vm1.xml", &xml);
    let ok = || {
        let file = host.path("slots.prom");
        run(
            &host,
            &format!("check --xml {xml} --metrics {}", file.display()),
        )
        .succeeds();
        let text = fs::read_to_string(file).unwrap();
        text.lines()
            .find(|line| line.starts_with("vtpm_guard_slot_ok"))
            .unwrap()
            .to_owned()
    };
    let is = |value: u8| format!("vtpm_guard_slot_ok{{kind=\"exec\"}} {value}");
    age();
    assert_eq!(ok(), is(0));
    // The key is here: nothing is asked for that is needed.
    assert_eq!(json(&host, "open")[0]["result"], "here");
    assert_eq!(ok(), is(1));
    // Nor does a time that the clock has not reached say that they open.
    sql(
        &host,
        "UPDATE kek_slot SET verified_at = verified_at + 400 * 24 * 3600 * 1000",
    );
    assert_eq!(ok(), is(0));
    assert_eq!(json(&host, "open")[0]["result"], "here");
    assert_eq!(ok(), is(1));
    age();
    sql(
        &host,
        "UPDATE kek_slot SET kms = 'closed' WHERE kms = 'other'",
    );
    assert_eq!(json(&host, "open")[0]["result"], "here");
    assert_eq!(ok(), is(0));
}
