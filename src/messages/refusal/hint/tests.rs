//! Hints about TPMs and keys that this host has under another name or in another place.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::ids::DomainUuid;
use crate::messages::{Words, refusal};
use crate::verdict::elsewhere::{OtherGuest, Relation};
use crate::verdict::facts::Damage;

const OTHER: &str = "d0000000-0000-4000-8000-000000000002";

fn hint(why: &Refusal) -> String {
    super::hint("vm1".into(), why)
}

fn other(name: &str, is_defined: bool) -> OtherGuest {
    OtherGuest {
        uuid: DomainUuid::parse(OTHER).unwrap(),
        name: Some(name.to_owned()),
        is_defined,
    }
}

fn relative(by: Relation, other_is_defined: bool, has_state: bool) -> RelatedGuest {
    RelatedGuest {
        domain: other("vm0", other_is_defined),
        by,
        has_state,
    }
}

#[test]
fn a_guest_that_libvirt_does_not_define_is_not_to_be_bound_by_name() {
    let hint = hint(&Refusal::KeyMissingNotDefined {
        domain: DomainUuid::parse(OTHER).unwrap(),
    });
    for way in ["policy.auto_bind", "virsh define", "--print-xml 1"] {
        assert!(hint.contains(way), "{hint}");
    }
    assert!(hint.ends_with(&format!("key bind {OTHER} --provider NAME")));
}

#[test]
fn a_relative_is_named_by_what_can_only_be_it() {
    let clone = |other: &str| format!("vtpm-guard key clone {other} vm1");
    let bind = "vtpm-guard key bind vm1 --provider NAME";
    let hint = |relative, is_defined| {
        hint(&Refusal::KeyOfRelatedGuest {
            relative,
            is_defined,
        })
    };
    for (relative, begins, ends) in [
        (
            relative(Relation::Secret, true, true),
            "give the copy",
            clone("vm0"),
        ),
        (
            relative(Relation::Secret, false, true),
            "take over its TPM",
            bind.to_owned(),
        ),
        (
            relative(Relation::Name, false, true),
            "take over its TPM",
            bind.to_owned(),
        ),
        (
            relative(Relation::Name, false, false),
            "for a new guest",
            clone(OTHER),
        ),
    ] {
        let defined = hint(relative.clone(), true);
        assert!(
            defined.starts_with(begins) && defined.ends_with(&ends),
            "{defined}"
        );
        let other = if relative.domain.is_defined {
            "vm0"
        } else {
            OTHER
        };
        assert!(defined.contains(&clone(other)), "{defined}");
        assert_eq!(
            hint(relative, false),
            format!("define it first (virsh define FILE); {defined}")
        );
    }
}

#[test]
fn a_copied_xml_is_defined_first_and_a_new_tpm_is_only_for_a_guest_without_one() {
    let original = DomainUuid::parse(OTHER).unwrap();
    let hint = |is_lost, is_defined| {
        hint(&Refusal::KeyOfOriginal {
            original,
            is_lost,
            is_defined,
        })
    };
    let clone = format!("vtpm-guard key clone {OTHER} vm1");
    for is_lost in [true, false] {
        let defined = hint(is_lost, true);
        assert!(defined.ends_with(&clone), "{defined}");
        assert_eq!(defined.contains("new TPM"), !is_lost, "{defined}");
        let undefined = format!("define it first (virsh define FILE); {defined}");
        assert_eq!(hint(is_lost, false), undefined);
    }
}

#[test]
fn the_holder_of_the_key_is_named() {
    let of = |holder| Refusal::KeyOfOtherGuest {
        holder,
        refuted: true,
        is_defined: true,
    };
    let named = hint(&of(other("vm0", true)));
    assert!(named.ends_with("vtpm-guard key clone vm0 vm1"), "{named}");
    for unnamed in [other("vm1", true), other("vm0", false)] {
        let named = hint(&of(unnamed));
        assert!(named.ends_with(&format!("clone {OTHER} vm1")), "{named}");
    }
}

