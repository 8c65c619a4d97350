//! Can the configuration be used, and does libvirt answer?

use std::io::ErrorKind;

use nix::unistd::geteuid;

use super::{Finding, HostFinding};
use crate::clock::Deadline;
use crate::config::LogTarget;
use crate::host::bounded::{Unanswered, bounded};
use crate::ids::SecretUuid;
use crate::libvirt::secret::SecretError;
use crate::libvirt::{Daemons, Guest};
use crate::log::{self, LogError};
use crate::manage::host::{DEFAULT_DEADLINE, Host};
use crate::store::Access;

/// Returns the findings, and libvirt's guests by name, if it has listed them.
pub(super) fn examine(host: &Host) -> (Vec<Finding>, Option<Vec<Guest>>) {
    let mut found: Vec<_> = host
        .config()
        .err()
        .map(HostFinding::Configuration)
        .into_iter()
        .chain(auto_bind(host))
        .chain(log(host))
        .collect();
    let guests = libvirt(host, &mut found);
    (found.into_iter().map(Finding::from).collect(), guests)
}

/// A provider to which new guests are to be bound must be here. What the store is like is examined
/// elsewhere.
fn auto_bind(host: &Host) -> Option<HostFinding> {
    let name = host.config().ok()?.policy.auto_bind?;
    let store = host.store(Access::Read).ok()?;
    let providers = store.map_or(Ok(Vec::new()), |store| store.providers());
    let is_here = providers.ok()?.iter().any(|it| it.name == name);
    (!is_here).then_some(HostFinding::AutoBind(name))
}

/// Nobody notices otherwise that there is none: the hook has nowhere to say so.
fn log(host: &Host) -> Option<HostFinding> {
    let (target, state_dir) = (host.config().ok()?.log_target, host.state_dir().clone());
    let place = match &target {
        LogTarget::File(path) => path.clone(),
        LogTarget::Auto | LogTarget::Journald => state_dir.log(),
    };
    let why = match bounded(&place, move || log::examine(&target, &state_dir)) {
        Ok(examined) => examined.err()?,
        Err(Unanswered::TimedOut) => return Some(HostFinding::DeadFileSystem(place)),
        Err(Unanswered::NoThread(error)) => return Some(HostFinding::Unreadable(place, error)),
    };
    holds_for_the_hook(&why, geteuid().is_root()).then_some(HostFinding::NoLog(why))
}

/// That a user may not write it says nothing about the hook, which is root's.
fn holds_for_the_hook(why: &LogError, is_root: bool) -> bool {
    let is_denied =
        matches!(why, LogError::Unwritable(error) if error.kind() == ErrorKind::PermissionDenied);
    is_root || !is_denied
}

/// Two daemons share the time of one: whichever is silent now is not waited for any more.
fn libvirt(host: &Host, found: &mut Vec<HostFinding>) -> Option<Vec<Guest>> {
    let (daemons, uri) = (host.daemons(), host.config().unwrap_or_default().secret_uri);
    let deadline = || Deadline::after(DEFAULT_DEADLINE / 2);
    // Any UUID will do: the question is whether there is an answer.
    let answer = host.secrets().inspect(SecretUuid::random(), deadline());
    // Without its program neither daemon is asked, and one finding says so.
    let cannot_ask = matches!(answer, Err(SecretError::NoHelper(_)));
    // A libvirtd that is silent is one finding, and it may list no guests although it has answered.
    let is_another = daemons == Daemons::Modular || answer.is_ok();
    if let Err(error) = answer {
        let uri = uri.clone();
        found.push(HostFinding::Libvirt {
            uri,
            error,
            daemons,
        });
    }
    let guests = host.libvirt().guests(deadline());
    if let (Err(error), true, false) = (&guests, is_another, cannot_ask) {
        let error = error.clone();
        found.push(HostFinding::GuestsDaemon { error, daemons });
    }
    if daemons == Daemons::Modular && uri.starts_with("qemu") {
        found.push(HostFinding::SecretsAtGuestsDaemon { uri });
    }
    let mut guests = guests.ok()?;
    guests.sort_by(|one, other| one.name.cmp(&other.name));
    Some(guests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::path_error::PathError;

    #[test]
    fn that_a_user_may_not_write_the_log_says_nothing_about_the_hook() {
        let unwritable = |kind: ErrorKind| LogError::Unwritable(PathError::new("/log", kind));
        for (why, is_root, holds) in [
            (unwritable(ErrorKind::PermissionDenied), false, false),
            (unwritable(ErrorKind::PermissionDenied), true, true),
            (unwritable(ErrorKind::NotADirectory), false, true),
            (unwritable(ErrorKind::NotADirectory), true, true),
        ] {
            assert_eq!(holds_for_the_hook(&why, is_root), holds, "{why}, {is_root}");
        }
    }
}
