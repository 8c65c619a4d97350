//! Every path by which keys go, on two hosts with a shared store, with keys that the test knows: then they are looked for
//! wherever they could have been left.

use std::collections::BTreeSet;
use std::fs;

use sha2::Sha512;
use vtpm_guard::internals::ids::SecretUuid;

use super::database::Database;
use super::{Fleet, configuration};
use crate::guest::{Guest, PASSPHRASE_FILE, Tpm, recovery_file};
use crate::host::Host;
use crate::traces::{Processes, Secrets, Seen};

/// The value of a secret that somebody made by hand.
const BY_HAND: &str = "a made-up key that is nowhere else";

/// Where a host has files of its own, and what is mounted from elsewhere.
const PLACES: [&str; 6] = [
    "/etc/libvirt",
    "/etc/vtpm-guard",
    "/run",
    "/var/lib/libvirt",
    "/var/lib/vtpm-guard",
    "/var/log",
];

/// Which programs must have been seen as they ran, by the name of the file that is run, or their arguments were not looked
/// at. That the test itself names them in a command line says nothing.
const PROGRAMS: [&str; 6] = [
    "vtpm-guard",
    "vtpm-guard-hook",
    "vtpm-guard-libvirt",
    "kms-exec",
    "store-postgresql",
    "systemd-creds",
];

impl Host {
    /// Notes the key of each row of a guest, and what swtpm derives from it.
    pub(crate) fn note_keys(&self, guest: &Guest, secrets: &mut Secrets, round: &str) {
        let is_here = |provider: &&str| self.path(&recovery_file(provider)).exists();
        let providers = ["nkp-a", "nkp-b"].into_iter().filter(is_here);
        let keks: Vec<_> = providers.map(|provider| self.kek(provider)).collect();
        for row in self.key_refs(guest) {
            let name = format!("{round} key {} of {}", row.id, guest.name);
            let Some(kek) = keks.iter().find(|kek| {
                let id = row.kek_ref.as_deref().unwrap_or_default();
                id.ends_with(&kek.key_id().to_string())
            }) else {
                continue;
            };
            let dek = row.dek(guest, kek);
            secrets.add(&name, dek.expose());
            let mut file_key = [0; 32];
            pbkdf2::pbkdf2_hmac::<Sha512>(dek.expose(), b"swtpm", 1000, &mut file_key);
            secrets.add(&format!("swtpm's {name}"), &file_key);
        }
    }

    pub(crate) fn note_provider(&self, provider: &str, secrets: &mut Secrets, round: &str) {
        self.export_over(provider);
        secrets.add(&format!("{round} {provider}"), self.kek(provider).expose());
    }

    fn export_over(&self, provider: &str) {
        let _ = fs::remove_file(self.path(&recovery_file(provider)));
        self.export_provider(provider);
    }

    /// Everything that prints something, in both forms; that it is refused or finds something is its right.
    fn print_everything(&self) {
        for command in [
            &["status"][..],
            &["status", "--fleet"],
            &["doctor"],
            &["history"],
            &["history", "--captures"],
            &["check", "--all"],
            &["provider", "list"],
            &["provider", "show", "nkp-a"],
            &["provider", "slot", "list", "nkp-a"],
            &["key", "list"],
            &["key", "show", "vm1"],
            &["key", "metadata", "vm1"],
            &["state", "list"],
            &["store", "check"],
            &["fleet", "status"],
            &["repair", "--all", "--dry-run"],
        ] {
            self.guard(command);
            self.guard(&[command, &["--json"]].concat());
        }
    }

    /// Starts through the helper, as where libvirt.conf says how to connect.
    fn start_through_helper(&self, guest: &Guest) {
        self.write("/etc/libvirt/libvirt.conf", "remote_mode = \"legacy\"\n");
        self.start_and_stop(guest);
        fs::remove_file(self.path("/etc/libvirt/libvirt.conf")).unwrap();
    }
}

