//! TPM states that swtpm would refuse whatever the key: damaged, in use elsewhere, out of reach of
//! swtpm's user, or replaced by something of that user's own making.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::guest::{Guest, Tpm};
use crate::host::{Host, skipped};

const STATES: &str = "/var/lib/libvirt/swtpm";

/// No start and no command may take as long as this, whatever is in a state's place.
const AT_ONCE: Duration = Duration::from_secs(8);

/// `swtpm` of the test's own that holds a state's lock.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    fn state_dir(&self, guest: &Guest) -> PathBuf {
        self.tpm_state_file(guest).parent().unwrap().to_owned()
    }

    /// Starts a swtpm on the guest's state, as one that was left over, or another host's, and
    /// waits until it holds the lock.
    fn hold_state(&self, guest: &Guest) -> Holder {
        let dek = self.only_key_ref(guest).dek(guest, &self.kek("nkp-a"));
        self.write("/run/dek", dek.expose());
        let dir = format!("dir={STATES}/{}/tpm2", guest.uuid);
        let before = self.tpm_state(guest);
        let mut swtpm = self.command(&[
            "swtpm",
            "socket",
            "--tpm2",
            "--flags",
            "not-need-init,startup-clear",
            "--tpmstate",
            &dir,
            "--key",
            "pwdfile=/run/dek,mode=aes-256-cbc",
            "--server",
            "type=unixio,path=/run/holder",
        ]);
        let process = swtpm
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let holder = Holder(process);
        let patience = Instant::now() + Duration::from_secs(20);
        // Its TPM counts its start, when all is done.
        while !self.path("/run/holder").exists() || self.tpm_state(guest) == before {
            assert!(Instant::now() < patience, "swtpm does not start");
            sleep(Duration::from_millis(10));
        }
        holder
    }

    fn let_go(&self, holder: Holder) {
        self.run(&["pkill", "-f", "path=/run/holder"]);
        drop(holder);
    }

    /// The start must be refused with this code, foreseen by every command that looks, and cost
    /// nothing.
    #[track_caller]
    fn refuses(&self, guest: &Guest, code: &str) -> String {
        let started = Instant::now();
        let check = self.guard(&["check", &guest.name]);
        assert_eq!(check.status, 1, "{check:#?}");
        assert!(
            check.stdout.contains(&format!("would not start: {code}")),
            "{check:#?}"
        );
        let status = self.guard(&["status"]).ok().stdout;
        assert!(status.contains(code), "{status}");
        let doctor = self.guard(&["doctor"]);
        assert!(
            doctor
                .stdout
                .contains(&format!("{} would not start: {code} ", guest.name)),
            "{doctor:#?}"
        );
        self.write("/run/replayed.xml", self.xml(guest));
        let replayed = self.guard(&["replay", "/run/replayed.xml", "--dry-run"]);
        assert!(replayed.stdout.contains(code), "{replayed:#?}");
        let refused = self.start(guest).refused_with(code);
        assert!(
            started.elapsed() < 3 * AT_ONCE,
            "it took {:?}",
            started.elapsed()
        );
        refused.stderr
    }
}

