//! `history`, its filters, and the captured XML of refused starts.

use std::fs;

use serde_json::{Value, json};
use vtpm_guard::internals::capture;
use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::store::{Event, Origin};
use vtpm_guard::internals::verdict::code::Code;

use crate::env::{Host, VM1, VM2, golden};

/// 2026-03-01 12:00:00 UTC
const NOON: i64 = 1_772_366_400_000;
const HOUR: i64 = 3_600_000;

fn refused(guest: &str, name: &str, code: Code, at: i64) -> Event {
    let (domain, message) = (
        DomainUuid::parse(guest).unwrap(),
        format!("{} it was", code.name()),
    );
    Event {
        code: Some(code),
        ..Event::new(Timestamp(at), Origin::Prepare, domain, name, message)
    }
}

fn host_with_history() -> Host {
    let host = Host::with_provider("nkp-a");
    let mut store = host.store();
    let events = [
        refused(VM1, "vm1", Code::ProviderMissing, NOON),
        refused(VM2, "vm2", Code::ProviderMissing, NOON + HOUR),
        refused(VM1, "vm1", Code::KeyLost, NOON + 2 * HOUR),
    ];
    for event in &events {
        store.record_event(event).unwrap();
    }
    host
}

fn told(host: &Host, filters: &[&str]) -> Vec<(String, String)> {
    let document = host.json(&[&["history"], filters].concat());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let events = document.as_array().unwrap().iter();
    events
        .map(|event| (text(&event["domain"]["name"]), text(&event["code"])))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, code): &(&str, &str)| ((*name).to_owned(), (*code).to_owned());
    expected.iter().map(owned).collect()
}

#[test]
fn decisions_are_told_newest_first() {
    let host = host_with_history();
    golden("history", &host.run(&["history"]));
    golden("history-none", &host.run(&["history", "vm9"]));
}

#[test]
fn a_start_that_failed_after_it_was_allowed_is_one_row_that_says_so() {
    let host = Host::with_provider("nkp-a");
    let event = |origin, message: &str| {
        let vm1 = DomainUuid::parse(VM1).unwrap();
        Event::new(Timestamp(NOON), origin, vm1, "vm1", message)
    };
    let mut store = host.store();
    let allowed = event(Origin::Prepare, "the key opens the TPM state");
    store.record_start(&allowed).unwrap();
    let failed = event(Origin::Stopped, "the start failed after it was allowed");
    store.record_start(&failed).unwrap();
    golden("history-failed", &host.run(&["history"]));
    let rows = host.json(&["history"]);
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(rows[0]["operation"], "stopped");
    assert_eq!(rows[0]["decision"], "allow");
}

#[test]
fn filters_narrow_them_down() {
    let host = host_with_history();
    let (lost, missing) = (("vm1", "VG202"), [("vm2", "VG101"), ("vm1", "VG101")]);
    assert_eq!(told(&host, &["--code", "vg101"]), pairs(&missing));
    assert_eq!(told(&host, &["--code", "key-lost"]), pairs(&[lost]));
    assert_eq!(
        told(&host, &["--code", "VG101", "vm1"]),
        pairs(&missing[1..])
    );
    assert_eq!(
        told(&host, &["--since", "2026-03-01 13:30"]),
        pairs(&[lost])
    );
    assert_eq!(
        told(&host, &["--until", "2026-03-01T13:00"]),
        pairs(&missing)
    );
    assert_eq!(told(&host, &["--since", "2026-03-02"]), pairs(&[]));
    assert_eq!(told(&host, &["--limit", "1"]), pairs(&[lost]));
}

#[test]
fn a_name_finds_what_happened_under_former_names_and_other_uuids() {
    let host = host_with_history();
    let mut store = host.store();
    for event in [
        refused(VM1, "web", Code::KeyLost, NOON + 3 * HOUR),
        refused(VM2, "old-web", Code::KeyLost, NOON + 4 * HOUR),
        refused(VM2, "web", Code::KeyLost, NOON + 5 * HOUR),
    ] {
        store.record_event(&event).unwrap();
    }
    let all = pairs(&[
        ("web", "VG202"),
        ("old-web", "VG202"),
        ("web", "VG202"),
        ("vm1", "VG202"),
        ("vm2", "VG101"),
        ("vm1", "VG101"),
    ]);
    assert_eq!(told(&host, &["web"]), all);
    host.run(&["history", "web"])
        .succeeds()
        .saying("also listed: its other names old-web, vm1, vm2")
        .saying("2 guests had the name web");
    // Whoever had the name for a while and has another now is not that guest.
    assert_eq!(told(&host, &["vm2"]), pairs(&[("vm2", "VG101")]));
}

#[test]
fn a_filter_that_says_nothing_is_refused() {
    let host = host_with_history();
    host.run(&["history", "--since", "tomorrow"])
        .ends_with(2)
        .saying("invalid time \"tomorrow\"");
    host.run(&["history", "--code", "VG999"])
        .ends_with(2)
        .saying("unknown code: \"VG999\"");
}

const XML: &str = "<domain><name>vm1</name><uuid>11111111-2222-4333-8444-000000000001</uuid>\
    <devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'>\
    <encryption secret='6dd3e4a5-1f2e-4a0b-9c8d-7e6f5a4b3c2d'/></backend></tpm></devices></domain>";

#[test]
fn a_captured_start_is_replayed_by_its_number() {
    let host = Host::with_provider("nkp-a");
    golden("captures-none", &host.run(&["history", "--captures"]));
    let other = XML
        .replace("vm1", "vm2")
        .replace("8444-000000000001", "8444-000000000002");
    for (xml, code, name) in [
        (other.as_str(), Code::KeyLost, "vm2"),
        (XML, Code::KeyMissing, "vm1"),
    ] {
        capture::keep(&host.state_dir(), xml.as_bytes(), code, name, 20).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let listed = host.json(&["history", "--captures"]);
    let what = |index: usize| {
        (
            &listed[index]["number"],
            &listed[index]["domain"],
            &listed[index]["code"],
        )
    };
    assert_eq!(what(0), (&json!(1), &json!("vm1"), &json!("VG201")));
    assert_eq!(what(1), (&json!(2), &json!("vm2"), &json!("VG202")));
    let file = listed[0]["file"].as_str().unwrap();
    assert_eq!(fs::read_to_string(file).unwrap(), XML);

    let replay = ["replay", "--no-secret", "--dry-run", "--json", "--capture"];
    for (number, name) in [("1", "vm1"), ("2", "vm2")] {
        let ran = host.run(&[&replay[..], &[number]].concat()).ends_with(1);
        let outcome: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(outcome["domain"]["name"], name);
        assert_eq!(outcome["code"], "VG201");
    }
    for number in ["0", "3"] {
        host.run(&["replay", "--capture", number])
            .ends_with(2)
            .saying(&format!("capture {number} not found"));
    }
    host.run(&["history", "vm1", "--captures"]).ends_with(2);
    host.run(&["replay"]).ends_with(2);
    host.run(&["replay", "FILE", "--capture", "1"]).ends_with(2);
}
