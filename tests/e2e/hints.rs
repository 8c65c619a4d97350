//! Every refusal's hint, followed word for word: it leads to a start with the same TPM, or states
//! correctly what has to be decided.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use vtpm_guard::internals::ids::SecretUuid;
use vtpm_guard::internals::verdict::code::Code;

use crate::guest::{Guest, PASSPHRASE_FILE, Tpm, recovery_file};
use crate::host::{Host, Output};
use crate::{key_managers, slow_tpm};

/// A code, and a scene in which a start is refused with it and its hint is then followed.
type Scene = (Code, fn());

const SCENES: &[Scene] = &[
    (Code::ProviderMissing, provider_missing),
    (Code::ProviderKeyMismatch, provider_key_mismatch),
    (Code::ProviderAmbiguous, provider_ambiguous),
    (Code::ProviderSealed, provider_sealed),
    (Code::ProviderSealed, key_managers::opened_after_damage),
    (Code::KekNotHere, key_managers::opened_after_a_reboot),
    (Code::KekExpired, key_managers::opened_again),
    (Code::ProviderTimeout, slow_tpm::retried_not_imported),
    (Code::KeyMissing, key_missing),
    (Code::KeyLost, key_lost),
    (Code::KeyLost, store_lost),
    (Code::KeyLost, retired_key_of_a_saved_guest),
    (Code::KeyAmbiguous, key_ambiguous),
    (Code::KeyDoesNotOpenTpm, retired_key_opens),
    (Code::TpmStateMissing, tpm_state_missing),
    (Code::TpmStateMissing, tpm_state_of_the_other_version),
    (Code::KeyCorrupt, key_corrupt),
    (Code::TpmStateDamaged, tpm_state_damaged),
    (Code::TpmInUse, tpm_in_use),
    (Code::TpmStateUnreachable, tpm_state_unreachable),
    (Code::LibvirtUnreachable, libvirt_unreachable),
    (Code::SecretConflict, secret_of_another_guest),
    (Code::SecretConflict, secret_for_another_use),
    (Code::StoreUnavailable, store_unavailable),
    (Code::StoreCorrupt, store_corrupt),
    (Code::StoreTooNew, store_too_new),
    (Code::DomainXmlInvalid, domain_xml_invalid),
    (Code::UnencryptedVtpm, unencrypted_vtpm),
    (Code::UnencryptedVtpm, unencrypted_vtpm_of_a_new_guest),
    (Code::RunsElsewhere, runs_elsewhere),
    (Code::EncryptionMismatch, plain_state_under_an_encrypted_xml),
    (Code::EncryptionMismatch, encrypted_state_under_a_plain_xml),
];

/// Refusals that no scene can cause: libvirt accepts every secret that the guard defines, and an
/// internal error would be fixed, not played.
const WITHOUT_A_SCENE: [Code; 2] = [Code::SecretRefused, Code::Internal];

