//! Files of other users, read as root: QEMU's, swtpm's, a collector's. They may put anything in a
//! file's place: a link to a file of root's, a FIFO that nobody writes to, a file without an end.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

/// Opens a regular file for reading. A link in its place is not followed, and neither a FIFO nor a lease
/// (`F_SETLEASE`) is waited for; a file system that does not answer is ([`bounded`](super::bounded)).
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

/// Reads the first `limit` bytes of a regular file, as [`open`] opens it.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_no_more_of_it_than_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "0123456789").unwrap();
        assert_eq!(read(&at("file"), 4).unwrap(), b"0123");
        assert_eq!(read(&at("file"), 40).unwrap(), b"0123456789");
        mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink("/dev/zero", at("endless")).unwrap();
        fs::create_dir(at("dir")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for name in ["fifo", "link", "endless", "dir", "socket", "missing"] {
            assert!(read(&at(name), 4).is_err(), "{name}");
        }
    }
}
