//! No permission, no room, no directory, and two administrators at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use nix::unistd::geteuid;

use crate::env::{Host, Ran, VM1};
use crate::programs::copy_program;

#[test]
fn two_administrators_make_one_provider_of_one_name() {
    let host = Host::new();
    let create = || host.run(&["provider", "create", "nkp-a"]).status;
    let mut statuses: Vec<_> = thread::scope(|scope| {
        let both: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [0, 1, 1, 1]);
    let list = host.json(&["provider", "list"]);
    assert_eq!(
        (list.as_array().unwrap().len(), &list[0]["is_default"]),
        (1, &true.into())
    );
    assert_eq!(host.sealed_keys(), [host.kek("nkp-a").key_id()]);
}

#[test]
fn two_administrators_who_make_two_providers_get_both() {
    let host = Host::new();
    thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let host = &host;
            scope.spawn(move || host.run(&["provider", "create", name]).succeeds());
        }
    });
    let list = host.json(&["provider", "list"]);
    let providers = list.as_array().unwrap();
    assert_eq!(providers.len(), 4);
    assert_eq!(
        providers.iter().filter(|p| p["is_default"] == true).count(),
        1
    );
    assert_eq!(host.sealed_keys().len(), 4);
}

#[test]
fn a_file_is_no_state_directory() {
    let host = Host::new();
    fs::write(host.state_dir(), "words").unwrap();
    for arguments in [
        &["provider", "list"][..],
        &["provider", "create", "a"],
        &["key", "list"],
        &["key", "bind", VM1],
        &["reset", VM1],
        &["store", "check"],
    ] {
        host.run(arguments).ends_with(4).saying("not a directory");
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_not_trusted() {
    let host = Host::with_provider("nkp-a");
    fs::set_permissions(host.state_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    host.run(&["provider", "list"])
        .ends_with(4)
        .saying("others may write to it");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let host = Host::new();
    let program = host.command(&["completions", "bash"]);
    let script = "set -o pipefail; \"$@\" | head -c 1";
    let output = Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(program.get_program())
        .args(program.get_args())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn who_is_not_the_owner_is_told_so() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let host = Host::with_provider("nkp-a");
    // The build directory need not be open to everybody, so the program is copied.
    let program = host.path("vtpm-guard");
    copy_program(Path::new(host.command(&[]).get_program()), &program);
    fs::set_permissions(host.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let before = host.stored();
    for arguments in [
        &["provider", "list"][..],
        &["provider", "create", "b"],
        &["provider", "delete", "nkp-a", "--force"],
        &["key", "bind", VM1],
        &["key", "list"],
        &["store", "check"],
        &["store", "backup", "/tmp/vtpm-guard-backup-that-is-not-made"],
    ] {
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "--",
            ])
            .arg(&program)
            .arg("--state-dir")
            .arg(&*host.state_dir())
            .args(arguments)
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {words}");
        assert!(
            words.contains("no permission") && words.contains("as root"),
            "{words}"
        );
    }
    assert_eq!(host.stored(), before);
}

/// Runs a shell script as root in a mount namespace of its own, with the program's path in
/// `$VG` and an empty directory in `$DIR`. `None` where that cannot be done.
fn in_own_mounts(host: &Host, script: &str) -> Option<Output> {
    const UNSHARE: [&str; 4] = ["--mount", "--propagation", "private", "--"];
    let may = Command::new("unshare").args(UNSHARE).arg("true").output();
    if !geteuid().is_root() || !may.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let output = Command::new("unshare")
        .args(UNSHARE)
        .args(["sh", "-ec", script])
        .env("VG", host.command(&[]).get_program())
        .env("DIR", host.path(""))
        .output();
    Some(output.unwrap())
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let host = Host::new();
    let script = r#"
        mount -t tmpfs -o size=480k none "$DIR"
        cd "$DIR"
        "$VG" --state-dir s provider create first 2>/dev/null
        echo words > passphrase
        before=$("$VG" --state-dir s provider list --json; ls s/keys)
        cat /dev/zero > filler 2>/dev/null || true
        for verb in "provider create second" "store backup copy" \
                    "provider export first --output file --passphrase-file passphrase"; do
            words=$("$VG" --state-dir s $verb 2>&1) && status=0 || status=$?
            echo "$verb: $status: $words"
        done
        test ! -e file || echo "$words" | grep -q "is written and good"
        rm filler
        test "$before" = "$("$VG" --state-dir s provider list --json; ls s/keys)"
        "$VG" --state-dir s provider create second > /dev/null 2>&1
    "#;
    let Some(output) = in_own_mounts(&host, script) else {
        eprintln!("skipped: this user may not mount a file system of its own");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    for verb in [
        "provider create second",
        "store backup copy",
        "passphrase-file passphrase",
    ] {
        assert!(said.contains(&format!("{verb}: 4: vtpm-guard: ")), "{said}");
    }
}

#[test]
fn a_read_only_store_can_be_read_and_nothing_else() {
    let host = Host::with_provider("nkp-a");
    host.run(&["key", "bind", VM1]).succeeds();
    let script = r#"
        mount --bind "$DIR" "$DIR"
        mount -o remount,ro,bind "$DIR"
        cd "$DIR"
        for verb in "provider list" "provider show nkp-a" "key list" "store check" \
                    "provider create b" "provider rename nkp-a b" \
                    "provider delete nkp-a --force" "key unbind $VM1"; do
            "$VG" --state-dir state $verb > /dev/null 2>&1 && status=0 || status=$?
            echo "$verb: $status"
        done
    "#;
    let Some(output) = in_own_mounts(&host, &script.replace("$VM1", VM1)) else {
        eprintln!("skipped: this user may not mount a file system of its own");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let statuses: Vec<_> = said
        .lines()
        .filter_map(|line| line.rsplit(": ").next())
        .collect();
    assert_eq!(statuses, ["0", "0", "0", "0", "4", "4", "4", "4"], "{said}");
    let after = Ran::of(&mut host.command(&["provider", "list"]));
    assert!(after.stdout.contains("nkp-a"));
}