#[test]
fn every_code_has_a_scene() {
    let played = SCENES.iter().map(|(code, _)| *code);
    let all: BTreeSet<_> = played.chain(WITHOUT_A_SCENE).collect();
    assert_eq!(all, Code::ALL.iter().copied().collect());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn every_hint_leads_where_it_says() {
    let failed: Vec<_> = SCENES
        .iter()
        .enumerate()
        .filter(|(_, (_, scene))| std::panic::catch_unwind(scene).is_err())
        .map(|(number, (code, _))| format!("scene {number}: {code}"))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

impl Host {
    /// The hint of a check that foresees this refusal; the start is refused with it, too.
    #[track_caller]
    pub(crate) fn refused(&self, guest: &Guest, code: Code) -> String {
        let hint = self.foreseen(guest, code);
        self.start(guest).refused_with(code.as_str());
        hint
    }

    #[track_caller]
    fn foreseen(&self, guest: &Guest, code: Code) -> String {
        let check = self.guard(&["check", &guest.name, "--json"]);
        let document: Value = serde_json::from_str(&check.stdout).unwrap_or_default();
        assert_eq!(document["code"], code.as_str(), "{check:#?}");
        document["hint"].as_str().unwrap().to_owned()
    }

    /// Runs a command that the hint names, with values for its placeholders.
    #[track_caller]
    pub(crate) fn follow(&self, hint: &str, command: &str, values: &[(&str, &str)]) -> Output {
        assert!(hint.contains(command), "{command:?} is not in {hint:?}");
        let mut line = command.to_owned();
        for (name, value) in values {
            line = line.replace(name, value);
        }
        if line.contains("provider import") {
            line = format!("{line} --passphrase-file {PASSPHRASE_FILE}");
        }
        self.run(&["sh", "-c", &line])
    }

    /// `virsh edit` with an editor that replaces one text by another.
    #[track_caller]
    fn follow_edit(&self, hint: &str, guest: &Guest, from: &str, to: &str) {
        let command = format!("virsh edit {}", guest.name);
        assert!(hint.contains(&command), "{command:?} is not in {hint:?}");
        let editor = format!("#!/bin/sh\nsed -i \"s|{from}|{to}|\" \"$1\"\n");
        self.write_program("/run/editor", &editor);
        let edit = format!("EDITOR=/run/editor {command}");
        self.run(&["sh", "-c", &edit]).ok();
    }

    /// The guest starts with the TPM that it had: `state` is its previous state file.
    #[track_caller]
    fn starts_with_its_tpm(&self, guest: &Guest, state: &[u8]) {
        assert_eq!(self.tpm_state(guest), state);
        self.start_running(guest);
        assert_eq!(self.tpms_made(guest), 1);
    }

    fn with_backup() -> (Self, Guest, Vec<u8>) {
        let (host, guest) = Self::with_used_guest();
        let state = host.tpm_state(&guest);
        host.guard(&["store", "backup", "/run/backup"]).ok();
        (host, guest, state)
    }
}

fn provider_missing() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    host.delete_provider("nkp-a");
    let hint = host.refused(&guest, Code::ProviderMissing);
    let file = recovery_file("nkp-a");
    host.follow(&hint, "vtpm-guard provider import FILE", &[("FILE", &file)])
        .ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn provider_key_mismatch() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    host.delete_provider("nkp-a");
    host.guard(&["provider", "create", "nkp-a"]).ok();
    let hint = host.refused(&guest, Code::ProviderKeyMismatch);
    let file = recovery_file("nkp-a");
    let import = "vtpm-guard provider import FILE";
    let taken = host.follow(&hint, import, &[("FILE", &file)]);
    // Its name is taken by the other one, and the next line says how to fix that.
    assert_eq!(taken.status, 1, "{taken:#?}");
    let import = format!("{import} --name NAME");
    host.follow(
        &taken.stderr.replace(&file, "FILE"),
        &import,
        &[("FILE", &file), ("NAME", "nkp-b")],
    )
    .ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn provider_ambiguous() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    // As another tool, or two restored backups, may leave it.
    let twins = "UPDATE key_provider SET name = 'b' WHERE name = 'nkp-a';
        INSERT INTO key_provider (uuid, name, key_id, key_version)
            SELECT '6dd3e4a5-1f2e-4a0b-9c8d-7e6f5a4b3c2d', 'c', key_id, key_version
            FROM key_provider WHERE name = 'b'";
    host.store().execute_batch(twins).unwrap();
    host.update_key_refs(&guest, "provider_uuid = NULL");
    let hint = host.refused(&guest, Code::ProviderAmbiguous);
    host.follow(
        &hint,
        "vtpm-guard key bind vm1 --provider NAME",
        &[("NAME", "c")],
    )
    .ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn provider_sealed() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let (_, key_id) = host.provider("nkp-a");
    host.write(&format!("/var/lib/vtpm-guard/keys/{key_id}"), "nonsense");
    let hint = host.refused(&guest, Code::ProviderSealed);
    let file = recovery_file("nkp-a");
    host.follow(&hint, "vtpm-guard provider import FILE", &[("FILE", &file)])
        .ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn key_missing() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_guest("vm1", Tpm::Encrypted(SecretUuid::random()));
    let hint = host.refused(&guest, Code::KeyMissing);
    host.follow(
        &hint,
        "vtpm-guard key bind vm1 --provider NAME",
        &[("NAME", "nkp-a")],
    )
    .ok();
    host.start_running(&guest);
}

fn key_lost() {
    let (host, guest, state) = Host::with_backup();
    host.delete_key_refs(&guest);
    let hint = host.refused(&guest, Code::KeyLost);
    let import = "vtpm-guard key import vm1 --from BACKUP";
    host.follow(&hint, import, &[("BACKUP", "/run/backup")])
        .ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn store_lost() {
    let (host, guest, state) = Host::with_backup();
    for file in ["store.db", "store.db-wal", "store.db-shm"] {
        host.run(&["rm", "-f", &format!("/var/lib/vtpm-guard/{file}")])
            .ok();
    }
    let hint = host.refused(&guest, Code::KeyLost);
    let restore = "vtpm-guard store restore FILE";
    host.follow(&hint, restore, &[("FILE", "/run/backup")]).ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn key_ambiguous() {
    let (host, guest) = Host::with_used_guest();
    let right = host.only_key_ref(&guest);
    let other = host.define_bound_guest("vm2", "nkp-a");
    host.start_and_stop(&other);
    // Another key of the guest's own, as `key renew` would have left it, and no state to verify them against.
    host.guard(&["key", "renew", "vm1"]).ok();
    let state = host.tpm_state(&guest);
    host.update_key_refs(&guest, "retired_at = NULL, first_used_at = NULL");
    let at = host.tpm_state_file(&guest);
    let aside = at
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .with_extension("aside");
    std::fs::rename(at.parent().unwrap().parent().unwrap(), &aside).unwrap();
    let hint = host.refused(&guest, Code::KeyAmbiguous);
    let rows = host.key_refs(&guest);
    let renewed = rows.iter().find(|row| row.id != right.id).unwrap();
    let show = host.follow(&hint, "vtpm-guard key show vm1", &[]).ok();
    assert!(show.stdout.contains(&renewed.id.to_string()), "{show:#?}");
    let id = renewed.id.to_string();
    host.follow(&hint, "vtpm-guard key use ID", &[("ID", &id)])
        .ok();
    std::fs::rename(&aside, at.parent().unwrap().parent().unwrap()).unwrap();
    host.starts_with_its_tpm(&guest, &state);
}

fn retired_key_opens() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    host.guard(&["key", "renew", "vm1"]).ok();
    // The state from before the renewal comes back.
    host.set_tpm_state(&guest, &state);
    let hint = host.refused(&guest, Code::KeyDoesNotOpenTpm);
    let retired = host.key_refs(&guest)[0].id;
    host.follow(&hint, &format!("vtpm-guard key use {retired}"), &[])
        .ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn retired_key_of_a_saved_guest() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    host.virsh(&["managedsave", "vm1"]).ok();
    host.wait_for_swtpm();
    host.guard(&["key", "unbind", "vm1"]).ok();
    let hint = host.refused(&guest, Code::KeyLost);
    let retired = host.only_key_ref(&guest).id;
    host.follow(&hint, "vtpm-guard key show vm1", &[]).ok();
    host.follow(&hint, &format!("vtpm-guard key use {retired}"), &[])
        .ok();
    host.start_running(&guest);
    host.runs_with(&guest, &tpm);
}

fn tpm_state_missing() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let dir = format!("/var/lib/libvirt/swtpm/{}", guest.uuid);
    host.run(&["mv", &dir, "/run/aside"]).ok();
    let hint = host.refused(&guest, Code::TpmStateMissing);
    assert!(
        hint.starts_with("restore the state from a backup"),
        "{hint}"
    );
    host.run(&["mv", "/run/aside", &dir]).ok();
    host.starts_with_its_tpm(&guest, &state);
    host.stop(&guest);
    // The other half of the hint: a new TPM, because the administrator decides so.
    host.remove_tpm_state(&guest);
    let hint = host.refused(&guest, Code::TpmStateMissing);
    host.follow(&hint, "vtpm-guard reset vm1", &[]).ok();
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 2);
}