#[test]
fn a_state_elsewhere_is_named_and_how_the_xml_names_it_again() {
    for (kind, word) in [
        (
            ElsewhereKind::OtherVersion(TpmVersion::V1_2),
            "version='1.2'",
        ),
        (ElsewhereKind::LastSeen, "<source>"),
        (ElsewhereKind::OwnDirectory, "<source>"),
    ] {
        let state = StateElsewhere {
            path: "/there/tpm2-00.permall".into(),
            wanted: "/here/tpm2-00.permall".into(),
            kind,
        };
        for why in [
            Refusal::TpmStateElsewhere(state.clone()),
            Refusal::KeyMissingStateElsewhere(state),
        ] {
            let Words { message, hint } = refusal("vm1", &why);
            assert!(message.contains("/there/tpm2-00.permall"), "{message}");
            assert!(hint.contains(word), "{hint}");
        }
    }
}

#[test]
fn a_state_of_another_version_or_format_is_not_to_be_moved() {
    let (v1, v2) = ("/own/tpm1.2/tpm-00.permall", "/own/tpm2/tpm2-00.permall");
    for (kind, path, wanted, version, is_moved) in [
        (
            ElsewhereKind::OwnDirectory,
            v1,
            "/there/tpm2-00.permall",
            Some("1.2"),
            false,
        ),
        (
            ElsewhereKind::LastSeen,
            v2,
            "/there/tpm-00.permall",
            Some("2.0"),
            false,
        ),
        (
            ElsewhereKind::OwnDirectory,
            v1,
            "/there/vm1.state",
            Some("1.2"),
            false,
        ),
        (ElsewhereKind::LastSeen, "/here/vm1.state", v2, None, false),
        // The format is the same, and the name is any.
        (
            ElsewhereKind::LastSeen,
            "/a/old.state",
            "/a/new.state",
            None,
            true,
        ),
        (
            ElsewhereKind::OwnDirectory,
            v2,
            "/there/tpm2-00.permall",
            None,
            true,
        ),
    ] {
        let hint = hint(&Refusal::TpmStateElsewhere(StateElsewhere {
            path: path.into(),
            wanted: wanted.into(),
            kind,
        }));
        assert!(hint.contains("<source>"), "{hint}");
        assert_eq!(hint.contains("move the state to"), is_moved, "{hint}");
        match version {
            Some(version) => assert!(hint.contains(&format!("version='{version}'")), "{hint}"),
            None => assert!(!hint.contains("version="), "{hint}"),
        }
    }
}

/// A wrong path in the XML leads to anybody's file: nobody may be told to write a state over it.
#[test]
fn a_damaged_state_that_the_xml_names_may_be_a_wrong_path() {
    let hint = |is_named_by_xml| {
        hint(&Refusal::TpmStateDamaged {
            damage: "its size is wrong".into(),
            is_named_by_xml,
        })
    };
    let restore = "restore the file from a backup or from a saved copy: vtpm-guard state show vm1";
    assert_eq!(hint(false), restore);
    let named = hint(true);
    let edit = "if <source> names the wrong path, correct it: virsh edit vm1; otherwise ";
    assert_eq!(named, format!("{edit}{restore}"));
}

/// swtpm would follow it, and what it leads to is whole: a restored file in its place would be an older TPM.
#[test]
fn a_link_to_a_state_is_replaced_by_what_it_leads_to() {
    let link = "/var/lib/libvirt/swtpm/a guest";
    let refusal = |is_named_by_xml| Refusal::TpmStateDamaged {
        damage: Damage {
            how: format!("{link} is a link"),
            link: Some(link.into()),
        },
        is_named_by_xml,
    };
    let message = crate::messages::refusal::message::message(&refusal(false));
    assert_eq!(
        message,
        format!("the TPM state is not read through a link: {link} is a link")
    );
    let replace = format!(
        "if you have made the link (ls -ld '{link}' shows where it leads), replace it by what it leads to, or by an empty \
         directory on which that is bind-mounted; otherwise restore the file from a backup or from a saved copy: \
         vtpm-guard state show vm1"
    );
    assert_eq!(hint(&refusal(false)), replace);
    assert!(hint(&refusal(true)).ends_with(&replace));
}

/// An import refuses while a key is in use that is not certainly damaged: the first command makes way for it.
#[test]
fn a_key_of_a_later_format_is_retired_before_another_one_is_imported() {
    let (reason, is_newer) = ("its format is newer".to_owned(), true);
    let hint = hint(&Refusal::KeyCorrupt {
        key_ref: KeyRefId(7),
        reason,
        is_newer,
    });
    let ways = "vtpm-guard key retire 7, then: vtpm-guard key import vm1 --from BACKUP";
    assert!(hint.ends_with(ways), "{hint}");
}
