//! The sentences, the hints and the exit status of each thing that can come of a guest.

use std::path::PathBuf;

use super::*;
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, ProviderUuid};
use crate::key::id::KeyId;
use crate::libvirt::Daemons;
use crate::libvirt::secret::SecretError;
use crate::manage::adopt::{NotAdopted, StoredKey};
use crate::store::StoreError;
use crate::verdict::adopt::{
    AvailableSecret, HeldKey, NotAdoptable, SecretNeeded, Sharer, Undisclosed,
};
use crate::verdict::facts::{KmsSlots, NotOpened, Provider};

const SECRET: &str = "11111111-2222-4333-8444-00000000000a";

fn key_id() -> KeyId {
    KeyId::parse("3f2a9c01000000000000000000000000").unwrap()
}

fn refused(why: NotAdoptable) -> NotAdopted {
    let provider = Provider {
        uuid: ProviderUuid::random(),
        name: "nkp-a".to_owned(),
        key_id: key_id(),
        key_version: 1,
        is_default: true,
        exported_at: None,
        kms: KmsSlots::default(),
        created_at: Timestamp(0),
    };
    let provider = Box::new(provider);
    NotAdopted::Refused {
        why,
        provider,
        daemons: Daemons::Modular,
    }
}

fn stored(secret: SecretOutcome) -> StoredKey {
    StoredKey {
        key_ref: KeyRefId(3),
        provider: "nkp-a".to_owned(),
        is_new: true,
        proven: true,
        guessable: false,
        secret,
    }
}

fn row(stored: Option<StoredKey>, error: Option<NotAdopted>) -> Row {
    Row::from(AdoptResult {
        guest: GuestRef::called(DomainUuid::random(), "vm1"),
        secret: SecretUuid::parse(SECRET).ok(),
        stored,
        error,
    })
}

#[track_caller]
fn assert_says(row: &Row, result: Outcome, reason: &str, hint: &str) {
    assert_eq!(row.result, result, "{row:#?}");
    assert!(row.reason.contains(reason), "{row:#?}");
    let shown = row.hint.as_deref().unwrap_or_default();
    assert!(shown.contains(hint), "{row:#?}");
}

/// Each of these refusals gives this reason and this hint.
#[track_caller]
fn assert_refusals<const N: usize>(refusals: [(NotAdoptable, &str, &str); N]) {
    for (why, reason, hint) in refusals {
        assert_says(
            &row(None, Some(refused(why))),
            Outcome::Refused,
            reason,
            hint,
        );
    }
}

#[test]
fn beside_a_value_that_libvirt_does_not_disclose_the_secret_goes_only_where_nobody_needs_it() {
    let other = Sharer {
        name: "my vm".to_owned(),
        uuid: DomainUuid::random(),
    };
    for (secret_needed, hint) in [
        (
            None,
            "key reference 7 opens the TPM, so the secret can be removed: virsh secret-undefine 1111",
        ),
        (
            Some(SecretNeeded::ServesAnything),
            "when nothing else needs it: virsh secret-undefine 1111",
        ),
        (
            Some(SecretNeeded::NeverExported),
            "vtpm-guard provider export nkp-a --output FILE; then the secret can be removed: virsh",
        ),
    ] {
        let held = HeldKey {
            key_ref: KeyRefId(7),
            secret_needed,
        };
        let why = Undisclosed::NoFile;
        let held = Some(held);
        assert_refusals([(
            NotAdoptable::Undisclosed { why, held },
            "private secret",
            hint,
        )]);
    }
    let held = HeldKey {
        key_ref: KeyRefId(7),
        secret_needed: Some(SecretNeeded::Shared(vec![other])),
    };
    let shared = row(
        None,
        Some(refused(NotAdoptable::Undisclosed {
            why: Undisclosed::NoFile,
            held: Some(held),
        })),
    );
    let hint = "\"my vm\" may need the secret, so give this guest a secret UUID of its own";
    assert_says(&shared, Outcome::Refused, "private secret", hint);
    let hint = shared.hint.unwrap();
    assert!(
        hint.ends_with("virsh edit vm1") && !hint.contains("undefine"),
        "{hint}"
    );
}