fn tpm_state_of_the_other_version() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let xml = host.xml(&guest).replace("version='2.0'", "version='1.2'");
    let xml = xml.replace("tpm-crb", "tpm-tis");
    host.write("/run/vm1.xml", xml);
    host.virsh(&["define", "/run/vm1.xml"]).ok();
    let hint = host.refused(&guest, Code::TpmStateMissing);
    host.follow_edit(&hint, &guest, "version='1.2'", "version='2.0'");
    host.starts_with_its_tpm(&guest, &state);
}

fn key_corrupt() {
    let (host, guest, state) = Host::with_backup();
    let mut row = host.only_key_ref(&guest);
    *row.wrapped_dek.as_mut().unwrap().last_mut().unwrap() ^= 1;
    host.delete_key_refs(&guest);
    host.insert_key_ref(&guest, &row);
    let hint = host.refused(&guest, Code::KeyCorrupt);
    let import = "vtpm-guard key import vm1 --from BACKUP";
    host.follow(&hint, import, &[("BACKUP", "/run/backup")])
        .ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn tpm_state_damaged() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    host.set_tpm_state(&guest, &state[..100]);
    let hint = host.refused(&guest, Code::TpmStateDamaged);
    assert_eq!(host.tpm_state(&guest), &state[..100], "byte for byte");
    // There is no saved copy of a persistent guest's state, and it says so; the backup helps.
    let show = host.follow(&hint, "vtpm-guard state show vm1", &[]);
    assert!(!show.stdout.contains("sha256"), "{show:#?}");
    host.set_tpm_state(&guest, &state);
    host.starts_with_its_tpm(&guest, &state);
}

