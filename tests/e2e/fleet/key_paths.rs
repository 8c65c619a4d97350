//! The paths by which keys go on the hosts of a fleet, for the test that looks for these keys afterwards.

use std::fmt::Write;
use std::fs;

use vtpm_guard::internals::ids::SecretUuid;

use super::configuration;
use crate::guest::{Guest, PASSPHRASE_FILE, Tpm, recovery_file};
use crate::host::Host;
use crate::recrypting::copy_tpm_state;
use crate::traces::Secrets;

/// The value of a secret that somebody made by hand.
const BY_HAND: &str = "a made-up key that is nowhere else";

impl Host {
    /// Everything that prints something, in both forms; that it is refused or finds something is its right.
    pub(super) fn print_everything(&self) {
        for command in [
            &["status"][..],
            &["status", "--fleet"],
            &["doctor"],
            &["history"],
            &["history", "--captures"],
            &["history", "--fleet"],
            &["explain", "VG101"],
            &["completions", "bash"],
            &["check", "--all"],
            &["check", "--fleet"],
            &["provider", "list"],
            &["provider", "show", "nkp-a"],
            &["provider", "slot", "list", "nkp-a"],
            &["key", "list"],
            &["key", "show", "vm1"],
            &["key", "metadata", "vm1"],
            &["state", "list"],
            &["state", "list", "--fleet"],
            &["state", "show", "vm1"],
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

    /// Stores a provider's key as a host does that has nothing stronger: in a file that only root can read.
    pub(crate) fn seal_weakly(&self, provider: &str) {
        let kek = self.kek(provider);
        let mut file = "vtpm-guard-kek 1 root-only\n".to_owned();
        for byte in kek.expose() {
            write!(file, "{byte:02x}").unwrap();
        }
        let place = format!("/var/lib/vtpm-guard/keys/{}", kek.key_id());
        self.write(&place, file + "\n");
    }
}

/// What happens on the first host, to providers and guests of all kinds.
pub(super) fn live(alpha: &Host, secrets: &mut Secrets) -> Guest {
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
    lost_and_back(alpha, &vm2);
    given_on(alpha, &vm1, secrets);
    out_of_use(alpha, secrets);
    providers(alpha, secrets);
    worse_days(alpha, &vm1, &vm3);
    vm1
}

/// Lost, refused with its XML captured, replayed, and back from the recovery file.
fn lost_and_back(alpha: &Host, vm2: &Guest) {
    alpha
        .guard(&["provider", "delete", "nkp-b", "--force"])
        .ok();
    alpha.start(vm2).refused_with("VG101");
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
    alpha.start_and_stop(vm2);
    alpha.guard(&["provider", "slot", "verify", "nkp-a"]).ok();
}

/// Backup and restore, a damaged state, a saved guest, a boot.
fn worse_days(alpha: &Host, vm1: &Guest, vm3: &Guest) {
    alpha.guard(&["store", "backup", "/run/store.backup"]).ok();
    alpha.guard(&["store", "restore", "/run/store.backup"]).ok();
    alpha.start_and_stop(vm3);
    // Damaged, refused.
    let state = alpha.tpm_state(vm3);
    alpha.set_tpm_state(vm3, &state[..100]);
    alpha.start(vm3);
    alpha.set_tpm_state(vm3, &state);
    // What libvirt saves has the TPM's state in it.
    alpha.start_running(vm1);
    alpha.virsh(&["managedsave", "vm1"]).ok();
    alpha.start_and_stop(vm1);
    if !alpha.lacks_libvirtd() {
        alpha.autostart(vm1);
        alpha.boot_libvirtd();
        alpha.stop(vm1);
    }
}

/// Keys that other guests get, and that come from a backup and from the XML.
fn given_on(alpha: &Host, vm1: &Guest, secrets: &mut Secrets) {
    // With the TPM of the original, and with one of its own.
    for (name, has_state) in [("vm4", true), ("vm5", false)] {
        let clone = alpha.define_guest(name, Tpm::Encrypted(SecretUuid::random()));
        if has_state {
            copy_tpm_state(alpha, vm1, &clone);
        }
        alpha.guard(&["key", "clone", "vm1", name]).ok();
        alpha.start_and_stop(&clone);
        alpha.note_keys(&clone, secrets, "cloned");
    }
    alpha.guard(&["store", "backup", "/run/keys.backup"]).ok();
    alpha.delete_key_refs(vm1);
    let import = ["key", "import", "vm1", "--from", "/run/keys.backup"];
    alpha.guard(&import).ok();
    alpha.start_and_stop(vm1);
    alpha.guard(&["key", "metadata", "vm1", "--write"]).ok();
    alpha.delete_key_refs(vm1);
    alpha.guard(&["store", "rebuild"]).ok();
    alpha.start_and_stop(vm1);
    alpha.note_keys(vm1, secrets, "rebuilt");
}

/// Keys that are retired, chosen again, given up and removed; a TPM that is to be new.
fn out_of_use(alpha: &Host, secrets: &mut Secrets) {
    let vm6 = alpha.define_bound_guest("vm6", "nkp-b");
    alpha.start_and_stop(&vm6);
    alpha.note_keys(&vm6, secrets, "first");
    let id = alpha.only_key_ref(&vm6).id.to_string();
    alpha.guard(&["key", "retire", &id]).ok();
    alpha.guard(&["key", "use", &id]).ok();
    alpha.start_and_stop(&vm6);
    alpha.guard(&["state", "show", "vm6"]).ok();
    alpha.guard(&["state", "persist", "vm6"]).ok();
    alpha.remove_tpm_state(&vm6);
    alpha.guard(&["reset", "vm6"]).ok();
    alpha.start_and_stop(&vm6);
    alpha.note_keys(&vm6, secrets, "reset");
    alpha.guard(&["key", "unbind", "vm6"]).ok();
    alpha.virsh(&["undefine", "--tpm", "vm6"]).ok();
    let prune = ["key", "prune", "--older-than", "0d", "--standby"];
    let pruned = alpha.guard(&prune).ok().stdout;
    assert!(alpha.key_refs(&vm6).is_empty(), "{pruned}");
    // What is left of it from before it was encrypted.
    let vm7 = alpha.define_guest("vm7", Tpm::Plain);
    alpha.start_and_stop(&vm7);
    alpha.guard(&["encrypt", "vm7", "--provider", "nkp-b"]).ok();
    alpha.note_keys(&vm7, secrets, "encrypted");
    alpha.guard(&["state", "drop", "vm7"]).ok();
}

/// Provider keys that get another name, way, seal.
fn providers(alpha: &Host, secrets: &mut Secrets) {
    for command in [
        &["rename", "nkp-b", "nkp-c"][..],
        &["rename", "nkp-c", "nkp-b"],
        &["set-default", "nkp-b"],
        &["slot", "add", "nkp-b", "box:two"],
        &["slot", "verify", "nkp-b"],
        &["slot", "remove", "nkp-b", "box:two"],
    ] {
        alpha.guard(&[&["provider"], command].concat()).ok();
    }
    alpha.note_provider("nkp-b", secrets, "renamed");
    alpha.seal_weakly("nkp-b");
    let resealed = alpha.guard(&["provider", "reseal"]).ok().stdout;
    assert!(resealed.contains("root-only file"), "{resealed}");
}

/// What happens on another host, to a guest whose state and key are elsewhere.
pub(super) fn live_elsewhere(beta: &Host, vm1: &Guest) {
    // It starts where neither its key nor its state was.
    beta.define_too(vm1);
    beta.start_and_stop(vm1);
    beta.remove_tpm_state(vm1);
    beta.guard(&["state", "restore", "vm1"]).ok();
    beta.start_and_stop(vm1);
    beta.write("/run/input", beta.xml(vm1));
    beta.guard(&["replay", "/run/input"]).ok();
    // With the provider key on tmpfs alone, and the log in a file.
    let log = "[log]\nlevel = \"trace\"\ntarget = \"/var/log/guard.log\"\n";
    let boot = format!(
        "[provider]\ncache = \"boot\"\n{}",
        configuration("host2", log)
    );
    beta.configure(&boot);
    beta.guard(&["open"]).ok();
    beta.start_and_stop(vm1);
    let _ = fs::remove_dir_all(beta.path("/run/vtpm-guard"));
    beta.start(vm1).refused_with("VG105");
    beta.guard(&["open"]).ok();
    beta.start_and_stop(vm1);
    beta.exchange();
    assert!(beta.read("/var/log/guard.log").contains("VG105"));
}
