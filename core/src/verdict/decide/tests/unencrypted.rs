//! Guests that the guard has no key for: no emulated TPM, or one without encryption.

use super::given::{SECRET, emulator, findings, guest, refusal, unreadable, verdict};
use crate::domain::{UnreadableDomain, Vtpm};
use crate::verdict::Finding;
use crate::verdict::facts::{CopyReason, Permission, TpmState};
use crate::verdict::refusal::Refusal;
use TpmState::{Absent, Encrypted, Plain};

/// Row 1.
#[test]
fn no_vtpm_passthrough_or_external_backend_is_allowed() {
    for vtpm in [None, Some(Vtpm::Passthrough), Some(Vtpm::External)] {
        let strict = guest().vtpm(vtpm).state(Encrypted).policy(|policy| {
            policy.unencrypted = Permission::Deny;
            policy.unmanaged = Permission::Deny;
        });
        assert_eq!(verdict(&strict), "allow NoEmulatedTpm");
    }
}

/// Rows 2 and 3.
#[test]
fn unreadable_xml_is_refused_only_where_an_emulated_tpm_was_seen_and_the_policy_says_so() {
    let mut facts = guest();
    facts.domain = Err(UnreadableDomain::unseen("not XML"));
    assert_eq!(verdict(&facts), "allow UnreadableXml");
    assert_eq!(
        findings(&facts),
        [Finding::XmlUnreadable("not XML".to_owned())]
    );
    let mut strict = facts.policy(|policy| policy.unencrypted = Permission::Deny);
    assert_eq!(verdict(&strict), "allow UnreadableXml");
    strict.domain = Err(UnreadableDomain {
        reason: "not XML".to_owned(),
        has_emulated_tpm: true,
    });
    assert_eq!(verdict(&strict), "deny VG501");
}

/// Rows 4 and 5.
#[test]
fn an_emulated_tpm_without_encryption_is_allowed_unless_the_policy_denies_it() {
    for state in [Absent, Plain, unreadable()] {
        let plain = guest().vtpm(Some(emulator(None))).state(state.clone());
        assert_eq!(verdict(&plain), "allow Unencrypted");
        let denied = plain.policy(|policy| policy.unencrypted = Permission::Deny);
        assert_eq!(verdict(&denied), "deny VG502");
        // Only a state that is there, or will be, can be encrypted.
        let refused = |has_state, is_defined| Refusal::UnencryptedVtpm {
            has_state,
            is_defined,
        };
        let has_state = state != Absent;
        assert_eq!(refusal(&denied), refused(has_state, true));
        let undefined = denied.elsewhere(|found| found.is_defined = false);
        assert_eq!(refusal(&undefined), refused(has_state, false));
        assert_eq!(refusal(&undefined.arriving()), refused(true, false));
    }
}

/// Rows 6 and 15.
#[test]
fn an_emulated_tpm_without_encryption_is_refused_if_its_state_is_encrypted() {
    let facts = guest().vtpm(Some(emulator(None))).state(Encrypted);
    assert_eq!(verdict(&facts), "deny VG503");
    assert_eq!(
        refusal(&facts),
        Refusal::EncryptionMismatch {
            is_defined: true,
            state_encrypted: true
        }
    );
    let undefined = facts.clone().elsewhere(|found| found.is_defined = false);
    assert!(matches!(
        refusal(&undefined),
        Refusal::EncryptionMismatch {
            is_defined: false,
            ..
        }
    ));
    assert_eq!(verdict(&facts.arriving()), "allow Unencrypted");
}

/// Row 8.
#[test]
fn a_saved_copy_takes_the_place_of_an_unencrypted_vtpms_state_too() {
    let facts = guest()
        .vtpm(Some(emulator(None)))
        .with_saved(CopyReason::Start);
    assert_eq!(verdict(&facts), "deny VG503");
    let mut plain = facts;
    plain.saved.copy.as_mut().unwrap().is_encrypted = false;
    let put_back = "allow Unencrypted; restore-tpm-state of start";
    assert_eq!(verdict(&plain), put_back);
    let encrypted = plain.vtpm(Some(emulator(Some(SECRET))));
    assert_eq!(verdict(&encrypted), "deny VG503");
}