fn tpm_in_use() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let lock = format!("/var/lib/libvirt/swtpm/{}/tpm2/.lock", guest.uuid);
    host.write_program(
        "/run/holds",
        &format!(
            "#!/usr/bin/python3\nimport fcntl, time\nlock = open('{lock}', 'r+')\n\
             fcntl.lockf(lock, fcntl.LOCK_EX)\nopen('/run/held', 'w')\ntime.sleep(60)\n"
        ),
    );
    host.run(&[
        "sh",
        "-c",
        "setsid /run/holds >/dev/null 2>&1 & while [ ! -e /run/held ]; do sleep 0.1; done",
    ])
    .ok();
    let hint = host.refused(&guest, Code::TpmInUse);
    let (_, rest) = hint.split_once("ps -fp ").unwrap();
    let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let details = host.follow(&hint, &format!("ps -fp {pid}"), &[]).ok();
    assert!(details.stdout.contains("/run/holds"), "{details:#?}");
    host.follow(&hint, &format!("kill {pid}"), &[]).ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn tpm_state_unreachable() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let dir = host.path("/var/lib/libvirt/swtpm");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let hint = host.refused(&guest, Code::TpmStateUnreachable);
    let (_, rest) = hint.split_once("chmod ").unwrap();
    let (command, _) = rest.split_once(',').unwrap();
    host.follow(&hint, &format!("chmod {command}"), &[]).ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn libvirt_unreachable() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let xml = host.xml(&guest);
    host.write("/run/vm1.xml", xml);
    host.stop_libvirtd();
    let check = host.guard(&["check", "--xml", "/run/vm1.xml", "--json"]);
    let doctor = host.guard(&["doctor"]);
    host.start_libvirtd();
    host.virsh(&["uri"]).ok();
    let document: Value = serde_json::from_str(&check.stdout).unwrap();
    assert_eq!(
        document["code"],
        Code::LibvirtUnreachable.as_str(),
        "{check:#?}"
    );
    assert!(
        document["hint"]
            .as_str()
            .unwrap()
            .contains("vtpm-guard doctor")
    );
    assert!(
        doctor.stdout.contains("secret driver does not answer"),
        "{doctor:#?}"
    );
    host.starts_with_its_tpm(&guest, &state);
}

