//! `status`: one line for each guest with an emulated TPM.

use serde_json::{Value, json};

use crate::guest::Tpm;
use crate::host::Host;

fn guests(host: &Host, filters: &[&str]) -> Vec<Value> {
    let answer = host.guard(&[&["--json", "status"], filters].concat()).ok();
    let document: Value = serde_json::from_str(&answer.stdout).unwrap();
    document["guests"].as_array().unwrap().clone()
}

fn names(host: &Host, filters: &[&str]) -> Vec<String> {
    let names = guests(host, filters).into_iter();
    names
        .map(|guest| guest["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn every_vtpm_guest_has_its_line() {
    let (host, healthy) = Host::with_used_guest();
    host.define_guest("diskless", Tpm::None);
    host.define_guest("plain", Tpm::Plain);
    host.define_bound_guest("new", "nkp-a");
    host.create_provider("nkp-b");
    let locked = host.define_bound_guest("locked", "nkp-b");
    host.start_and_stop(&locked);
    host.delete_provider("nkp-b");
    host.start_running(&healthy);

    let all = guests(&host, &[]);
    assert_eq!(names(&host, &[]), ["locked", "new", "plain", "vm1"]);
    let (_, key_id) = host.provider("nkp-a");
    let vm1 = &all[3];
    let expected = [
        ("uuid", json!(healthy.uuid.to_string())),
        ("running", json!(true)),
        ("encrypted", json!(true)),
        ("provider", json!("nkp-a")),
        ("key_id", json!(key_id)),
        ("proven", json!(true)),
        ("would_start", json!(true)),
        ("code", json!(null)),
    ];
    for (key, value) in &expected {
        assert_eq!(&vm1[*key], value, "{key} of {vm1:#}");
    }
    assert!(vm1["last_start_at"].is_i64());
    assert_eq!(all[0]["code"], "VG101");
    assert_eq!(all[0]["provider"], "nkp-b");
    assert_eq!(all[1]["proven"], json!(null), "it has no TPM yet");
    assert_eq!(all[2]["encrypted"], false);

    assert_eq!(names(&host, &["--problems"]), ["locked", "new"]);
    assert_eq!(names(&host, &["--plain"]), ["plain"]);
    assert_eq!(names(&host, &["--provider", "nkp-b"]), ["locked"]);

    let table = host.guard(&["status"]).ok().stdout;
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("locked").ends_with("VG101"), "{table}");
    assert!(
        line("vm1").contains("running") && line("vm1").ends_with("yes"),
        "{table}"
    );
    let sum = "4 guests: 3 encrypted, 1 unencrypted; 3 would start now, 1 would not";
    assert_eq!(table.lines().last(), Some(sum));
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn without_libvirt_the_rest_is_told() {
    let (host, _guest) = Host::with_used_guest();
    host.end(host.guests_daemon(), "KILL");
    let answer = host.guard(&["status"]).ok();
    assert!(
        answer.stdout.contains("keys:          1 in use"),
        "{answer:#?}"
    );
    assert!(
        answer.stderr.contains("libvirt is unreachable"),
        "{answer:#?}"
    );
}
