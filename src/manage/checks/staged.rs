//! Guests that start with the daemon: are their keys staged before it starts, and removed after?

use super::drop_in::{self, Lacking};
use super::{Finding, HookFinding, systemd};
use crate::libvirt::Daemons;
use crate::manage::host::Host;
use crate::staging::{Definition, DefinitionFiles};

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let staged = host.staging_dir().staged().unwrap_or_default().len();
    let left = (staged > 0).then_some(HookFinding::LeftStaged(staged));
    let both = lacking(host).into_iter().chain(left);
    both.map(Finding::from).collect()
}

fn lacking(host: &Host) -> Option<HookFinding> {
    // Nobody else reads drop-ins: `systemd` reports that there is none.
    let lacking = drop_in::lacking().filter(|_| systemd::runs());
    lacking.and_then(|lacking| lacking_on(host, lacking))
}

/// A guest with an encrypted vTPM that a monolithic libvirtd starts by itself. The modular daemons need no keys
/// beforehand.
pub(super) fn autostarted(host: &Host) -> Option<String> {
    if host.daemons() == Daemons::Modular {
        return None;
    }
    let starting = DefinitionFiles::from(&host.libvirt_dirs()).autostarting();
    let starting = starting.ok()?;
    let is_encrypted = |guest: &Definition| {
        let domain = guest.domain.as_ref();
        domain.is_ok_and(|domain| domain.encrypted_vtpm().is_some())
    };
    Some(starting.into_iter().find(is_encrypted)?.name)
}

fn lacking_on(host: &Host, lacking: Lacking) -> Option<HookFinding> {
    let guest = autostarted(host)?;
    Some(match lacking {
        Lacking::Stage => HookFinding::NobodyStages { guest },
        Lacking::UnstageAfterFailure => HookFinding::NobodyUnstages,
        Lacking::UnstageThatWaits => HookFinding::UnstageGivesUp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::tests::fixture::Fixture;

    #[test]
    fn what_a_daemon_lacks_matters_where_a_guest_with_a_key_starts_with_it() {
        let fixture = Fixture::new();
        let lacks = || lacking_on(&fixture.host, Lacking::Stage);
        fixture.define("vm1");
        assert!(lacks().is_none());
        fixture.autostart("vm1");
        let found = lacks();
        assert!(
            matches!(&found, Some(HookFinding::NobodyStages { guest }) if guest == "vm1"),
            "{found:?}"
        );
        let unstages = lacking_on(&fixture.host, Lacking::UnstageAfterFailure);
        assert!(matches!(unstages, Some(HookFinding::NobodyUnstages)));
    }
}
