//! Sentences about the keys in guests' metadata.

use crate::manage::guests::GuestRef;
use crate::manage::sync::LeftForSync;
use crate::manage::travelling::{StayReason, StayingKey, TravelFinding};
use crate::messages::{Command, count, quoted};

/// What a finding says of this guest.
pub(crate) fn finding(guest: &GuestRef, finding: &TravelFinding) -> String {
    let (label, arg) = (guest.label(), || guest.arg.clone());
    match finding {
        TravelFinding::UnknownKey {
            generation,
            provider,
        } => format!(
            "the XML of {label} also has a key of provider {} (generation {generation}) that this \
             host does not have; it is kept there",
            quoted(provider)
        ),
        TravelFinding::NewerKey {
            generation,
            provider,
        } => format!(
            "the XML of {label} has a newer key, of provider {} (generation {generation}), that \
             this host does not have; nothing was written. The guest's next start here uses it, \
             if its TPM state was encrypted with it: {}",
            quoted(provider),
            Command::Check(arg())
        ),
        TravelFinding::OtherGuest { domain } => format!(
            "the XML of {label} has keys of {}, which this host does not have; nothing was written. \
             If they are needed nowhere, remove them: {}",
            domain.map_or_else(
                || "another guest".to_owned(),
                |uuid| format!("guest {uuid}")
            ),
            Command::VirshMetadataRemove(arg())
        ),
        TravelFinding::Unreadable => format!(
            "the XML of {label} has an element of vtpm-guard that cannot be read; nothing was \
             written. Show it: {}; remove it: {}",
            Command::VirshDumpxml(arg()),
            Command::VirshMetadataRemove(arg())
        ),
        TravelFinding::NotHere => format!(
            "{label} is not defined on this host: the keys that were written here stay in its XML \
             wherever it is defined now. They are removed if it comes back; there: {}",
            Command::VirshMetadataRemove(arg())
        ),
        TravelFinding::Stays(staying) => stays(guest, *staying),
    }
}

/// Why a key does not travel.
pub(crate) fn stays(guest: &GuestRef, staying: StayingKey) -> String {
    let why = match staying.reason {
        StayReason::UnknownFormat => "its format is unknown",
        StayReason::TooLong => "it is too long",
        StayReason::TooMany => "the guest has more keys than one XML takes",
    };
    format!(
        "key reference {} of {} does not travel: {why}",
        staying.key_ref,
        guest.label()
    )
}

/// What a command has left for `sync`.
pub(crate) fn left(left: &LeftForSync) -> String {
    let why = left
        .why
        .as_ref()
        .map_or(String::new(), |why| format!(": {why}"));
    format!(
        "the domain XML of {} does not have the changed keys yet{why}; write them: {}",
        count(left.guests, "guest"),
        Command::Sync
    )
}
