//! Can the configuration be used, and does libvirt answer?

use super::{Finding, HostFinding};
use crate::clock::Deadline;
use crate::ids::SecretUuid;
use crate::libvirt::Daemons;
use crate::manage::host::{DEFAULT_DEADLINE, Host};

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let configuration = host.config().err().map(HostFinding::Configuration);
    let all = configuration.into_iter().chain(libvirt(host));
    all.map(Finding::from).collect()
}

/// Two daemons share the time of one: whichever is silent now is not waited for any more.
fn libvirt(host: &Host) -> Vec<HostFinding> {
    let (daemons, uri) = (host.daemons(), host.config().unwrap_or_default().secret_uri);
    let deadline = || Deadline::after(DEFAULT_DEADLINE / 2);
    // Any UUID will do: the question is whether there is an answer.
    let answer = host.secrets().inspect(SecretUuid::random(), deadline());
    let mut found = Vec::new();
    if let Err(error) = answer {
        let uri = uri.clone();
        found.push(HostFinding::Libvirt {
            uri,
            error,
            daemons,
        });
    }
    if daemons == Daemons::Modular {
        if let Err(error) = host.libvirt().guests(deadline()) {
            found.push(HostFinding::GuestsDaemon { error, daemons });
        }
        if uri.starts_with("qemu") {
            found.push(HostFinding::SecretsAtGuestsDaemon { uri });
        }
    }
    found
}
