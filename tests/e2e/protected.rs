//! The hook keeps its memory and its files to itself while it asks for keys, as seen from outside.

use std::io::Write;
use std::process::Stdio;

use crate::host::{Host, finish};
use crate::privileges::{Process, closes, open_to_all};

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_hook_that_waits_for_libvirt_is_closed_to_others() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[hook]\ndeadline = \"30s\"\n");
    let xml = host.xml(&guest);
    host.signal_libvirtd("STOP");
    let call = [
        "/usr/sbin/vtpm-guard-hook",
        &guest.name,
        "prepare",
        "begin",
        "-",
    ];
    let mut hook = host
        .command(&[&open_to_all()[..], &call].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    hook.stdin
        .take()
        .unwrap()
        .write_all(xml.as_bytes())
        .unwrap();
    // The oldest: a child that is about to become another program still has the hook's name.
    let wait = "until pgrep -o -x vtpm-guard-hook; do sleep 0.01; done";
    let pid = host.run(&["sh", "-c", wait]).ok().stdout;
    closes(&Process::at(&host.path("/proc"), pid.trim()));
    host.signal_libvirtd("CONT");
    finish(hook).ok();
}
