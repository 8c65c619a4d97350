//! `state list | show | restore`, and what `reset` does to kept copies.

use std::fs;
use std::path::{Path, PathBuf};

use vtpm_guard::internals::domain::{Emulator, TpmVersion};
use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::swtpm::state_path;
use vtpm_guard::internals::tpm_copies::{CopyStore, LiveState};
use vtpm_guard::internals::verdict::facts::CopyReason;
use zeroize::Zeroizing;

use crate::env::{Host, VM1, VM2, golden};

/// A real state, and what opens it.
pub(crate) const STATE: &[u8] =
    include_bytes!("../vectors/tpm-state/tpm2-encrypted/tpm2-00.permall");
/// A state of a newer format than this program knows.
const NEWER: &[u8] = &[3, 3, 0, 10, 0, 0, 0, 0, 0, 10];
const PASSPHRASE: &[u8] = b"correct horse";

impl Host {
    /// The place of a guest's TPM state.
    fn place(&self, guest: &str) -> PathBuf {
        let domain = DomainUuid::parse(guest).unwrap();
        state_path(&self.path("swtpm"), domain, &vtpm())
    }

    /// A state in that place, kept, and then gone.
    pub(crate) fn keep_state(&self, guest: &str, name: &str, bytes: &[u8], occasion: CopyReason) {
        let place = self.place(guest);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, bytes).unwrap();
        let domain = DomainUuid::parse(guest).unwrap();
        let original = LiveState::read(&self.path("swtpm"), domain, &vtpm()).unwrap();
        CopyStore::of(&self.state_dir(), domain)
            .save(&original.unwrap(), name, occasion)
            .unwrap();
        fs::remove_dir_all(self.path("swtpm")).unwrap();
    }

    /// A key that opens [`STATE`].
    pub(crate) fn give_right_key(&self, guest: &str) {
        let dek = Dek::from_bytes(Zeroizing::new(PASSPHRASE.to_vec()));
        self.give_key(guest, "nkp-a", &dek);
    }

    fn copy_store(&self, guest: &str) -> PathBuf {
        self.state_dir().join("tpm-state").join(guest)
    }
}

fn vtpm() -> Emulator {
    Emulator {
        version: TpmVersion::V2_0,
        secret_uuid: None,
        persistent_state: false,
        source: None,
    }
}

/// A guest with a copy that its key opens, and one whose copy is of a newer format.
fn host_with_copies() -> Host {
    let host = Host::with_provider("nkp-a");
    host.give_right_key(VM1);
    host.keep_state(VM1, "vm1", STATE, CopyReason::Release);
    host.keep_state(VM2, "vm2\n", NEWER, CopyReason::Start);
    host
}

#[test]
fn copies_are_listed_with_what_they_are_good_for() {
    golden("state-list-empty", &Host::new().run(&["state", "list"]));
    let host = host_with_copies();
    golden("state-list", &host.run(&["state", "list"]));
    let list = host.json(&["state", "list"]);
    let expected = [
        ("release", "encrypted", true),
        ("start", "unreadable", false),
    ];
    for (copy, (occasion, state, opened)) in list.as_array().unwrap().iter().zip(expected) {
        assert_eq!(copy["occasion"], occasion);
        assert_eq!(copy["state"], state);
        assert_eq!(copy["opened"], opened);
    }
}

#[test]
fn a_copy_that_no_key_in_use_opens_is_not_for_the_next_start() {
    let host = Host::with_provider("nkp-a");
    host.keep_state(VM1, "vm1", STATE, CopyReason::Release);
    let list = || host.run(&["state", "list"]).stdout;
    assert!(
        list().contains("the next start"),
        "libvirt's own secret may open it"
    );
    host.start_for_the_first_time(VM1, "nkp-a");
    assert!(!list().contains("the next start"), "{}", list());
    host.give_right_key(VM1);
    assert!(list().contains("the next start"), "{}", list());
}

#[test]
fn a_copy_that_could_not_be_tried_says_why() {
    let host = host_with_copies();
    for key in fs::read_dir(host.path("state/keys")).unwrap() {
        fs::remove_file(key.unwrap().path()).unwrap();
    }
    let listed = host.run(&["state", "list"]).succeeds();
    assert!(listed.stdout.contains("not tried"), "{listed:?}");
    let note = "a key could not be tried on 1 copy, because it does not open; for the reason: \
                vtpm-guard state show DOMAIN";
    assert!(listed.stderr.contains(note), "{listed:?}");
    let shown = host.run(&["state", "show", VM1]).succeeds().stdout;
    assert!(
        shown.contains("opened by its key  not tried: this host does not hold key "),
        "{shown}"
    );
}

#[test]
fn one_guests_copies_are_shown() {
    let host = host_with_copies();
    let shown = host.json(&["state", "show", VM1]);
    assert_eq!(shown["domain"]["uuid"], VM1);
    assert_eq!(shown["copies"][0]["size"], STATE.len());
    assert_eq!(
        shown["copies"][0]["path"],
        host.place(VM1).to_string_lossy().as_ref()
    );
    let words = host.run(&["state", "show", VM1]).succeeds().stdout;
    assert!(words.contains("opened by its key  yes"), "{words}");
    Host::new()
        .run(&["state", "show", VM1])
        .ends_with(2)
        .saying("no saved copy");
}

