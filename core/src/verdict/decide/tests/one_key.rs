//! One key reference with a key.

use super::given::{
    Row, corrupt, findings, for_another_use, guest, hidden, key, keyless, opens, placeholder,
    refusal, sealed, unreachable, valueless, verdict,
};
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, SecretUuid};
use crate::key::wrap::UnwrapError;
use crate::verdict::Finding;
use crate::verdict::facts::{HostSecret, KekState, NotOpened, Permission, TpmState, Trial};
use crate::verdict::refusal::Refusal;
use HostSecret::Absent as NoSecret;
use TpmState::Encrypted;

/// Rows 15 and 16.
#[test]
fn one_keyed_row_whose_provider_opens_it_is_healthy() {
    let healthy = guest().provider("a", 1, 'A').row(opens(1, "a", 1, 'A', 0));
    assert_eq!(verdict(&healthy), "allow Unproven; provide 1");

    let proven = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().proven());
    assert_eq!(verdict(&proven.state(Encrypted)), "allow Proven; provide 1");

    let to_arrive = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used())
        .arriving();
    assert_eq!(verdict(&to_arrive), "allow Unproven; provide 1");

    // The state left behind by an earlier run says nothing of the one that arrives.
    let left_behind = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).refuted())
        .arriving();
    assert_eq!(
        verdict(&left_behind.state(Encrypted)),
        "allow Unproven; provide 1"
    );
}

/// Row 17.
#[test]
fn placeholders_beside_a_keyed_row_are_deleted() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(placeholder(1, "a", 1))
        .row(opens(2, "a", 1, 'A', 0))
        .row(placeholder(3, "gone", 9));
    assert_eq!(
        verdict(&facts),
        "allow Unproven; delete-placeholder 1; delete-placeholder 3; provide 2"
    );
    assert_eq!(
        findings(&facts),
        [
            Finding::OrphanPlaceholder(KeyRefId(1)),
            Finding::OrphanPlaceholder(KeyRefId(3))
        ]
    );
}

/// Rows 17 and 18.
#[test]
fn a_provider_that_was_imported_again_is_found_by_its_name() {
    let facts = guest()
        .provider("a", 2, 'A')
        .row(opens(1, "a", 1, 'A', 0).uuid_lost());
    assert_eq!(
        verdict(&facts),
        "allow Unproven; rebind-provider 1 to a; provide 1"
    );

    let dangling = guest().provider("a", 2, 'A').row(opens(1, "a", 1, 'A', 0));
    assert_eq!(
        verdict(&dangling),
        "allow Unproven; rebind-provider 1 to a; provide 1"
    );

    let with_placeholder = facts.row(placeholder(2, "a", 2));
    assert_eq!(
        verdict(&with_placeholder),
        "allow Unproven; delete-placeholder 2; rebind-provider 1 to a; provide 1"
    );
}

/// Row 19.
#[test]
fn a_provider_imported_under_another_name_is_found_by_its_key_id() {
    let facts = guest()
        .provider("b", 2, 'A')
        .row(opens(1, "a", 1, 'A', 0).uuid_lost());
    assert_eq!(
        verdict(&facts),
        "allow Unproven; rebind-provider 1 to b; provide 1"
    );
    // The name is taken by a provider with another key: it does not matter.
    let taken = facts.provider("a", 3, 'X');
    assert_eq!(
        verdict(&taken),
        "allow Unproven; rebind-provider 1 to b; provide 1"
    );
}

/// Row 19.
#[test]
fn a_row_that_a_rotation_has_not_reached_yet_stays_bound_to_its_provider() {
    let previous = format!("a/{}", key('A').short());
    let rotating = guest().provider("a", 1, 'N').provider(&previous, 2, 'A');
    let not_reached = rotating.clone().row(opens(1, "a", 1, 'A', 0));
    assert_eq!(verdict(&not_reached), "allow Unproven; provide 1");
    assert_eq!(findings(&not_reached), []);
    // One that names another provider is bound to what opens it, as ever.
    let of_another = rotating.row(opens(1, "gone", 3, 'A', 0));
    assert_eq!(
        verdict(&of_another),
        format!("allow Unproven; rebind-provider 1 to {previous}; provide 1")
    );
}

