//! Guests that start with the daemon, which answers nobody until they are up: their keys are
//! staged before, and removed afterwards.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, Tpm};
use crate::host::{Host, finish};

const STAGED: &str = "/run/vtpm-guard/staged";
const SECRETS: &str = "/etc/libvirt/secrets";

/// Scripts before and after the guard's hook, which write down when they run.
const CLOCK: &str = "#!/bin/sh\necho \"$1 $2 $(date +%s%N)\" >>/run/clock\n";

/// What a package installs.
const DROP_IN: &str = include_str!("../../packaging/systemd/libvirtd.service.d/50-vtpm-guard.conf");

/// What the drop-in starts as `ExecStartPost`.
const UNIT: &str = include_str!("../../packaging/systemd/vtpm-guard-unstage.service");

/// What the unit runs.
fn unit_command() -> Vec<&'static str> {
    let start = drop_in_command("ExecStartPost");
    assert_eq!(start.last(), Some(&"vtpm-guard-unstage.service"));
    let mut commands = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart="));
    commands.next().unwrap().split(' ').collect()
}

/// The one command that the drop-in runs at this point.
fn drop_in_command(key: &str) -> Vec<&'static str> {
    let prefix = format!("{key}=-");
    let commands: Vec<_> = DROP_IN
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .collect();
    let [command] = commands[..] else {
        panic!("{key}: {commands:?}")
    };
    command.split(' ').collect()
}

impl Host {
    pub(crate) fn autostart(&self, guest: &Guest) {
        self.virsh(&["autostart", &guest.name]).ok();
    }

    /// What systemd does with the drop-in, at a boot. Gives what `stage` said.
    pub(crate) fn boot_libvirtd(&self) -> String {
        self.stop_libvirtd();
        let staged = self.run(&drop_in_command("ExecStartPre")).ok().stdout;
        self.start_libvirtd();
        self.run(&unit_command()).ok();
        staged
    }

    /// Lets a libvirtd that runs look as before its first start after a boot, for `stage`.
    pub(crate) fn forget_boot(&self) {
        self.run(&["rm", "/run/libvirt/qemu/autostarted"]).ok();
    }

    /// What systemd does without it.
    fn boot_libvirtd_without_drop_in(&self) {
        self.stop_libvirtd();
        self.start_libvirtd();
        self.virsh(&["uri"]).ok();
    }

