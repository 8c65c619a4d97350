//! `key prune` where libvirt does not answer; what it removes is shown in `tests/e2e`.

use std::path::Path;

use crate::env::{Host, VM1};

#[test]
fn without_libvirt_nobody_is_forgotten() {
    let sockets = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];
    if sockets.iter().any(|socket| Path::new(socket).exists()) {
        eprintln!("skipped: a libvirt answers on this machine");
        return;
    }
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    let stored = host.stored();
    for arguments in [
        &["key", "prune", "--older-than", "0d"][..],
        &["key", "prune", "--older-than", "0d", "--dry-run"],
    ] {
        host.run(arguments)
            .ends_with(4)
            .saying("libvirt is unreachable");
    }
    assert_eq!(host.stored(), stored);
    let status = host.json(&["status"]);
    assert!(status["guests_unknown_to_libvirt"].is_null());
}

#[test]
fn an_age_that_is_none_is_told_before_anything_is_asked() {
    let host = Host::new();
    host.run(&["key", "prune", "--older-than", "soon"])
        .ends_with(2)
        .saying("12h, 30d, 8w");
}
