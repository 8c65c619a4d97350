//! The users and groups of this host's own files, and of those of its image. The C library would ask every service that
//! `nsswitch.conf` names, and a statically linked hook could not load those.

use std::io::{self, ErrorKind};
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
    find(PASSWD, GROUP, |user| user.name == name)
}

/// The user of this number.
#[must_use]
pub fn by_uid(uid: u32) -> Option<User> {
    find(PASSWD, GROUP, |user| user.uid == uid)
}

/// The number of the group of this name.
#[must_use]
pub fn gid_of(group: &str) -> Option<u32> {
    gid_in(GROUP, group)
}

/// A user's name, for people; the number where there is no name.
#[must_use]
pub fn label(uid: u32) -> String {
    let user = find_name(PASSWD, |user| user.uid == uid);
    user.map_or_else(|| format!("user {uid}"), |user| user.name)
}

/// The lines of the host's own file, and after them those of the image's, which most hosts do not have.
fn lines([own, image]: [impl AsRef<Path>; 2]) -> io::Result<String> {
    let own = text::read(own.as_ref())?;
    match text::read(image.as_ref()) {
        Ok(image) => Ok(format!("{own}\n{image}")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(own),
        Err(error) => Err(error),
    }
}

fn gid_in(groups: [impl AsRef<Path>; 2], group: &str) -> Option<u32> {
    gid_in_text(&lines(groups).ok()?, group)
}

/// The number of the group of this name, in the text of group(5).
#[must_use]
pub fn gid_in_text(groups: &str, group: &str) -> Option<u32> {
    let mut groups = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    });
    groups.next()
}

/// The first user whose name or number is wanted, with the primary group only.
fn find_name(passwd: [impl AsRef<Path>; 2], wanted: impl Fn(&User) -> bool) -> Option<User> {
    user_in_text(&lines(passwd).ok()?, wanted)
}

/// The first user whose name or number is wanted, with the primary group only, in the text of passwd(5).
#[must_use]
pub fn user_in_text(passwd: &str, wanted: impl Fn(&User) -> bool) -> Option<User> {
    passwd.lines().filter_map(user).find(wanted)
}

fn find(
    passwd: [impl AsRef<Path>; 2],
    group: [impl AsRef<Path>; 2],
    wanted: impl Fn(&User) -> bool,
) -> Option<User> {
    let mut user = find_name(passwd, wanted)?;
    add_groups(&mut user, &lines(group).ok()?);
    Some(user)
}

/// Adds the groups of which the user is a member, in the text of group(5).
pub fn add_groups(user: &mut User, groups: &str) {
    for line in groups.lines() {
        user.groups.extend(group_with(user, line));
    }
}

/// The number of the group in this line if the user is a member of it, and is not known as one yet.
fn group_with(user: &User, line: &str) -> Option<u32> {
    let mut fields = line.split(':');
    let gid: u32 = fields.nth(2)?.parse().ok()?;
    let is_member = fields.next()?.split(',').any(|name| name == user.name);
    (is_member && !user.groups.contains(&gid)).then_some(gid)
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

    /// The host's own files, and those of its image.
    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new(passwd: &[u8], group: &[u8]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("passwd"), passwd).unwrap();
            fs::write(dir.path().join("group"), group).unwrap();
            Self { dir }
        }

        fn of(&self, name: &str) -> [PathBuf; 2] {
            [name.to_owned(), format!("image's {name}")].map(|name| self.dir.path().join(name))
        }

        fn user(&self, name: &str) -> Option<User> {
            find(self.of("passwd"), self.of("group"), |user| {
                user.name == name
            })
        }
    }

    #[test]
    fn a_user_has_the_groups_of_both_files() {
        let files = Files::new(
            b"root:x:0:0::/root:/bin/sh\nbroken\ntss:x:107:115::/:/bin/false\n",
            b"root:x:0:\nkvm:x:104:qemu,tss\ntss:x:115:tss\nlate:x\n",
        );
        let tss = files.user("tss").unwrap();
        assert_eq!((tss.uid, &tss.groups[..]), (107, &[115, 104][..]));
        assert_eq!(files.user("root").unwrap().groups, [0]);
        assert!(files.user("nobody").is_none());
    }

    /// As on an rpm-ostree host: only root and who was added are in /etc.
    #[test]
    fn users_and_groups_of_the_image_count_after_the_hosts_own() {
        let files = Files::new(
            b"root:x:0:0::/root:/bin/sh\ncore:x:1000:1000::/home/core:/bin/bash",
            b"root:x:0:\nkvm:x:36:qemu,tss",
        );
        let [_, image] = files.of("passwd");
        fs::write(&image, "root:x:7:7:::\ntss:x:59:59:::\n").unwrap();
        let [_, image] = files.of("group");
        assert_eq!(files.user("tss").unwrap().groups, [59, 36]);
        fs::write(&image, "kvm:x:36:tss\ntss:x:59:\nqemu:x:107:tss\n").unwrap();
        assert_eq!(files.user("tss").unwrap().groups, [59, 36, 107]);
        assert_eq!(files.user("root").unwrap().uid, 0);
        assert_eq!(gid_in(files.of("group"), "qemu"), Some(107));
        assert_eq!(gid_in(files.of("group"), "kvm"), Some(36));
        assert_eq!(gid_in(files.of("group"), "none"), None);
        // What is in it is not known.
        fs::remove_file(&image).unwrap();
        fs::create_dir(&image).unwrap();
        assert!(files.user("tss").is_none());
    }

    #[test]
    fn a_line_in_another_encoding_hides_no_other_one() {
        let files = Files::new(
            b"m:x:1000:1000:M\xfcller:/home/m:/bin/sh\ntss:x:107:115::/:/bin/false\n",
            b"b\xfcro:x:1001:m\nkvm:x:104:tss\n",
        );
        let tss = files.user("tss").unwrap();
        assert_eq!((tss.uid, &tss.groups[..]), (107, &[115, 104][..]));
    }

    #[test]
    fn of_groups_that_cannot_be_read_a_user_is_not_a_member_of_none() {
        let files = Files::new(b"tss:x:107:115::/:/bin/false\n", b"");
        fs::remove_file(&files.of("group")[0]).unwrap();
        assert_eq!(files.user("tss"), None);
        let is_tss = |user: &User| user.name == "tss";
        assert_eq!(find_name(files.of("passwd"), is_tss).unwrap().uid, 107);
    }
}
