//! The users and groups of this host's own files. The C library would ask every service that
//! `nsswitch.conf` names, and a statically linked hook could not load those.

use std::fs;
use std::path::Path;

use crate::host::dirs::{GROUP, PASSWD};

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

/// The user of this name.
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
    let groups = fs::read_to_string(GROUP).ok()?;
    let mut groups = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    });
    groups.next()
}

/// A user's name, for people; the number where there is no name.
#[must_use]
pub fn label(uid: u32) -> String {
    by_uid(uid).map_or_else(|| format!("user {uid}"), |user| user.name)
}

fn find(passwd: &Path, group: &Path, wanted: impl Fn(&User) -> bool) -> Option<User> {
    let users = fs::read_to_string(passwd).ok()?;
    let mut user = users.lines().filter_map(user).find(wanted)?;
    let groups = fs::read_to_string(group).unwrap_or_default();
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
    use super::*;

    #[test]
    fn a_user_has_the_groups_of_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let (passwd, group) = (dir.path().join("passwd"), dir.path().join("group"));
        fs::write(
            &passwd,
            "root:x:0:0::/root:/bin/sh\nbroken\ntss:x:107:115::/:/bin/false\n",
        )
        .unwrap();
        fs::write(
            &group,
            "root:x:0:\nkvm:x:104:qemu,tss\ntss:x:115:tss\nlate:x\n",
        )
        .unwrap();
        let tss = find(&passwd, &group, |user| user.name == "tss").unwrap();
        assert_eq!((tss.uid, &tss.groups[..]), (107, &[115, 104][..]));
        assert_eq!(
            find(&passwd, &group, |user| user.uid == 0).unwrap().groups,
            [0]
        );
        assert!(find(&passwd, &group, |user| user.name == "nobody").is_none());
    }
}