fn secret_of_another_guest() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let secret = SecretUuid::random();
    host.define_secret(secret, "by hand", Some("the only key of vm1"));
    let unmanaged = host.define_guest("vm1", Tpm::Encrypted(secret));
    host.start_and_stop(&unmanaged);
    let bound = host.define_guest("vm2", Tpm::Encrypted(secret));
    host.bind(&bound, "nkp-a");
    let hint = host.refused(&bound, Code::SecretConflict);
    let own = SecretUuid::random().to_string();
    host.follow_edit(&hint, &bound, &secret.to_string(), &own);
    host.start_and_stop(&bound);
    host.start_and_stop(&unmanaged);
}

fn secret_for_another_use() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    host.write(
        "/run/secret.xml",
        format!(
            "<secret ephemeral='no' private='no'><uuid>{}</uuid>\
             <usage type='volume'><volume>/a/disk</volume></usage></secret>",
            guest.secret
        ),
    );
    host.virsh(&["secret-define", "/run/secret.xml"]).ok();
    let hint = host.refused(&guest, Code::SecretConflict);
    let list = host.follow(&hint, "virsh secret-list", &[]).ok();
    assert!(list.stdout.contains(&guest.secret.to_string()), "{list:#?}");
    let own = SecretUuid::random().to_string();
    host.follow_edit(&hint, &guest, &guest.secret.to_string(), &own);
    host.starts_with_its_tpm(&guest, &state);
}

fn store_unavailable() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let store = host.path("/var/lib/vtpm-guard/store.db");
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o666)).unwrap();
    let hint = host.refused(&guest, Code::StoreUnavailable);
    let check = host.follow(&hint, "vtpm-guard store check", &[]);
    assert_ne!(check.status, 0);
    assert!(check.stderr.contains("0666"), "{check:#?}");
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o600)).unwrap();
    host.starts_with_its_tpm(&guest, &state);
}

fn store_corrupt() {
    let (host, guest, state) = Host::with_backup();
    for file in ["store.db-wal", "store.db-shm"] {
        host.run(&["rm", "-f", &format!("/var/lib/vtpm-guard/{file}")])
            .ok();
    }
    host.write("/var/lib/vtpm-guard/store.db", [b'x'; 8192]);
    let hint = host.refused(&guest, Code::StoreCorrupt);
    let restore = "vtpm-guard store restore FILE";
    host.follow(&hint, restore, &[("FILE", "/run/backup")]).ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn store_too_new() {
    let (host, guest, state) = Host::with_backup();
    host.store()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let hint = host.refused(&guest, Code::StoreTooNew);
    let restore = "vtpm-guard store restore FILE";
    host.follow(&hint, restore, &[("FILE", "/run/backup")]).ok();
    host.starts_with_its_tpm(&guest, &state);
}

fn domain_xml_invalid() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[policy]\nunencrypted = \"deny\"\n");
    let xml = host.xml(&guest);
    let (cut, _) = xml.split_once("</devices>").unwrap();
    let refused = host.hook("vm9", &["prepare", "begin", "-"], cut);
    assert_eq!(refused.status, 1, "{refused:#?}");
    assert!(refused.stderr.contains("VG501"), "{refused:#?}");
    host.write("/run/cut.xml", cut);
    let check = "vtpm-guard check --xml FILE";
    let check = host.follow(&refused.stderr, check, &[("FILE", "/run/cut.xml")]);
    assert_eq!(check.status, 1, "{check:#?}");
    assert!(check.stdout.contains("VG501"), "{check:#?}");
}

