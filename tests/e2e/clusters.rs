//! docs/clusters.md: two hosts that share libvirt's directory of TPM states, or do not, and what
//! Pacemaker's agent `VirtualDomain` does there: undefine a guest that is defined, then `virsh create`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};

use crate::guest::{Guest, recovery_file};
use crate::host::{Host, Output};
use crate::page::blocks;
use crate::state_trouble::{wait_for, wait_for_long};
use crate::tpm::{Identity, identity};

pub(crate) const STATES: &str = "/var/lib/libvirt/swtpm";

/// An option that QEMU does not know.
const FAILS_IN_QEMU: &str = "<qemu:commandline><qemu:arg value='-no-such-option'/>\
                             </qemu:commandline>";

/// Two hosts that may start the guest `vm1`.
struct Cluster {
    a: Host,
    b: Host,
    guest: Guest,
    /// What both have as libvirt's directory of TPM states.
    _shared: Option<TempDir>,
}

/// Whether libvirt keeps the guest's TPM state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Persistent,
    Deleted,
}

impl Cluster {
    /// The guest has run on A, by its file alone, and is stopped. B has its key.
    fn new(is_shared: bool, state: State) -> Self {
        let (a, b) = (Host::new(), Host::new());
        let shared = is_shared.then(|| {
            let shared = tempfile::tempdir().unwrap();
            for host in [&a, &b] {
                host.share_states(shared.path());
            }
            shared
        });
        a.create_provider("nkp-a");
        let guest = Guest {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            secret: SecretUuid::random(),
        };
        let uuid = guest.uuid.to_string();
        a.guard(&["key", "bind", &uuid, "--provider", "nkp-a"]).ok();
        let cluster = Self {
            a,
            b,
            guest,
            _shared: shared,
        };
        for host in [&cluster.a, &cluster.b] {
            host.write("/etc/vm1.xml", cluster.xml(state, ""));
        }
        cluster.a.agent_start().ok();
        for file in [recovery_file("nkp-a"), "/run/passphrase".to_owned()] {
            cluster
                .b
                .write(&file, fs::read(cluster.a.path(&file)).unwrap());
        }
        cluster.b.import_provider("nkp-a", None);
        let row = cluster.a.only_key_ref(&cluster.guest);
        cluster.b.insert_key_ref(&cluster.guest, &row);
        cluster
    }

    fn xml(&self, state: State, more: &str) -> String {
        let Guest { name, uuid, secret } = &self.guest;
        let attribute = match state {
            State::Persistent => "persistent_state='yes'",
            State::Deleted => "",
        };
        format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices><tpm model='tpm-crb'><backend type='emulator' version='2.0' {attribute}>\
             <encryption secret='{secret}'/></backend></tpm></devices>{more}</domain>"
        )
    }

    /// Which TPM this host has for the guest.
    fn tpm(&self, host: &Host) -> Identity {
        let dek = self.a.only_key_ref(&self.guest);
        let dek = dek.dek(&self.guest, &self.a.kek("nkp-a"));
        identity(&host.tpm_state(&self.guest), Some(dek.expose()))
    }

    /// The files of the state and of its lock, which tell whether they are still the same ones.
    fn files(&self, host: &Host) -> [u64; 2] {
        let state = host.tpm_state_file(&self.guest);
        let lock = state.with_file_name(".lock");
        [state, lock].map(|file| fs::metadata(file).map_or(0, |found| found.ino()))
    }

    /// Waits until the guard has put back what libvirt has deleted.
    fn wait_for_state(&self, host: &Host) {
        wait_for(|| host.has_tpm_state(&self.guest) && host.copies(&self.guest).is_empty());
    }

    /// Waits until nothing is left beside the state: it is watched for some seconds while the other
    /// host's guest runs.
    fn wait_for_end_of_watch(&self, host: &Host) {
        let is_alone = || {
            let mut names = fs::read_dir(host.path(STATES)).unwrap();
            names.all(|name| name.unwrap().file_name() == *self.guest.uuid.to_string())
        };
        wait_for_long(Duration::from_secs(40), is_alone);
    }

    fn tpms_made(&self) -> usize {
        let made = [&self.a, &self.b].map(|host| host.tpms_made(&self.guest));
        made.iter().sum()
    }
}

