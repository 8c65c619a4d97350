//! The sentences of findings, and of the reasons why a start goes on.

use super::{Arg, Command, Named, date, quoted, refusal};
use crate::clock::Timestamp;
use crate::verdict::facts::{Arrival, CopyReason};
use crate::verdict::refusal::Refusal;
use crate::verdict::{Finding, Reason};

/// Why a start goes on.
#[must_use]
pub fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NoEmulatedTpm => "no emulated TPM",
        Reason::Unencrypted => "the vTPM is not encrypted",
        Reason::UnreadableXml => "the domain XML could not be read; an encrypted vTPM gets no key",
        Reason::Proven => "the key opens the TPM state",
        Reason::Unproven => "key available; no TPM state to verify it against",
        Reason::NewKey => "new key for a new TPM",
        Reason::NotAStart => "not a start: only prepare can be refused",
        Reason::LoadedSecret => "libvirtd had already loaded its secret",
        Reason::HostSecret => "starts with libvirt's own secret",
        Reason::ClientsKey => "the client that starts it provides its key",
    }
}

/// A finding: its kind for JSON, its sentence for people.
#[must_use]
pub fn finding<'a>(guest: impl Into<Named<'a>>, finding: &Finding) -> (&'static str, String) {
    (kind(finding), sentence(guest.into(), finding))
}

fn kind(finding: &Finding) -> &'static str {
    match finding {
        Finding::StateUnreadable(_) => "state-unreadable",
        Finding::OrphanPlaceholder(_) => "orphan-placeholder",
        Finding::ProviderLost { .. } => "provider-lost",
        Finding::DuplicateKey(_) => "duplicate-key",
        Finding::UnusableKey(_) => "unusable-key",
        Finding::IncompleteRow(_) => "incomplete-row",
        Finding::Degraded(_) => "degraded",
        Finding::Unmanaged => "unmanaged",
        Finding::KeyInMemoryOnly { .. } => "key-in-memory-only",
        Finding::ClientsKey => "clients-key",
        Finding::HiddenValue(_) => "hidden-value",
        Finding::HostValueKept => "host-value-kept",
        Finding::HostValueProven => "host-value-proven",
        Finding::StoreUnusable(_) => "store-unusable",
        Finding::XmlUnreadable(_) => "xml-unreadable",
        Finding::DefinitionRead(_) => "definition-read",
        Finding::NewTpmAllowed => "new-tpm",
        Finding::FreshTpm => "fresh-tpm",
        Finding::StateGone { .. } => "state-gone",
        Finding::StateDamaged { .. } => "state-damaged",
        Finding::StateArrives { .. } => "state-arrives",
        Finding::KeyLearnt { .. } => "key-learnt",
        Finding::FleetKeyLearnt { .. } => "fleet-key-learnt",
        Finding::FleetKeyOutOfReach(_) => "fleet-key-out-of-reach",
        Finding::FleetFactsIgnored(_) => "fleet-facts-ignored",
        Finding::FleetSilent(_) => "fleet-silent",
        Finding::RunsElsewhere(_) => "runs-elsewhere",
        Finding::FleetKeyPreferred(_) => "fleet-key-preferred",
        Finding::XmlKeyPreferred(_) => "xml-key-preferred",
        Finding::OtherKeyInXml => "other-key-in-xml",
        Finding::XmlKeysDamaged(_) => "xml-keys-damaged",
        Finding::CopyNotKept(_) => "copy-not-kept",
        Finding::ConfigurationBroken(_) => "configuration-broken",
        Finding::NotRecorded(_) => "not-recorded",
    }
}

