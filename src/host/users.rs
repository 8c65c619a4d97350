//! The users and groups of this host's own files. The C library would ask every service that
//! `nsswitch.conf` names, and a statically linked hook could not load those.

use std::path::Path;

use crate::host::dirs::{GROUP, PASSWD};
use crate::host::text;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The numbers of the groups, the primary one first.
    pub groups: Vec<u32>,
}

/// The user of this name. Like the next one, `None` also if the groups are not known: a user who is taken for a member of
/// none is said to be kept out where a group lets everybody in.
#[must_use]
pub fn by_name(name: &str) -> Option<User> {
    find(Path::new(PASSWD), Path::new(GROUP), |user| {
        user.name == name
    })
}

/// The user of this number.
#[must_use]
pub fn by_uid(uid: u32) -> Option<User> {
    find(Path::new(PASSWD), Path::new(GROUP), |user| user.uid == uid)
}

/// The number of the group of this name.
#[must_use]
pub fn gid_of(group: &str) -> Option<u32> {
    let groups = text::read(Path::new(GROUP)).ok()?;
    let mut groups = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    });
    groups.next()
}

/// A user's name, for people; the number where there is no name.
#[must_use]
pub fn label(uid: u32) -> String {
    let user = find_name(Path::new(PASSWD), |user| user.uid == uid);
    user.map_or_else(|| format!("user {uid}"), |user| user.name)
}

/// The user of the first file whose name or number is wanted, with the primary group only.
fn find_name(passwd: &Path, wanted: impl Fn(&User) -> bool) -> Option<User> {
    let users = text::read(passwd).ok()?;
    users.lines().filter_map(user).find(wanted)
}

fn find(passwd: &Path, group: &Path, wanted: impl Fn(&User) -> bool) -> Option<User> {
    let mut user = find_name(passwd, wanted)?;
    let groups = text::read(group).ok()?;
    let further = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let gid: u32 = fields.nth(2)?.parse().ok()?;
        let is_member = fields.next()?.split(',').any(|name| name == user.name);
        (is_member && gid != user.groups[0]).then_some(gid)
    });
    let further: Vec<_> = further.collect();
    user.groups.extend(further);
    Some(user)
}

/// `NAME:PASSWORD:UID:GID:…` (passwd(5)).
fn user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let groups = vec![fields.next()?.parse().ok()?];
    Some(User { name, uid, groups })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn files(passwd: &[u8], group: &[u8]) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let paths = [("passwd", passwd), ("group", group)].map(|(name, lines)| {
            let path = dir.path().join(name);
            fs::write(&path, lines).unwrap();
            path
        });
        let [passwd, group] = paths;
        (dir, passwd, group)
    }

    #[test]
    fn a_user_has_the_groups_of_both_files() {
        let (_dir, passwd, group) = files(
            b"root:x:0:0::/root:/bin/sh\nbroken\ntss:x:107:115::/:/bin/false\n",
            b"root:x:0:\nkvm:x:104:qemu,tss\ntss:x:115:tss\nlate:x\n",
        );
        let tss = find(&passwd, &group, |user| user.name == "tss").unwrap();
        assert_eq!((tss.uid, &tss.groups[..]), (107, &[115, 104][..]));
        assert_eq!(
            find(&passwd, &group, |user| user.uid == 0).unwrap().groups,
            [0]
        );
        assert!(find(&passwd, &group, |user| user.name == "nobody").is_none());
    }

    #[test]
    fn a_line_in_another_encoding_hides_no_other_one() {
        let (_dir, passwd, group) = files(
            b"m:x:1000:1000:M\xfcller:/home/m:/bin/sh\ntss:x:107:115::/:/bin/false\n",
            b"b\xfcro:x:1001:m\nkvm:x:104:tss\n",
        );
        let tss = find(&passwd, &group, |user| user.name == "tss").unwrap();
        assert_eq!((tss.uid, &tss.groups[..]), (107, &[115, 104][..]));
    }

    #[test]
    fn of_groups_that_cannot_be_read_a_user_is_not_a_member_of_none() {
        let (_dir, passwd, group) = files(b"tss:x:107:115::/:/bin/false\n", b"");
        fs::remove_file(&group).unwrap();
        let is_tss = |user: &User| user.name == "tss";
        assert_eq!(find(&passwd, &group, is_tss), None);
        assert_eq!(find_name(&passwd, is_tss).unwrap().uid, 107);
    }
}
