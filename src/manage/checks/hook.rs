//! Is the hook there, may it run, and has the daemon noticed it?

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{CannotRun, Finding, HookFinding};
use crate::clock::Timestamp;
use crate::host::dirs;
use crate::manage::host::{Host, changed_at};
use crate::store::{Access, EventFilter, EventQuery, Origin};

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let link = &host.libvirt_dirs().present_hook();
    if let Some(finding) = cannot_run(host, link, Path::new(dirs::NIXOS)) {
        return vec![finding.into()];
    }
    [
        not_noticed(host, link),
        apparmor(host, Path::new(dirs::APPARMOR), link),
    ]
    .into_iter()
    .flatten()
    .map(Finding::from)
    .collect()
}

fn cannot_run(host: &Host, link: &Path, nixos: &Path) -> Option<HookFinding> {
    let why = match fs::metadata(link) {
        Ok(file) if !file.is_file() => CannotRun::NotAFile,
        Ok(file) if file.permissions().mode() & 0o111 == 0 => CannotRun::NotExecutable,
        Ok(file) if file.permissions().mode() & 0o001 == 0 => {
            let link = link.to_owned();
            return Some(HookFinding::NotForUsers { link });
        }
        Ok(_) => return None,
        Err(_) if nixos.exists() => CannotRun::NotInConfiguration,
        Err(_) if fs::read_link(link).is_ok_and(|target| target == Path::new(dirs::HOOK)) => {
            CannotRun::ProgramGone
        }
        Err(_) if link.is_symlink() => CannotRun::Dangling,
        Err(_) => CannotRun::Missing,
    };
    let (link, daemons) = (link.to_owned(), host.daemons());
    Some(HookFinding::CannotRun { link, why, daemons })
}

/// libvirt looks for hooks when its daemon starts and when it is reloaded, and otherwise does
/// not see that there is one. A daemon younger than the link has seen it, and so has one that
/// the package has reloaded or that has asked since; of any other nothing is known.
fn not_noticed(host: &Host, link: &Path) -> Option<HookFinding> {
    let made = changed_at(&fs::symlink_metadata(link).ok()?);
    let started = host.guests_daemon_started()?;
    let reloaded = fs::metadata(host.state_dir().hook_noticed());
    let reloaded = reloaded.is_ok_and(|note| changed_at(&note) >= made);
    let is_known = started >= made || reloaded || has_asked_since(host, made);
    let daemons = host.daemons();
    (!is_known).then_some(HookFinding::NotNoticed { daemons })
}

fn has_asked_since(host: &Host, made: Timestamp) -> bool {
    let query = EventQuery {
        since: Some(made),
        ..EventFilter::All.into()
    };
    let Ok(Some(store)) = host.store(Access::Read) else {
        return false;
    };
    let events = store.history(query, usize::MAX).unwrap_or_default();
    let starts = [Origin::Prepare, Origin::Stopped].map(Origin::as_str);
    let mut operations = events.iter().map(|row| row.operation.as_str());
    operations.any(|operation| starts.contains(&operation))
}

fn apparmor(host: &Host, kernel: &Path, link: &Path) -> Option<HookFinding> {
    let enabled = fs::read_to_string(kernel).ok()?;
    let target = fs::canonicalize(link).ok()?;
    let is_kept = is_kept_by_apparmor(&enabled, &target);
    let (link, daemons) = (link.to_owned(), host.daemons());
    is_kept.then_some(HookFinding::AppArmor {
        link,
        target,
        daemons,
    })
}

/// Whether `AppArmor`, which this file of the kernel's says is enabled, keeps libvirtd from running a program.
fn is_kept_by_apparmor(enabled: &str, target: &Path) -> bool {
    let mut free = dirs::APPARMOR_FREE_TO_RUN.iter();
    enabled.starts_with('Y') && !free.any(|place| target.starts_with(place))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::manage::tests::fixture::Fixture;

    #[test]
    fn on_nixos_the_link_is_missing_in_the_hosts_configuration() {
        let fixture = Fixture::new();
        let (link, nixos) = (fixture.root().join("link"), fixture.root().join("NIXOS"));
        let why = || match cannot_run(&fixture.host, &link, &nixos) {
            Some(HookFinding::CannotRun { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(), CannotRun::Missing);
        fs::write(&nixos, "").unwrap();
        assert_eq!(why(), CannotRun::NotInConfiguration);
    }

    #[test]
    fn apparmor_lets_libvirtd_run_what_is_in_sbin() {
        let is_kept = |path| is_kept_by_apparmor("Y\n", Path::new(path));
        assert!(!is_kept("/usr/sbin/vtpm-guard-hook"));
        assert!(is_kept("/usr/libexec/vtpm-guard-hook"));
        assert!(is_kept("/usr/sbinary"));
        let off = is_kept_by_apparmor("N\n", Path::new("/usr/libexec/vtpm-guard-hook"));
        assert!(!off);
    }

    #[test]
    fn a_hook_that_apparmor_keeps_from_running_is_reported() {
        let fixture = Fixture::new();
        let (kernel, link) = (fixture.root().join("enabled"), fixture.root().join("hook"));
        fs::write(&link, "").unwrap();
        let found = || apparmor(&fixture.host, &kernel, &link);
        assert!(found().is_none(), "a kernel without AppArmor");
        fs::write(&kernel, "Y\n").unwrap();
        let target = fs::canonicalize(&link).unwrap();
        assert!(
            matches!(found(), Some(HookFinding::AppArmor { target: kept, .. }) if kept == target)
        );
    }
}