fn unencrypted_vtpm() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_guest("vm1", Tpm::Plain);
    host.start_and_stop(&guest);
    host.configure("[policy]\nunencrypted = \"deny\"\n");
    let hint = host.refused(&guest, Code::UnencryptedVtpm);
    let encrypt = "vtpm-guard encrypt vm1 --provider NAME";
    host.follow(&hint, encrypt, &[("NAME", "nkp-a")]).ok();
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

fn unencrypted_vtpm_of_a_new_guest() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_guest("vm1", Tpm::Plain);
    host.configure("[policy]\nunencrypted = \"deny\"\n");
    let hint = host.refused(&guest, Code::UnencryptedVtpm);
    // There is no state that `encrypt` could encrypt, which says the same.
    let refused = host.guard(&["encrypt", "vm1", "--provider", "nkp-a"]);
    assert_eq!(refused.status, 1, "{refused:#?}");
    let bind = "vtpm-guard key bind vm1 --provider NAME";
    assert!(refused.stderr.contains(bind), "{refused:#?}");
    let bound = host.follow(&hint, bind, &[("NAME", "nkp-a")]).ok();
    assert!(bound.stderr.contains("virsh edit vm1"), "{bound:#?}");
    assert!(!bound.stderr.contains("vtpm-guard encrypt"), "{bound:#?}");
    let encryption = "<encryption secret='UUID'/>";
    assert!(hint.contains(encryption), "{hint}");
    let encryption = encryption.replace("UUID", &SecretUuid::random().to_string());
    host.follow_edit(
        &hint,
        &guest,
        r"\(<backend type='emulator'[^/]*\)/>",
        &format!(r"\1>{encryption}</backend>"),
    );
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

fn runs_elsewhere() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let elsewhere = "[policy]\nelsewhere = \"deny\"\n[fleet]\nstore = \"nothing://there\"\n";
    host.configure(elsewhere);
    let later = "CAST(strftime('%s', 'now') AS INTEGER) * 1000 + 1000";
    host.store()
        .execute_batch(&format!(
            "INSERT INTO fleet (id, host_uuid, host_name, joined_at)
                 VALUES (1, '{}', 'host1', 1);
             INSERT INTO fleet_placement VALUES ('{}', '{}', 'host2', 'vm1', {later}, 1);",
            SecretUuid::random(),
            guest.uuid,
            SecretUuid::random(),
        ))
        .unwrap();
    let hint = host.refused(&guest, Code::RunsElsewhere);
    let followed = host.follow(&hint, "vtpm-guard fleet lost host2", &[]);
    // There is no store to tell the others through; this host starts its guest all the same.
    assert_eq!(followed.status, 4, "{followed:?}");
    host.starts_with_its_tpm(&guest, &state);
}

fn plain_state_under_an_encrypted_xml() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_guest("vm1", Tpm::Plain);
    host.start_and_stop(&guest);
    let secret = guest.secret;
    let guest = host.redefine_guest(guest, Tpm::Encrypted(secret));
    let hint = host.refused(&guest, Code::EncryptionMismatch);
    let encrypt = "vtpm-guard encrypt vm1 --provider NAME";
    host.follow(&hint, encrypt, &[("NAME", "nkp-a")]).ok();
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

fn encrypted_state_under_a_plain_xml() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let guest = host.redefine_guest(guest, Tpm::Plain);
    let hint = host.refused(&guest, Code::EncryptionMismatch);
    host.follow(&hint, "vtpm-guard encrypt vm1", &[]).ok();
    host.starts_with_its_tpm(&guest, &state);
}
