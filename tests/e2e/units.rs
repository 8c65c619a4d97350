//! The units of systemd, as systemd itself reads them, with the programs in their places.

use std::fs;
use std::path::Path;

use crate::host::{Host, skipped};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd");

/// `systemd-analyze security` counts to 100; a service that takes no measures has some 96.
const EXPOSURE: &str = "20";

/// Copies units, and drop-ins in their directories.
fn install(host: &Host, from: &Path, to: &str) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let place = format!("{to}/{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            install(host, &path, &place);
        } else {
            host.write(&place, fs::read(&path).unwrap());
        }
    }
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
#[allow(clippy::print_stderr, reason = "a test that is skipped says why")]
fn systemd_finds_nothing_wrong_with_the_units() {
    let host = Host::new();
    if host.run(&["sh", "-c", "command -v systemd-analyze"]).status != 0 {
        skipped("there is no systemd-analyze here");
        return;
    }
    install(&host, Path::new(UNITS), "/etc/systemd/system");
    let verify = ["systemd-analyze", "verify", "--man=no"];
    for unit in [
        "vtpm-guard-check.service",
        "vtpm-guard-check.timer",
        "vtpm-guard-unstage.service",
        "vtpm-guard-sync.service",
        "vtpm-guard-sync.path",
        "vtpm-guard-sync.timer",
        "vtpm-guard-open.service",
        "vtpm-guard-open.timer",
        "vtpm-guard-fleet.service",
        &format!("{}.service", host.guests_daemon()),
    ] {
        let answer = host.run(&[&verify[..], &[unit]].concat()).ok();
        // libvirt's own units are not this program's business.
        let ours = answer
            .stderr
            .lines()
            .filter(|line| line.contains("vtpm-guard"));
        assert_eq!(ours.collect::<Vec<_>>(), [] as [&str; 0], "{answer:#?}");
    }
    let security = ["systemd-analyze", "security", "--offline=yes", "--no-pager"];
    // `open` and `fleet` need the network, and the devices of HSMs, whose modules come from their makers.
    for (unit, exposure) in [
        ("check", EXPOSURE),
        ("unstage", EXPOSURE),
        ("sync", EXPOSURE),
        ("open", "35"),
        ("fleet", "35"),
    ] {
        let unit = &format!("vtpm-guard-{unit}.service");
        let threshold = ["--threshold", exposure, unit];
        host.run(&[&security[..], &threshold].concat()).ok();
    }
}
