//! Live migrations between two hosts of a guest whose key travels in its XML: nobody copies a key.

use std::fs;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::guest::{Guest, PASSPHRASE_FILE, recovery_file};
use crate::host::{Host, Output, finish};
use crate::pair::{HERE, Pair, THERE};
use crate::state_trouble::wait_for_long;
use crate::tpm::Identity;

/// How often a guest moves there and back. `MOVES=200 ./dev e2e there_and_back` is the long form.
const MOVES: usize = 10;

/// How long libvirt at the other end may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How a guest moves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) options: &'static [&'static str],
    /// What the guest is before it moves.
    pub(crate) is_transient: bool,
}

pub(crate) const WAYS: [Way; 5] = [
    Way {
        name: "persistent, undefined at its source",
        options: &["--persistent", "--undefinesource"],
        is_transient: false,
    },
    Way {
        name: "persistent, still defined at its source",
        options: &["--persistent"],
        is_transient: false,
    },
    Way {
        name: "defined at its source, transient there",
        options: &[],
        is_transient: false,
    },
    Way {
        name: "transient",
        options: &[],
        is_transient: true,
    },
    Way {
        name: "peer to peer",
        options: &["--persistent", "--undefinesource", "--p2p"],
        is_transient: false,
    },
];

/// The daemon and the QEMU that a guest migrates to.
fn destination(to: &str) -> (String, String) {
    (format!("qemu+tcp://{to}/system"), format!("tcp://{to}"))
}

impl Host {
    pub(crate) fn migrate(&self, guest: &Guest, to: &str, options: &[&str]) -> Output {
        let (uri, data) = destination(to);
        let migrate = ["migrate", "--live", &guest.name, &uri, &data];
        self.virsh(&[&migrate[..], options].concat())
    }

