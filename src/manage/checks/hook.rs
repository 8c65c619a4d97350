//! Is the hook there, may it run, and has the daemon noticed it?

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{CannotRun, Finding, HookFinding};
use crate::clock::Timestamp;
use crate::host::{dirs, process};
use crate::manage::host::{Host, changed_at, default_deadline};
use crate::store::{Access, EventFilter, EventQuery, Origin};

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let link = &host.libvirt_dirs().present_hook();
    if let Some(finding) = cannot_run(host, link) {
        return vec![finding.into()];
    }
    [
        not_noticed(host, link),
        apparmor(host, link),
        selinux_label(link),
        selinux_boolean(Path::new(dirs::SELINUX)),
    ]
    .into_iter()
    .flatten()
    .map(Finding::from)
    .collect()
}

fn cannot_run(host: &Host, link: &Path) -> Option<HookFinding> {
    let why = match fs::metadata(link) {
        Ok(file) if !file.is_file() => CannotRun::NotAFile,
        Ok(file) if file.permissions().mode() & 0o111 == 0 => CannotRun::NotExecutable,
        Ok(file) if file.permissions().mode() & 0o001 == 0 => {
            let link = link.to_owned();
            return Some(HookFinding::NotForUsers { link });
        }
        Ok(_) => return None,
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

fn apparmor(host: &Host, link: &Path) -> Option<HookFinding> {
    let enabled = fs::read_to_string(dirs::APPARMOR).ok()?;
    let target = fs::canonicalize(link).ok()?;
    let is_kept = enabled.starts_with('Y') && !may_run_under_apparmor(&target);
    let (link, daemons) = (link.to_owned(), host.daemons());
    is_kept.then_some(HookFinding::AppArmor {
        link,
        target,
        daemons,
    })
}

fn may_run_under_apparmor(target: &Path) -> bool {
    dirs::APPARMOR_FREE_TO_RUN
        .iter()
        .any(|place| target.starts_with(place))
}

/// `restorecon -n` prints what it would relabel, and nothing where all is as the policy has it.
fn selinux_label(link: &Path) -> Option<HookFinding> {
    if !Path::new(dirs::SELINUX).join("enforce").exists() {
        return None;
    }
    let target = fs::canonicalize(link).ok()?;
    let output = process::run(
        Path::new("restorecon"),
        &["-n", "-v", link.to_str()?, target.to_str()?],
        b"",
        64 * 1024,
        default_deadline(),
    );
    let labels = output.ok()?.stdout;
    let labels = String::from_utf8_lossy(&labels).trim().to_owned();
    let link = link.to_owned();
    (!labels.is_empty()).then_some(HookFinding::SelinuxLabel {
        link,
        target,
        labels,
    })
}

/// Fedora's policy, since 2024, runs hooks unconfined only where this boolean is on, which it is
/// not at first. Without it they have the rights of the daemon's domain, if they may run at all.
/// `/sys/fs/selinux/booleans/NAME` holds its value, and the one that is pending.
fn selinux_boolean(selinux: &Path) -> Option<HookFinding> {
    let read = |name: &str| fs::read_to_string(selinux.join(name)).ok();
    let is_enforcing = read("enforce")?.starts_with('1');
    let is_off = read("booleans/virt_hooks_unconfined")?.starts_with('0');
    (is_enforcing && is_off).then_some(HookFinding::SelinuxBoolean)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn selinux_s_boolean_for_hooks_is_reported_only_where_it_is_off_and_enforced() {
        let selinux = tempfile::tempdir().unwrap();
        let found = |enforce: &str, boolean: Option<&str>| {
            let booleans = selinux.path().join("booleans");
            let _ = fs::remove_dir_all(&booleans);
            fs::create_dir(&booleans).unwrap();
            fs::write(selinux.path().join("enforce"), enforce).unwrap();
            if let Some(value) = boolean {
                fs::write(booleans.join("virt_hooks_unconfined"), value).unwrap();
            }
            selinux_boolean(selinux.path()).is_some()
        };
        assert!(found("1", Some("0 0")));
        assert!(!found("1", Some("1 1")));
        assert!(!found("0", Some("0 0")));
        assert!(!found("1", None), "a policy without it");
        assert!(selinux_boolean(Path::new("/nowhere")).is_none());
    }

    #[test]
    fn apparmor_lets_libvirtd_run_what_is_in_sbin() {
        assert!(may_run_under_apparmor(Path::new(
            "/usr/sbin/vtpm-guard-hook"
        )));
        assert!(!may_run_under_apparmor(Path::new(
            "/usr/libexec/vtpm-guard-hook"
        )));
        assert!(!may_run_under_apparmor(Path::new("/usr/sbinary")));
    }
}
