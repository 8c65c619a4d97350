//! Other programs that libvirt runs at a guest's start: which, in which order, and what they may
//! do to it.
//!
//! libvirt runs `hooks/qemu`, then every executable regular file of `hooks/qemu.d` in the order of
//! their names; links are followed, and no name is skipped. Each gets the domain XML, and at a
//! restore or an incoming migration what the one before it printed instead
//! (<https://libvirt.org/hooks.html>; `virHookCall` in its `src/util/virhook.c`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Finding, HookFinding};
use crate::host::dirs::LibvirtDirs;

/// How much of a script is read.
const SCRIPT_LIMIT: usize = 64 * 1024;

/// Suffixes of files that package managers and editors leave.
const LEFT_OVER: [&str; 12] = [
    "~",
    ".bak",
    ".dpkg-bak",
    ".dpkg-dist",
    ".dpkg-new",
    ".dpkg-old",
    ".old",
    ".orig",
    ".rpmnew",
    ".rpmorig",
    ".rpmsave",
    ".swp",
];

pub(super) fn examine(dirs: &LibvirtDirs) -> Vec<Finding> {
    let found = findings(dirs, &dirs.present_hook());
    found.into_iter().map(Finding::from).collect()
}

fn findings(dirs: &LibvirtDirs, ours: &Path) -> Vec<HookFinding> {
    let only = dirs.only_hook();
    let all: Vec<_> = [only.clone()]
        .into_iter()
        .chain(sorted(&dirs.hooks()))
        .filter(|path| is_run(path))
        .collect();
    let Some(at) = all.iter().position(|path| path == ours) else {
        // That the guard is not among them is reported elsewhere.
        return Vec::new();
    };
    let (before, after) = (all[..at].to_vec(), all[at + 1..].to_vec());
    let others = before.iter().chain(&after).cloned();
    let mut found: Vec<_> = others
        .filter_map(|path| {
            if is_same(&path, ours) {
                Some(HookFinding::SecondGuard(path))
            } else {
                is_left_over(&path).then_some(HookFinding::LeftOver(path))
            }
        })
        .collect();
    if runs_all_of_them(&only) {
        found.push(HookFinding::Dispatcher(only));
    }
    if !before.is_empty() || !after.is_empty() {
        found.push(HookFinding::OtherHooks { before, after });
    }
    found
}

/// The entries of a directory in the order of their bytes.
fn sorted(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.read_dir().into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Whether libvirt runs it.
fn is_run(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Whether it is another link to the guard, or a copy of its link.
fn is_same(path: &Path, ours: &Path) -> bool {
    let canonical = fs::canonicalize(path).ok();
    canonical.is_some() && canonical == fs::canonicalize(ours).ok()
}

fn is_left_over(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    LEFT_OVER.iter().any(|end| name.ends_with(end))
}

/// Whether this script runs the programs of `qemu.d` itself. One that runs those of a directory
/// for each guest in it, `qemu.d/$GUEST/...`, as the script for GPU passthrough does, leaves the
/// guard alone.
fn runs_all_of_them(script: &Path) -> bool {
    if !is_run(script) {
        return false;
    }
    let bytes = fs::read(script).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SCRIPT_LIMIT)]);
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    lines
        .flat_map(|line| line.split("qemu.d").skip(1))
        .any(|behind| {
            let behind = behind.trim_start_matches(['"', '\'', '}']);
            !behind.starts_with("/$") && !behind.starts_with("/\"$")
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Hooks(tempfile::TempDir);

    impl Hooks {
        /// A host with the guard's link alone.
        fn new() -> Self {
            let hooks = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(hooks.path("qemu.d")).unwrap();
            hooks.program("guard", "");
            symlink(hooks.path("guard"), hooks.ours()).unwrap();
            hooks
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join("hooks").join(name)
        }

        fn ours(&self) -> PathBuf {
            self.path("qemu.d/50-vtpm-guard")
        }

        fn program(&self, name: &str, script: &str) {
            fs::write(self.path(name), script).unwrap();
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn found(&self) -> Vec<HookFinding> {
            let dirs = LibvirtDirs {
                config: self.0.path().to_owned(),
                ..LibvirtDirs::default()
            };
            findings(&dirs, &self.ours())
        }
    }

    #[test]
    fn the_guard_alone_is_not_reported() {
        let hooks = Hooks::new();
        fs::write(hooks.path("qemu.d/README"), "not executable").unwrap();
        fs::create_dir(hooks.path("qemu.d/vm1")).unwrap();
        assert_eq!(hooks.found(), []);
    }

    #[test]
    fn other_hooks_are_noted_in_the_order_in_which_they_run() {
        let hooks = Hooks::new();
        hooks.program("qemu", "#!/bin/sh\n");
        hooks.program("qemu.d/9-late", "");
        hooks.program("qemu.d/10-early", "");
        let others = HookFinding::OtherHooks {
            before: vec![hooks.path("qemu"), hooks.path("qemu.d/10-early")],
            after: vec![hooks.path("qemu.d/9-late")],
        };
        assert_eq!(hooks.found(), [others]);
    }

    #[test]
    fn copies_that_were_left_behind_run_too() {
        let hooks = Hooks::new();
        hooks.program("qemu.d/10-net.dpkg-old", "");
        let second = hooks.path("qemu.d/50-vtpm-guard.dpkg-old");
        symlink(hooks.path("guard"), &second).unwrap();
        let found = hooks.found();
        let left = hooks.path("qemu.d/10-net.dpkg-old");
        assert_eq!(
            found[..2],
            [
                HookFinding::LeftOver(left),
                HookFinding::SecondGuard(second)
            ]
        );
        assert!(matches!(found[2..], [HookFinding::OtherHooks { .. }]));
    }

    #[test]
    fn a_script_that_runs_qemu_d_again_is_reported_and_one_that_runs_directories_of_guests_is_not()
    {
        let hooks = Hooks::new();
        for again in [
            "for hook in /etc/libvirt/hooks/qemu.d/*; do \"$hook\" \"$@\"; done",
            "run-parts /etc/libvirt/hooks/qemu.d",
            "find \"$dir/qemu.d\" -type f -exec {} \"$@\" \\;",
        ] {
            hooks.program("qemu", again);
            let found = hooks.found();
            assert_eq!(found.len(), 2, "{again}: {found:?}");
            assert_eq!(found[0], HookFinding::Dispatcher(hooks.path("qemu")));
        }
        for leaves in [
            "HOOKPATH=\"$BASEDIR/qemu.d/$GUEST_NAME/$HOOK_NAME/$STATE_NAME\"",
            "exec \"/etc/libvirt/hooks/qemu.d\"/\"$1\"/\"$2\"",
            "# see qemu.d/*\nexit 0",
        ] {
            hooks.program("qemu", leaves);
            let found = hooks.found();
            assert_eq!(found.len(), 1, "{leaves}: {found:?}");
            assert!(matches!(found[0], HookFinding::OtherHooks { .. }));
        }
    }
}
