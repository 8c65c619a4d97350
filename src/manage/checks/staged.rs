//! Guests that start with the daemon: are their keys staged before it starts, and removed after?

use super::drop_in::{self, Lacking};
use super::{Finding, HookFinding};
use crate::libvirt::Daemons;
use crate::manage::host::Host;
use crate::staging::{Definition, DefinitionFiles};

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let staged = host.staging_dir().staged().unwrap_or_default().len();
    let left = (staged > 0).then_some(HookFinding::LeftStaged(staged));
    let both = lacking(host).into_iter().chain(left);
    both.map(Finding::from).collect()
}

/// The modular daemons need no keys beforehand.
fn lacking(host: &Host) -> Option<HookFinding> {
    if host.daemons() == Daemons::Modular {
        return None;
    }
    let lacking = drop_in::lacking()?;
    let starting = DefinitionFiles::from(&host.libvirt_dirs()).autostarting();
    let starting = starting.ok()?;
    let is_encrypted = |guest: &Definition| {
        let domain = guest.domain.as_ref();
        domain.is_ok_and(|domain| domain.encrypted_vtpm().is_some())
    };
    let guest = starting.into_iter().find(is_encrypted)?.name;
    Some(match lacking {
        Lacking::Stage => HookFinding::NobodyStages { guest },
        Lacking::UnstageAfterFailure => HookFinding::NobodyUnstages,
        Lacking::UnstageThatWaits => HookFinding::UnstageGivesUp,
    })
}
