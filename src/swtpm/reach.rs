//! Whether swtpm's user can reach a TPM state. At each start libvirt makes this user the owner of
//! the state's directory and of its files (`qemuTPMEmulatorCreateStorage`), but not of the
//! directories above.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{AFS_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, SMB_SUPER_MAGIC, statfs};

use super::directories::{self, bounded};
use super::qemu_conf::{QemuConf, resolve};
use super::state_path::{Backend, StatePath};
use crate::host::sys;
use crate::host::users::{self, User};

/// The users that libvirt runs swtpm as if `qemu.conf` names none, each in the group of its name.
const USUAL_USERS: [&str; 2] = ["tss", "swtpm"];

/// The mode of the directories that libvirt makes.
const USUAL_MODE: u32 = 0o711;

/// The attributes in which file systems show an access control list. NFS has the second also where the list says no
/// more than the mode does; the third is that of ZFS where its lists are those of `NFSv4`.
const ACLS: [&CStr; 3] = [
    c"system.posix_acl_access",
    c"system.nfs4_acl",
    c"system.nfs4_acl_xdr",
];

/// File systems whose modes decide nothing: whoever serves them is asked. Of those in user space some leave it to the
/// kernel; which, only their options tell.
const DECIDE_ELSEWHERE: [FsType; 5] = [
    FUSE_SUPER_MAGIC,
    AFS_SUPER_MAGIC,
    SMB_SUPER_MAGIC,
    // CIFS and SMB2 (linux/magic.h).
    FsType(0xFF53_4D42),
    FsType(0xFE53_4D42),
];

/// A directory that swtpm's user cannot enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedDirectory {
    /// The directory.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// The permission bits that it needs.
    pub needed: u32,
    /// swtpm's user.
    pub user: String,
}

/// Returns the directory above this state that swtpm's user cannot enter. `None` also if it is not
/// certain which user that is, or what the user may do.
#[must_use]
pub fn closed_directory(state_path: &StatePath, qemu_conf: &Path) -> Option<ClosedDirectory> {
    let (asked, conf) = (state_path.clone(), qemu_conf.to_owned());
    let looked = bounded(state_path, move || {
        let Some(user) = swtpm_user(&asked, &conf) else {
            return Ok(None);
        };
        Ok(directories_above(&asked)
            .iter()
            .find_map(|path| closed(path, &user)))
    });
    looked.ok().flatten()
}

/// Returns the numbers of the user and group that libvirt will give this state to; root's if that is not known, until
/// libvirt gives it away at the start.
#[must_use]
pub fn future_owner(state_path: &StatePath, qemu_conf: &Path) -> (u32, u32) {
    let (asked, conf) = (state_path.clone(), qemu_conf.to_owned());
    let looked = bounded(state_path, move || Ok(swtpm_user(&asked, &conf)));
    let user = looked.ok().flatten();
    let group = |user: &User| user.groups.first().copied().unwrap_or_default();
    user.map_or((0, 0), |user| (user.uid, group(&user)))
}

/// Returns the user that libvirt will run swtpm as: the one that `qemu.conf` names, else the owner
/// of the state, else one of the usual users. The first of the groups is the one that libvirt runs it in.
fn swtpm_user(state_path: &StatePath, qemu_conf: &Path) -> Option<User> {
    let conf = QemuConf::read(qemu_conf);
    let mut user = match conf.user() {
        Some(named) => resolve(named, users::by_name, users::by_uid),
        None => usual_user(state_path),
    }?;
    match conf.group() {
        Some(named) => user.groups.insert(0, resolve(named, users::gid_of, Some)?),
        // Which of these are in this libvirt cannot be seen from here.
        None => user
            .groups
            .extend(USUAL_USERS.map(users::gid_of).iter().flatten()),
    }
    Some(user)
}

fn usual_user(state_path: &StatePath) -> Option<User> {
    let owners = directories::directories(state_path).unwrap_or_default();
    match owners.last().map(MetadataExt::uid) {
        Some(uid) if uid != 0 && !state_path.below.is_empty() => users::by_uid(uid),
        _ => USUAL_USERS.iter().find_map(|name| users::by_name(name)),
    }
}

