//! TPM states that swtpm would refuse whatever the key: damaged, in use elsewhere, out of reach of
//! its user.

use std::collections::BTreeSet;

use super::Ailment;
use crate::cli::context::Context;
use crate::domain;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::messages::{Words, one_line, refusal};
use crate::verdict::refusal::Refusal;

pub(crate) fn ailments(context: &Context) -> Vec<Ailment> {
    let (Ok(guard), Ok(guests)) = (
        context.host.guard(BrokenConfig::UseDefaults),
        context.host.libvirt().guests(default_deadline()),
    ) else {
        // That is said elsewhere.
        return Vec::new();
    };
    // A directory that is closed is closed for all guests.
    let mut told = BTreeSet::new();
    let stopped = guests.into_iter().filter(|guest| !guest.running);
    stopped
        .filter_map(|guest| {
            let domain = domain::read(guest.xml.as_bytes()).ok()?;
            let why = guard.unusable_state(&domain)?;
            let Words { message, hint } = refusal(&guest.name, &why);
            told.insert(message.clone())
                .then(|| ailment(&guest.name, &why, &message, hint))
        })
        .collect()
}

fn ailment(guest: &str, why: &Refusal, message: &str, hint: String) -> Ailment {
    Ailment::fault(
        format!("{} ({}): {message}", one_line(guest), why.code()),
        "the guest's next start fails",
        hint,
    )
}