/// Row 19.
#[test]
fn a_row_that_is_bound_before_its_provider_gets_an_announced_key_stays_bound_to_it() {
    let announced = format!("fleet/a/{}", key('N').short());
    let promoting = guest().provider("a", 1, 'A').provider(&announced, 2, 'N');
    let bound = promoting.clone().row(opens(1, "a", 1, 'N', 0));
    assert_eq!(verdict(&bound), "allow Unproven; provide 1");
    assert_eq!(findings(&bound), []);
    // One that names another provider is bound to what opens it.
    let of_another = promoting.row(opens(1, "gone", 3, 'N', 0));
    assert_eq!(
        verdict(&of_another),
        format!("allow Unproven; rebind-provider 1 to {announced}; provide 1")
    );
}

/// Rows 18 and 20.
#[test]
fn of_several_providers_with_the_provider_key_only_a_named_one_is_taken() {
    let two = guest().provider("b", 2, 'A').provider("c", 3, 'A');
    let by_name = two.clone().row(opens(1, "c", 1, 'A', 0).uuid_lost());
    assert_eq!(
        verdict(&by_name),
        "allow Unproven; rebind-provider 1 to c; provide 1"
    );
    let by_uuid = two.clone().row(opens(1, "b", 2, 'A', 0));
    assert_eq!(verdict(&by_uuid), "allow Unproven; provide 1");
    let ambiguous = two.row(opens(1, "a", 1, 'A', 0).uuid_lost());
    assert_eq!(verdict(&ambiguous), "deny VG103");
    // Of several rows of the key the oldest speaks.
    let oldest = opens(2, "z", 1, 'A', 0).with(|row| row.created_at = Timestamp(0));
    let Refusal::ProviderAmbiguous { provider, .. } = refusal(&ambiguous.row(oldest)) else {
        panic!("not ambiguous")
    };
    assert_eq!(provider, "z");
}

/// Rows 21 and 48.
#[test]
fn a_provider_that_was_renamed_is_not_lost() {
    let renamed = guest().provider("new", 1, 'A');
    let row = renamed.clone().row(opens(1, "old", 1, 'A', 0));
    assert_eq!(
        verdict(&row),
        "allow Unproven; rebind-provider 1 to new; provide 1"
    );
    assert_eq!(findings(&row), [Finding::IncompleteRow(KeyRefId(1))]);
    let row = renamed.row(placeholder(1, "old", 1));
    assert_eq!(
        verdict(&row),
        "allow NewKey; bind-provider 1 to new; create-key 1; provide the new key"
    );
    assert_eq!(findings(&row), [Finding::IncompleteRow(KeyRefId(1))]);
}

/// Row 22.
#[test]
fn a_provider_of_that_name_with_another_key_is_never_rebound_to() {
    let facts = guest()
        .provider("a", 2, 'X')
        .row(keyless(1, "a", 1, 'A').uuid_lost());
    let facts = facts.row(placeholder(2, "a", 2));
    assert_eq!(verdict(&facts), "deny VG102");
    let mismatch = Refusal::ProviderKeyMismatch {
        provider: "a".to_owned(),
        has: key('X'),
        wrapped_with: key('A'),
    };
    assert_eq!(refusal(&facts), mismatch);
    // libvirt's own secret does not change that.
    assert_eq!(verdict(&facts.host(hidden())), "deny VG102");
}

/// Rows 23 and 25.
#[test]
fn a_missing_provider_is_refused_unless_libvirts_secret_can_be_used() {
    let facts = guest()
        .provider("other", 5, 'X')
        .row(keyless(1, "a", 1, 'A').uuid_lost());
    let missing = Refusal::ProviderMissing {
        provider: "a".to_owned(),
        key_id: Some(key('A')),
    };
    assert_eq!(refusal(&facts), missing);
    for no_help in [NoSecret, valueless(), for_another_use(), unreachable()] {
        assert_eq!(verdict(&facts.clone().host(no_help)), "deny VG101");
    }
    let carried = facts.clone().host(hidden()).state(Encrypted);
    assert_eq!(verdict(&carried), "allow HostSecret");
    assert_eq!(findings(&carried), [Finding::Degraded(missing)]);
    let strict = carried.policy(|policy| policy.degraded = Permission::Deny);
    assert_eq!(verdict(&strict), "deny VG101");
}

