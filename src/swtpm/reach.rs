//! Whether swtpm's user can get to a TPM state. libvirt gives him the state's directory and what
//! is in it at each start (`qemuTPMEmulatorCreateStorage`), but not the directories above.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::state_path::{Backend, StatePath};
use super::{bounded, open};
use crate::host::sys;
use crate::host::users::{self, User};

/// The users that libvirt runs swtpm as where `qemu.conf` names none.
const USUAL_USERS: [&str; 2] = ["tss", "swtpm"];

/// What libvirt gives the directories that it makes.
const USUAL_MODE: u32 = 0o711;

/// A directory that swtpm's user cannot enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedDirectory {
    /// The directory.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Those that it needs.
    pub needed: u32,
    /// swtpm's user.
    pub user: String,
}

/// The directory above this state that is closed to swtpm's user, if one is. Where it is not
/// certain who that is, or what he may, none is.
#[must_use]
pub fn closed_directory(place: &StatePath, qemu_conf: &Path) -> Option<ClosedDirectory> {
    let (asked, conf) = (place.clone(), qemu_conf.to_owned());
    let looked = bounded(place, move || {
        let Some(user) = swtpm_user(&asked, &conf) else {
            return Ok(None);
        };
        Ok(directories_above(&asked)
            .iter()
            .find_map(|path| closed(path, &user)))
    });
    looked.ok().flatten()
}

/// The user whom libvirt will run swtpm as: the one that `qemu.conf` names, else the one who has
/// the state already, else one of the usual ones.
fn swtpm_user(place: &StatePath, qemu_conf: &Path) -> Option<User> {
    let conf = fs::read_to_string(qemu_conf).unwrap_or_default();
    if let Some(name) = setting(&conf, "swtpm_user") {
        let mut user = match name.strip_prefix('+') {
            Some(uid) => users::by_uid(uid.parse().ok()?),
            None => users::by_name(name),
        }?;
        if let Some(group) = setting(&conf, "swtpm_group") {
            let gid = match group.strip_prefix('+') {
                Some(gid) => gid.parse().ok(),
                None => users::gid_of(group),
            };
            user.groups.push(gid?);
        }
        return Some(user);
    }
    let owners = open::directories(place).unwrap_or_default();
    match owners.last().map(MetadataExt::uid) {
        Some(uid) if uid != 0 && !place.below.is_empty() => users::by_uid(uid),
        _ => USUAL_USERS.iter().find_map(|name| users::by_name(name)),
    }
}

/// The value of a setting in libvirt's format (`NAME = "VALUE"`), of several the last.
fn setting<'c>(conf: &'c str, name: &str) -> Option<&'c str> {
    let value = |line: &'c str| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim().strip_prefix('"')?;
        (key.trim() == name).then(|| value.split_once('"'))?
    };
    conf.lines()
        .filter_map(value)
        .next_back()
        .map(|(value, _)| value)
}

/// The directories above the one that libvirt gives to swtpm's user, the outermost first; also
/// those that links lead to.
fn directories_above(place: &StatePath) -> BTreeSet<PathBuf> {
    let given = match place.backend {
        Backend::Directory => place.directory(),
        Backend::Linear => &place.path,
    };
    let above = |path: &Path| {
        let above: Vec<_> = path.ancestors().skip(1).map(Path::to_owned).collect();
        above
    };
    let mut found: BTreeSet<_> = above(given).into_iter().collect();
    let mut there = given.ancestors().skip(1);
    if let Some(real) = there.find_map(|path| fs::canonicalize(path).ok()) {
        found.extend(real.ancestors().map(Path::to_owned));
    }
    found
}

fn closed(path: &Path, user: &User) -> Option<ClosedDirectory> {
    let found = match fs::metadata(path) {
        Ok(found) if found.is_dir() => found,
        // libvirt makes what is missing.
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        _ => return None,
    };
    let mode = found.mode() & 0o7777;
    let search = if user.uid == 0 {
        return None;
    } else if found.uid() == user.uid {
        0o100
    } else if user.groups.contains(&found.gid()) {
        0o010
    } else {
        0o001
    };
    // An access control list may let in whom the mode does not.
    (mode & search == 0 && !sys::has_acl(path)).then(|| ClosedDirectory {
        path: path.to_owned(),
        mode,
        needed: mode | search | (USUAL_MODE & 0o011),
        user: user.name.clone(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::domain::{Emulator, TpmVersion};
    use crate::ids::DomainUuid;

    #[test]
    fn settings_are_read_as_libvirt_does() {
        let conf =
            "#swtpm_user = \"a\"\nswtpm_user = \"b\"\n swtpm_user=\"+107\" # c\nother = \"d\"\n";
        assert_eq!(setting(conf, "swtpm_user"), Some("+107"));
        assert_eq!(setting(conf, "swtpm_group"), None);
    }

    #[test]
    fn a_closed_directory_is_named_with_the_mode_that_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let states = dir.path().join("swtpm");
        let domain = DomainUuid::random();
        let vtpm = Emulator {
            version: TpmVersion::V2_0,
            secret_uuid: None,
            persistent_state: false,
            source: None,
        };
        let place = StatePath::of(&states, domain, &vtpm);
        let guest = states.join(domain.to_string());
        let conf = dir.path().join("qemu.conf");
        fs::create_dir_all(&guest).unwrap();
        // Of root, nothing is closed; the number is that of "nobody", who is no owner here.
        fs::write(&conf, "swtpm_user = \"nobody\"\n").unwrap();
        for closed in [&states, &guest] {
            for (mode, needed) in [
                (0o700, Some(0o711)),
                (0o710, Some(0o711)),
                (0o701, None),
                (0o755, None),
            ] {
                fs::set_permissions(closed, Permissions::from_mode(mode)).unwrap();
                let found = closed_directory(&place, &conf);
                assert_eq!(found.as_ref().map(|found| found.needed), needed, "{mode:o}");
                assert!(found.is_none_or(|found| found.path == *closed && found.user == "nobody"));
            }
        }
        fs::write(&conf, "swtpm_user = \"root\"\n").unwrap();
        fs::set_permissions(&states, Permissions::from_mode(0o700)).unwrap();
        assert_eq!(closed_directory(&place, &conf), None);
        // Behind a link, too.
        fs::rename(&states, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &states).unwrap();
        fs::write(&conf, "swtpm_user = \"nobody\"\n").unwrap();
        assert!(closed_directory(&place, &conf).is_some());
    }
}
