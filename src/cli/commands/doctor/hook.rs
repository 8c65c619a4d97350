//! Is the hook there, may it run, and has the daemon noticed it?

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::Ailment;
use crate::cli::commands::status::hook_link;
use crate::cli::context::Context;
use crate::clock::Timestamp;
use crate::host::{dirs, process};
use crate::manage::host::default_deadline;
use crate::store::{Access, EventFilter, EventQuery, Origin};

/// The daemons that run hooks.
const DAEMONS: [&str; 2] = ["libvirtd", "virtqemud"];

pub(crate) fn ailments(context: &Context) -> Vec<Ailment> {
    let link = &hook_link(&context.host.libvirt_dirs());
    if let Some(ailment) = cannot_run(link) {
        return vec![ailment];
    }
    [
        not_noticed(context, link),
        apparmor(link),
        selinux(link),
        selinux_hooks(Path::new(dirs::SELINUX)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn cannot_run(link: &Path) -> Option<Ailment> {
    let shown = link.display();
    let what = match fs::metadata(link) {
        Ok(file) if !file.is_file() => format!("{shown} is not a program"),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => {
            format!("{shown} cannot be executed")
        }
        Ok(file) if file.permissions().mode() & 0o001 == 0 => {
            return Some(Ailment::fault(
                format!("{shown} cannot be executed by plain users"),
                "their session daemons run the same hook, and none of their guests can start",
                format!("chmod 0755 $(readlink -f {shown})"),
            ));
        }
        Ok(_) => return None,
        Err(_) if link.is_symlink() => format!("{shown} leads nowhere"),
        Err(_) => format!("{shown} is not there"),
    };
    Some(Ailment::fault(
        what,
        "libvirt starts guests without asking the guard, and without their keys",
        format!(
            "mkdir -p {} && ln -sf /usr/sbin/vtpm-guard-hook {shown}, then reload the daemon: \
             systemctl reload libvirtd",
            link.parent().unwrap_or(link).display()
        ),
    ))
}

/// libvirt looks for hooks when its daemon starts and when it is reloaded, and otherwise does
/// not see that there is one. A daemon younger than the link has seen it, and so has one that
/// has asked since; of any other nothing is known.
fn not_noticed(context: &Context, link: &Path) -> Option<Ailment> {
    let made = changed_at(&fs::symlink_metadata(link).ok()?);
    let dirs = context.host.libvirt_dirs();
    let started = DAEMONS
        .iter()
        .filter_map(|daemon| fs::metadata(dirs.pid_file(daemon)).ok())
        .map(|file| changed_at(&file))
        .max()?;
    if started >= made || has_asked_since(context, made) {
        return None;
    }
    Some(Ailment::advice(
        "the daemon was started before the hook's link was made, and has not asked it since",
        "libvirt sees a first hook only when its daemon starts or is reloaded",
        "systemctl reload libvirtd (or virtqemud), then start a guest; kill -HUP does the same",
    ))
}

/// When the file was made or last changed.
fn changed_at(file: &fs::Metadata) -> Timestamp {
    Timestamp(file.ctime() * 1000 + file.ctime_nsec() / 1_000_000)
}

fn has_asked_since(context: &Context, made: Timestamp) -> bool {
    let query = EventQuery {
        since: Some(made),
        ..EventFilter::All.into()
    };
    let Ok(Some(store)) = context.host.store(Access::Read) else {
        return false;
    };
    let events = store.history(query, usize::MAX).unwrap_or_default();
    events
        .iter()
        .any(|row| row.operation == Origin::Prepare.as_str())
}

fn apparmor(link: &Path) -> Option<Ailment> {
    let enabled = fs::read_to_string(dirs::APPARMOR).ok()?;
    let target = fs::canonicalize(link).ok()?;
    if !enabled.starts_with('Y') || may_run_under_apparmor(&target) {
        return None;
    }
    Some(Ailment::fault(
        format!("AppArmor does not let libvirtd run {}", target.display()),
        "every start of every guest fails",
        format!(
            "install it as /usr/sbin/vtpm-guard-hook, and link it: ln -sf /usr/sbin/vtpm-guard-hook {}",
            link.display()
        ),
    ))
}

fn may_run_under_apparmor(target: &Path) -> bool {
    dirs::APPARMOR_FREE_TO_RUN
        .iter()
        .any(|place| target.starts_with(place))
}

/// `restorecon -n` says what it would relabel, and nothing where all is as the policy has it.
fn selinux(link: &Path) -> Option<Ailment> {
    if !Path::new(dirs::SELINUX).join("enforce").exists() {
        return None;
    }
    let target = fs::canonicalize(link).ok()?;
    let target = target.to_str()?;
    let output = process::run(
        Path::new("restorecon"),
        &["-n", "-v", link.to_str()?, target],
        b"",
        64 * 1024,
        default_deadline(),
    );
    let labels = output.ok()?.stdout;
    let labels = String::from_utf8_lossy(&labels);
    (!labels.trim().is_empty()).then(|| {
        Ailment::advice(
            format!(
                "the hook has not the SELinux label of the policy: {}",
                labels.trim()
            ),
            "an enforcing host may not let the daemon run it",
            format!("restorecon -v {} {target}", link.display()),
        )
    })
}

/// Fedora's policy, since 2024, runs hooks unconfined only where this boolean is on, which it is
/// not at first. Without it they have the rights of the daemon's domain, if they may run at all.
/// `/sys/fs/selinux/booleans/NAME` holds its value, and the one that is pending.
fn selinux_hooks(selinux: &Path) -> Option<Ailment> {
    let read = |name: &str| fs::read_to_string(selinux.join(name)).ok();
    let is_enforcing = read("enforce")?.starts_with('1');
    let is_off = read("booleans/virt_hooks_unconfined")?.starts_with('0');
    (is_enforcing && is_off).then(|| {
        Ailment::advice(
            "SELinux is enforcing, and its boolean virt_hooks_unconfined is off",
            "the policy may keep the daemon from running hooks, which refuses every start (exit \
             status 126), or keep the guard from its store and keys",
            "setsebool -P virt_hooks_unconfined on; what is denied shows: ausearch -m avc -ts recent",
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn selinux_s_boolean_for_hooks_is_missed_only_where_it_is_off_and_enforced() {
        let selinux = tempfile::tempdir().unwrap();
        let told = |enforce: &str, boolean: Option<&str>| {
            let booleans = selinux.path().join("booleans");
            let _ = fs::remove_dir_all(&booleans);
            fs::create_dir(&booleans).unwrap();
            fs::write(selinux.path().join("enforce"), enforce).unwrap();
            if let Some(value) = boolean {
                fs::write(booleans.join("virt_hooks_unconfined"), value).unwrap();
            }
            selinux_hooks(selinux.path()).is_some()
        };
        assert!(told("1", Some("0 0")));
        assert!(!told("1", Some("1 1")));
        assert!(!told("0", Some("0 0")));
        assert!(!told("1", None), "a policy without it");
        assert!(selinux_hooks(Path::new("/nowhere")).is_none());
    }

    #[test]
    fn apparmor_lets_libvirtd_run_what_lies_in_sbin() {
        assert!(may_run_under_apparmor(Path::new(
            "/usr/sbin/vtpm-guard-hook"
        )));
        assert!(!may_run_under_apparmor(Path::new(
            "/usr/libexec/vtpm-guard-hook"
        )));
        assert!(!may_run_under_apparmor(Path::new("/usr/sbinary")));
    }
}
