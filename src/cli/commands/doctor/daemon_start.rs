//! Guests that start with the daemon: are their keys staged before it starts, and removed after?

use super::Ailment;
use super::drop_in::{self, Lacking};
use crate::cli::ui::answer;
use crate::host::dirs::LibvirtDirs;
use crate::messages::quoted;
use crate::staging::{Definition, DefinitionFiles, StagingDir};

pub(crate) fn ailments(dirs: &LibvirtDirs) -> Vec<Ailment> {
    [nobody_stages(dirs), left_staged(dirs)]
        .into_iter()
        .flatten()
        .collect()
}

fn nobody_stages(dirs: &LibvirtDirs) -> Option<Ailment> {
    let lacking = drop_in::lacking(dirs)?;
    let starting = DefinitionFiles::from(dirs).autostarting().ok()?;
    let is_encrypted = |guest: &Definition| {
        let domain = guest.domain.as_ref();
        domain.is_ok_and(|domain| domain.encrypted_vtpm().is_some())
    };
    let guest = starting.into_iter().find(is_encrypted)?.name;
    let command = "install the packaged drop-in libvirtd.service.d/50-vtpm-guard.conf, then: \
                   systemctl daemon-reload";
    if lacking == Lacking::UnstageAfterFailure {
        return Some(Ailment::advice(
            "the drop-in of libvirtd.service does not run \"vtpm-guard unstage\" as ExecStopPost",
            "after a failed start of libvirtd the staged keys would stay in clear in /run",
            command,
        ));
    }
    Some(Ailment::fault(
        format!(
            "libvirtd starts {} by itself, but does not run \"vtpm-guard stage\" before",
            quoted(&guest)
        ),
        "a monolithic libvirtd takes no key while it starts its guests: they would be refused",
        command,
    ))
}

fn left_staged(dirs: &LibvirtDirs) -> Option<Ailment> {
    let staged = StagingDir::of_this_host(dirs).staged().ok()?;
    let keys = answer::count(Some(staged.len()).filter(|&keys| keys > 0)?, "key");
    Some(Ailment::fault(
        format!("{keys} still staged for the start of libvirtd"),
        "it has loaded them, and they need not lie in /run any longer",
        "vtpm-guard unstage",
    ))
}