    /// The names in a directory; none where there is no such directory.
    fn names(&self, dir: &str) -> Vec<String> {
        let entries = self.path(dir).read_dir().into_iter().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Files outside of /run that hold these bytes. Links are not followed.
    fn files_with(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs: Vec<_> = ["/etc/libvirt", "/etc/vtpm-guard", "/var/lib/libvirt"]
            .iter()
            .chain(&[
                "/var/lib/vtpm-guard",
                "/var/log",
                "/var/cache/libvirt",
                "/var/tmp",
            ])
            .map(|dir| self.path(dir))
            .collect();
        while let Some(dir) = dirs.pop() {
            for entry in dir.read_dir().into_iter().flatten() {
                let (path, kind) = entry.map(|e| (e.path(), e.file_type().unwrap())).unwrap();
                if kind.is_dir() {
                    dirs.push(path);
                } else if kind.is_file() {
                    let content = fs::read(&path).unwrap();
                    if content.windows(bytes.len()).any(|window| window == bytes) {
                        found.push(path);
                    }
                }
            }
        }
        found
    }

    fn add_clocks(&self) {
        for name in ["10-before", "90-after"] {
            self.write_program(&format!("/etc/libvirt/hooks/qemu.d/{name}"), CLOCK);
        }
    }

    /// A starting daemon is held up for 1.5 s, and not for the ten seconds that a call of the hook may have: what is
    /// between is for a busy machine.
    fn was_brief(&self, guest: &Guest) {
        let time = self.time_to_prepare(guest);
        assert!(time < Duration::from_secs(6), "{}: {time:?}", guest.name);
    }

    /// How long the guard took for a guest's `prepare`, by the clocks around it.
    fn time_to_prepare(&self, guest: &Guest) -> Duration {
        let prefix = format!("{} prepare ", guest.name);
        let clock = self.read("/run/clock");
        let times = clock.lines().filter_map(|line| line.strip_prefix(&prefix));
        let times: Vec<u64> = times.map(|time| time.parse().unwrap()).collect();
        let [.., before, after] = times[..] else {
            panic!("{clock}")
        };
        Duration::from_nanos(after - before)
    }

    /// The newest decision about a guest.
    fn last_decision(&self, guest: &Guest) -> (String, Option<String>) {
        let query =
            "SELECT decision, code FROM event WHERE domain_uuid = ?1 ORDER BY id DESC LIMIT 1";
        let uuid = guest.uuid.to_string();
        self.store()
            .query_row(query, [uuid], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
    }

    #[track_caller]
    fn assert_nothing_is_staged(&self) {
        assert_eq!(self.names(STAGED), [""; 0]);
        assert_eq!(self.names(SECRETS), [""; 0]);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_starts_with_the_daemon_by_its_staged_key() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.autostart(&guest);
    for _ in 0..2 {
        let said = host.boot_libvirtd();
        assert!(said.contains("staged"), "{said}");
        assert_eq!(host.state(&guest), "running");
        assert!(!host.has_secret(guest.secret), "its work is done");
        host.assert_nothing_is_staged();
        host.stop(&guest);
    }
    assert_eq!(host.tpms_made(&guest), 1);
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_daemon_that_its_socket_starts_again_gets_no_keys() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.autostart(&guest);
    host.boot_libvirtd();
    host.stop(&guest);
    let events = || {
        let count = "SELECT count(*) FROM event";
        let store = host.store();
        store
            .query_row(count, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let before = events();
    host.restart_libvirtd();
    let said = host.run(&drop_in_command("ExecStartPre")).ok().stdout;
    assert_eq!(said, "no guest will start with libvirtd\n");
    host.assert_nothing_is_staged();
    assert_eq!(
        host.run(&unit_command()).ok().stdout,
        "nothing was staged\n"
    );
    assert_eq!(
        (host.state(&guest).as_str(), events()),
        ("shut off", before)
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_bound_guest_gets_its_first_key_at_the_start_of_the_daemon() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    host.autostart(&guest);
    host.boot_libvirtd();
    assert_eq!(host.state(&guest), "running");
    let row = host.only_key_ref(&guest);
    assert!(
        row.wrapped_dek.is_some() && row.first_used_at.is_some(),
        "{row:?}"
    );
    host.stop(&guest);
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_saved_guest_is_restored_by_the_start_of_the_daemon() {
    let (host, guest) = Host::with_used_guest();
    host.autostart(&guest);
    host.start_running(&guest);
    host.virsh(&["managedsave", "vm1"]).ok();
    host.boot_libvirtd();
    assert_eq!(host.state(&guest), "running");
    assert!(!host.has_secret(guest.secret));
    assert_eq!(host.tpms_made(&guest), 1);
}

/// libvirt restores it with the domain XML in the saved image.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_saved_guest_is_restored_although_its_definition_names_another_secret_by_now() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.autostart(&guest);
    host.start_running(&guest);
    host.virsh(&["managedsave", "vm1"]).ok();
    host.wait_for_swtpm();
    let before = guest.secret;
    let guest = host.redefine_guest(guest, Tpm::Encrypted(SecretUuid::random()));
    host.boot_libvirtd();
    assert_eq!(host.state(&guest), "running");
    assert!(host.xml(&guest).contains(&before.to_string()));
    host.assert_nothing_is_staged();
    assert!(!host.has_secret(guest.secret) && !host.has_secret(before));
    // Its next start is one with the definition.
    host.stop(&guest);
    host.boot_libvirtd();
    assert_eq!(host.state(&guest), "running");
    assert!(host.xml(&guest).contains(&guest.secret.to_string()));
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn libvirt_guests_may_start_a_guest_while_unstage_is_at_work() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    let list = format!("default {}\n", guest.uuid);
    host.write("/etc/default/libvirt-guests", "ON_BOOT=start\n");
    host.write("/var/lib/libvirt/libvirt-guests", list);
    host.stop_libvirtd();
    let staged = host.guard(&["stage"]).ok().stdout;
    assert!(staged.contains("staged"), "{staged}");
    host.start_libvirtd();
    let unstage = host
        .command(&["/usr/sbin/vtpm-guard", "unstage"])
        .spawn()
        .unwrap();
    let start = ["/usr/lib/libvirt/libvirt-guests.sh", "start"];
    host.run(&[&["env", "ON_BOOT=start"], &start[..]].concat())
        .ok();
    finish(unstage).ok();
    assert_eq!(host.state(&guest), "running");
    assert!(!host.has_secret(guest.secret));
    host.assert_nothing_is_staged();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_kill_between_stage_and_unstage_leaves_no_key_on_a_disk() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.autostart(&guest);
    host.stop_libvirtd();
    host.guard(&["stage"]).ok();

    let names = ["base64", "xml"].map(|extension| format!("{}.{extension}", guest.secret));
    assert_eq!(host.names(STAGED), names);
    assert_eq!(host.names(SECRETS), names);
    for name in &names {
        let link = fs::read_link(host.path(&format!("{SECRETS}/{name}"))).unwrap();
        assert_eq!(link, PathBuf::from(format!("{STAGED}/{name}")));
        let file = host.path(&format!("{STAGED}/{name}"));
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    let kind = host.run(&["stat", "-f", "-c", "%T", STAGED]).ok().stdout;
    assert_eq!(kind.trim(), "tmpfs");

    let value = host.read(&format!("{STAGED}/{}", names[0]));
    let decoded = host.run_with_input(&["base64", "-d"], &value).ok().stdout;
    assert_eq!(decoded.len(), 64);
    for bytes in [value.as_bytes(), decoded.as_bytes()] {
        let found = host.files_with(bytes);
        assert!(found.is_empty(), "{found:?}");
    }
    // The search finds what is there.
    host.write("/var/lib/libvirt/plain", &decoded);
    assert_eq!(host.files_with(decoded.as_bytes()).len(), 1);

    // The host goes down: /run is empty afterwards, and the guest no longer starts by itself.
    fs::remove_dir_all(host.path("/run/vtpm-guard")).unwrap();
    fs::remove_file(host.path("/etc/libvirt/qemu/autostart/vm1.xml")).unwrap();
    host.guard(&["stage"]).ok();
    host.assert_nothing_is_staged();
    host.start_libvirtd();
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn stage_may_be_killed_at_any_moment_and_run_again() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    let others = ["vm2", "vm3", "vm4"].map(|name| host.define_bound_guest(name, "nkp-a"));
    for guest in others.iter().chain([&guest]) {
        host.autostart(guest);
    }
    host.stop_libvirtd();
    let kill_again_and_again = "for ms in $(seq 1 3 150); do \
         timeout -s KILL $(printf 0.%03d $ms) vtpm-guard stage >/dev/null 2>&1; \
         find /etc/libvirt/secrets ! -type l ! -type d; done";
    let on_disk = host.run(&["sh", "-c", kill_again_and_again]).ok().stdout;
    assert_eq!(on_disk, "");
    host.guard(&["stage"]).ok();
    host.start_libvirtd();
    host.guard(&["unstage"]).ok();
    for guest in others.iter().chain([&guest]) {
        assert_eq!(host.state(guest), "running");
        assert_eq!(host.tpms_made(guest), 1);
        host.only_key_ref(guest);
    }
    host.assert_nothing_is_staged();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_unprovable_guest_is_refused_at_once_while_the_daemon_and_the_others_come_up() {
    let (host, unprovable) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.create_provider("nkp-b");
    let other = host.define_bound_guest("vm2", "nkp-b");
    host.start_and_stop(&other);
    for guest in [&unprovable, &other] {
        host.autostart(guest);
    }
    host.delete_provider("nkp-a");
    host.add_clocks();

    let said = host.boot_libvirtd();
    assert!(said.contains("VG101") && said.contains("staged"), "{said}");
    assert_eq!(host.state(&unprovable), "shut off");
    assert_eq!(host.state(&other), "running");
    let (decision, code) = host.last_decision(&unprovable);
    assert_eq!(
        (decision.as_str(), code.as_deref()),
        ("deny", Some("VG101"))
    );
    for guest in [&unprovable, &other] {
        host.was_brief(guest);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_locked_store_does_not_hold_up_the_start_of_the_daemon() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    let other = host.define_bound_guest("vm2", "nkp-a");
    host.start_and_stop(&other);
    host.autostart(&guest);
    host.add_clocks();
    host.stop_libvirtd();
    host.guard(&["stage"]).ok();
    let link = host.path("/etc/libvirt/qemu/autostart/vm2.xml");
    symlink("/etc/libvirt/qemu/vm2.xml", link).unwrap();

    let store = host.store();
    store.execute_batch("BEGIN EXCLUSIVE").unwrap();
    host.start_libvirtd();
    host.guard(&["unstage"]).ok();
    store.execute_batch("ROLLBACK").unwrap();
    assert_eq!(host.state(&guest), "running");
    assert_eq!(host.state(&other), "shut off");
    for guest in [&guest, &other] {
        host.was_brief(guest);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn without_stage_only_a_guest_with_a_persistent_secret_of_its_own_starts() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    let secret = SecretUuid::random();
    host.define_secret(secret, "by hand", Some("a made-up key"));
    let unmanaged = host.define_guest("vm2", Tpm::Encrypted(secret));
    let keyless = host.define_guest("vm3", Tpm::Encrypted(SecretUuid::random()));
    for guest in [&guest, &unmanaged, &keyless] {
        host.autostart(guest);
    }
    host.add_clocks();
    let started = Instant::now();
    host.boot_libvirtd_without_drop_in();
    assert!(started.elapsed() < Duration::from_secs(15));

    assert_eq!(host.state(&guest), "shut off");
    assert_eq!(host.last_decision(&guest).1.as_deref(), Some("VG302"));
    assert_eq!(host.state(&keyless), "shut off");
    assert_eq!(host.state(&unmanaged), "running");
    assert_eq!(host.last_decision(&unmanaged).0, "allow");
    for guest in [&guest, &unmanaged, &keyless] {
        host.was_brief(guest);
    }
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_persistent_secret_of_somebody_elses_is_left_alone() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.define_secret(guest.secret, "by hand", Some("a made-up key"));
    host.autostart(&guest);
    let files = host.names(SECRETS);
    host.stop_libvirtd();
    host.guard(&["stage"]).ok();
    assert_eq!(host.names(SECRETS), files);
    assert_eq!(host.names(STAGED), [""; 0]);
    host.guard(&["unstage"]).ok();
    assert_eq!(host.names(SECRETS), files);
    host.start_libvirtd();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn doctor_misses_the_drop_in_and_finds_keys_that_were_left() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.guard(&["state", "persist", "--all"]).ok();
    let found = || host.guard(&["doctor"]);
    assert_eq!(found().stdout, "nothing found\n");
    host.autostart(&guest);
    assert!(found().stdout.contains("does not run \"vtpm-guard stage\""));
    let drop_in = "/run/systemd/system/libvirtd.service.d/50-vtpm-guard.conf";
    host.write(drop_in, DROP_IN);
    assert_eq!(found().stdout, "nothing found\n", "the timer is masked");
    let timer = "/run/systemd/system/vtpm-guard-check.timer";
    host.run(&["rm", timer]).ok();
    let answer = found();
    assert!(
        answer.stdout.contains("no nightly check runs"),
        "{answer:?}"
    );
    host.run(&["ln", "-s", "/dev/null", timer]).ok();
    assert_eq!(found().stdout, "nothing found\n");
    host.forget_boot();
    host.guard(&["stage"]).ok();
    let answer = found();
    assert!(answer.stdout.contains("1 key still staged"), "{answer:?}");
    assert_eq!(answer.status, 1);
    host.guard(&["unstage"]).ok();
    assert_eq!(found().stdout, "nothing found\n");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn keys_are_not_staged_on_a_disk() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.autostart(&guest);
    for dir in ["/var/lib/vtpm-guard/disk", "/run/vtpm-guard"] {
        host.run(&["mkdir", "-p", dir]).ok();
    }
    host.run(&[
        "mount",
        "--bind",
        "/var/lib/vtpm-guard/disk",
        "/run/vtpm-guard",
    ])
    .ok();
    host.forget_boot();
    let refused = host.guard(&["stage"]);
    assert_eq!(refused.status, 4, "{refused:?}");
    assert!(refused.stderr.contains("not on a tmpfs"), "{refused:?}");
    host.assert_nothing_is_staged();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn after_a_failed_start_of_the_daemon_its_keys_are_gone_at_once() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.autostart(&guest);
    host.stop_libvirtd();
    // systemd listens for a socket-activated daemon that is down: whoever connects waits.
    let socket = host.path("/run/libvirt/libvirt-sock");
    fs::remove_file(&socket).unwrap();
    let listens = UnixListener::bind(&socket).unwrap();
    host.run(&drop_in_command("ExecStartPre")).ok();
    assert_eq!(host.names(STAGED).len(), 2);

    let cleared = host.run(&drop_in_command("ExecStopPost")).ok();
    assert_eq!(
        cleared.stdout,
        "removed 1 staged key; libvirtd does not run\n"
    );
    host.assert_nothing_is_staged();
    listens.set_nonblocking(true).unwrap();
    assert!(listens.accept().is_err(), "nobody is to connect");

    host.run(&drop_in_command("ExecStopPost")).ok();
    fs::remove_file(&socket).unwrap();
    let staged = host.run(&drop_in_command("ExecStartPre")).ok().stdout;
    assert!(staged.contains("staged"), "{staged}");
    host.start_libvirtd();
    host.run(&unit_command()).ok();
    host.assert_nothing_is_staged();
    assert_eq!(host.state(&guest), "running");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn unstage_leaves_a_secret_that_a_later_start_has_defined_anew() {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.configure("[secret]\nlifetime = \"run\"\n");
    host.autostart(&guest);
    host.stop_libvirtd();
    host.guard(&["stage"]).ok();
    host.start_libvirtd();
    host.virsh(&["uri"]).ok();
    assert_eq!(host.state(&guest), "running");
    host.stop(&guest);
    host.start_running(&guest);
    host.configure("[secret]\nlifetime = \"start\"\n");
    host.guard(&["unstage"]).ok();
    assert!(host.has_secret(guest.secret));
    host.assert_nothing_is_staged();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_nothing_staged_there_is_nothing_to_do() {
    let host = Host::new();
    if host.lacks_libvirtd() {
        return;
    }
    let guest = host.define_guest("vm1", Tpm::None);
    host.autostart(&guest);
    host.stop_libvirtd();
    let said = host.guard(&["stage", "--json"]).ok().stdout;
    assert!(said.contains("no emulated TPM"), "{said}");
    for _ in 0..2 {
        // libvirtd is not even up: it is not asked.
        assert_eq!(host.guard(&["unstage"]).ok().stdout, "nothing was staged\n");
    }
    host.assert_nothing_is_staged();
    host.start_libvirtd();
}
