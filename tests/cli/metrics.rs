//! `check --metrics FILE`.

use std::fs;

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