impl Host {
    /// Puts this directory in the place of libvirt's own for TPM states.
    pub(crate) fn share_states(&self, dir: &Path) {
        let mount = format!(
            "mkdir -p {STATES} && chmod 711 {dir} && mount --bind {dir} {STATES}",
            dir = dir.display()
        );
        self.run(&["sh", "-c", &mount]).ok();
    }

    /// What the agent does to start a guest.
    fn agent_start(&self) -> Output {
        self.agent_start_from("/etc/vm1.xml")
    }

    fn agent_start_from(&self, file: &str) -> Output {
        if self
            .virsh(&["list", "--all", "--name"])
            .ok()
            .stdout
            .contains("vm1")
        {
            self.virsh(&["undefine", "vm1"]).ok();
        }
        self.virsh(&["create", file])
    }

    #[track_caller]
    fn runs(&self, guest: &Guest) {
        assert_eq!(self.state(guest), "running");
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_persistent_state_a_guest_goes_from_host_to_host_with_its_tpm() {
    let cluster = Cluster::new(true, State::Persistent);
    let Cluster { a, b, guest, .. } = &cluster;
    let (tpm, files) = (cluster.tpm(a), cluster.files(a));
    for _ in 0..2 {
        b.agent_start().refused_with("VG208");
        assert_eq!(cluster.files(a), files, "nothing was deleted for a moment");
        a.runs(guest);
    }
    for _ in 0..2 {
        for (from, to) in [(a, b), (b, a)] {
            from.stop(guest);
            // Somebody has defined it by hand: the agent undefines it.
            to.virsh(&["define", "/etc/vm1.xml"]).ok();
            to.agent_start().ok();
            to.runs(guest);
            assert_eq!(cluster.tpm(to), tpm);
        }
    }
    // Defined on B, and undefined there, while A runs it.
    b.virsh(&["define", "/etc/vm1.xml"]).ok();
    b.start(guest).refused_with("VG208");
    b.virsh(&["undefine", "vm1"]).ok();
    assert_eq!(cluster.files(a), files);
    // A start that fails on B.
    a.stop(guest);
    b.write(
        "/etc/fails.xml",
        cluster.xml(State::Persistent, FAILS_IN_QEMU),
    );
    assert_eq!(b.agent_start_from("/etc/fails.xml").status, 1);
    a.agent_start().ok();
    assert_eq!(cluster.tpm(a), tpm);
    assert_eq!(cluster.tpms_made(), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn what_libvirt_deletes_on_one_host_and_another_uses_is_put_back() {
    let cluster = Cluster::new(true, State::Deleted);
    let Cluster { a, b, guest, .. } = &cluster;
    let (tpm, files) = (cluster.tpm(a), cluster.files(a));
    for _ in 0..3 {
        b.agent_start().refused_with("VG208");
        cluster.wait_for_state(b);
        assert_eq!(cluster.files(a), files, "they are the same files");
        a.runs(guest);
    }
    // B would refuse it anyway, and knows no key of it.
    b.delete_key_refs(guest);
    b.agent_start().refused_with("VG208");
    cluster.wait_for_state(b);
    assert_eq!(cluster.files(a), files);
    b.insert_key_ref(guest, &a.only_key_ref(guest));

    // The hook on B ends before it has looked at anything.
    let hook = "/etc/libvirt/hooks/qemu.d/10-fails";
    b.write_program(hook, "#!/bin/sh\n[ \"$2\" != prepare ]\n");
    let real = "/etc/libvirt/hooks/qemu.d/50-vtpm-guard";
    b.run(&["mv", real, "/run/real"]).ok();
    b.write_program(
        real,
        "#!/bin/sh\n[ \"$2\" = prepare ] && exit 1\nexec /usr/sbin/vtpm-guard-hook \"$@\"\n",
    );
    assert_eq!(b.agent_start().status, 1);
    cluster.wait_for_state(b);
    assert_eq!(cluster.files(a), files);
    b.run(&["rm", hook]).ok();
    b.run(&["mv", "/run/real", real]).ok();
    assert_eq!(cluster.tpm(a), tpm);

    cluster.wait_for_end_of_watch(b);
    assert_eq!(cluster.files(a), files);
    // libvirt deletes it at its end, and A has the copy.
    a.stop(guest);
    assert!(!a.has_tpm_state(guest) && !b.has_tpm_state(guest));
    b.agent_start().refused_with("VG205");
    a.agent_start().ok();
    assert_eq!(cluster.tpm(a), tpm);
    assert_eq!(cluster.tpms_made(), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_start_that_fails_on_one_host_leaves_the_state_for_the_other() {
    let cluster = Cluster::new(true, State::Deleted);
    let Cluster { a, b, guest, .. } = &cluster;
    let tpm = cluster.tpm(a);
    a.stop(guest);
    a.guard(&["state", "restore", &guest.uuid.to_string()]).ok();
    for copy in a.copies(guest) {
        fs::remove_file(copy).unwrap();
    }
    let files = cluster.files(a);
    b.write("/etc/fails.xml", cluster.xml(State::Deleted, FAILS_IN_QEMU));
    for _ in 0..2 {
        assert_eq!(b.agent_start_from("/etc/fails.xml").status, 1);
        cluster.wait_for_state(b);
        assert_eq!(cluster.files(a)[0], files[0], "it is the same file");
    }
    cluster.wait_for_end_of_watch(b);
    b.delete_provider("nkp-a");
    b.agent_start().refused_with("VG101");
    cluster.wait_for_state(b);
    b.import_provider("nkp-a", None);
    // A renewed its key, and B has not learnt it.
    a.virsh(&["define", "/etc/vm1.xml"]).ok();
    a.guard(&["key", "renew", "vm1"]).ok();
    b.agent_start().refused_with("VG204");
    cluster.wait_for_state(b);
    a.start_running(guest);
    let row = a.key_refs(guest).pop().unwrap();
    let dek = row.dek(guest, &a.kek("nkp-a"));
    assert_eq!(identity(&a.tpm_state(guest), Some(dek.expose())), tpm);
    assert_eq!(cluster.tpms_made(), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_a_directory_on_each_host_the_other_makes_no_new_tpm() {
    for state in [State::Persistent, State::Deleted] {
        let cluster = Cluster::new(false, state);
        let Cluster { a, b, guest, .. } = &cluster;
        let tpm = cluster.tpm(a);
        // While A runs it, and after.
        b.agent_start().refused_with("VG205");
        a.stop(guest);
        b.agent_start().refused_with("VG205");
        b.delete_key_refs(guest);
        b.agent_start().refused_with("VG201");
        assert!(!b.has_tpm_state(guest));
        a.agent_start().ok();
        assert_eq!(cluster.tpm(a), tpm, "{state:?}");
        assert_eq!(cluster.tpms_made(), 1);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_page_is_played_word_for_word() {
    let (a, guest) = Host::with_used_guest();
    let b = Host::new();
    let shared = tempfile::tempdir().unwrap();
    // What A has so far comes to the shared directory.
    let copy = format!("cp -a {STATES}/. '{}'", shared.path().display());
    a.run(&["sh", "-c", &copy]).ok();
    for host in [&a, &b] {
        host.share_states(shared.path());
        host.attach_backup_disk();
    }
    let recovery = fs::read(a.path(&recovery_file("nkp-a"))).unwrap();
    a.write("/mnt/backup/nkp-a.recovery", recovery);
    let [backup, import] = &blocks("clusters.md", "Once for both hosts")[..] else {
        panic!("two blocks");
    };
    let [pacemaker] = &blocks("clusters.md", "Pacemaker")[..] else {
        panic!("one block");
    };
    a.play(backup).ok();
    let carry_over = |file: &str| {
        let path = format!("/mnt/backup/{file}");
        b.write(&path, fs::read(a.path(&path)).unwrap());
    };
    for file in ["store.backup", "passphrase", "nkp-a.recovery"] {
        carry_over(file);
    }
    b.play(import).ok();
    a.play(pacemaker).ok();
    carry_over("vm1.xml");
    assert!(a.has_tpm_state(&guest), "libvirt keeps it");
    let row = a.only_key_ref(&guest);
    let dek = row.dek(&guest, &a.kek("nkp-a"));
    let tpm = || identity(&a.tpm_state(&guest), Some(dek.expose()));
    let before = tpm();
    for host in [&b, &a, &b] {
        host.agent_start_from("/mnt/backup/vm1.xml").ok();
        host.runs(&guest);
        assert!(tpm() == before);
        host.stop(&guest);
    }
    assert_eq!([&a, &b].map(|host| host.tpms_made(&guest)), [1, 0]);
}
