//! Does systemd run here? Its units stage keys for libvirtd's start, check the guests each night, and work with key
//! managers and other hosts.

use std::path::Path;

use super::{Finding, HostFinding, providers, staged};
use crate::host::dirs::SYSTEMD_RUNS;
use crate::manage::host::Host;

/// Whether systemd is process 1.
pub(super) fn runs() -> bool {
    Path::new(SYSTEMD_RUNS).exists()
}

/// What takes the place of the units cannot be seen. There is nothing for them to do before there is a provider.
pub(super) fn examine(host: &Host) -> Vec<Finding> {
    missed(host, runs())
}

fn missed(host: &Host, runs: bool) -> Vec<Finding> {
    let is_missed = !runs && !providers(host).is_empty();
    is_missed
        .then(|| missing(host).into())
        .into_iter()
        .collect()
}

fn missing(host: &Host) -> HostFinding {
    HostFinding::NoSystemd {
        daemons: host.daemons(),
        autostarted: staged::autostarted(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::Daemons;
    use crate::manage::tests::fixture::Fixture;

    #[test]
    fn systemd_is_missed_where_there_is_a_provider() {
        let fixture = Fixture::new();
        let is_missed = |runs| !missed(&fixture.host, runs).is_empty();
        assert!(is_missed(false) && !is_missed(true));
        fixture.sql("DELETE FROM key_provider");
        assert!(!is_missed(false) && !is_missed(true));
    }

    #[test]
    fn without_systemd_a_guest_that_libvirtd_starts_is_named() {
        let fixture = Fixture::new();
        fixture.define("vm1");
        let names = |found: &HostFinding, guest: Option<&str>| {
            matches!(found, HostFinding::NoSystemd { daemons: Daemons::Monolithic, autostarted }
                if autostarted.as_deref() == guest)
        };
        assert!(names(&missing(&fixture.host), None));
        fixture.autostart("vm1");
        assert!(names(&missing(&fixture.host), Some("vm1")));
    }
}
