//! The user and group that libvirt's `qemu.conf` has swtpm run as. libvirt reads the two settings independently of each
//! other; of several lines with one setting the first counts (`virConfGetValue`).

use std::fs;
use std::path::Path;

/// libvirt's `qemu.conf`.
#[derive(Debug, Default)]
pub struct QemuConf(String);

impl QemuConf {
    /// Reads it. One that is not there, or that root cannot read, sets nothing: libvirt passes over it, too.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        Self::of(&fs::read(path).unwrap_or_default())
    }

    /// What is in one.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // A comment may be in any encoding.
        Self(String::from_utf8_lossy(bytes).into_owned())
    }

    /// The user, as [`resolve`] takes it.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.setting("swtpm_user")
    }

    /// The group, as [`resolve`] takes it.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        self.setting("swtpm_group")
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| unquoted(value.trim()))?
        })
    }
}

/// A text in one of libvirt's kinds of quotes; a comment may follow.
fn unquoted(value: &str) -> Option<&str> {
    ["\"\"\"", "\"", "'"].iter().find_map(|quotes| {
        let (text, _) = value.strip_prefix(quotes)?.split_once(quotes)?;
        Some(text)
    })
}

/// Finds the user or group that libvirt means: `+107` is a number, anything else a name, or, if nobody has it, a number.
pub fn resolve<T>(
    text: &str,
    by_name: impl FnOnce(&str) -> Option<T>,
    by_number: impl FnOnce(u32) -> Option<T>,
) -> Option<T> {
    let named = match text.strip_prefix('+') {
        Some(_) => None,
        None => by_name(text),
    };
    named.or_else(|| by_number(text.strip_prefix('+').unwrap_or(text).parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// As libvirt 11.3 answered for each of these files.
    #[test]
    fn settings_are_read_as_libvirt_does() {
        for (conf, user) in [
            ("#swtpm_user = \"a\"\nswtpm_user = \"b\"\n", Some("b")),
            ("swtpm_user = \"a\"\nswtpm_user = \"b\"\n", Some("a")),
            (" swtpm_user=\"+107\" # c\n", Some("+107")),
            ("swtpm_user = 'root'\n", Some("root")),
            ("swtpm_user = \"\"\"tss\"\"\"\n", Some("tss")),
            ("swtpm_user = \"it's\" # 'b'\n", Some("it's")),
            ("other = \"d\"\nswtpm_users = \"e\"\n", None),
            ("swtpm_user = \"open\n", None),
            ("", None),
        ] {
            let conf = QemuConf(conf.to_owned());
            assert_eq!(conf.user(), user, "{conf:?}");
            assert_eq!(conf.group(), None);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu.conf");
        assert_eq!(QemuConf::read(&path).group(), None);
        fs::write(&path, b"# \xe9\nswtpm_group = 'kvm'\n").unwrap();
        let conf = QemuConf::read(&path);
        assert_eq!((conf.user(), conf.group()), (None, Some("kvm")));
    }

    #[test]
    fn a_name_may_be_a_number_and_a_number_need_not_have_a_name() {
        let by_name = |name: &str| (name == "tss" || name == "7").then(|| name.to_owned());
        let found = |text| resolve(text, by_name, |number| Some(format!("number {number}")));
        for (text, expected) in [
            ("tss", Some("tss")),
            ("7", Some("7")),
            ("+7", Some("number 7")),
            ("107", Some("number 107")),
            ("+tss", None),
            ("nobody", None),
        ] {
            assert_eq!(found(text).as_deref(), expected, "{text}");
        }
    }
}