/// Rows 24 and 25.
#[test]
fn a_sealed_provider_key_is_refused_unless_libvirts_secret_can_be_used() {
    let facts = guest()
        .provider("a", 1, 'A')
        .kek_sealed('A')
        .row(sealed(1, "a", 1, 'A'));
    let reason = "no host key".to_owned();
    assert_eq!(
        refusal(&facts),
        Refusal::ProviderSealed {
            provider: "a".to_owned(),
            reason,
            kms: Vec::new(),
        }
    );
    assert_eq!(verdict(&facts.host(hidden())), "allow HostSecret");
}

/// Rows 24 and 48.
#[test]
fn a_sealed_provider_key_that_a_key_manager_opens_is_refused_with_the_name_of_that() {
    let sealed_and_managed = |provider: &str| Refusal::ProviderSealed {
        provider: provider.to_owned(),
        reason: "no host key".to_owned(),
        kms: vec!["vault".to_owned()],
    };
    let guest = || {
        guest()
            .provider("a", 1, 'A')
            .opened_by_kms('A', "vault")
            .kek_sealed('A')
    };
    for row in [sealed(1, "a", 1, 'A'), placeholder(1, "a", 1)] {
        assert_eq!(refusal(&guest().row(row)), sealed_and_managed("a"));
    }
    // Of several that have it and that the row does not name, the first by name is named: it can be opened.
    let several = self::guest()
        .provider("c", 3, 'A')
        .provider("b", 2, 'A')
        .opened_by_kms('A', "vault")
        .row(sealed(1, "gone", 9, 'A'));
    assert_eq!(refusal(&several), sealed_and_managed("b"));
}

/// Rows 24, 25 and 48.
#[test]
fn a_provider_key_that_only_a_key_manager_has_is_refused_with_the_name_of_that() {
    let row = |why| {
        let mut row = sealed(1, "a", 1, 'A');
        row.trial = Some(Trial::NotOpened(why));
        row
    };
    let (not_here, expired) = (
        NotOpened::NotHere { key_id: key('A') },
        NotOpened::Expired { key_id: key('A') },
    );
    let guest = || guest().provider("a", 1, 'A').opened_by_kms('A', "vault");
    let missed = Refusal::KekNotHere {
        provider: "a".to_owned(),
        key_id: key('A'),
        kms: vec!["vault".to_owned()],
    };
    let keyed = guest().row(row(not_here.clone()));
    assert_eq!(refusal(&keyed), missed);
    assert_eq!(verdict(&keyed), "deny VG105");
    assert_eq!(verdict(&keyed.host(hidden())), "allow HostSecret");
    let keyed = guest().row(row(expired));
    assert_eq!(verdict(&keyed), "deny VG106");
    assert_eq!(verdict(&keyed.host(hidden())), "allow HostSecret");

    for (state, code) in [
        (KekState::NotHere, "deny VG105"),
        (KekState::Expired, "deny VG106"),
    ] {
        let mut new = guest().row(placeholder(1, "a", 1));
        new.keks.insert(key('A'), state);
        assert_eq!(verdict(&new), code);
    }

    // Of several that have it and that the row does not name, the first by name is named.
    let several = self::guest()
        .provider("c", 3, 'A')
        .provider("b", 2, 'A')
        .provider("another", 4, 'X')
        .opened_by_kms('A', "vault")
        .row(Row {
            trial: Some(Trial::NotOpened(not_here.clone())),
            ..sealed(1, "gone", 9, 'A')
        });
    assert!(matches!(
        refusal(&several),
        Refusal::KekNotHere { provider, .. } if provider == "b"
    ));

    // A key that no key manager opens was sealed on this host.
    let lost = self::guest().provider("a", 1, 'A').row(row(not_here));
    assert_eq!(verdict(&lost), "deny VG104");
}

/// Rows 24, 25 and 48.
#[test]
fn a_provider_key_that_does_not_open_in_time_is_refused_for_that() {
    let not_in_time = Refusal::ProviderTimedOut {
        provider: "a".to_owned(),
    };
    let mut row = sealed(1, "a", 1, 'A');
    row.trial = Some(Trial::NotOpened(NotOpened::TimedOut { key_id: key('A') }));
    let keyed = guest().provider("a", 1, 'A').row(row);
    assert_eq!(refusal(&keyed), not_in_time);
    assert_eq!(verdict(&keyed), "deny VG107");
    assert_eq!(verdict(&keyed.host(hidden())), "allow HostSecret");

    let mut new = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
    new.keks.insert(key('A'), KekState::TimedOut);
    assert_eq!(refusal(&new), not_in_time);
}