#[test]
fn a_copy_is_put_back_once_and_never_over_another_state() {
    let host = host_with_copies();
    golden("state-restore", &host.run(&["state", "restore", VM1]));
    assert_eq!(fs::read(host.place(VM1)).unwrap(), STATE);
    golden("state-restore-again", &host.run(&["state", "restore", VM1]));

    fs::write(host.place(VM1), "another").unwrap();
    host.run(&["state", "restore", VM1])
        .ends_with(1)
        .saying("not overwritten");
    assert_eq!(fs::read(host.place(VM1)).unwrap(), b"another");
    host.run(&["state", "restore", VM2])
        .succeeds()
        .saying("this copy is unreadable: vtpm-guard check");
    Host::new()
        .run(&["state", "restore", VM1])
        .ends_with(2)
        .saying("no saved copy");
}

#[test]
fn the_copy_that_the_key_opens_is_put_back_before_a_later_one() {
    let host = host_with_copies();
    host.keep_state(
        VM1,
        "vm1",
        &[3, 3, 0, 10, 0, 0, 0, 0, 0, 11, 1],
        CopyReason::Start,
    );
    host.run(&["state", "restore", VM1]).succeeds();
    assert_eq!(fs::read(host.place(VM1)).unwrap(), STATE);
}

#[test]
fn reset_sets_copies_aside_and_destroys_none() {
    let host = host_with_copies();
    golden("reset-with-copy", &host.run(&["reset", VM1]));
    assert!(host.json(&["state", "show", VM1])["copies"][0]["set_aside_at"].is_number());
    golden("state-list-set-aside", &host.run(&["state", "list"]));
    // A guest without any key, too: its copy stands in the way of a new TPM.
    host.run(&["reset", VM2]).succeeds().saying("set aside");
    host.run(&["reset", VM2]).ends_with(1).saying("has no key");
    host.run(&["state", "restore", VM1]).succeeds();
    assert_eq!(fs::read(host.place(VM1)).unwrap(), STATE);
}

#[test]
fn a_copy_that_is_named_is_restored_only_if_no_other_one_may_be_meant() {
    let host = host_with_copies();
    let later = [3, 3, 0, 10, 0, 0, 0, 0, 0, 11, 1];
    host.keep_state(VM1, "vm1", &later, CopyReason::Start);
    let copies = host.json(&["state", "show", VM1])["copies"].clone();
    let sha256 = |at: usize| copies[at]["sha256"].as_str().unwrap().to_owned();
    let restore = |digits: &str| host.run(&["state", "restore", VM1, "--copy", digits]);
    for digits in ["", &sha256(0)[..3], &sha256(1)[..1]] {
        let words = "names more than one copy, or has too few digits";
        restore(digits).ends_with(2).saying(words);
        assert!(!host.place(VM1).exists(), "{digits:?}");
    }
    restore("0123456789").ends_with(2).saying("not found");
    assert_eq!(copies[1]["opened"], true);
    restore(&sha256(1)[..4]).succeeds();
    assert_eq!(fs::read(host.place(VM1)).unwrap(), STATE);
}

#[test]
fn a_copy_is_dropped_unless_it_is_all_that_a_used_key_opens() {
    let host = host_with_copies();
    host.run(&["state", "drop", VM1])
        .ends_with(1)
        .saying("without this copy its TPM is lost");
    let later = [3, 3, 0, 10, 0, 0, 0, 0, 0, 11, 1];
    host.keep_state(VM1, "vm1", &later, CopyReason::Start);
    host.run(&["state", "drop", VM1]).ends_with(1);
    let copies = host.json(&["state", "show", VM1])["copies"].clone();
    let sha256 = |at: usize| copies[at]["sha256"].as_str().unwrap().to_owned();
    assert_eq!(copies[1]["opened"], true);
    for (digits, status) in [(&sha256(0)[..3], 2), ("0123456789", 2), (&sha256(1), 1)] {
        host.run(&["state", "drop", VM1, "--copy", digits])
            .ends_with(status);
    }
    golden(
        "state-drop",
        &host.run(&["state", "drop", VM1, "--copy", &sha256(0)[..8]]),
    );
    let left = host.json(&["state", "show", VM1])["copies"].clone();
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(left[0]["sha256"], sha256(1));
    let history = host.json(&["history", VM1]);
    assert_eq!(history[0]["operation"], "drop");

    host.run(&["state", "drop", VM1, "--force"]).succeeds();
    assert!(!host.copy_store(VM1).exists());
    host.run(&["state", "drop", VM1])
        .ends_with(2)
        .saying("no saved copy");
    // A guest without a key may have libvirt's own: its only state is not dropped either.
    host.run(&["state", "drop", VM2]).ends_with(1);
    host.run(&["state", "drop", VM2, "--force"]).succeeds();
    assert!(!host.copy_store(VM2).exists());
}

#[test]
fn a_plain_state_of_before_an_encrypt_is_dropped_too() {
    let host = host_with_copies();
    let plain = host.state_dir().join("plain-state").join(VM2);
    fs::create_dir_all(&plain).unwrap();
    fs::write(plain.join("tpm2-00.permall"), "plain").unwrap();
    host.run(&["state", "drop", VM2])
        .ends_with(1)
        .saying("without these copies its TPM is lost");
    host.run(&["state", "drop", VM2, "--force"]).succeeds();
    assert!(!plain.exists());
}

#[test]
fn damage_is_told_beside_the_rest() {
    let host = host_with_copies();
    let state = |path: &Path| path.extension().is_some_and(|end| end == "state");
    let entries = fs::read_dir(host.copy_store(VM1)).unwrap();
    let file = entries
        .map(|entry| entry.unwrap().path())
        .find(|path| state(path));
    fs::write(file.unwrap(), "damaged").unwrap();
    let ran = host.run(&["state", "list"]).succeeds().saying("damaged");
    assert!(
        ran.stdout.contains(VM2) && !ran.stdout.contains(VM1),
        "{ran:?}"
    );
}
