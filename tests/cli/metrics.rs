//! `check --metrics FILE`.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::env::{Host, VM1};

#[test]
fn what_a_check_found_stands_in_the_file_too() {
    let host = Host::new();
    let xml = format!("<domain><name>vm1</name><uuid>{VM1}</uuid><devices/></domain>");
    let xml = host.file("vm1.xml", &xml);
    let file = host.file("vtpm-guard.prom", "of yesterday");
    let check = ["check", "--xml", &xml, "--metrics"];
    host.run(&[&check[..], &[&file]].concat()).succeeds();
    let metrics = fs::read_to_string(&file).unwrap();
    let sample =
        format!("vtpm_guard_guest_would_start{{domain=\"vm1\",uuid=\"{VM1}\",code=\"\"}} 1");
    assert!(metrics.lines().any(|line| line == sample), "{metrics}");

    let nowhere = host.path("no/such/vtpm-guard.prom");
    host.run(&[&check[..], &[nowhere.to_str().unwrap()]].concat())
        .ends_with(4)
        .saying("no/such/vtpm-guard.prom");
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
