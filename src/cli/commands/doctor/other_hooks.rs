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

use super::Ailment;
use crate::cli::commands::status::hook_link;
use crate::host::dirs::LibvirtDirs;
use crate::messages::Arg;

/// How much of a script is read.
const SCRIPT_LIMIT: usize = 64 * 1024;

/// How the names of files end that package managers and editors leave.
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

pub(crate) fn ailments(dirs: &LibvirtDirs) -> Vec<Ailment> {
    look_at(dirs, &hook_link(dirs))
}

fn look_at(dirs: &LibvirtDirs, ours: &Path) -> Vec<Ailment> {
    let only = dirs.only_hook();
    let all: Vec<_> = [only.clone()]
        .into_iter()
        .chain(sorted(&dirs.hooks()))
        .filter(|path| is_run(path))
        .collect();
    let Some(at) = all.iter().position(|path| path == ours) else {
        // That the guard is not among them is found elsewhere.
        return Vec::new();
    };
    let (before, after) = (&all[..at], &all[at + 1..]);
    let mut found: Vec<_> = before
        .iter()
        .chain(after)
        .filter_map(|path| second_guard(path, ours).or_else(|| left_over(path)))
        .collect();
    if runs_all_of_them(&only) {
        found.push(dispatcher(&only));
    }
    found.extend(others(before, after));
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

/// Another link to the guard, or a copy of its link.
fn second_guard(path: &Path, ours: &Path) -> Option<Ailment> {
    let same = fs::canonicalize(path).ok()? == fs::canonicalize(ours).ok()?;
    same.then(|| {
        Ailment::advice(
            format!("{} runs the guard a second time", path.display()),
            "libvirt runs every executable file of qemu.d, whatever its name: each start is judged \
             twice, and takes twice as long",
            format!("rm {}", Arg::file(path)),
        )
    })
}

fn left_over(path: &Path) -> Option<Ailment> {
    let name = path.file_name()?.to_string_lossy();
    LEFT_OVER.iter().any(|end| name.ends_with(end)).then(|| {
        Ailment::advice(
            format!(
                "{} looks like a backup copy, and libvirt runs it",
                path.display()
            ),
            "libvirt runs every executable file of qemu.d, whatever its name, and may be refused a \
             start by it",
            format!("remove it, or: chmod -x {}", Arg::file(path)),
        )
    })
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

fn dispatcher(script: &Path) -> Ailment {
    Ailment::advice(
        format!(
            "{} seems to run the programs of qemu.d itself",
            script.display()
        ),
        "libvirt runs them, too: the guard is called twice, and where the script does not hand each \
         of them the domain XML, it gets none",
        format!("take that loop out of the script: {}", Arg::file(script)),
    )
}

fn others(before: &[PathBuf], after: &[PathBuf]) -> Option<Ailment> {
    let list = |paths: &[PathBuf]| {
        let paths: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        paths.join(", ")
    };
    let what = match (before, after) {
        ([], []) => return None,
        ([], after) => format!("other hooks run after the guard: {}", list(after)),
        (before, []) => format!("other hooks run before the guard: {}", list(before)),
        (before, after) => format!(
            "other hooks run before the guard: {}; and after it: {}",
            list(before),
            list(after)
        ),
    };
    Some(Ailment::note(
        what,
        "each of them may refuse a start or hold it up without limit; at a restore and an incoming \
         migration the guard reads what the one before it has made of the domain XML",
        "if a start fails without a code of the guard's, look at them: ls -lL /etc/libvirt/hooks/qemu \
         /etc/libvirt/hooks/qemu.d",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::Severity;
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

        fn found(&self) -> Vec<(Severity, String)> {
            let dirs = LibvirtDirs {
                config: self.0.path().to_owned(),
                ..LibvirtDirs::default()
            };
            let found = look_at(&dirs, &self.ours()).into_iter();
            found.map(|one| (one.severity, one.what)).collect()
        }
    }

    #[test]
    fn the_guard_alone_is_nothing_to_tell() {
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
        let [(severity, what)] = &hooks.found()[..] else {
            panic!()
        };
        assert_eq!(*severity, Severity::Note);
        let path = |name| hooks.path(name).display().to_string();
        assert_eq!(
            *what,
            format!(
                "other hooks run before the guard: {}, {}; and after it: {}",
                path("qemu"),
                path("qemu.d/10-early"),
                path("qemu.d/9-late")
            )
        );
    }

    #[test]
    fn copies_that_were_left_behind_run_too() {
        let hooks = Hooks::new();
        hooks.program("qemu.d/10-net.dpkg-old", "");
        symlink(
            hooks.path("guard"),
            hooks.path("qemu.d/50-vtpm-guard.dpkg-old"),
        )
        .unwrap();
        let found = hooks.found();
        assert_eq!(found[0].0, Severity::Advice);
        assert!(
            found[0]
                .1
                .ends_with("10-net.dpkg-old looks like a backup copy, and libvirt runs it")
        );
        assert_eq!(found[1].0, Severity::Advice);
        assert!(
            found[1]
                .1
                .ends_with("50-vtpm-guard.dpkg-old runs the guard a second time")
        );
        assert_eq!(found[2].0, Severity::Note);
    }

    #[test]
    fn a_script_that_runs_qemu_d_again_is_told_from_one_that_runs_directories_of_guests() {
        let hooks = Hooks::new();
        for again in [
            "for hook in /etc/libvirt/hooks/qemu.d/*; do \"$hook\" \"$@\"; done",
            "run-parts /etc/libvirt/hooks/qemu.d",
            "find \"$dir/qemu.d\" -type f -exec {} \"$@\" \\;",
        ] {
            hooks.program("qemu", again);
            let found = hooks.found();
            assert_eq!(found.len(), 2, "{again}: {found:?}");
            assert!(
                found[0]
                    .1
                    .ends_with("seems to run the programs of qemu.d itself")
            );
        }
        for leaves in [
            "HOOKPATH=\"$BASEDIR/qemu.d/$GUEST_NAME/$HOOK_NAME/$STATE_NAME\"",
            "exec \"/etc/libvirt/hooks/qemu.d\"/\"$1\"/\"$2\"",
            "# see qemu.d/*\nexit 0",
        ] {
            hooks.program("qemu", leaves);
            let found = hooks.found();
            assert_eq!(found.len(), 1, "{leaves}: {found:?}");
            assert_eq!(found[0].0, Severity::Note);
        }
    }
}
