//! `check --metrics FILE` and `check --nagios`: what monitoring makes of a check.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::env::{Host, VM1, VM2};

#[test]
fn what_a_check_found_stands_in_the_file_too() {
    let host = Host::new();
    let xml = format!("<domain><name>vm1</name><uuid>{VM1}</uuid><devices/></domain>");
    let xml = host.file("vm1.xml", &xml);
    let file = host.file("vtpm-guard.prom", "of yesterday");
    let check = ["check", "--xml", &xml, "--metrics"];
    host.run(&[&check[..], &[&file]].concat()).succeeds();
    let metrics = fs::read_to_string(&file).unwrap();
    let sample = format!("vtpm_guard_guest_would_start{{domain=\"vm1\",uuid=\"{VM1}\"}} 1");
    for sample in [sample.as_str(), "vtpm_guard_check_success 1"] {
        assert!(metrics.lines().any(|line| line == sample), "{metrics}");
    }

    // A check that finds nothing out leaves no file of an earlier one behind.
    let nothing = host.path("nothing.xml");
    let failing = ["check", "--xml", nothing.to_str().unwrap(), "--metrics"];
    host.run(&[&failing[..], &[&file]].concat()).ends_with(4);
    let failed = fs::read_to_string(&file).unwrap();
    assert!(
        failed.contains("\nvtpm_guard_check_success 0\n"),
        "{failed}"
    );
    assert!(!failed.contains("vm1"), "{failed}");

    let nowhere = host.path("no/such/vtpm-guard.prom");
    host.run(&[&check[..], &[nowhere.to_str().unwrap()]].concat())
        .ends_with(4)
        .saying("no/such/vtpm-guard.prom");
}

#[test]
fn a_plugin_says_one_line_and_its_own_status() {
    let host = Host::new();
    let fine = format!("<domain><name>vm1</name><uuid>{VM1}</uuid><devices/></domain>");
    let fine = host.file("vm1.xml", &fine);
    let lost = format!(
        "<domain><name>vm2</name><uuid>{VM2}</uuid><devices><tpm model='tpm-crb'>\
         <backend type='emulator' version='2.0'>\
         <encryption secret='6dd3e4a5-1f2e-4a0b-9c8d-7e6f5a4b3c2d'/></backend></tpm></devices></domain>"
    );
    let lost = host.file("vm2.xml", &lost);
    let check = |xml: &str| host.run(&["check", "--nagios", "--xml", xml]);
    let ran = check(&fine).ends_with(0);
    assert_eq!(
        ran.stdout,
        "VTPM-GUARD OK - 1 guest would start | guests=1;;;0 refused=0;;0;0;1 repairs=0;0;;0;1 \
         clients_key=0;;;0;1\n"
    );
    let ran = check(&lost).ends_with(2);
    assert!(
        ran.stdout
            .starts_with("VTPM-GUARD CRITICAL - 1 of 1 guest would not start: vm2 (VG"),
        "{ran:?}"
    );
    let ran = check("/nowhere").ends_with(3);
    assert!(
        ran.stdout.starts_with("VTPM-GUARD UNKNOWN - /nowhere"),
        "{ran:?}"
    );
    host.run(&["check", "--nagios", "--nonsense"]).ends_with(3);
    host.run(&["check", "--nagios", "--help"]).ends_with(0);
}

/// H1 of the audit: the collector's directory belongs to the collector.
#[test]
fn the_owner_of_the_directory_cannot_make_root_write_anywhere_else() {
    let host = Host::with_provider("nkp-a");
    let xml = format!("<domain><name>vm1</name><uuid>{VM1}</uuid><devices/></domain>");
    let xml = host.file("vm1.xml", &xml);
    let directory = host.path("collector");
    fs::create_dir(&directory).unwrap();
    // Only root can give it away; whoever runs this, the links are the same.
    let _ = std::os::unix::fs::chown(&directory, Some(65_534), Some(65_534));
    let key = fs::read_dir(host.state_dir().join("keys")).unwrap().next();
    let key = key.unwrap().unwrap().path();
    let before = (fs::read(&key).unwrap(), fs::metadata(&key).unwrap().mode());
    for name in ["vtpm-guard.prom", ".vtpm-guard.prom.new"] {
        symlink(&key, directory.join(name)).unwrap();
    }
    let file = directory.join("vtpm-guard.prom");
    let check = ["check", "--xml", &xml, "--metrics", file.to_str().unwrap()];
    host.run(&check).succeeds();
    assert_eq!(
        (fs::read(&key).unwrap(), fs::metadata(&key).unwrap().mode()),
        before
    );
    assert!(fs::read_to_string(&file).unwrap().starts_with("# HELP"));
    assert!(!file.is_symlink());
}