/// Owner, group and mode.
fn attributes(path: &Path) -> (u32, u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

/// What may befall a state's file: its name, and how.
type Damage = (&'static str, fn(&Path, &[u8]));

const DAMAGES: [Damage; 7] = [
    ("it is empty", |file, _| fs::write(file, b"").unwrap()),
    ("its length (1000 bytes)", |file, state| {
        fs::write(file, &state[..1000]).unwrap();
    }),
    ("its length (4096 bytes)", |file, _| {
        let noise: Vec<u8> = (0..4096_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        fs::write(file, noise).unwrap();
    }),
    ("its length (17 bytes)", |file, _| {
        fs::write(file, b"<domain></domain>").unwrap();
    }),
    ("it is a directory", |file, _| {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    }),
    ("is a link, made by root", |file, _| {
        fs::remove_file(file).unwrap();
        symlink("/etc/hostname", file).unwrap();
    }),
    ("it is a FIFO", |file, _| {
        fs::remove_file(file).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(file)
            .status()
            .unwrap();
        assert!(made.success());
    }),
];

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_damaged_state_is_refused_with_what_is_wrong_and_left_as_it_is() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let file = host.tpm_state_file(&guest);
    for (how, damage) in DAMAGES {
        damage(&file, &state);
        let seen = || {
            let found = fs::symlink_metadata(&file).unwrap();
            let bytes = found.is_file().then(|| fs::read(&file).unwrap());
            (found.ino(), attributes(&file), bytes)
        };
        let before = seen();
        let words = host.refuses(&guest, "VG207");
        assert!(words.contains(how), "{how}: {words}");
        let after = seen();
        assert_eq!(before, after, "{how}");
        if file.is_dir() {
            fs::remove_dir(&file).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        fs::write(&file, &state).unwrap();
    }
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_without_encryption_is_left_to_libvirt_and_foreseen_to_fail() {
    let host = Host::new();
    let guest = host.define_guest("vm1", Tpm::Plain);
    host.start_and_stop(&guest);
    let state = host.tpm_state(&guest);
    host.set_tpm_state(&guest, &state[..700]);
    let check = host.guard(&["check", "vm1"]);
    assert_eq!(check.status, 1, "{check:#?}");
    assert!(
        check.stdout.contains("would not start: VG207"),
        "{check:#?}"
    );
    let failed = host.start(&guest);
    assert_eq!(failed.status, 1, "{failed:#?}");
    assert!(!failed.stderr.contains("vtpm-guard"), "{failed:#?}");
    host.set_tpm_state(&guest, &state);
    host.guard(&["check", "vm1"]).ok();
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_saved_copy_takes_the_place_of_a_damaged_state_which_is_set_aside() {
    let (host, guest) = Host::with_transient_guest();
    host.create_running(&guest);
    let state = host.tpm_state(&guest);
    host.stop(&guest);
    let file = host.tpm_state_file(&guest);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, b"damaged").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();

    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    let history = host.guard(&["history", "--json"]).ok().stdout;
    assert!(history.contains("restore-tpm-state"), "{history}");
    let aside = host.path(&format!("/var/lib/vtpm-guard/damaged-state/{}", guest.uuid));
    let aside = fs::read_dir(aside).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read(&aside).unwrap(), b"damaged");
    assert_eq!(attributes(&aside).2, 0o640);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_damaged_state_of_a_transient_guest_is_back_after_the_refusal() {
    let (host, guest, _) = Host::with_transient_state();
    host.set_tpm_state(&guest, b"damaged, and all that there is");
    host.create(&guest).refused_with("VG207");
    wait_for(|| host.has_tpm_state(&guest));
    assert_eq!(host.tpm_state(&guest), b"damaged, and all that there is");
}

#[track_caller]
pub(crate) fn wait_for(done: impl Fn() -> bool) {
    wait_for_long(Duration::from_secs(10), done);
}

#[track_caller]
pub(crate) fn wait_for_long(patience: Duration, done: impl Fn() -> bool) {
    let patience = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < patience, "it does not happen");
        sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_state_in_use_is_refused_with_the_process_that_uses_it() {
    let (host, guest) = Host::with_used_guest();
    let holder = host.hold_state(&guest);
    let words = host.refuses(&guest, "VG208");
    assert!(words.contains("swtpm (process "), "{words}");
    host.let_go(holder);
    host.guard(&["check", "vm1"]).ok();
    host.start_running(&guest);
    // A guest that runs holds its own lock, and would start again.
    host.guard(&["check", "vm1"]).ok();
    host.guard(&["check", "--all"]).ok();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_lock_that_is_soon_let_go_is_waited_for() {
    let (host, guest) = Host::with_used_guest();
    let holder = host.hold_state(&guest);
    std::thread::scope(|scope| {
        let starts = scope.spawn(|| host.start_running(&guest));
        // The brackets keep the commands around pgrep from being found.
        let hook = ["pgrep", "-f", "[v]tpm-guard.* vm1 prepare begin"];
        let waits = || host.run(&hook).status == 0;
        wait_for(waits);
        sleep(Duration::from_millis(300));
        assert!(waits() && !starts.is_finished(), "it waits for nothing");
        host.let_go(holder);
    });
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn what_libvirt_deletes_after_such_a_refusal_is_back_with_owners_modes_and_lock() {
    let (host, guest, _) = Host::with_transient_state();
    let dir = host.state_dir(&guest);
    let of = || {
        let file = host.tpm_state_file(&guest);
        [
            attributes(dir.parent().unwrap()),
            attributes(&dir),
            attributes(&file),
        ]
    };
    let holder = host.hold_state(&guest);
    let state = host.tpm_state(&guest);
    let before = of();
    let lock = fs::metadata(dir.join(".lock")).unwrap().ino();
    for _ in 0..2 {
        host.create(&guest).refused_with("VG208");
        // libvirt deletes it, and the guard puts it back.
        wait_for(|| host.has_tpm_state(&guest) && fs::metadata(dir.join(".lock")).is_ok());
        wait_for(|| {
            !host
                .path(&format!("{STATES}/.vtpm-guard.{}", guest.uuid))
                .exists()
        });
        let found = host.tpm_state(&guest);
        assert!(found == state, "{} bytes, not {}", found.len(), state.len());
        assert_eq!(of(), before);
        assert_eq!(fs::metadata(dir.join(".lock")).unwrap().ino(), lock);
        wait_for(|| host.copies(&guest).is_empty());
    }
    host.let_go(holder);
    host.create_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_directory_that_swtpms_user_cannot_enter_is_named_with_the_mode_that_it_needs() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let guests_own = format!("{STATES}/{}", guest.uuid);
    for directory in [STATES, &guests_own] {
        fs::set_permissions(host.path(directory), Permissions::from_mode(0o700)).unwrap();
        let words = host.refuses(&guest, "VG209");
        let hint = format!(
            "{directory} has mode 0700 and needs 0711; fix its mode: chmod 0711 {directory}"
        );
        assert!(words.contains(&hint), "{words}");
        assert!(host.tpm_state(&guest) == state);
        host.run(&["chmod", "0711", directory]).ok();
        host.start_and_stop(&guest);
    }
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn libvirt_itself_fails_where_the_guard_would_refuse() {
    let (host, guest) = Host::with_used_guest();
    fs::remove_file(host.path("/etc/libvirt/hooks/qemu.d/50-vtpm-guard")).unwrap();
    host.restart_libvirtd();
    let dek = host.only_key_ref(&guest).dek(&guest, &host.kek("nkp-a"));
    host.write("/run/value", dek.expose());
    host.define_secret(guest.secret, "by hand", None);
    let secret = guest.secret.to_string();
    host.virsh(&[
        "secret-set-value",
        &secret,
        "--plain",
        "--file",
        "/run/value",
    ])
    .ok();
    host.start_and_stop(&guest);
    let state = host.tpm_state(&guest);
    let fails = |why: &str| assert_eq!(host.start(&guest).status, 1, "libvirt starts: {why}");
    for bytes in [&b""[..], &state[..1000], b"no TPM state"] {
        host.set_tpm_state(&guest, bytes);
        fails("damaged");
    }
    host.set_tpm_state(&guest, &state);
    for directory in [STATES.to_owned(), format!("{STATES}/{}", guest.uuid)] {
        fs::set_permissions(host.path(&directory), Permissions::from_mode(0o700)).unwrap();
        fails(&directory);
        fs::set_permissions(host.path(&directory), Permissions::from_mode(0o711)).unwrap();
    }
    let holder = host.hold_state(&guest);
    fails("locked");
    host.let_go(holder);
    host.start_and_stop(&guest);
}

/// Runs a program as swtpm's user.
fn as_swtpm(host: &Host, program: &[&str]) {
    let user = [
        "setpriv",
        "--reuid",
        "tss",
        "--regid",
        "tss",
        "--clear-groups",
    ];
    host.run(&[&user[..], program].concat()).ok();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn what_swtpms_user_puts_in_a_states_place_is_neither_followed_nor_waited_for() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let file = format!("{STATES}/{}/tpm2/tpm2-00.permall", guest.uuid);
    host.write("/etc/rootsecret", "root:$y$TOP-SECRET-OF-ROOT");
    for target in [
        "/etc/rootsecret",
        "../../../../../../etc/rootsecret",
        "/proc/kmsg",
    ] {
        as_swtpm(&host, &["ln", "-sf", target, &file]);
        let started = Instant::now();
        let words = host.start(&guest).refused_with("VG207").stderr;
        assert!(
            started.elapsed() < AT_ONCE,
            "{target}: {:?}",
            started.elapsed()
        );
        assert!(words.contains("is a link, made by tss"), "{words}");
        assert!(!words.contains("SECRET"), "{words}");
        host.guard(&["check", "--all"]);
        host.guard(&["status"]).ok();
        assert!(
            started.elapsed() < AT_ONCE,
            "{target}: {:?}",
            started.elapsed()
        );
    }
    assert_eq!(attributes(&host.path("/etc/rootsecret")), (0, 0, 0o600));
    as_swtpm(&host, &["rm", &file]);
    fs::write(host.path(&file), &state).unwrap();

    let lock = format!("{STATES}/{}/tpm2/.lock", guest.uuid);
    for make in [
        &["mkfifo", &lock][..],
        &["ln", "-s", "/etc/rootsecret", &lock],
    ] {
        as_swtpm(&host, &["rm", "-f", &lock]);
        as_swtpm(&host, make);
        let started = Instant::now();
        host.start(&guest).refused_with("VG209");
        assert!(
            started.elapsed() < AT_ONCE,
            "{make:?}: {:?}",
            started.elapsed()
        );
    }
    as_swtpm(&host, &["rm", "-f", &lock]);
    host.start_and_stop(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn what_is_planted_while_a_guest_runs_keeps_no_key_in_libvirt() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[secret]\nlifetime = \"run\"\n");
    host.start_running(&guest);
    assert!(host.has_secret(guest.secret));
    let file = format!("{STATES}/{}/tpm2/tpm2-00.permall", guest.uuid);
    as_swtpm(&host, &["rm", &file]);
    as_swtpm(&host, &["mkfifo", &file]);
    let started = Instant::now();
    host.stop(&guest);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    assert!(!host.has_secret(guest.secret));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn bytes_of_roots_are_neither_kept_nor_put_back_as_a_tpm_state() {
    let (host, guest, _) = Host::with_transient_state();
    let file = format!("{STATES}/{}/tpm2/tpm2-00.permall", guest.uuid);
    host.write("/etc/rootsecret", "root:$y$TOP-SECRET-OF-ROOT");
    as_swtpm(&host, &["ln", "-sf", "/etc/rootsecret", &file]);
    host.create(&guest).refused_with("VG207");
    wait_for(|| host.tpm_state_file(&guest).is_symlink());
    assert_eq!(host.copies(&guest).len(), 0);
    let restored = host.guard(&["state", "restore", &guest.uuid.to_string()]);
    assert_ne!(restored.status, 0, "{restored:#?}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_lease_of_swtpms_user_is_not_waited_for() {
    let (host, guest) = Host::with_used_guest();
    if host.run(&["python3", "--version"]).status != 0 {
        skipped("there is no Python here");
        return;
    }
    let file = format!("{STATES}/{}/tpm2/tpm2-00.permall", guest.uuid);
    // F_SETSIG with SIGURG, which ends nothing; F_SETLEASE with F_WRLCK.
    let lease = "import fcntl, os, sys, time\n\
        f = os.open(sys.argv[1], os.O_RDWR)\n\
        fcntl.fcntl(f, 10, 23)\n\
        fcntl.fcntl(f, 1024, 1)\n\
        open('/run/leased', 'w')\n\
        time.sleep(60)\n";
    host.run(&[
        "sh",
        "-c",
        "rm -f /run/leased; touch /run/leased.dir; chmod 1777 /run",
    ]);
    let mut holder = host
        .command(&[
            "setpriv",
            "--reuid",
            "tss",
            "--regid",
            "tss",
            "--clear-groups",
            "python3",
            "-c",
            lease,
            &file,
        ])
        .spawn()
        .unwrap();
    wait_for(|| host.path("/run/leased").exists());
    let started = Instant::now();
    let check = host.guard(&["check", "vm1"]).ok();
    assert!(check.stdout.contains("has a lease on it"), "{check:#?}");
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    let _ = holder.kill();
    let _ = holder.wait();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn after_reset_the_new_tpm_has_its_certificates_where_an_empty_directory_was_left() {
    let (host, guest) = Host::with_used_guest();
    let dir = host.state_dir(&guest);
    // With swtpm's lock alone, and by the policy instead of a command.
    for allow in [
        |host: &Host| drop(host.guard(&["reset", "vm1"]).ok()),
        |host: &Host| {
            host.configure("[policy]\nmissing_state = \"allow\"\n");
        },
    ] {
        let made = host.tpms_made(&guest);
        fs::remove_file(host.tpm_state_file(&guest)).unwrap();
        assert!(dir.join(".lock").exists());
        host.start(&guest).refused_with("VG205");
        allow(&host);
        host.start_and_stop(&guest);
        assert_eq!(host.tpms_made(&guest), made + 1, "swtpm_setup was skipped");
        let dek = host.only_key_ref(&guest).dek(&guest, &host.kek("nkp-a"));
        crate::tpm::identity(&host.tpm_state(&guest), Some(dek.expose()));
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn where_libvirts_directory_is_a_link_to_another_disk_copies_come_back() {
    let (host, guest, state) = Host::with_transient_state();
    host.run(&[
        "sh",
        "-c",
        "mv /var/lib/libvirt/swtpm /var/lib/disk && ln -s ../disk /var/lib/libvirt/swtpm",
    ])
    .ok();
    host.create_running(&guest);
    host.stop(&guest);
    assert!(!host.path(&format!("/var/lib/disk/{}", guest.uuid)).exists());
    host.create_running(&guest);
    assert!(
        fs::read(host.path(&format!(
            "/var/lib/disk/{}/tpm2/tpm2-00.permall",
            guest.uuid
        )))
        .unwrap()
            == state
    );
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn another_directory_of_states_is_configured_and_doctor_finds_it() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    host.configure("[libvirt]\ntpm_dir = \"/tank/swtpm\"\n");
    host.start_running(&guest);
    let doctor = host.guard(&["doctor"]).stdout;
    assert!(
        doctor.contains("[libvirt] tpm_dir = \"/var/lib/libvirt/swtpm\""),
        "{doctor}"
    );
    host.configure("[libvirt]\nconfig_dir = \"/tank/etc\"\nrun_dir = \"/tank/run\"\n");
    let doctor = host.guard(&["doctor"]).stdout;
    for setting in ["config_dir", "run_dir"] {
        assert!(
            doctor.contains(&format!("[libvirt] {setting} = ")),
            "{doctor}"
        );
    }
    host.stop(&guest);
    // As libvirt has them, said aloud.
    host.configure(
        "[libvirt]\nconfig_dir = \"/etc/libvirt\"\nstate_dir = \"/var/lib/libvirt\"\n\
         run_dir = \"/run/libvirt\"\ntpm_dir = \"/var/lib/libvirt/swtpm\"\n",
    );
    host.start_running(&guest);
    let doctor = host.guard(&["doctor"]).stdout;
    assert!(!doctor.contains("[libvirt]"), "{doctor}");
}