#[allow(
    clippy::too_many_lines,
    reason = "one sentence for each finding, and the compiler finds a missing one"
)]
fn sentence(guest: Named<'_>, finding: &Finding) -> String {
    match finding {
        Finding::StateUnreadable(how) => format!("the TPM state cannot verify a key: {how}"),
        Finding::OrphanPlaceholder(id) => {
            format!("key reference {id} is a placeholder next to the one in use")
        }
        Finding::ProviderLost { key_ref, provider } => format!(
            "key reference {key_ref} named provider {}, which is gone, and is rebound",
            quoted(provider)
        ),
        Finding::DuplicateKey(id) => format!("key reference {id} duplicates the key"),
        Finding::UnusableKey(id) => {
            format!("key reference {id} is not this TPM's key, and is retired")
        }
        Finding::IncompleteRow(id) => format!("key reference {id} was incomplete or outdated"),
        Finding::Degraded(why) => tolerated(guest, why),
        Finding::Unmanaged => format!(
            "libvirt's secret is not managed by vtpm-guard; adopt it: {}",
            Command::AdoptWith(guest.into(), Arg::NAME)
        ),
        Finding::KeyInMemoryOnly { retired } => {
            let retired = *retired;
            let words = refusal(guest, &Refusal::KeyInMemoryOnly { retired });
            format!(
                "no key reference in use has the guest's key, only libvirt's memory, and only until the \
                 daemon that has its secrets restarts; {}",
                words.hint
            )
        }
        Finding::ClientsKey => "the client that starts the guest provides its key, in a private \
             secret, which libvirt does not disclose"
            .to_owned(),
        Finding::HiddenValue(secret) => format!(
            "libvirt has an undisclosed value for the secret {secret}, which is left in place; if \
             the guest fails to start with it and nothing else needs it, remove it: {}",
            Command::VirshSecretUndefine((*secret).into())
        ),
        Finding::HostValueKept => "libvirt's secret had another value than the key; that value is \
             kept as a retired key reference"
            .to_owned(),
        Finding::HostValueProven => format!(
            "libvirt's own secret opens the TPM state, and no key reference does; adopt it: {}",
            Command::AdoptWith(guest.into(), Arg::NAME)
        ),
        Finding::StoreUnusable(error) => tolerated(guest, &Refusal::Store(error.clone())),
        Finding::XmlUnreadable(how) | Finding::DefinitionRead(how) => how.clone(),
        Finding::NewTpmAllowed => {
            "the TPM state is gone, and policy.missing_state lets libvirt create a new TPM"
                .to_owned()
        }
        Finding::FreshTpm => "the TPM state was deleted after the last run of this transient \
             guest, and policy.transient_state gives each run a new TPM"
            .to_owned(),
        Finding::StateGone {
            reason: CopyReason::Fleet,
            saved_at,
        } => format!(
            "there is no TPM state here; the one of {} in the fleet's store is used; no later run of \
             the guest is known here",
            date(*saved_at)
        ),
        Finding::StateGone { reason, saved_at } => format!(
            "the TPM state is gone; the copy saved {} on {} is restored; if the guest has run on \
             another host since, the copy is older than that run",
            when(*reason),
            date(*saved_at)
        ),
        Finding::StateDamaged { how, reason } => format!(
            "the TPM state is damaged ({how}); it is set aside, and the copy saved {} is restored",
            when(*reason)
        ),
        Finding::StateArrives {
            arrival,
            first_used_at,
        } => state_arrives(*arrival, *first_used_at),
        Finding::KeyLearnt { provider } => format!(
            "the guest's XML has its key, wrapped by provider {}, and this host had none",
            quoted(provider)
        ),
        Finding::FleetKeyLearnt { provider } => format!(
            "the fleet's store has the guest's key, wrapped by provider {}, and this host had none",
            quoted(provider)
        ),
        Finding::FleetKeyOutOfReach(why) => format!(
            "the fleet's store has a key of the guest, which does not open here: {}",
            tolerated(guest, why)
        ),
        Finding::FleetFactsIgnored(number) => format!(
            "{number} of what the fleet's store has of the guest is not what it says it is, and is \
             ignored"
        ),
        Finding::FleetSilent(why) => format!("the fleet's store did not answer: {why}"),
        Finding::RunsElsewhere(runs_on) => format!(
            "the guest runs on host {} since {}, as that host has said last",
            quoted(&runs_on.host),
            date(runs_on.since)
        ),
        Finding::FleetKeyPreferred(id) => format!(
            "the fleet's store has another key than key reference {id}, as new as that one; the \
             fleet's is used, because the TPM state arrives from another host"
        ),
        Finding::XmlKeyPreferred(id) => format!(
            "the guest's XML has another key than key reference {id}, as new as that one; the XML's \
             is used, because the TPM state arrives from the host that wrote it"
        ),
        Finding::OtherKeyInXml => {
            "the guest's XML has another key than the one in use; it is ignored".to_owned()
        }
        Finding::XmlKeysDamaged(fault) => {
            format!("the keys in the guest's XML are damaged: {fault}")
        }
        Finding::CopyNotKept(how) => format!(
            "no copy of the TPM state was saved, and libvirt deletes it if this start fails: {how}"
        ),
        Finding::ConfigurationBroken(how) => format!("using the default configuration: {how}"),
        Finding::NotRecorded(how) => {
            format!("the repairs and this start could not be recorded: {how}")
        }
    }
}

/// A refusal that the policy turned into a warning.
fn tolerated(guest: Named<'_>, why: &Refusal) -> String {
    let words = refusal(guest, why);
    format!("{}: {}; {}", why.code(), words.message, words.hint)
}

/// When a copy was saved.
fn when(occasion: CopyReason) -> &'static str {
    match occasion {
        CopyReason::Start => "before a failed start",
        CopyReason::Release => "after the last run",
        CopyReason::Fleet => "by the fleet after a run",
    }
}

fn state_arrives(arrival: Arrival, first_used_at: Option<Timestamp>) -> String {
    let (brings, elsewhere) = match arrival {
        Arrival::Migration => ("the migration", "on the source host"),
        Arrival::Restore => ("the saved guest", "after it was saved"),
        Arrival::Snapshot => ("the snapshot", "after it was taken"),
    };
    let used = first_used_at.map_or_else(String::new, |at| {
        format!(
            "; the key has been used here since {}; if it was renewed {elsewhere}, the start will \
             fail",
            date(at)
        )
    });
    format!("the TPM state arrives with {brings}, so its key cannot be verified here{used}")
}
