//! System calls that a signal has interrupted are made again, as std makes its own again.

use std::fs::ReadDir;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitStatus};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// Makes a call until no signal interrupts it.
pub fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// openat(2). On a network file system, or one in user space, it can be interrupted.
#[allow(
    clippy::disallowed_methods,
    reason = "this is what stands in its place"
)]
pub fn openat<P: ?Sized + NixPath>(
    dir: impl AsFd,
    path: &P,
    flags: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    again(|| nix::fcntl::openat(&dir, path, flags, mode))
}

/// How a child has ended, if it has.
pub fn try_wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    std_again(|| child.try_wait())
}

/// A directory's entries: std makes this call just once, unlike others that open something.
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<ReadDir> {
    std_again(|| path.as_ref().read_dir())
}

/// [`again`], for what std makes just once.
fn std_again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_interrupted_is_made_again_and_no_other() {
        let mut answers = [Err(Errno::EINTR), Err(Errno::EINTR), Ok(1)].into_iter();
        assert_eq!(again(|| answers.next().unwrap_or(Ok(0))), Ok(1));
        let mut answers = [Err(Errno::EIO), Ok(1)].into_iter();
        assert_eq!(again(|| answers.next().unwrap_or(Ok(0))), Err(Errno::EIO));
    }
}