#[test]
fn a_refusal_because_of_the_secret_says_why_and_names_the_command_that_helps() {
    let nothing = NotAdoptable::NothingToAdopt;
    let no_value = AvailableSecret::NoValue {
        serves_anything: false,
    };
    let undisclosed = |why, held| NotAdoptable::Undisclosed { why, held };
    let encrypted = Undisclosed::Encrypted("/etc/x.aes256cbc".to_owned());
    let untrusted = Undisclosed::File("why".to_owned());
    let usage = NotAdoptable::OtherUse("/disk".to_owned());
    let other = Sharer {
        name: "my vm".to_owned(),
        uuid: DomainUuid::random(),
    };
    assert_refusals([
        (
            nothing(AvailableSecret::Absent),
            "has no secret",
            "vtpm-guard key bind vm1",
        ),
        (
            nothing(AvailableSecret::Own),
            "the guard's own",
            "vtpm-guard check vm1",
        ),
        (
            nothing(no_value),
            "has no value",
            "virsh secret-set-value 11111111",
        ),
        (usage, "its usage is \"/disk\"", "virsh edit vm1"),
        (
            undisclosed(Undisclosed::NoFile, None),
            "private secret",
            "virsh secret-define FILE",
        ),
        (
            undisclosed(encrypted, None),
            "encrypted in /etc/x.aes256cbc",
            "sed -i \"s/private='yes'/private='no'/\" /etc/x.xml), restart the daemon that has libvirt's \
             secrets (systemctl restart virtsecretd), ",
        ),
        (
            undisclosed(untrusted, None),
            "its file is not usable: why",
            "virsh secret-define FILE",
        ),
        (
            NotAdoptable::SecretNeeded(SecretNeeded::ServesAnything),
            "has no usage",
            "--keep-plaintext",
        ),
        (
            NotAdoptable::SecretNeeded(SecretNeeded::Shared(vec![other])),
            "\"my vm\" needs the secret",
            "vtpm-guard adopt vm1 'my vm'",
        ),
    ]);
}

#[test]
fn a_refusal_because_of_the_guest_says_why_and_names_the_command_that_helps() {
    let unreadable = NotAdoptable::StateUnreadable("why".to_owned());
    let has_another_key = |opened| NotAdoptable::HasAnotherKey {
        key_ref: KeyRefId(7),
        opened,
    };
    let never = NotAdoptable::SecretNeeded(SecretNeeded::NeverExported);
    assert_refusals([
        (
            NotAdoptable::DoesNotOpen,
            "does not open its TPM state",
            "vtpm-guard explain VG204",
        ),
        (
            NotAdoptable::StatePlain,
            "is not encrypted",
            "vtpm-guard encrypt vm1",
        ),
        (unreadable, "cannot be read", "restore the state first"),
        (
            NotAdoptable::StateArrives,
            "has not arrived yet",
            "vtpm-guard adopt vm1",
        ),
        (
            NotAdoptable::RunsWithoutState,
            "is not where libvirt keeps it",
            "vtpm-guard check vm1",
        ),
        (
            has_another_key(true),
            "another key",
            "vtpm-guard key retire 7",
        ),
        (
            has_another_key(false),
            "does not open on this host",
            "vtpm-guard key show vm1",
        ),
        (
            never,
            "\"nkp-a\" was never exported",
            "vtpm-guard provider export nkp-a --output FILE",
        ),
    ]);
    let broken = crate::domain::read(b"<domain>".as_slice()).unwrap_err();
    let not_encrypted = |has_tpm| NotAdopted::NotEncrypted { has_tpm };
    for (error, reason, hint) in [
        (
            not_encrypted(true),
            "it has no encrypted vTPM",
            "vtpm-guard encrypt vm1",
        ),
        (
            not_encrypted(false),
            "it has no encrypted vTPM",
            "virsh dumpxml vm1",
        ),
        (
            NotAdopted::UnreadableXml(broken),
            "cannot be read",
            "vtpm-guard explain VG501",
        ),
    ] {
        assert_says(&row(None, Some(error)), Outcome::Refused, reason, hint);
    }
}

