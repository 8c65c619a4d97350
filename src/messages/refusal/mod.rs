//! A refusal in words: what is wrong, and what fixes it.

mod hint;
mod message;

pub use hint::reopen;

use super::{Arg, Named, label, one_line, quoted};
use crate::verdict::Finding;
use crate::verdict::elsewhere::OtherGuest;
use crate::verdict::refusal::Refusal;

/// What is wrong, and the command that fixes it. Neither ends in a full stop: they are parts
/// of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// What is wrong.
    pub message: String,
    /// What fixes it.
    pub hint: String,
}

/// The words for the refusal of this guest's start.
#[must_use]
pub fn refusal<'a>(guest: impl Into<Named<'a>>, why: &Refusal) -> Words {
    Words {
        message: message::message(why),
        hint: hint::hint(guest.into(), why),
    }
}

/// The line of a refusal, as libvirt shows it to the client that started the guest:
/// `vtpm-guard: VG102 provider-key-mismatch: vm1: …; …`
#[must_use]
pub fn refusal_line<'a>(guest: impl Into<Named<'a>>, why: &Refusal) -> String {
    let guest = guest.into();
    let Words { message, hint } = refusal(guest, why);
    one_line(&format!(
        "vtpm-guard: {}: {}: {message}; {hint}",
        why.code(),
        label(guest.name)
    ))
}

/// The same line of a verdict. What the fleet's store might have, had it answered, comes before all that makes a new
/// key or a new TPM.
#[must_use]
pub fn refused_line<'a>(
    guest: impl Into<Named<'a>>,
    why: &Refusal,
    findings: &[Finding],
) -> String {
    let guest = guest.into();
    let silent = findings.iter().find_map(|finding| match finding {
        Finding::FleetSilent(why) => Some(why),
        _ => None,
    });
    let defaults = findings.iter().find_map(|finding| match finding {
        Finding::ConfigurationBroken(how) => Some(how),
        _ => None,
    });
    if let (Some(how), None) = (defaults, silent) {
        let Words { message, hint } = refusal(guest, why);
        return one_line(&format!(
            "vtpm-guard: {}: {}: {message} (by the default configuration, for this host's cannot be used: {how}); {hint}",
            why.code(),
            label(guest.name)
        ));
    }
    let Some(silent) = silent else {
        return refusal_line(guest, why);
    };
    let Words { message, hint } = refusal(guest, why);
    one_line(&format!(
        "vtpm-guard: {}: {}: {message} (the fleet's store, which might have it, did not answer: {silent}); \
         retry once it answers; or {hint}",
        why.code(),
        label(guest.name)
    ))
}

/// Another guest, in a sentence.
fn other_label(other: &OtherGuest) -> String {
    match &other.name {
        Some(name) => format!("{} ({})", quoted(name), other.uuid),
        None => other.uuid.to_string(),
    }
}

/// Another guest, as the argument of a command: by name, unless that could be this guest's.
fn other_argument(other: &OtherGuest, guest: Named<'_>) -> Arg {
    match &other.name {
        Some(name) if other.is_defined && name != guest.name => Arg::guest(Named {
            name,
            uuid: Some(other.uuid),
        }),
        _ => other.uuid.into(),
    }
}
