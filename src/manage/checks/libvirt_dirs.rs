//! Does libvirt keep its files where the configuration says? Each guest has some.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Finding, HostFinding};
use crate::domain::{self, Vtpm};
use crate::host::bounded::bounded;
use crate::host::dirs::{LibvirtDirs, PROC};
use crate::libvirt::Guest;
use crate::manage::host::Host;

pub(super) fn examine(host: &Host, guests: &[Guest]) -> Vec<Finding> {
    let dirs = host.libvirt_dirs();
    let first = |missed: fn(&LibvirtDirs, &Guest) -> Option<HostFinding>| {
        guests.iter().find_map(|guest| missed(&dirs, guest))
    };
    let all = [first(definition), first(status), first(tpm)];
    all.into_iter().flatten().map(Finding::from).collect()
}

fn elsewhere(guest: &Guest, file: PathBuf, setting: &'static str) -> HostFinding {
    HostFinding::Elsewhere {
        guest: guest.name.clone(),
        file,
        setting,
        found_in: None,
    }
}

/// Whether there is no such file. One that cannot be looked for is not said to be elsewhere.
fn is_gone(file: &Path) -> bool {
    file.try_exists().is_ok_and(|is_there| !is_there)
}

fn definition(dirs: &LibvirtDirs, guest: &Guest) -> Option<HostFinding> {
    let file = dirs.definitions().join(format!("{}.xml", guest.name));
    let is_missing = guest.persistent && is_gone(&file);
    is_missing.then(|| elsewhere(guest, file, "config_dir"))
}

fn status(dirs: &LibvirtDirs, guest: &Guest) -> Option<HostFinding> {
    let file = dirs.running().join(format!("{}.xml", guest.name));
    let is_missing = guest.running && is_gone(&file);
    is_missing.then(|| elsewhere(guest, file, "run_dir"))
}

fn tpm(dirs: &LibvirtDirs, guest: &Guest) -> Option<HostFinding> {
    let domain = domain::read(guest.xml.as_bytes()).ok()?;
    let is_libvirts_own =
        matches!(&domain.vtpm, Some(Vtpm::Emulator(vtpm)) if vtpm.source.is_none());
    let uuid = domain.uuid.to_string();
    let states = dirs.tpm_states();
    let directory = states.join(&uuid);
    let asked = directory.clone();
    let is_missing = guest.running
        && is_libvirts_own
        && matches!(bounded(&states, move || asked.try_exists()), Ok(Ok(false)));
    is_missing.then(|| HostFinding::Elsewhere {
        guest: guest.name.clone(),
        file: directory,
        setting: "tpm_dir",
        found_in: used_by_swtpm(Path::new(PROC), &uuid),
    })
}

/// The directory of TPM states that the swtpm of this guest was started with:
/// `--tpmstate dir=DIRECTORY/UUID/tpm2,…`.
fn used_by_swtpm(proc: &Path, uuid: &str) -> Option<PathBuf> {
    let processes = proc.read_dir().ok()?.flatten();
    let mut commands =
        processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    commands.find_map(|command| directory_in(&command, uuid))
}

/// The same, of one command line: any process may have any.
pub fn directory_in(command: &[u8], uuid: &str) -> Option<PathBuf> {
    let command = String::from_utf8_lossy(command);
    let state = command.split('\0').find_map(|argument| {
        argument
            .split(',')
            .find_map(|part| part.strip_prefix("dir="))
    })?;
    let (directory, _) = state.split_once(&format!("/{uuid}/"))?;
    Some(PathBuf::from(directory))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_states_is_read_from_swtpms_command_line() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, command) in [
            ("1", "init\0dir=/x\0"),
            (
                "7",
                "/usr/bin/swtpm\0socket\0--tpmstate\0dir=/tank/swtpm/U-U-I-D/tpm2,mode=0600\0",
            ),
        ] {
            fs::create_dir(proc.path().join(pid)).unwrap();
            fs::write(proc.path().join(pid).join("cmdline"), command).unwrap();
        }
        let found = used_by_swtpm(proc.path(), "U-U-I-D");
        assert_eq!(found.as_deref(), Some(Path::new("/tank/swtpm")));
        assert_eq!(used_by_swtpm(proc.path(), "other"), None);
    }
}
