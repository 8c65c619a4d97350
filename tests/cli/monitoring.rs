//! The alerts and the dashboard in packaging/monitoring name no metric and no label that the command
//! does not write. `./dev fleet-test monitoring` tries them in a Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::env::{Host, VM1};

const DIRECTORY: &str = "packaging/monitoring";
const PREFIX: &str = "vtpm_guard_";

fn checked_in(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(name)).unwrap()
}

/// The metrics that a check writes, and the labels of those of a guest that would be refused.
fn written() -> (BTreeSet<String>, BTreeSet<String>) {
    let host = Host::new();
    let xml = format!(
        "<domain><name>vm1</name><uuid>{VM1}</uuid><devices><tpm model='tpm-crb'>\
         <backend type='emulator' version='2.0'>\
         <encryption secret='6dd3e4a5-1f2e-4a0b-9c8d-7e6f5a4b3c2d'/></backend></tpm></devices></domain>"
    );
    let xml = host.file("vm1.xml", &xml);
    let file = host.path("vtpm-guard.prom");
    // Every metric is written: this host is in a fleet, and has a slot.
    host.run(&["provider", "create", "a"]).succeeds();
    let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    store
        .execute_batch(
            "INSERT INTO fleet (id, host_uuid, host_name, joined_at)
             VALUES (1, '11111111-2222-4333-8444-000000000081', 'host1', 1);
             INSERT INTO kek_slot (slot_uuid, key_id, kind, kms, remote_key, blob, created_at)
             SELECT '11111111-2222-4333-8444-000000000082', key_id, 'exec', 'box', 'key', X'00', 1
             FROM key_provider",
        )
        .unwrap();
    let config = host.file("config.toml", "[fleet]\nmetadata = \"wrapped\"\n");
    let check = ["check", "--config", &config, "--xml", &xml, "--metrics"];
    host.run(&[&check[..], &[file.to_str().unwrap()]].concat())
        .ends_with(1);
    let text = fs::read_to_string(file).unwrap();
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let refusal = text.lines().find_map(|line| {
        line.strip_prefix("vtpm_guard_guest_refusal{")?
            .split_once('}')
    });
    let (labels, _) = refusal.unwrap();
    let labels = labels
        .split(',')
        .filter_map(|label| label.split('=').next());
    (
        names.map(str::to_owned).collect(),
        labels.map(str::to_owned).collect(),
    )
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let begins = text.match_indices(PREFIX).map(|(at, _)| &text[at..]);
    begins
        .map(|text| text.split(|c| !is_name(c)).next().unwrap().to_owned())
        .collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&checked_in(&format!(
        "{DIRECTORY}/vtpm-guard.dashboard.json"
    )))
    .unwrap()
}

#[test]
fn alerts_dashboard_and_page_name_the_metrics_that_there_are() {
    let (written, _) = written();
    assert!(written.len() > 5, "{written:?}");
    for name in [
        "vtpm-guard.rules.yml",
        "vtpm-guard.rules.test.yml",
        "vtpm-guard.dashboard.json",
    ] {
        let named = named(&checked_in(&format!("{DIRECTORY}/{name}")));
        assert!(!named.is_empty(), "{name} names none");
        let unknown: Vec<_> = named.difference(&written).collect();
        assert!(
            unknown.is_empty(),
            "{name} names {unknown:?}, which nothing writes"
        );
    }
    let [alerts, panels] = ["vtpm-guard.rules.yml", "vtpm-guard.dashboard.json"]
        .map(|name| named(&checked_in(&format!("{DIRECTORY}/{name}"))));
    let unseen: Vec<_> = alerts.difference(&panels).collect();
    assert!(
        unseen.is_empty(),
        "no panel shows {unseen:?}, which alerts are about"
    );
    let page = named(&checked_in("docs/cloud-hosts.md"));
    assert_eq!(page, written, "the page and the command differ");
}

#[test]
fn the_alerts_use_labels_that_there_are() {
    let (_, mut labels) = written();
    // Of slots.
    labels.insert("kind".to_owned());
    // Prometheus adds where it was read.
    labels.insert("instance".to_owned());
    let rules = checked_in(&format!("{DIRECTORY}/vtpm-guard.rules.yml"));
    let mut used = rules.split("$labels.").skip(1).map(|text| {
        let end = text.find(|c: char| !c.is_ascii_lowercase()).unwrap();
        &text[..end]
    });
    let first = used.next();
    assert!(first.is_some());
    for label in first.into_iter().chain(used) {
        assert!(labels.contains(label), "{label} is no label");
    }
}

#[test]
fn every_panel_of_the_dashboard_asks_something_about_the_chosen_hosts() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            assert!(query.contains(PREFIX), "{query}");
            assert!(query.contains("{instance=~\"$instance\"}"), "{query}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["datasource", "instance"]);
}
