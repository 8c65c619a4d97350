//! The sentences of what was noticed, and of starts that go on.

use super::refusals::refusal;
use super::{Arg, Named, date, quoted};
use crate::clock::Timestamp;
use crate::verdict::facts::{Arrival, CopyReason};
use crate::verdict::{Finding, Reason};

/// Why a start goes on.
#[must_use]
pub fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NoEmulatedTpm => "no emulated TPM",
        Reason::Unencrypted => "its vTPM is not encrypted",
        Reason::UnreadableXml => "the domain XML could not be read; an encrypted vTPM gets no key",
        Reason::Proven => "the key opens the TPM's state",
        Reason::Unproven => "the key is there, and no TPM state contradicts it",
        Reason::NewKey => "a new key for a new TPM",
        Reason::NotAStart => "not a start: only prepare may be refused",
        Reason::LoadedSecret => "libvirtd loaded its secret before it started it",
        Reason::HostSecret => "libvirt's own secret carries the start",
        Reason::ClientsKey => "its key comes from whoever starts it",
    }
}

/// What was noticed: its kind for JSON, its sentence for people.
#[must_use]
pub fn finding<'a>(guest: impl Into<Named<'a>>, finding: &Finding) -> (&'static str, String) {
    let guest = guest.into();
    match finding {
        Finding::StateUnreadable(how) => (
            "state-unreadable",
            format!("the TPM's state proves no key: {how}"),
        ),
        Finding::OrphanPlaceholder(id) => (
            "orphan-placeholder",
            format!("key reference {id} is a placeholder beside the row that is used"),
        ),
        Finding::ProviderLost { key_ref, provider } => (
            "provider-lost",
            format!(
                "key reference {key_ref} lost its provider {} and is bound again",
                quoted(provider)
            ),
        ),
        Finding::DuplicateKey(id) => (
            "duplicate-key",
            format!("key reference {id} holds the same key once more"),
        ),
        Finding::UnusableKey(id) => (
            "unusable-key",
            format!("key reference {id} is not this TPM's key, and is retired"),
        ),
        Finding::IncompleteRow(id) => (
            "incomplete-row",
            format!("key reference {id} lacked values, or named another secret or an old name"),
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
                "libvirt's secret is not managed by the guard; take it over: \
                 vtpm-guard adopt {} --provider NAME",
                Arg::guest(guest)
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
            "the TPM's state is gone, and policy.missing_state lets libvirt make a new TPM"
                .to_owned(),
        ),
        Finding::FreshTpm => (
            "fresh-tpm",
            "the TPM's state went with the last run of this transient guest, and \
             policy.transient_state gives each run a new TPM"
                .to_owned(),
        ),
        Finding::StateGone { .. } | Finding::StateDamaged { .. } | Finding::StateArrives { .. } => {
            state_elsewhere(finding)
        }
        Finding::CopyNotKept(how) => (
            "copy-not-kept",
            format!("no copy of the TPM's state was kept, should this start fail: {how}"),
        ),
        Finding::ConfigurationBroken(how) => {
            ("configuration-broken", format!("the defaults hold: {how}"))
        }
        Finding::NotRecorded(how) => (
            "not-recorded",
            format!("the repairs and this start could not be recorded: {how}"),
        ),
    }
}

/// When a copy was kept.
fn when(reason: CopyReason) -> &'static str {
    match reason {
        CopyReason::Start => "before a start that failed",
        CopyReason::Release => "after the last run",
    }
}

/// Where the TPM's state is, if it is not in its place.
fn state_elsewhere(finding: &Finding) -> (&'static str, String) {
    match finding {
        Finding::StateGone { reason, saved_at } => (
            "state-gone",
            format!(
                "the TPM's state is gone; the copy that was kept {} on {} takes its place; should \
                 the guest have run on another host since, it is older than that run",
                when(*reason),
                date(*saved_at)
            ),
        ),
        Finding::StateDamaged { how, reason } => (
            "state-damaged",
            format!(
                "the TPM's state is damaged ({how}); it is set aside, and the copy that was kept {} \
                 takes its place",
                when(*reason)
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
        Arrival::Migration => ("the migration", "where it comes from"),
        Arrival::Restore => ("the saved guest", "since it was saved"),
        Arrival::Snapshot => ("the snapshot", "since it was made"),
    };
    let used = first_used_at.map_or_else(String::new, |at| {
        format!(
            "; its key has been in use here since {}; if the key was renewed {elsewhere}, the start will fail",
            date(at)
        )
    });
    format!("the TPM's state arrives with {brings}, so nothing here proves its key{used}")
}

/// What was noticed of libvirt's own secret.
fn host_secret(guest: Named<'_>, finding: &Finding) -> (&'static str, String) {
    match finding {
        Finding::ClientsKey => (
            "clients-key",
            "the guest's key comes from whoever starts it, in a secret that libvirt discloses to \
             nobody"
                .to_owned(),
        ),
        Finding::HiddenValue(secret) => (
            "hidden-value",
            format!(
                "libvirt has a value for the secret {secret} that it does not disclose; it was left \
                 in place. If the guest fails to start with it and nothing else needs it: \
                 virsh secret-undefine {secret}"
            ),
        ),
        Finding::HostValueKept => (
            "host-value-kept",
            "libvirt's secret had another value than the key; it is kept as a retired key reference"
                .to_owned(),
        ),
        _ => (
            "host-value-proven",
            format!(
                "libvirt's own secret opens the TPM's state, and no key reference does; take it \
                 over: vtpm-guard adopt {} --provider NAME",
                Arg::guest(guest)
            ),
        ),
    }
}
