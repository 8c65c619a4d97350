//! A copy of the checkout, with what is not committed: the checkout itself is never changed.
//!
//! A file is written only where it differs, so that cargo builds only what has changed since the last run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, module_under_test, switch};

/// What is no part of the programs and of their tests: a run judges it again each time.
const NOT_PLAYED: &str = "tests/mutants/";

/// Texts by their paths in the checkout.
pub type Sources = BTreeMap<String, String>;

/// The copy.
pub struct Tree {
    root: PathBuf,
    /// What is rewritten there, as it is in the checkout.
    sources: Sources,
    fingerprint: u64,
}

impl Tree {
    /// The copy at this path, made like the checkout that is the working directory. What will be rewritten is
    /// left to `write`.
    pub fn copied(root: PathBuf) -> Result<Self> {
        let mut sources = Sources::new();
        let mut hash = DefaultHasher::new();
        let paths = files()?;
        for path in &paths {
            let content = content(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
            if !path.starts_with(NOT_PLAYED) {
                (path, &content.bytes).hash(&mut hash);
            }
            if is_rewritten(path) {
                let text =
                    String::from_utf8(content.bytes).map_err(|_| format!("{path} is not text"))?;
                sources.insert(path.clone(), text);
            } else {
                put(&root.join(path), &content)
                    .map_err(|error| format!("copy of {path}: {error}"))?;
            }
        }
        let known: BTreeSet<PathBuf> = paths.iter().map(|path| root.join(path)).collect();
        remove_others(&root, &known).map_err(|error| format!("{}: {error}", root.display()))?;
        let fingerprint = hash.finish();
        Ok(Self {
            root,
            sources,
            fingerprint,
        })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the copy was made from, in one number.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What is rewritten in the copy, as it is in the checkout.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Puts the rewritten sources into the copy.
    pub fn write(&self, sources: Sources) -> Result<()> {
        for (path, text) in sources {
            let content = Content {
                bytes: text.into_bytes(),
                kind: Kind::File(0o644),
            };
            put(&self.root.join(&path), &content)
                .map_err(|error| format!("copy of {path}: {error}"))?;
        }
        Ok(())
    }
}

/// Whether mutants or their switch come into the copy of this file.
fn is_rewritten(path: &str) -> bool {
    module_under_test(path).is_some() || switch::appended_to(0).iter().any(|(lib, _)| *lib == path)
}

/// The files of the checkout that git knows, or would take, and that are there.
fn files() -> Result<Vec<String>> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
        ])
        .output()
        .map_err(|error| format!("git: {error}"))?;
    if !listed.status.success() {
        return Err(format!(
            "git: {}",
            String::from_utf8_lossy(&listed.stderr).trim()
        ));
    }
    let paths = String::from_utf8(listed.stdout).map_err(|_| "a file's name is not text")?;
    Ok(paths
        .split_terminator('\0')
        .filter(|path| Path::new(path).symlink_metadata().is_ok())
        .map(str::to_owned)
        .collect())
}

enum Kind {
    File(u32),
    Link,
}

/// What a file has in it, or where a link leads.
struct Content {
    bytes: Vec<u8>,
    kind: Kind,
}

fn content(path: &Path) -> std::io::Result<Content> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        let bytes = fs::read_link(path)?.into_os_string().into_encoded_bytes();
        return Ok(Content {
            bytes,
            kind: Kind::Link,
        });
    }
    let mode = metadata.permissions().mode() & 0o777;
    Ok(Content {
        bytes: fs::read(path)?,
        kind: Kind::File(mode),
    })
}

fn put(path: &Path, wanted: &Content) -> std::io::Result<()> {
    if let Ok(there) = content(path) {
        match (&there.kind, &wanted.kind) {
            (Kind::File(mode), Kind::File(other))
                if mode == other && there.bytes == wanted.bytes =>
            {
                return Ok(());
            }
            (Kind::Link, Kind::Link) if there.bytes == wanted.bytes => return Ok(()),
            _ => fs::remove_file(path)?,
        }
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match wanted.kind {
        Kind::Link => symlink(String::from_utf8_lossy(&wanted.bytes).as_ref(), path),
        Kind::File(mode) => {
            fs::write(path, &wanted.bytes)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        }
    }
}

/// Removes what the checkout does not have any more.
fn remove_others(directory: &Path, known: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_others(&entry.path(), known)?;
        } else if !known.contains(&entry.path()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