/// Returns the directories above the one that libvirt gives to swtpm's user, the outermost first;
/// also those that links lead to.
fn directories_above(state_path: &StatePath) -> BTreeSet<PathBuf> {
    let given = match state_path.backend {
        Backend::Directory => state_path.directory(),
        Backend::Linear => &state_path.path,
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
    // libvirt makes missing directories.
    let found = fs::metadata(path).ok().filter(Metadata::is_dir)?;
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
    let is_closed = mode & search == 0
        && mode_decides(
            |attribute| sys::has_attribute(path, attribute),
            statfs(path).ok()?.filesystem_type(),
        );
    is_closed.then(|| ClosedDirectory {
        path: path.to_owned(),
        mode,
        needed: mode | search | (USUAL_MODE & 0o011),
        user: user.name.clone(),
    })
}

/// Whether nothing allows what a directory's mode does not: no access control list, and no server that is asked whatever
/// the mode is.
fn mode_decides(has_attribute: impl Fn(&CStr) -> bool, file_system: FsType) -> bool {
    !ACLS.iter().any(|acl| has_attribute(acl)) && !DECIDE_ELSEWHERE.contains(&file_system)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use nix::sys::statfs::{NFS_SUPER_MAGIC, TMPFS_MAGIC};

    use super::*;
    use crate::domain::{Emulator, TpmVersion};
    use crate::ids::DomainUuid;

    #[test]
    fn a_mode_decides_nothing_where_somebody_else_may() {
        let no_acl = |_: &CStr| false;
        assert!(mode_decides(no_acl, TMPFS_MAGIC));
        for acl in [
            c"system.posix_acl_access",
            c"system.nfs4_acl",
            c"system.nfs4_acl_xdr",
        ] {
            assert!(!mode_decides(|name| name == acl, NFS_SUPER_MAGIC));
        }
        assert!(mode_decides(
            |name| name == c"security.selinux",
            TMPFS_MAGIC
        ));
        assert!(!mode_decides(no_acl, FUSE_SUPER_MAGIC));
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
        let state_path = StatePath::of(&states, domain, &vtpm);
        let guest = states.join(domain.to_string());
        let conf = dir.path().join("qemu.conf");
        fs::create_dir_all(&guest).unwrap();
        // Nothing is closed to root. "nobody" owns nothing here.
        fs::write(&conf, "swtpm_user = \"nobody\"\n").unwrap();
        for closed in [&states, &guest] {
            for (mode, needed) in [
                (0o700, Some(0o711)),
                (0o710, Some(0o711)),
                (0o701, None),
                (0o755, None),
            ] {
                fs::set_permissions(closed, Permissions::from_mode(mode)).unwrap();
                let found = closed_directory(&state_path, &conf);
                assert_eq!(found.as_ref().map(|found| found.needed), needed, "{mode:o}");
                assert!(found.is_none_or(|found| found.path == *closed && found.user == "nobody"));
            }
        }
        fs::set_permissions(&states, Permissions::from_mode(0o700)).unwrap();
        for root in ["swtpm_user = \"root\"\n", "swtpm_user = 'root'\n"] {
            fs::write(&conf, root).unwrap();
            assert_eq!(closed_directory(&state_path, &conf), None);
        }
        // The group counts, whatever is said of the user.
        let gid = fs::metadata(&states).unwrap().gid();
        let group = format!("swtpm_group = '+{gid}'\n");
        fs::set_permissions(&states, Permissions::from_mode(0o710)).unwrap();
        for user in ["swtpm_user = \"nobody\"\n", ""] {
            fs::write(&conf, format!("{group}{user}")).unwrap();
            assert_eq!(closed_directory(&state_path, &conf), None);
        }
        assert_eq!(future_owner(&state_path, &conf).1, gid);
        let unknown = "swtpm_user = \"nobody\"\nswtpm_group = \"no-such-group\"\n";
        fs::write(&conf, unknown).unwrap();
        assert_eq!(closed_directory(&state_path, &conf), None, "not certain");
        fs::set_permissions(&states, Permissions::from_mode(0o700)).unwrap();
        // Also behind a link.
        fs::rename(&states, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &states).unwrap();
        fs::write(&conf, "swtpm_user = \"nobody\"\n").unwrap();
        assert!(closed_directory(&state_path, &conf).is_some());
    }
}