/// Row 26.
#[test]
fn a_wrapped_key_that_does_not_authenticate_is_refused() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(corrupt(1, "a", 1, 'A'))
        .host(hidden());
    let reason = "not authentic".to_owned();
    assert_eq!(
        refusal(&facts),
        Refusal::KeyCorrupt {
            key_ref: KeyRefId(1),
            reason,
            is_newer: false,
        }
    );
    // One of a later release is refused for the same reason, and is not said to be damaged.
    let newer = Trial::NotOpened(UnwrapError::TooNew.into());
    let row = Row {
        trial: Some(newer),
        ..corrupt(1, "a", 1, 'A')
    };
    assert!(
        matches!(
            refusal(&guest().provider("a", 1, 'A').row(row)),
            Refusal::KeyCorrupt { is_newer: true, .. }
        ),
        "it may be whole"
    );
    // Where another row's key is only out of reach, importing its provider is what helps.
    let beside_lost = guest()
        .row(corrupt(1, "a", 1, 'A'))
        .row(keyless(2, "lost", 9, 'L'));
    assert_eq!(verdict(&beside_lost), "deny VG101");
}

/// Rows 22, 23, 24 and 26.
#[test]
fn of_several_keys_that_do_not_open_the_one_that_an_import_fixes_decides() {
    let host = || {
        let host = guest().provider("a", 1, 'X').provider("s", 3, 'S');
        host.kek_sealed('S')
    };
    let mismatch = |id| keyless(id, "a", 1, 'A');
    let missing = |id| keyless(id, "lost", 9, 'L');
    let sealed_key = |id| sealed(id, "s", 3, 'S');
    // Whichever is the oldest.
    let beside = |one, other| verdict(&host().row(one).row(other));
    assert_eq!(beside(mismatch(1), missing(2)), "deny VG101");
    assert_eq!(beside(sealed_key(1), mismatch(2)), "deny VG102");
    assert_eq!(beside(corrupt(1, "a", 1, 'A'), sealed_key(2)), "deny VG104");
}

/// Row 27.
#[test]
fn missing_columns_are_filled_from_what_unwraps_the_row() {
    let bare = opens(1, "a", 1, 'A', 0).with(|row| {
        row.key_version = None;
        row.kek_ref = None;
    });
    let facts = guest().provider("a", 1, 'A').row(bare);
    assert_eq!(
        verdict(&facts),
        "allow Unproven; fill-key-version 1; fill-kek-ref 1; provide 1"
    );
    assert_eq!(findings(&facts), [Finding::IncompleteRow(KeyRefId(1))]);
    let wrong = opens(1, "a", 1, 'A', 0).with(|row| row.kek_ref = Some("native:00".to_owned()));
    let facts = guest().provider("a", 1, 'A').row(wrong);
    assert_eq!(verdict(&facts), "allow Unproven; fill-kek-ref 1; provide 1");
}

/// Row 28.
#[test]
fn the_row_gets_the_secret_that_the_xml_names() {
    let other = SecretUuid::parse("5ec2e700-0000-4000-8000-000000000099").unwrap();
    for stored in [None, Some(other)] {
        let row = opens(1, "a", 1, 'A', 0).with(|row| row.secret_uuid = stored);
        let facts = guest().provider("a", 1, 'A').row(row);
        assert_eq!(
            verdict(&facts),
            "allow Unproven; set-secret-uuid 1; provide 1"
        );
    }
    let placeholder_naming = |stored| {
        let row = placeholder(1, "a", 1).with(|row| row.secret_uuid = stored);
        verdict(&guest().provider("a", 1, 'A').row(row))
    };
    assert_eq!(
        placeholder_naming(Some(other)),
        "allow NewKey; set-secret-uuid 1; create-key 1; provide the new key"
    );
    // A new key brings the secret's UUID along.
    assert_eq!(
        placeholder_naming(None),
        "allow NewKey; create-key 1; provide the new key"
    );
}