    /// So slowly that its end does not come before what is done meanwhile: 16 MiB take ten seconds.
    fn migrate_in_background(&self, guest: &Guest, to: &str) -> Child {
        let (uri, data) = destination(to);
        let virsh = [
            "virsh",
            "-k",
            "1",
            "-K",
            "2",
            "migrate",
            "--live",
            "--persistent",
            "--bandwidth",
            "1",
        ];
        self.command(&[&virsh[..], &[&guest.name, &uri, &data]].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Starts a stopped guest as one that libvirt does not define.
    pub(crate) fn make_transient(&self, guest: &Guest) {
        let xml = self.xml(guest);
        self.virsh(&["undefine", &guest.name, "--keep-tpm"]).ok();
        self.write("/run/transient.xml", xml);
        self.virsh(&["create", "/run/transient.xml"]).ok();
    }

    /// Whether libvirt knows the guest, running or not.
    fn knows(&self, guest: &Guest) -> bool {
        let list = self.virsh(&["list", "--all", "--uuid"]).ok().stdout;
        list.contains(&guest.uuid.to_string())
    }

    pub(crate) fn is_running(&self, guest: &Guest) -> bool {
        let list = self.virsh(&["list", "--uuid"]).ok().stdout;
        list.contains(&guest.uuid.to_string())
    }

    /// What a move could leave: a TPM, and what else it could leave.
    #[track_caller]
    pub(crate) fn has_nothing_left_of(&self, guest: &Guest) {
        self.has_forgotten_move_of(guest);
        // libvirt keeps the state of a guest that it still defines.
        assert!(
            self.knows(guest) || !self.has_tpm_state(guest),
            "a TPM state"
        );
    }

    /// What a move could leave beside a TPM: a secret, notes of a start, copies, an announcement.
    #[track_caller]
    pub(crate) fn has_forgotten_move_of(&self, guest: &Guest) {
        assert!(!self.has_secret(guest.secret), "a secret");
        // What a failed start has left is set aside, and never restored by itself.
        let restorable = |manifest: &std::path::PathBuf| {
            let manifest = fs::read_to_string(manifest).unwrap();
            !manifest.contains("\"set_aside_at\"") || manifest.contains("\"set_aside_at\":null")
        };
        assert!(
            !self.copies(guest).iter().any(restorable),
            "copies of its TPM"
        );
        for place in ["starting", "leases"] {
            let place = self.path("/run/vtpm-guard").join(place);
            let left: Vec<_> = fs::read_dir(place)
                .map(|found| found.map(|entry| entry.unwrap().file_name()).collect())
                .unwrap_or_default();
            let is_its = |name: &std::ffi::OsString| {
                let name = name.to_string_lossy();
                name.contains(&guest.uuid.to_string()) || name.contains(&guest.secret.to_string())
            };
            assert!(!left.iter().any(is_its), "{left:?}");
        }
        let announced = "SELECT count(*) FROM arriving WHERE domain_uuid = ?1";
        let uuid = guest.uuid.to_string();
        let announced = self.store().query_row(announced, [uuid], |row| row.get(0));
        assert_eq!(announced, Ok(0_i64), "an announcement");
    }

    /// The history's newest lines of the guest, in one text.
    fn told_of(&self, guest: &Guest) -> String {
        self.guard(&["history", &guest.uuid.to_string()])
            .ok()
            .stdout
    }
}

/// Two hosts with one provider, and a guest that has run on the first; its key is in its XML.
pub(crate) fn prepared() -> (Pair, Guest) {
    let (pair, guest) = without_provider_there();
    pair.bring_provider();
    (pair, guest)
}

fn without_provider_there() -> (Pair, Guest) {
    let pair = Pair::new();
    pair.here.create_provider("nkp-a");
    for host in [&pair.here, &pair.there] {
        host.configure("[fleet]\nmetadata = \"wrapped\"\n");
    }
    let guest = pair.here.define_bound_guest("vm1", "nkp-a");
    pair.here.start_and_stop(&guest);
    pair.here.sync().ok();
    (pair, guest)
}

impl Pair {
    /// What another host needs, once: the provider's recovery file.
    fn bring_provider(&self) {
        for file in [PASSPHRASE_FILE, &recovery_file("nkp-a")] {
            self.there
                .write(file, fs::read(self.here.path(file)).unwrap());
        }
        self.there.import_provider("nkp-a", None);
    }

    /// The guest moves from here to there in this way, with its TPM, and leaves nothing behind.
    fn moves(&self, guest: &Guest, way: Way) {
        if way.is_transient {
            self.here.make_transient(guest);
        } else {
            self.here.start_running(guest);
        }
        let tpm = self.here.tpm(guest);
        assert!(!self.here.has_secret(guest.secret));
        self.here.migrate(guest, THERE, way.options).ok();
        self.there.runs_with(guest, &tpm);
        assert!(!self.there.has_secret(guest.secret));
        assert!(!self.here.is_running(guest));
        self.here.has_nothing_left_of(guest);
        let told = self.there.told_of(guest);
        assert!(told.contains("learn-key"), "{told}");
    }
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_moves_with_its_key_in_every_way() {
    for way in WAYS {
        let (pair, guest) = prepared();
        let began = Instant::now();
        pair.moves(&guest, way);
        eprintln!("{:<42} moved      {:.1?}", way.name, began.elapsed());
    }
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_moves_there_and_back_and_its_tpm_stays_the_same() {
    let moves = std::env::var("MOVES").map_or(MOVES, |moves| moves.parse().unwrap());
    let (pair, guest) = prepared();
    pair.here.start_running(&guest);
    let tpm = pair.here.tpm(&guest);
    for number in 0..moves {
        let (from, to, address) = if number % 2 == 0 {
            (&pair.here, &pair.there, THERE)
        } else {
            (&pair.there, &pair.here, HERE)
        };
        from.migrate(&guest, address, &["--persistent", "--undefinesource"])
            .ok();
        to.runs_with(&guest, &tpm);
        assert!(!to.has_secret(guest.secret), "move {number}");
        from.has_nothing_left_of(&guest);
        assert!(!from.knows(&guest));
    }
    eprintln!("{moves} moves of an encrypted vTPM, {moves} with the same TPM");
    for host in [&pair.here, &pair.there] {
        assert_eq!(host.key_refs(&guest).len(), 1);
    }
}

// The state that the guest has left behind here proves its old key, which is not that of the state
// that arrives.
#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_comes_back_with_a_renewed_key_to_where_it_left_its_old_state() {
    let (pair, guest) = prepared();
    pair.here.start_running(&guest);
    pair.here.migrate(&guest, THERE, &["--persistent"]).ok();
    assert!(pair.here.has_tpm_state(&guest));
    pair.there.stop(&guest);
    pair.there.guard(&["key", "renew", &guest.name]).ok();
    pair.there.start_running(&guest);
    pair.there.sync().ok();
    let arrives = pair.there.tpm_state(&guest);
    for number in 1..=2 {
        pair.there.migrate(&guest, HERE, &["--persistent"]).ok();
        assert_eq!(pair.here.state(&guest), "running", "{number}");
        assert_eq!(pair.here.tpm_state(&guest).len(), arrives.len());
        if number == 1 {
            pair.here.migrate(&guest, THERE, &["--persistent"]).ok();
        }
    }
    pair.here.stop(&guest);
    // Its own state decides: the old key is retired.
    pair.here.start_running(&guest);
    let rows = pair.here.key_refs(&guest);
    let in_use: Vec<_> = rows.iter().filter(|row| row.retired_at.is_none()).collect();
    assert_eq!((rows.len(), in_use.len()), (2, 1), "{rows:#?}");
}

/// What goes wrong at the destination, and in what the migration must end: the guest runs on here,
/// and nothing of it is there.
struct Failure {
    name: &'static str,
    /// Before the migration.
    before: fn(&Pair, &Guest),
    /// While it goes on: the guest's QEMU there is stopped.
    meanwhile: Option<fn(&Pair, &Guest)>,
    /// Afterwards, before it is tried once more.
    after: fn(&Pair, &Guest),
    /// What the migration says.
    says: &'static str,
}

fn nothing(_: &Pair, _: &Guest) {}

fn lose_provider(pair: &Pair, _: &Guest) {
    pair.there.delete_provider("nkp-a");
}

fn import_provider(pair: &Pair, _: &Guest) {
    pair.there.import_provider("nkp-a", None);
}

/// The destination has another key of the guest, newer than the one in its XML.
fn give_another_key(pair: &Pair, guest: &Guest) {
    let other = pair.there.define_bound_guest(&guest.name, "nkp-a");
    pair.there.start_and_stop(&other);
    let row = pair.there.only_key_ref(&other);
    let kek = pair.there.kek("nkp-a");
    let dek = row.dek(&other, &kek);
    pair.there.virsh(&["undefine", &other.name]).ok();
    pair.there.insert_wrapped(guest, &row, &kek, &dek, 9);
}

fn forget_other_key(pair: &Pair, guest: &Guest) {
    pair.there.delete_key_refs(guest);
}

fn kill_qemu(pair: &Pair, guest: &Guest) {
    pair.there.signal_qemu(guest, "KILL");
}

fn cut_the_link(pair: &Pair, guest: &Guest) {
    pair.there.run(&["ip", "link", "set", "wire", "down"]).ok();
    sleep(Duration::from_secs(4));
    pair.there.signal_qemu(guest, "KILL");
}

fn join_the_link(pair: &Pair, _: &Guest) {
    pair.there.run(&["ip", "link", "set", "wire", "up"]).ok();
}

fn restart_the_daemon(pair: &Pair, guest: &Guest) {
    pair.there.stop_libvirtd();
    pair.there.signal_qemu(guest, "KILL");
}

fn start_the_daemon(pair: &Pair, _: &Guest) {
    pair.there.listen_on_tcp();
}

const FAILURES: [Failure; 5] = [
    Failure {
        name: "the destination lacks the provider key",
        before: lose_provider,
        meanwhile: None,
        after: import_provider,
        says: "VG101",
    },
    Failure {
        name: "the destination has a newer, wrong key",
        before: give_another_key,
        meanwhile: None,
        after: forget_other_key,
        says: "error",
    },
    Failure {
        name: "the destination's QEMU is killed",
        before: nothing,
        meanwhile: Some(kill_qemu),
        after: nothing,
        says: "error",
    },
    Failure {
        name: "the link is cut",
        before: nothing,
        meanwhile: Some(cut_the_link),
        after: join_the_link,
        says: "error",
    },
    Failure {
        name: "the destination's daemon is killed",
        before: nothing,
        meanwhile: Some(restart_the_daemon),
        after: start_the_daemon,
        says: "error",
    },
];

impl Host {
    /// Sends the guest's QEMU this signal. Says whether there is one.
    fn signal_qemu(&self, guest: &Guest, signal: &str) -> bool {
        // The brackets keep the shell itself from being found.
        let pattern = format!("[q]emu-system.*{}", guest.uuid);
        self.run(&["pkill", &format!("-{signal}"), "-f", &pattern])
            .status
            == 0
    }
}

fn failed(pair: &Pair, guest: &Guest, failure: &Failure) -> Output {
    let Some(meanwhile) = failure.meanwhile else {
        return pair.here.migrate(guest, THERE, &["--persistent"]);
    };
    let migration = pair.here.migrate_in_background(guest, THERE);
    let patience = Instant::now() + PATIENCE;
    while !pair.there.signal_qemu(guest, "STOP") {
        assert!(Instant::now() < patience, "no QEMU there");
        sleep(Duration::from_millis(2));
    }
    meanwhile(pair, guest);
    finish(migration)
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_migration_that_fails_costs_the_guest_nothing() {
    for failure in FAILURES {
        let (pair, guest) = prepared();
        (failure.before)(&pair, &guest);
        pair.here.start_running(&guest);
        let tpm: Identity = pair.here.tpm(&guest);
        let output = failed(&pair, &guest, &failure);
        assert_ne!(output.status, 0, "{}: {output:?}", failure.name);
        assert!(
            output.stderr.contains(failure.says),
            "{}: {output:?}",
            failure.name
        );
        pair.here.runs_with(&guest, &tpm);
        (failure.after)(&pair, &guest);
        // With a cut link, libvirt there may still be ending the guest when the migration has failed here.
        wait_for_long(PATIENCE, || !pair.there.is_running(&guest));
        pair.there.has_nothing_left_of(&guest);
        pair.here.runs_with(&guest, &tpm);
        // Then it moves.
        pair.here
            .migrate(&guest, THERE, &["--persistent", "--undefinesource"])
            .ok();
        pair.there.runs_with(&guest, &tpm);
        pair.here.has_nothing_left_of(&guest);
        eprintln!("{:<42} runs on, then moved", failure.name);
    }
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_is_saved_here_and_restored_there() {
    let (pair, guest) = prepared();
    pair.here.start_running(&guest);
    let tpm = pair.here.tpm(&guest);
    pair.here.save(&guest);
    let image = crate::saved::SAVED;
    pair.there
        .write(image, fs::read(pair.here.path(image)).unwrap());
    pair.there.virsh(&["restore", image]).ok();
    pair.there.runs_with(&guest, &tpm);
    assert!(!pair.there.has_secret(guest.secret));
}
