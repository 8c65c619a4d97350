//! Where a helper of this program is, and whether root may run it; and this program once more.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;

use crate::host::dirs;
use crate::host::path_error::PathError;
use crate::host::trusted::{self, Distrust};

/// Returns a helper's path: next to the running program (in a build directory), otherwise where packages
/// install it.
pub fn find(installed: &Path) -> PathBuf {
    let beside = std::env::current_exe().ok().zip(installed.file_name());
    beside
        .map(|(program, name)| program.with_file_name(name))
        .filter(|sibling| sibling.exists())
        .unwrap_or_else(|| installed.to_owned())
}

/// Returns a command that runs this very program once more: also where an upgrade or a removal has taken its file away since,
/// and not another release that has its place now.
pub fn itself() -> Command {
    let mut command = Command::new(Path::new(dirs::PROC).join("self/exe"));
    if let Ok(shown) = std::env::current_exe() {
        command.arg0(shown);
    }
    command
}

/// Verifies that only root or this process's user could have written the program.
pub fn check(program: &Path) -> Result<(), Distrust> {
    match trusted::find(program, trusted::HELPER)? {
        Some(_) => Ok(()),
        None => Err(PathError::new(program, Errno::ENOENT).into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Makes a directory with an executable file in it, with these modes.
    fn program(dir_mode: u32, file_mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("helper");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(file_mode)).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(dir_mode)).unwrap();
        (dir, file)
    }

    #[test]
    fn a_helper_that_only_its_owner_may_write_is_run() {
        let (_dir, file) = program(0o755, 0o755);
        check(&file).unwrap();
    }

    #[test]
    fn a_helper_that_others_may_write_is_not_run() {
        for (dir_mode, file_mode) in [(0o755, 0o775), (0o755, 0o757), (0o775, 0o755)] {
            let (_dir, file) = program(dir_mode, file_mode);
            let error = check(&file).unwrap_err();
            assert!(error.to_string().contains("may write"), "{error}");
        }
    }

    #[test]
    fn a_link_or_a_directory_is_not_run() {
        let (dir, file) = program(0o755, 0o755);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [link.as_path(), dir.path()] {
            let error = check(path).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }

    #[test]
    fn without_a_helper_next_to_it_a_program_uses_the_installed_one() {
        let installed = Path::new(dirs::HELPER);
        assert_eq!(find(installed), installed);
    }

    const RUNS_ITSELF: &str = "host::program::tests::is_gone_and_runs_itself";

    #[test]
    #[ignore = "removes its own program: run by the test below from a copy"]
    fn is_gone_and_runs_itself() {
        fs::remove_file(std::env::current_exe().unwrap()).unwrap();
        let listed = itself()
            .args(["--list", "--exact", "--ignored", RUNS_ITSELF])
            .output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        assert!(listed.starts_with(RUNS_ITSELF), "{listed}");
    }

    #[test]
    fn a_program_whose_file_is_gone_runs_itself_once_more() {
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let link = dir.path().join("program");
        fs::hard_link(&program, &link).unwrap();
        let ran = Command::new(&link)
            .args(["--exact", "--ignored", RUNS_ITSELF])
            .output()
            .unwrap();
        let said = String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
        assert!(!link.exists());
    }
}
