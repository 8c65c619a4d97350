//! The passphrase of a recovery file: the first line of a file or of stdin, or asked for.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::AdminError;
use crate::provider::passphrase::Passphrase;

/// The longest passphrase, in bytes.
const MAX_LEN: usize = 1024;

/// A passphrase for a new recovery file. A person types it twice: a slip of the fingers would
/// lock the key away for good.
pub(super) fn choose(file: Option<&Path>) -> Result<Passphrase, AdminError> {
    if let Some(file) = file {
        return from_file(file);
    }
    let first = typed("Passphrase for the recovery file: ")?;
    let second = typed("The same once more: ")?;
    if *first != *second {
        return Err(AdminError::usage("the two passphrases are not the same"));
    }
    filled(first)
}

/// The passphrase of an existing recovery file.
pub(super) fn ask(file: Option<&Path>) -> Result<Passphrase, AdminError> {
    match file {
        Some(file) => from_file(file),
        None => filled(typed("Passphrase of the recovery file: ")?),
    }
}

fn typed(prompt: &str) -> Result<Zeroizing<Vec<u8>>, AdminError> {
    match rpassword::prompt_password(prompt) {
        Ok(line) => Ok(Zeroizing::new(line.into_bytes())),
        Err(error) => Err(AdminError::usage(format!(
            "there is no terminal to ask for the passphrase on: {error}"
        ))
        .with_hint("--passphrase-file FILE takes its first line; \"-\" is stdin")),
    }
}

fn from_file(path: &Path) -> Result<Passphrase, AdminError> {
    let opened = if path == Path::new("-") {
        // The descriptor itself: std's stdin keeps what it reads in a buffer that is not wiped.
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(path)
    };
    let line = opened.and_then(first_line);
    filled(line.map_err(|error| AdminError::failed(format!("{}: {error}", path.display())))?)
}

/// Reads up to the first line feed, which is no part of it, nor is a carriage return before.
fn first_line(mut input: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // Of its final size from the start: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(vec![0; MAX_LEN + 2]);
    let mut len = 0;
    let end = loop {
        let read = match input.read(&mut line[len..]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        let new = &line[len..len + read];
        if let Some(at) = new.iter().position(|byte| *byte == b'\n') {
            break len + at;
        }
        len += read;
        if read == 0 {
            break len;
        }
    };
    line.truncate(end);
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.len() > MAX_LEN {
        let words = format!("its first line is longer than {MAX_LEN} bytes");
        return Err(io::Error::new(ErrorKind::InvalidData, words));
    }
    Ok(line)
}

fn filled(bytes: Zeroizing<Vec<u8>>) -> Result<Passphrase, AdminError> {
    Passphrase::from_bytes(bytes).ok_or_else(|| {
        AdminError::usage("the passphrase is empty").with_hint("its first line is what counts")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts_without_its_end() {
        for input in [
            "pass word",
            "pass word\n",
            "pass word\r\n",
            "pass word\nmore\n",
        ] {
            assert_eq!(
                *first_line(input.as_bytes()).unwrap(),
                b"pass word",
                "{input:?}"
            );
        }
        assert_eq!(*first_line(&b"\nmore"[..]).unwrap(), b"");
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_not_cut() {
        let longest = "x".repeat(MAX_LEN);
        assert_eq!(
            first_line(format!("{longest}\r\n").as_bytes())
                .unwrap()
                .len(),
            MAX_LEN
        );
        for too_long in [format!("{longest}y"), "y".repeat(1 << 20)] {
            assert!(first_line(too_long.as_bytes()).is_err());
        }
    }
}
