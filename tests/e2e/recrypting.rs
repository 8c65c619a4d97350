//! TPM states that are encrypted, encrypted anew, and cloned: the guest keeps its TPM.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, KeyRef, Tpm};
use crate::host::{Host, Output, finish};
use crate::tpm::{endorsement_key_1_2, identity};

/// A host with a provider and a stopped guest whose TPM is plain and has been used.
fn with_plain_guest() -> (Host, Guest) {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_guest("vm1", Tpm::Plain);
    host.start_and_stop(&guest);
    (host, guest)
}

fn encrypt(host: &Host, guest: &Guest) -> Output {
    host.guard(&["encrypt", &guest.name, "--provider", "nkp-a"])
}

fn is_encrypted(state: &[u8]) -> bool {
    state[5] & 1 == 1
}

/// Everything that a command that fails must leave as it was.
fn all(host: &Host, guest: &Guest) -> (Vec<KeyRef>, String, Vec<u8>, Vec<String>) {
    let dir = host.tpm_state_file(guest);
    let mut names: Vec<_> = fs::read_dir(dir.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let xml = host.virsh(&["dumpxml", "--inactive", "--security-info", &guest.name]);
    (
        host.key_refs(guest),
        xml.ok().stdout,
        host.tpm_state(guest),
        names,
    )
}

fn kept_plain_state(host: &Host, guest: &Guest) -> std::path::PathBuf {
    host.path(&format!(
        "/var/lib/vtpm-guard/plain-state/{}/tpm2-00.permall",
        guest.uuid
    ))
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_whose_tpm_is_encrypted_keeps_its_tpm_and_starts() {
    let (host, guest) = with_plain_guest();
    let (_, xml, plain, names) = all(&host, &guest);
    let owner = |path: &std::path::Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.uid(), meta.gid(), meta.mode())
    };
    let owner_before = owner(&host.tpm_state_file(&guest));

    encrypt(&host, &guest).ok();
    let (rows, new_xml, state, new_names) = all(&host, &guest);
    assert!(is_encrypted(&state));
    let [row] = &rows[..] else {
        panic!("{rows:#?}")
    };
    let secret = row.secret_uuid.clone().unwrap();
    assert!(row.first_used_at.is_some());
    // libvirt 12 keeps a `<profile>` beside it, from the first start on.
    let without = new_xml
        .replace(&format!("\n        <encryption secret='{secret}'/>"), "")
        .replace(
            "<backend type='emulator' version='2.0'>\n      </backend>",
            "<backend type='emulator' version='2.0'/>",
        );
    assert_ne!(new_xml, xml);
    assert_eq!(without, xml, "nothing else of the XML has changed");
    assert_eq!(new_names, names, "nothing lies beside the state");
    assert_eq!(owner(&host.tpm_state_file(&guest)), owner_before);
    let kept = kept_plain_state(&host, &guest);
    assert_eq!(fs::read(&kept).unwrap(), plain);
    assert_eq!(owner(&kept), owner_before);

    let advice = format!("the unencrypted TPM state of vm1 ({})", guest.uuid);
    let doctor = host.guard(&["doctor"]).ok();
    assert!(doctor.stdout.contains(&advice), "a warning, and no error");

    let dek = row.dek(&guest, &host.kek("nkp-a"));
    let before = identity(&plain, None);
    assert_eq!(identity(&state, Some(dek.expose())), before);

    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
    assert!(!kept.exists(), "the encrypted state has proven itself");
    assert!(!host.guard(&["doctor"]).stdout.contains(&advice));
    host.stop(&guest);
    let state = host.tpm_state(&guest);
    assert_eq!(identity(&state, Some(dek.expose())), before);

    let again = encrypt(&host, &guest).ok();
    assert!(again.stdout.contains("nothing changed"), "{again:?}");
    assert_eq!(host.key_refs(&guest), rows);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_tpm_1_2_is_encrypted_as_well_and_gets_another_key() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_guest("vm1", Tpm::Plain);
    let xml = host.read("/run/vm1.xml");
    let xml = xml.replace("tpm-crb", "tpm-tis").replace("'2.0'", "'1.2'");
    host.write("/run/vm1.xml", xml);
    host.virsh(&["define", "/run/vm1.xml"]).ok();
    host.start_and_stop(&guest);
    let state = || {
        let file = format!(
            "/var/lib/libvirt/swtpm/{}/tpm1.2/tpm-00.permall",
            guest.uuid
        );
        fs::read(host.path(&file)).unwrap()
    };
    let before = endorsement_key_1_2(&state(), None);

    let kek = host.kek("nkp-a");
    encrypt(&host, &guest).ok();
    host.start_and_stop(&guest);
    host.guard(&["key", "renew", "vm1"]).ok();
    host.start_and_stop(&guest);
    let rows = host.key_refs(&guest);
    let dek = rows[1].dek(&guest, &kek);
    assert_eq!(endorsement_key_1_2(&state(), Some(dek.expose())), before);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn encrypting_takes_the_placeholder_and_keeps_passwords_in_the_xml() {
    let (host, guest) = with_plain_guest();
    host.create_provider("nkp-b");
    host.bind(&guest, "nkp-b");
    let placeholder = host.only_key_ref(&guest);
    let xml = host.xml(&guest).replace(
        "</devices>",
        "<graphics type='vnc' passwd='made-up'/></devices>",
    );
    host.write("/run/with-vnc.xml", xml);
    host.virsh(&["define", "/run/with-vnc.xml"]).ok();

    host.guard(&["encrypt", &guest.name]).ok();
    let row = host.only_key_ref(&guest);
    assert_eq!((row.id, &*row.provider_name), (placeholder.id, "nkp-b"));
    assert!(row.wrapped_dek.is_some());
    let secured = host.virsh(&["dumpxml", "--security-info", &guest.name]);
    assert!(secured.ok().stdout.contains("passwd='made-up'"));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_tpm_that_cannot_be_encrypted_now_is_left_as_it_is() {
    let (host, guest) = with_plain_guest();
    let before = all(&host, &guest);
    let refused = |words: &str| {
        let answer = encrypt(&host, &guest);
        assert_eq!(answer.status, 1, "{answer:?}");
        assert!(answer.stderr.contains(words), "{answer:?}");
    };

    host.start_running(&guest);
    refused("vm1 is running");
    host.virsh(&["managedsave", &guest.name]).ok();
    refused("managed save image");
    host.virsh(&["managedsave-remove", &guest.name]).ok();

    let dir = format!("/var/lib/libvirt/swtpm/{}/tpm2", guest.uuid);
    let tpm = ["swtpm", "socket", "--tpm2", "--daemon", "--tpmstate"];
    let state = format!("dir={dir}");
    let rest = [
        "--ctrl",
        "type=unixio,path=/run/left-over",
        "--pid",
        "file=/run/left-over.pid",
    ];
    let flags = ["--flags", "not-need-init,startup-clear"];
    host.run(
        &[
            &tpm[..],
            &[&state],
            &rest,
            &flags,
            &["--server", "type=unixio,path=/run/data"],
        ]
        .concat(),
    )
    .ok();
    refused("it is in use");
    host.run(&["kill", host.read("/run/left-over.pid").trim()])
        .ok();

    let (rows, xml, _, _) = all(&host, &guest);
    assert_eq!((rows, xml), (before.0, before.1));
    host.start_and_stop(&guest);

    host.virsh(&["undefine", "--keep-tpm", &guest.name]);
    host.virsh(&["undefine", &guest.name]);
    host.virsh(&["create", "/run/vm1.xml"]).ok();
    refused("vm1 is transient");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_encryption_that_fails_leaves_everything_as_it_was() {
    let (host, guest) = with_plain_guest();
    let dir = format!("/var/lib/libvirt/swtpm/{}/tpm2", guest.uuid);
    let plain = format!("/var/lib/vtpm-guard/plain-state/{}", guest.uuid);
    let obstacles = [
        // libvirt cannot write the new definition.
        (
            "mkdir -p /etc/libvirt/qemu/vm1.xml.new/in-the-way".to_owned(),
            "rm -r /etc/libvirt/qemu/vm1.xml.new".to_owned(),
        ),
        // The plain state cannot be kept.
        (
            format!("mkdir -m 0700 -p {plain} {plain}/tpm2-00.permall/in-the-way"),
            format!("rm -rf {plain}"),
        ),
        // The new state cannot be written: there is room for the directory, the lock, the state.
        (
            format!(
                "cp -a {dir} /run/copy && mount -t tmpfs -o nr_inodes=3,mode=0700 none {dir} \
                 && cp -a /run/copy/. {dir} && rm -r /run/copy"
            ),
            format!("umount {dir}"),
        ),
    ];
    let mut keys = Vec::new();
    for (obstacle, way_out) in &obstacles {
        let (_, xml, state, files) = all(&host, &guest);
        host.run(&["sh", "-c", obstacle]).ok();
        let answer = encrypt(&host, &guest);
        assert_eq!(answer.status, 4, "{obstacle}: {answer:?}");
        host.run(&["sh", "-c", way_out]).ok();
        let (rows, xml_after, state_after, files_after) = all(&host, &guest);
        assert_eq!(xml_after, xml, "{obstacle}: {answer:?}");
        assert_eq!((state_after, files_after), (state, files), "{obstacle}");
        assert!(!kept_plain_state(&host, &guest).exists(), "{obstacle}");
        // The key that was made is out of use, and the next attempt takes it again.
        assert!(rows.iter().all(|row| row.retired_at.is_some()), "{rows:#?}");
        keys.extend(rows.into_iter().map(|row| row.wrapped_dek));
        host.start_and_stop(&guest);
    }
    assert_eq!(keys.len(), obstacles.len(), "one at a time");
    encrypt(&host, &guest).ok();
    let key = host.only_key_ref(&guest).wrapped_dek;
    assert!(keys.iter().all(|retired| *retired == key));
    host.start_and_stop(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_renewed_key_opens_the_same_tpm_and_the_old_one_opens_it_no_more() {
    let (host, guest) = Host::with_used_guest();
    let old = host.only_key_ref(&guest);
    let kek = host.kek("nkp-a");
    let old_dek = old.dek(&guest, &kek);
    let before = identity(&host.tpm_state(&guest), Some(old_dek.expose()));
    host.start_running(&guest);
    let running = host.guard(&["key", "renew", "vm1"]);
    assert_eq!(running.status, 1, "{running:?}");
    host.stop(&guest);

    host.guard(&["key", "renew", "vm1"]).ok();
    let rows = host.key_refs(&guest);
    let [retired, new] = &rows[..] else {
        panic!("{rows:#?}")
    };
    assert_eq!(retired.wrapped_dek, old.wrapped_dek);
    assert!(retired.retired_at.is_some() && new.retired_at.is_none());
    let dek = new.dek(&guest, &kek);
    assert!(!dek.same_as(&old_dek));
    assert_eq!(
        identity(&host.tpm_state(&guest), Some(dek.expose())),
        before
    );
    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
    assert_eq!(host.key_refs(&guest), rows);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_renewal_that_was_killed_before_or_after_its_last_step_is_healed_by_the_next_start() {
    let (host, guest) = Host::with_used_guest();
    let old_state = host.tpm_state(&guest);
    host.guard(&["key", "renew", "vm1"]).ok();
    let new_state = host.tpm_state(&guest);
    let rows = host.key_refs(&guest);
    for (state, proven) in [(old_state, rows[0].id), (new_state, rows[1].id)] {
        host.update_key_refs(&guest, "retired_at = NULL");
        host.set_tpm_state(&guest, &state);
        host.start_and_stop(&guest);
        for row in host.key_refs(&guest) {
            assert_eq!(row.retired_at.is_none(), row.id == proven, "{row:?}");
        }
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_starts_while_its_key_is_renewed_keeps_its_key() {
    let (host, guest) = Host::with_used_guest();
    let (state, row) = (host.tpm_state(&guest), host.only_key_ref(&guest));
    // A start is judged after the renewal has seen the guest stopped, and before it has a key.
    let store = host.store();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    let renewal = host
        .command(&["vtpm-guard", "key", "renew", "vm1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let dir = host.tpm_state_file(&guest).parent().unwrap().to_owned();
    let is_staged = || {
        let names = dir
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        names
            .into_iter()
            .any(|name| name.to_string_lossy().starts_with(".vtpm-guard-"))
    };
    let waiting = Instant::now();
    while !is_staged() {
        assert!(
            waiting.elapsed() < Duration::from_secs(30),
            "no new state is staged"
        );
        sleep(Duration::from_millis(10));
    }
    store
        .execute_batch(
            "INSERT INTO event (at, domain_uuid, domain_name, operation, decision, message, repairs)
             SELECT at + 1, domain_uuid, domain_name, operation, decision, message, repairs
             FROM event WHERE operation = 'prepare'; COMMIT",
        )
        .unwrap();
    let renewal = finish(renewal);
    assert_eq!(renewal.status, 1, "{renewal:?}");
    assert!(renewal.stderr.contains("is starting"), "{renewal:?}");

    assert_eq!(host.tpm_state(&guest), state);
    assert!(!is_staged());
    host.start_and_stop(&guest);
    assert_eq!(host.key_refs(&guest)[0], row);
}

/// Copies the TPM state of a stopped guest to another, as a clone of the whole host does.
pub(crate) fn copy_tpm_state(host: &Host, from: &Guest, to: &Guest) {
    let dir = |guest: &Guest| format!("/var/lib/libvirt/swtpm/{}", guest.uuid);
    host.run(&["cp", "-a", &dir(from), &dir(to)]).ok();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_clone_with_a_copied_state_starts_beside_the_original() {
    let (host, guest) = Host::with_used_guest();
    let clone = host.define_guest("vm2", Tpm::Encrypted(SecretUuid::random()));
    copy_tpm_state(&host, &guest, &clone);
    assert_eq!(host.start(&clone).status, 1, "it has no key yet");

    // The clone is older than the original's new key.
    host.guard(&["key", "renew", "vm1"]).ok();
    host.guard(&["key", "clone", "vm1", "vm2"]).ok();
    let again = host.guard(&["key", "clone", "vm1", "vm2"]).ok();
    assert!(again.stdout.contains("nothing changed"), "{again:?}");
    host.start_running(&clone);
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
    host.stop(&guest);

    // As virt-clone leaves it: with the secret of the original. One key, so it does.
    let same_secret = host.define_guest("vm3", Tpm::Encrypted(guest.secret));
    copy_tpm_state(&host, &guest, &same_secret);
    let warned = host.guard(&["key", "clone", "vm1", "vm3"]).ok();
    assert!(
        warned.stderr.contains("the same libvirt secret"),
        "{warned:?}"
    );
    host.start_running(&same_secret);
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn new_keys_of_a_guest_whose_provider_is_a_former_key_are_under_the_present_one() {
    let (host, guest) = Host::with_used_guest();
    let old = KeyRef {
        // A row that names its provider stays bound to that: a rotation is about to re-wrap it.
        provider_uuid: None,
        ..host.only_key_ref(&guest)
    };
    host.guard(&["provider", "rotate", "nkp-a"]).ok();
    // As another tool brings it back; the start binds it to the former key.
    host.delete_key_refs(&guest);
    host.insert_key_ref(&guest, &old);
    host.start_and_stop(&guest);
    assert_ne!(host.only_key_ref(&guest).provider_name, "nkp-a");

    let clone = host.define_guest("vm2", Tpm::Encrypted(SecretUuid::random()));
    host.guard(&["key", "clone", "vm1", "vm2"]).ok();
    assert_eq!(host.only_key_ref(&clone).provider_name, "nkp-a");
    let copy = host.define_guest("vm3", Tpm::Encrypted(SecretUuid::random()));
    copy_tpm_state(&host, &guest, &copy);
    host.guard(&["key", "clone", "vm1", "vm3"]).ok();
    assert_eq!(host.only_key_ref(&copy).provider_name, "nkp-a");
    host.guard(&["key", "renew", "vm1"]).ok();
    let rows = host.key_refs(&guest);
    assert_eq!(rows[1].provider_name, "nkp-a", "{rows:#?}");
    for guest in [&guest, &clone, &copy] {
        host.start_and_stop(guest);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_clone_without_state_gets_a_key_of_its_own() {
    let (host, guest) = Host::with_used_guest();
    let same_secret = host.define_guest("vm2", Tpm::Encrypted(guest.secret));
    let answer = host.guard(&["key", "clone", "vm1", "vm2"]);
    assert_eq!(answer.status, 1, "{answer:?}");
    assert!(
        answer.stderr.contains("the same libvirt secret"),
        "{answer:?}"
    );

    let clone = host.redefine_guest(same_secret, Tpm::Encrypted(SecretUuid::random()));
    host.guard(&["key", "clone", "vm1", "vm2"]).ok();
    host.start_running(&clone);
    let (original, own) = (host.only_key_ref(&guest), host.only_key_ref(&clone));
    assert_eq!(own.provider_name, "nkp-a");
    let kek = host.kek("nkp-a");
    let (dek, own_dek) = (original.dek(&guest, &kek), own.dek(&clone, &kek));
    assert!(!own_dek.same_as(&dek));
    assert_ne!(
        identity(&host.tpm_state(&guest), Some(dek.expose())),
        identity(&host.tpm_state(&clone), Some(own_dek.expose())),
        "a TPM of its own"
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_clone_whose_state_is_plain_or_anothers_gets_nothing() {
    let (host, guest) = Host::with_used_guest();
    let plain = host.define_guest("vm2", Tpm::Plain);
    host.start_and_stop(&plain);
    let plain = host.redefine_guest(plain, Tpm::Encrypted(SecretUuid::random()));
    let other = host.define_bound_guest("vm3", "nkp-a");
    host.start_and_stop(&other);
    host.delete_key_refs(&other);
    for (clone, words) in [(&plain, "is not encrypted"), (&other, "no key of vm1")] {
        let answer = host.guard(&["key", "clone", &guest.name, &clone.name]);
        assert_eq!(answer.status, 1, "{answer:?}");
        assert!(answer.stderr.contains(words), "{answer:?}");
        assert!(host.key_refs(clone).is_empty());
    }
}
