//! The passphrase of a recovery file: the first line of a file or of stdin, or asked for.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::error::CommandError;
use crate::messages::{Arg, Command};
use crate::recovery::passphrase::Passphrase;

/// The longest passphrase, in bytes.
const MAX_LEN: usize = 1024;

/// Below so many characters a passphrase can be guessed, whatever a guess costs.
const STRONG_CHARS: usize = 12;

/// A passphrase for a new recovery file, and what makes it a weak one.
pub(crate) struct Chosen {
    pub(crate) passphrase: Passphrase,
    pub(crate) weaknesses: Vec<Weakness>,
}

/// Why a recovery file would be opened by somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Weakness {
    /// The passphrase has only so many characters.
    Short(usize),
    /// Others than its owner may read the file that it is in.
    OpenFile { file: PathBuf, mode: u32 },
}

impl Serialize for Weakness {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document {
            kind: &'static str,
            message: String,
        }
        let kind = match self {
            Self::Short(_) => "short-passphrase",
            Self::OpenFile { .. } => "open-passphrase-file",
        };
        let message = self.to_string();
        Document { kind, message }.serialize(to)
    }
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(chars) => write!(
                f,
                "weak passphrase: it has {chars} of the {STRONG_CHARS} characters that it should \
                 have at least, and whoever gets the recovery file can guess it"
            ),
            Self::OpenFile { file, mode } => write!(
                f,
                "others can read the passphrase in {} (mode {mode:04o}): {}",
                file.display(),
                Command::ChmodMode(0o600_u32.into(), Arg::file(file))
            ),
        }
    }
}

/// A passphrase for a new recovery file. A person types it twice: a typing error would lock the
/// key away for good.
pub(crate) fn choose(file: Option<&Path>) -> Result<Chosen, CommandError> {
    let (passphrase, open_file) = match file {
        Some(path) => {
            let file = open(path)?;
            let weakness = open_to_others(path, &file);
            (from_file(path, file)?, weakness)
        }
        None => (typed_twice()?, None),
    };
    let chars = passphrase.chars();
    let short = (chars < STRONG_CHARS).then_some(Weakness::Short(chars));
    Ok(Chosen {
        passphrase,
        weaknesses: short.into_iter().chain(open_file).collect(),
    })
}

fn typed_twice() -> Result<Passphrase, CommandError> {
    let first = typed("Passphrase for the recovery file: ")?;
    let second = typed("Repeat passphrase: ")?;
    if *first != *second {
        return Err(CommandError::usage("the two passphrases are not the same"));
    }
    filled(first)
}

/// Whether others than its owner may read this file. A pipe or a terminal is nobody else's.
fn open_to_others(path: &Path, file: &File) -> Option<Weakness> {
    let metadata = file.metadata().ok()?;
    let mode = metadata.permissions().mode() & 0o7777;
    (metadata.is_file() && mode & 0o044 != 0).then(|| Weakness::OpenFile {
        file: path.to_owned(),
        mode,
    })
}

/// The passphrase of an existing recovery file.
pub(crate) fn ask(file: Option<&Path>) -> Result<Passphrase, CommandError> {
    match file {
        Some(path) => from_file(path, open(path)?),
        None => filled(typed("Passphrase of the recovery file: ")?),
    }
}

fn typed(prompt: &str) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    match rpassword::prompt_password(prompt) {
        Ok(line) => Ok(Zeroizing::new(line.into_bytes())),
        Err(error) => Err(CommandError::usage(format!(
            "there is no terminal to ask for the passphrase on: {error}"
        ))
        .with_hint("--passphrase-file FILE takes its first line; \"-\" is stdin")),
    }
}

fn open(path: &Path) -> Result<File, CommandError> {
    let opened = if path == Path::new("-") {
        // The descriptor itself: std's stdin keeps what it reads in a buffer that is not wiped.
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(path)
    };
    opened.map_err(|error| unreadable(path, &error))
}

fn from_file(path: &Path, file: File) -> Result<Passphrase, CommandError> {
    filled(first_line(file).map_err(|error| unreadable(path, &error))?)
}

fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    CommandError::failed(format!("{}: {error}", path.display()))
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

fn filled(bytes: Zeroizing<Vec<u8>>) -> Result<Passphrase, CommandError> {
    Passphrase::from_bytes(bytes).ok_or_else(|| {
        CommandError::usage("the passphrase is empty").with_hint("its first line is what counts")
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
    fn a_short_passphrase_and_one_that_others_can_read_are_weak() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        let weaknesses = |line: &str, mode| {
            std::fs::write(&path, line).unwrap();
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).unwrap();
            choose(Some(&path)).unwrap().weaknesses
        };
        let open = |mode| Weakness::OpenFile {
            file: path.clone(),
            mode,
        };
        assert_eq!(weaknesses("zwölf Zeichen\n", 0o600), []);
        assert_eq!(weaknesses("zwölfZeichen\n", 0o600), []);
        assert_eq!(weaknesses("elf Zeichen\n", 0o600), [Weakness::Short(11)]);
        assert_eq!(weaknesses("zwölf Zeichen\n", 0o640), [open(0o640)]);
        assert_eq!(weaknesses("pw", 0o604), [Weakness::Short(2), open(0o604)]);
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
