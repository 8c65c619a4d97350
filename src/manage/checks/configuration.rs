//! Can the configuration be used, and does libvirt answer?

use super::{Finding, HostFinding};
use crate::ids::SecretUuid;
use crate::manage::host::{Host, default_deadline};

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let configuration = host.config().err().map(HostFinding::Configuration);
    let both = configuration.into_iter().chain(libvirt(host));
    both.map(Finding::from).collect()
}

fn libvirt(host: &Host) -> Option<HostFinding> {
    // Any UUID will do: the question is whether there is an answer.
    let answer = host
        .secrets()
        .inspect(SecretUuid::random(), default_deadline());
    let uri = host.config().unwrap_or_default().secret_uri;
    let error = answer.err()?;
    Some(HostFinding::Libvirt { uri, error })
}
