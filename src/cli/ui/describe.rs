//! Sentences that several commands say.

use super::error::CommandError;
use crate::ids::SecretUuid;
use crate::libvirt::secret::SecretError;
use crate::manage::guests::GuestRef;
use crate::manage::persist_state::{DeletedStates, PersistError, Survival};
use crate::manage::shared_secrets::SharedSecret;
use crate::messages::{Arg, Command, count, kind, label, quoted};

/// "3 guests unknown to libvirt still have keys; …"; `None` for none.
pub(crate) fn unknown_guests(guests: usize) -> Option<String> {
    let subject = match guests {
        0 => return None,
        1 => "1 guest unknown to libvirt still has keys".to_owned(),
        _ => format!("{guests} guests unknown to libvirt still have keys"),
    };
    // What runs elsewhere, or will, needs its key here when it comes back.
    let prune = Command::KeyPruneDryRun;
    Some(format!(
        "{subject}; if none of them runs on another host: {prune}"
    ))
}

/// How a guest whose TPM has no state yet gets an encrypted one.
pub(crate) fn name_secret(guest: Arg<kind::Guest>) -> String {
    format!(
        "{}, in the TPM's <backend>: <encryption secret='{}'/>",
        Command::VirshEdit(guest),
        SecretUuid::random()
    )
}

/// How a guest gets the attribute whose XML libvirt does not keep.
pub(crate) const PERSISTENT_STATE_BY_HAND: &str =
    "in the XML that it is created from: <backend type='emulator' persistent_state='yes' ...>";

/// What was set in a guest's XML.
pub(crate) fn persistent_state_set(guest: &GuestRef) -> String {
    format!(
        "the XML of {} has persistent_state='yes' now: libvirt keeps the TPM state when the guest \
         is undefined",
        guest.label()
    )
}

/// What becomes of the TPM state of a guest whose key was changed, for the notes of an answer.
pub(crate) fn survival(survival: &Survival) -> impl Iterator<Item = String> {
    let deleted = deleted_states(&survival.deleted).into_iter();
    deleted.map(|Keep { what, fix }| format!("{what}; {fix}"))
}

/// What was done is done, but the XML is as it was.
pub(crate) fn not_persisted(done: &str, error: PersistError) -> CommandError {
    let error = CommandError::from(error);
    let failed = CommandError::failed(format!("{done}, but {error}"));
    match error.hint() {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    }
}

/// libvirt did not change a guest's XML.
pub(crate) fn not_redefined(guest: GuestRef, error: SecretError) -> CommandError {
    let part = format!("the XML of {} was not changed", guest.label());
    if error.is_silence() {
        return CommandError::from(error).after(part);
    }
    CommandError::failed(format!("{part}: {error}")).with_hint(format!(
        "show it: {}; then run it again",
        Command::VirshDumpxml(guest.arg)
    ))
}

/// Something that may be lost, and how to keep it.
pub(crate) struct Keep {
    pub(crate) what: String,
    pub(crate) fix: String,
}

/// Which guests' TPM states libvirt deletes, and how to keep them.
pub(crate) fn deleted_states(deleted: &DeletedStates) -> Vec<Keep> {
    let at_undefine = Some(&deleted.at_undefine[..]).filter(|guests| !guests.is_empty());
    let at_stop = Some(&deleted.at_stop[..]).filter(|guests| !guests.is_empty());
    let at_undefine = at_undefine.map(deleted_at_undefine).into_iter();
    at_undefine.chain(at_stop.map(deleted_at_stop)).collect()
}

/// Guests whose TPM states libvirt deletes when they are undefined.
pub(crate) fn deleted_at_undefine(guests: &[GuestRef]) -> Keep {
    let persist = match guests {
        [one] => Command::StatePersist(one.arg.clone()),
        _ => Command::StatePersistAll,
    };
    Keep {
        what: format!(
            "libvirt deletes the TPM state of {} when it is undefined",
            some_guests(guests)
        ),
        fix: format!("keep it: {persist}"),
    }
}