/// What happens on the first host, to providers and guests of all kinds.
fn live(alpha: &Host, secrets: &mut Secrets) -> Guest {
    let vm1 = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&vm1);
    alpha.note_provider("nkp-a", secrets, "first");
    alpha.guard(&["provider", "create", "nkp-b"]).ok();
    alpha.note_provider("nkp-b", secrets, "first");
    alpha.note_keys(&vm1, secrets, "first");
    if !alpha.lacks_libvirtd() {
        alpha.start_through_helper(&vm1);
    }
    // A repair, without a start and at one.
    for repair in [&["repair", "vm1"][..], &["check", "vm1"]] {
        alpha.insert_placeholder(&vm1, "nkp-a");
        alpha.guard(repair);
        alpha.start_and_stop(&vm1);
    }
    // A key that is learnt from the domain XML.
    alpha.guard(&["key", "metadata", "vm1", "--write"]).ok();
    alpha.delete_key_refs(&vm1);
    alpha.start_and_stop(&vm1);
    alpha.note_keys(&vm1, secrets, "learnt");

    let vm2 = alpha.define_guest("vm2", Tpm::Plain);
    alpha.start_and_stop(&vm2);
    alpha.guard(&["encrypt", "vm2", "--provider", "nkp-b"]).ok();
    alpha.start_and_stop(&vm2);

    let secret = SecretUuid::random();
    alpha.define_secret(secret, "by hand", Some(BY_HAND));
    fs::remove_file(alpha.path("/run/value")).unwrap();
    let vm3 = alpha.define_guest("vm3", Tpm::Encrypted(secret));
    alpha.start_and_stop(&vm3);
    alpha.guard(&["adopt", "vm3", "--provider", "nkp-b"]).ok();
    alpha.start_and_stop(&vm3);
    secrets.add("the adopted value", BY_HAND.as_bytes());

    alpha.guard(&["key", "renew", "vm1"]).ok();
    alpha.note_keys(&vm1, secrets, "renewed");
    alpha.start_and_stop(&vm1);
    alpha.guard(&["provider", "rotate", "nkp-b"]).ok();
    alpha.note_provider("nkp-b", secrets, "rotated");
    for guest in [&vm2, &vm3] {
        alpha.start_and_stop(guest);
        alpha.note_keys(guest, secrets, "rotated");
    }

    // Lost, refused with its XML captured, replayed, and back from the recovery file.
    alpha
        .guard(&["provider", "delete", "nkp-b", "--force"])
        .ok();
    alpha.start(&vm2).refused_with("VG101");
    let captures = fs::read_dir(alpha.path("/var/lib/vtpm-guard/captures")).unwrap();
    let capture = captures.flatten().next().unwrap().file_name();
    let capture = format!("/var/lib/vtpm-guard/captures/{}", capture.to_string_lossy());
    alpha.guard(&["replay", &capture, "--dry-run"]);
    alpha.write("/run/wrong", "not the passphrase\n");
    let file = recovery_file("nkp-b");
    let import = ["provider", "import", &file, "--passphrase-file"];
    assert_ne!(
        alpha.guard(&[&import[..], &["/run/wrong"]].concat()).status,
        0
    );
    alpha
        .guard(&[&import[..], &[PASSPHRASE_FILE]].concat())
        .ok();
    alpha.guard(&["replay", &capture]).ok();
    alpha.start_and_stop(&vm2);
    alpha.guard(&["provider", "slot", "verify", "nkp-a"]).ok();

    alpha.guard(&["store", "backup", "/run/store.backup"]).ok();
    alpha.guard(&["store", "restore", "/run/store.backup"]).ok();
    alpha.start_and_stop(&vm3);
    // Damaged, refused.
    let state = alpha.tpm_state(&vm3);
    alpha.set_tpm_state(&vm3, &state[..100]);
    alpha.start(&vm3);
    alpha.set_tpm_state(&vm3, &state);
    if !alpha.lacks_libvirtd() {
        alpha.autostart(&vm1);
        alpha.boot_libvirtd();
        alpha.stop(&vm1);
    }
    vm1
}

/// The search of the server's files finds what is in the database.
fn has_all_of(database: &Database) {
    let witness = "a witness in the database";
    database.sql(&format!(
        "CREATE TABLE witness AS SELECT '{witness}' AS it; CHECKPOINT"
    ));
    let mut planted = Secrets::new();
    planted.add("witness", witness.as_bytes());
    let (found, _) = planted.in_files(&database.place());
    assert!(!found.is_empty());
    assert!(!planted.in_bytes(database.rows().as_bytes()).is_empty());
    database.sql("DROP TABLE witness");
}

/// Searches what the database and the hosts have, and what was said and seen.
#[track_caller]
fn is_nowhere(secrets: &Secrets, fleet: &Fleet, hosts: &[&Host], seen: &Seen) {
    let database = &fleet.database;
    has_all_of(database);
    let rows = database.rows();
    assert!(rows.contains("vm1"), "no rows: {rows}");
    let found = secrets.in_bytes(rows.as_bytes());
    assert!(found.is_empty(), "{found:?} in the database");
    let mut dirs = vec![database.file(""), database.place()];
    for host in hosts {
        dirs.extend(PLACES.map(|place| host.path(place)));
        let found = secrets.in_bytes(host.said().as_bytes());
        assert!(found.is_empty(), "{found:?} was said");
    }
    let files = secrets.are_in_no_file(&dirs);
    secrets.are_in_no_process(seen);
    eprintln!(
        "looked for in {files} files, {} command lines and environments: nowhere",
        seen.texts.len()
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_found_anywhere_whatever_was_done_with_it() {
    let processes = Processes::watch();
    let mut secrets = Secrets::new();
    let (fleet, [alpha, beta]) = Fleet::with_hosts();
    let vm1 = live(&alpha, &mut secrets);
    alpha.exchange();
    beta.exchange();
    // It starts where neither its key nor its state was.
    beta.define_too(&vm1);
    beta.start_and_stop(&vm1);
    // With the provider key on tmpfs alone.
    let boot = format!(
        "[provider]\ncache = \"boot\"\n{}",
        configuration("host2", "")
    );
    beta.configure(&boot);
    beta.guard(&["open"]).ok();
    beta.start_and_stop(&vm1);
    let _ = fs::remove_dir_all(beta.path("/run/vtpm-guard"));
    beta.start(&vm1).refused_with("VG105");
    beta.guard(&["open"]).ok();
    beta.start_and_stop(&vm1);
    beta.exchange();
    for host in [&alpha, &beta] {
        host.print_everything();
    }

    let seen = processes.end();
    for program in PROGRAMS {
        let count = seen.programs.get(program).map_or(0, BTreeSet::len);
        eprintln!("{program} was seen in {count} processes");
        assert!(
            count > 0,
            "{program} was not seen: {:?}",
            seen.programs.keys()
        );
    }
    let dir = tempfile::tempdir().unwrap();
    secrets.finds_each_form(dir.path());
    is_nowhere(&secrets, &fleet, &[&alpha, &beta], &seen);
}