#[test]
fn an_error_says_what_is_left_and_keeps_the_key_reference() {
    let not_opened = |error| NotAdopted::NotOpened {
        key_ref: KeyRefId(3),
        error,
    };
    let key_id = key_id();
    let reason = "why".to_owned();
    let refusal = SecretError::Refused("no".to_owned());
    let unreachable = SecretError::Unreachable("no answer".to_owned());
    for (error, reason, hint) in [
        (
            NotAdopted::Changed,
            "changed in the meantime",
            "libvirt's secret is unchanged",
        ),
        (
            not_opened(NotOpened::NoProvider { key_id }),
            "key reference 3 did not open again: no provider has the key 3f2a9c01",
            "vtpm-guard key show vm1",
        ),
        (
            not_opened(NotOpened::TimedOut { key_id }),
            "in time",
            "key show vm1",
        ),
        (
            not_opened(NotOpened::Corrupt {
                reason,
                is_newer: false,
            }),
            ": why",
            "key show vm1",
        ),
        (
            NotAdopted::NotUndefined(refusal.clone()),
            "stays",
            "virsh secret-undefine 11111111",
        ),
        (
            NotAdopted::NotUndefined(unreachable),
            "libvirt is unreachable",
            "virsh",
        ),
        (
            NotAdopted::NotRecorded(StoreError::Missing),
            "could not be recorded",
            "",
        ),
        (
            NotAdopted::FilesLeft(["/a", "/my b"].map(PathBuf::from).to_vec()),
            "left behind /a and /my b",
            "remove what is left: rm /a '/my b'",
        ),
        (
            NotAdopted::NotProvided(refusal),
            "it is adopted",
            "its next start tries again",
        ),
    ] {
        let row = row(Some(stored(SecretOutcome::ToRemove)), Some(error));
        assert_says(&row, Outcome::Failed, reason, hint);
        assert_eq!(
            (row.key_ref, row.secret.unwrap().action),
            (Some(KeyRefId(3)), "kept")
        );
    }
}

#[test]
fn an_adopted_guest_says_what_became_of_its_secret_and_warns_of_a_short_key() {
    let others = vec![GuestRef::called(DomainUuid::random(), "vm2")];
    for (secret, reason, action) in [
        (SecretOutcome::Absent, "libvirt has no secret", "none"),
        (SecretOutcome::Own, "is the guard's own", "none"),
        (SecretOutcome::Kept, "libvirt's secret stays", "kept"),
        (
            SecretOutcome::KeptFor(others),
            "stays until vm2 is adopted, too",
            "kept",
        ),
        (SecretOutcome::Removed, "was removed", "removed"),
    ] {
        let row = row(Some(stored(secret)), None);
        assert_says(&row, Outcome::Adopted, reason, "");
        assert_eq!(row.secret.as_ref().unwrap().action, action);
        assert!(row.hint.is_none() && row.warnings.is_empty());
    }
    let mut short = stored(SecretOutcome::Removed);
    (short.is_new, short.proven, short.guessable) = (false, false, true);
    let rows = Rows(vec![row(Some(short), None)]);
    assert_says(
        &rows.0[0],
        Outcome::Already,
        "no TPM state to verify it with",
        "",
    );
    assert!(rows.notes()[0].ends_with("vtpm-guard key renew vm1"));
}

#[test]
fn the_exit_status_is_that_of_the_worst_result() {
    let adopted = || row(Some(stored(SecretOutcome::Removed)), None);
    let refused = || {
        row(
            None,
            Some(refused(NotAdoptable::SecretNeeded(
                SecretNeeded::NeverExported,
            ))),
        )
    };
    let failed = || row(None, Some(NotAdopted::Changed));
    for (rows, status) in [
        (vec![], 0),
        (vec![adopted()], 0),
        (vec![adopted(), refused()], 1),
        (vec![refused(), failed(), adopted()], 4),
    ] {
        assert_eq!(Rows(rows).status(), ExitCode::from(status));
    }
}
