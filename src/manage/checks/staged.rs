//! Guests that start with the daemon: are their keys staged before it starts, and removed after?

use super::drop_in::{self, Lacking};
use super::{Finding, HookFinding};
use crate::host::dirs::LibvirtDirs;
use crate::manage::host::Host;
use crate::staging::{Definition, DefinitionFiles};

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let staged = host.staging_dir().staged().unwrap_or_default().len();
    let left = (staged > 0).then_some(HookFinding::LeftStaged(staged));
    let both = lacking(&host.libvirt_dirs()).into_iter().chain(left);
    both.map(Finding::from).collect()
}

fn lacking(dirs: &LibvirtDirs) -> Option<HookFinding> {
    let lacking = drop_in::lacking(dirs)?;
    let starting = DefinitionFiles::from(dirs).autostarting().ok()?;
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