/// Guests whose TPM states libvirt deletes when they stop.
pub(crate) fn deleted_at_stop(guests: &[GuestRef]) -> Keep {
    Keep {
        what: format!(
            "libvirt deletes the TPM state of {} at each stop, and only this host has a copy then",
            some_guests(guests)
        ),
        fix: format!("keep it: {PERSISTENT_STATE_BY_HAND}"),
    }
}

/// "vm1", "each of vm1 and vm2", "each of vm1 and 3 other guests".
fn some_guests(guests: &[GuestRef]) -> String {
    match guests {
        [] => String::new(),
        [one] => one.label(),
        [one, other] => format!("each of {} and {}", one.label(), other.label()),
        [one, others @ ..] => {
            let others = count(others.len(), "other guest");
            format!("each of {} and {others}", one.label())
        }
    }
}

/// "the keys of 3 guests are not in their domain XML yet: …"; `None` for none.
pub(crate) fn not_travelling(guests: usize) -> Option<String> {
    (guests > 0).then(|| {
        format!(
            "the keys of {} are not in their domain XML yet: {}",
            count(guests, "guest"),
            Command::Sync
        )
    })
}

/// What is wrong with a shared secret, and how to fix it.
pub(crate) fn shared_secret(shared: &SharedSecret) -> (String, String) {
    let names: Vec<_> = shared.guests.iter().map(|one| label(&one.name)).collect();
    let last = shared.guests.last().map_or(Arg::DOMAIN, Arg::guest);
    (
        format!(
            "{} name the libvirt secret {} and have different keys",
            names.join(", "),
            shared.secret
        ),
        format!(
            "give each of them a secret UUID of its own: {}, <encryption secret='{}'/>",
            Command::VirshEdit(last),
            SecretUuid::random()
        ),
    )
}

/// That the configuration binds new guests to a provider which this host no longer has.
pub(crate) fn auto_binds_to(provider: &str) -> String {
    format!(
        "policy.auto_bind in the configuration still names {}: new guests are refused (VG101) until \
         it names a provider of this host",
        quoted(provider)
    )
}

#[cfg(test)]
mod tests {
    use super::{
        deleted_at_stop, deleted_at_undefine, deleted_states, not_travelling, unknown_guests,
    };
    use crate::ids::DomainUuid;
    use crate::manage::guests::GuestRef;
    use crate::manage::persist_state::DeletedStates;

    #[test]
    fn it_is_said_when_libvirt_deletes_which_state_and_what_keeps_it() {
        let guest = |name: &str| GuestRef::called(DomainUuid::random(), name);
        let names = |names: &[&str]| names.iter().map(|name| guest(name)).collect::<Vec<_>>();
        for (guests, whose, fix) in [
            (names(&["vm1"]), "of vm1 when", "state persist vm1"),
            (
                names(&["vm1", "vm2"]),
                "of each of vm1 and vm2 when",
                "--all",
            ),
            (
                names(&["vm1", "vm2", "vm3"]),
                "of each of vm1 and 2 other guests when",
                "--all",
            ),
        ] {
            let keep = deleted_at_undefine(&guests);
            assert!(keep.what.contains(whose), "{}", keep.what);
            assert!(keep.fix.ends_with(fix), "{}", keep.fix);
            let keep = deleted_at_stop(&guests);
            assert!(keep.fix.contains("persistent_state='yes'"), "{}", keep.fix);
        }
        let found = deleted_states(&DeletedStates {
            at_undefine: names(&["vm1"]),
            at_stop: Vec::new(),
        });
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn guests_are_counted_in_words() {
        assert_eq!(unknown_guests(0), None);
        assert_eq!(not_travelling(0), None);
        let one = "the keys of 1 guest are not in their domain XML yet: vtpm-guard sync";
        assert_eq!(not_travelling(1).as_deref(), Some(one));
        for (guests, words) in [
            (1, "1 guest unknown to libvirt still has keys; "),
            (3, "3 guests unknown to libvirt still have keys; "),
        ] {
            let said = unknown_guests(guests);
            assert!(said.is_some_and(|said| said.starts_with(words)), "{guests}");
        }
    }
}
