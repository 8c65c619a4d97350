//! The logrotate entry of the packages, where the log is a file.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::host::{Host, skipped};

const ENTRY: &str = include_str!("../../packaging/logrotate/vtpm-guard");
const LOG: &str = "/var/log/vtpm-guard.log";

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_log_is_rotated_and_the_next_start_writes_to_the_new_one() {
    let (host, guest) = Host::with_used_guest();
    if host.run(&["sh", "-c", "command -v logrotate"]).status != 0 {
        skipped("there is no logrotate here");
        return;
    }
    host.write("/etc/logrotate.d/vtpm-guard", ENTRY);
    let rotate = || {
        let rotate = ["logrotate", "--force", "--state", "/run/rotated"];
        host.run(&[&rotate[..], &["/etc/logrotate.d/vtpm-guard"]].concat())
            .ok();
        let mode = fs::metadata(host.path(LOG)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    };
    let first = host.read(LOG);
    assert!(first.contains("vm1"), "{first}");
    rotate();
    assert_eq!(host.read(&format!("{LOG}.1")), first);
    assert_eq!(host.read(LOG), "");
    host.start_and_stop(&guest);
    let second = host.read(LOG);
    assert!(second.contains("vm1"), "{second}");
    rotate();
    assert_eq!(host.read(&format!("{LOG}.1")), second);
    assert!(host.path(&format!("{LOG}.2.gz")).exists());
}
