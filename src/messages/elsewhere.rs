//! The sentences about a TPM and a key that this host has under another name.

use super::{Arg, Named, quoted};
use crate::domain::TpmVersion;
use crate::verdict::elsewhere::{
    ElsewhereKind, OtherGuest, RelatedGuest, Relation, StateElsewhere,
};
use crate::verdict::refusal::Refusal;

/// What is wrong, and what helps.
pub(super) fn words(domain: Named<'_>, why: &Refusal) -> (String, String) {
    let guest = &Arg::guest(domain);
    match why {
        Refusal::KeyMissingNotDefined { domain: uuid } => (
            "the vTPM has no key, and libvirt has no definition of this guest: its UUID may be new \
             at each attempt"
                .to_owned(),
            format!(
                "define it first (virsh define; virt-install --print-xml 1 writes the file), then: \
                 vtpm-guard key bind {guest} --provider NAME; or set policy.auto_bind; if its UUID \
                 stays: vtpm-guard key bind {uuid} --provider NAME"
            ),
        ),
        Refusal::KeyOfRelatedGuest {
            relative,
            is_defined,
        } => of_relative(domain, relative, *is_defined),
        Refusal::KeyMissingStateElsewhere(state) => {
            let (message, hint) = state_elsewhere(guest, state);
            (
                format!("the vTPM has no key, and {message}"),
                format!("{hint}; for a new TPM move that state away"),
            )
        }
        Refusal::TpmStateElsewhere(state) => {
            let (message, hint) = state_elsewhere(guest, state);
            (
                message,
                format!(
                    "{hint}; for a new TPM move that state away, then: vtpm-guard reset {guest}"
                ),
            )
        }
        Refusal::TpmStateUndefined => (
            "the vTPM's key was used before, but the TPM's state is gone, and the guest's \
             definition is newer than its last start: virsh undefine deletes the state, unless \
             --keep-tpm is given"
                .to_owned(),
            format!(
                "bring the state back from a backup, or let a new TPM be made: vtpm-guard reset \
                 {guest}"
            ),
        ),
        _ => of_lost_key(domain, why),
    }
}

fn of_relative(domain: Named<'_>, relative: &RelatedGuest, is_defined: bool) -> (String, String) {
    let (guest, other) = (Arg::guest(domain), &relative.domain);
    let message = match relative.by {
        Relation::Secret => format!(
            "the vTPM has no key, and it names the secret of {}, whose key was used: this is the \
             same guest under a new UUID, or a copy of it",
            label(other)
        ),
        Relation::Name => format!(
            "the vTPM has no key, and a guest of this name, {}, has a used one: this is the same \
             guest under a new UUID, or a new guest",
            other.uuid
        ),
    };
    let clone = format!("vtpm-guard key clone {} {guest}", argument(other, domain));
    let bind = format!("vtpm-guard key bind {guest} --provider NAME");
    let first = if is_defined { "" } else { DEFINE_FIRST };
    let hint = if other.is_defined {
        format!("{first}give the copy a secret UUID of its own (virsh edit {guest}), then: {clone}")
    } else if relative.has_state {
        format!("{first}take its TPM and key over: {clone}; for a new guest: {bind}")
    } else {
        format!(
            "{first}for a new guest: {bind}; for the same one, whose TPM's state is not on this \
             host, bring that back from a backup, then: {clone}"
        )
    };
    (message, hint)
}

fn of_lost_key(domain: Named<'_>, why: &Refusal) -> (String, String) {
    let guest = Arg::guest(domain);
    match why {
        Refusal::KeyUnknown => (
            "the vTPM has its state already, and no key of this host is known to open it"
                .to_owned(),
            format!(
                "bring its key from the backup of a store that has it: vtpm-guard key import \
                 {guest} --from BACKUP"
            ),
        ),
        Refusal::KeyNotImported => (
            "the TPM's state is on its way, and this host has no key for it".to_owned(),
            format!(
                "bring its key from a backup of the other host's store: vtpm-guard key import \
                 {guest} --from BACKUP"
            ),
        ),
        Refusal::KeyRetired { key_ref } => (
            format!("key reference {key_ref} opens the TPM's state, and it is retired"),
            format!("use it: vtpm-guard key use {key_ref}"),
        ),
        Refusal::KeyOfOtherGuest {
            holder, is_defined, ..
        } => (
            format!(
                "the TPM's state is that of {}: its key opens it",
                label(holder)
            ),
            format!(
                "{}vtpm-guard key clone {} {guest}",
                if *is_defined {
                    "give this guest the key, too: "
                } else {
                    DEFINE_FIRST
                },
                argument(holder, domain)
            ),
        ),
        _ => unreachable!("only refusals that miss something come here"),
    }
}

/// The beginning of a hint whose command needs libvirt to know the guest.
const DEFINE_FIRST: &str = "define it first (virsh define FILE); ";

fn state_elsewhere(guest: &Arg, state: &StateElsewhere) -> (String, String) {
    let StateElsewhere { path, wanted, kind } = state;
    let (path, wanted) = (path.display(), Arg::file(wanted));
    match kind {
        ElsewhereKind::OtherVersion(version) => {
            let (version, other) = match version {
                TpmVersion::V1_2 => ("1.2", "2.0"),
                TpmVersion::V2_0 => ("2.0", "1.2"),
            };
            (
                format!("its XML asks for a TPM {other}, while its TPM is a {version}: {path}"),
                format!("set version='{version}' in the <backend> of the TPM: virsh edit {guest}"),
            )
        }
        ElsewhereKind::LastSeen => (
            format!(
                "its XML looks for the TPM's state elsewhere than the last start found it: {path}"
            ),
            format!(
                "let the <source> of the TPM name that place again: virsh edit {guest}; or move the state to {wanted}"
            ),
        ),
        ElsewhereKind::OwnDirectory => (
            format!(
                "its XML looks for the TPM's state in another place than libvirt kept it: {path}"
            ),
            format!(
                "remove the <source> of the TPM: virsh edit {guest}; or move the state to {wanted}"
            ),
        ),
    }
}

/// Another domain, in a sentence.
fn label(other: &OtherGuest) -> String {
    match &other.name {
        Some(name) => format!("{} ({})", quoted(name), other.uuid),
        None => other.uuid.to_string(),
    }
}

/// Another domain, as the argument of a command: by name, unless that could be another guest's.
fn argument(other: &OtherGuest, guest: Named<'_>) -> Arg {
    match &other.name {
        Some(name) if other.is_defined && name != guest.name => Arg::guest(Named {
            name,
            uuid: Some(other.uuid),
        }),
        _ => Arg::uuid(other.uuid),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::ids::DomainUuid;

    const OTHER: &str = "d0000000-0000-4000-8000-000000000002";

    fn hint(why: &Refusal) -> String {
        words("vm1".into(), why).1
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
                "take its TPM",
                bind.to_owned(),
            ),
            (
                relative(Relation::Name, false, true),
                "take its TPM",
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
            assert_eq!(hint(relative, false), format!("{DEFINE_FIRST}{defined}"));
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
                let (message, hint) = words("vm1".into(), &why);
                assert!(message.contains("/there/tpm2-00.permall"), "{message}");
                assert!(hint.contains(word), "{hint}");
            }
        }
    }
}
