//! The sentences of findings, and of the reasons why a start goes on.

use super::{Arg, Command, Named, date, quoted, refusal};
use crate::clock::Timestamp;
use crate::verdict::facts::{Arrival, CopyReason};
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
    let guest = guest.into();
    match finding {
        Finding::StateUnreadable(how) => (
            "state-unreadable",
            format!("the TPM state cannot verify a key: {how}"),
        ),
        Finding::OrphanPlaceholder(id) => (
            "orphan-placeholder",
            format!("key reference {id} is a placeholder next to the one in use"),
        ),
        Finding::ProviderLost { key_ref, provider } => (
            "provider-lost",
            format!(
                "key reference {key_ref} named provider {}, which is gone, and is rebound",
                quoted(provider)
            ),
        ),
        Finding::DuplicateKey(id) => (
            "duplicate-key",
            format!("key reference {id} duplicates the key"),
        ),
        Finding::UnusableKey(id) => (
            "unusable-key",
            format!("key reference {id} is not this TPM's key, and is retired"),
        ),
        Finding::IncompleteRow(id) => (
            "incomplete-row",
            format!("key reference {id} was incomplete or outdated"),
        ),
        Finding::Degraded(why) => {
            let words = refusal(guest, why);
            (
                "degraded",
                format!("{}: {}; {}", why.code(), words.message, words.hint),
            )
        }
        Finding::Unmanaged => (
            "unmanaged",
            format!(
                "libvirt's secret is not managed by vtpm-guard; adopt it: {}",
                Command::AdoptWith(guest.into(), Arg::NAME)
            ),
        ),
        Finding::ClientsKey
        | Finding::HiddenValue(_)
        | Finding::HostValueKept
        | Finding::HostValueProven => host_secret(guest, finding),
        Finding::StoreUnusable(trouble) => {
            let why = crate::verdict::refusal::Refusal::Store(trouble.clone());
            let words = refusal(guest, &why);
            (
                "store-unusable",
                format!("{}: {}; {}", why.code(), words.message, words.hint),
            )
        }
        Finding::XmlUnreadable(how) => ("xml-unreadable", how.clone()),
        Finding::DefinitionRead(how) => ("definition-read", how.clone()),
        Finding::NewTpmAllowed => (
            "new-tpm",
            "the TPM state is gone, and policy.missing_state lets libvirt create a new TPM"
                .to_owned(),
        ),
        Finding::FreshTpm => (
            "fresh-tpm",
            "the TPM state was deleted after the last run of this transient guest, and \
             policy.transient_state gives each run a new TPM"
                .to_owned(),
        ),
        Finding::StateGone { .. } | Finding::StateDamaged { .. } | Finding::StateArrives { .. } => {
            state_elsewhere(finding)
        }
        Finding::CopyNotKept(how) => (
            "copy-not-kept",
            format!("no copy of the TPM state was saved in case this start fails: {how}"),
        ),
        Finding::ConfigurationBroken(how) => (
            "configuration-broken",
            format!("using the default configuration: {how}"),
        ),
        Finding::NotRecorded(how) => (
            "not-recorded",
            format!("the repairs and this start could not be recorded: {how}"),
        ),
    }
}

/// When a copy was saved.
fn when(occasion: CopyReason) -> &'static str {
    match occasion {
        CopyReason::Start => "before a failed start",
        CopyReason::Release => "after the last run",
    }
}

/// What is said of a TPM state that is missing, damaged or arriving.
fn state_elsewhere(finding: &Finding) -> (&'static str, String) {
    match finding {
        Finding::StateGone { occasion, kept_at } => (
            "state-gone",
            format!(
                "the TPM state is gone; the copy saved {} on {} is restored; if the guest has run on \
                 another host since, the copy is older than that run",
                when(*occasion),
                date(*kept_at)
            ),
        ),
        Finding::StateDamaged { how, occasion } => (
            "state-damaged",
            format!(
                "the TPM state is damaged ({how}); it is set aside, and the copy saved {} is restored",
                when(*occasion)
            ),
        ),
        Finding::StateArrives {
            arrival,
            first_used_at,
        } => ("state-arrives", state_arrives(*arrival, *first_used_at)),
        _ => unreachable!("only findings about the TPM's state come here"),
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
            "; the key has been used here since {}; if it was renewed {elsewhere}, the start will fail",
            date(at)
        )
    });
    format!("the TPM state arrives with {brings}, so its key cannot be verified here{used}")
}

/// What is said of libvirt's own secret.
fn host_secret(guest: Named<'_>, finding: &Finding) -> (&'static str, String) {
    match finding {
        Finding::ClientsKey => (
            "clients-key",
            "the client that starts the guest provides its key, in a private secret, which libvirt \
             does not disclose"
                .to_owned(),
        ),
        Finding::HiddenValue(secret) => (
            "hidden-value",
            format!(
                "libvirt does not disclose its value for the secret {secret}, which is left in place; if \
                 the guest fails to start with it and nothing else needs it, remove it: {}",
                Command::VirshSecretUndefine((*secret).into())
            ),
        ),
        Finding::HostValueKept => (
            "host-value-kept",
            "libvirt's secret had another value than the key; that value is kept as a retired key \
             reference"
                .to_owned(),
        ),
        _ => (
            "host-value-proven",
            format!(
                "libvirt's own secret opens the TPM state, and no key reference does; adopt it: {}",
                Command::AdoptWith(guest.into(), Arg::NAME)
            ),
        ),
    }
}
