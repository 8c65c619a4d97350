//! The log: journald if the host has it, otherwise a file. Never stdout, which libvirt reads, nor
//! stderr, which it shows to the client that started the guest. A command that has no log keeps its
//! [`Warnings`] for the person who runs it, or prints its events if it goes on for days.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, eaccess};
use tracing::{Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::MakeWriter;

use crate::clock::Timestamp;
use crate::config::{Config, LogTarget};
use crate::host::dirs::StateDir;
use crate::host::path_error::PathError;
use crate::host::trusted::{self, Distrust};
use crate::messages::{self, Command, Named};
use crate::verdict::Decision;
use crate::verdict::outcome::Outcome;
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;

mod fields;
mod journald;
#[cfg(test)]
mod tests;
mod warnings;

pub use warnings::Warnings;

/// Why there is no log. Nothing else depends on the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// journald does not listen, or accepts no more events.
    #[error("no log: journald: {0}")]
    Journald(#[source] io::Error),
    /// The file cannot be opened; a symbolic link is not followed.
    #[error("no log: {0}")]
    Unwritable(PathError),
    /// It is a device, a pipe or the like, it is owned by someone else, or it has a second hard
    /// link: writing to it might change something that is not a log.
    #[error("no log: {0}")]
    NotTrusted(#[from] Distrust),
    /// This process already has a log.
    #[error("no log: this process already has one")]
    AlreadySet,
}

/// Sends the events of this process to the log that the configuration names.
pub fn init(config: &Config, state_dir: &StateDir) -> Result<(), LogError> {
    let level = config.log_level;
    match &config.log_target {
        LogTarget::Journald => install(journald::subscriber(level)?),
        LogTarget::File(path) => install(file(path, level)?),
        LogTarget::Auto => match journald::subscriber(level) {
            Ok(journald) => install(journald),
            Err(_) => install(file(&state_dir.log(), level)?),
        },
    }
}

/// Whether there would be a log, by the same rules. Makes and changes nothing.
pub(crate) fn examine(target: &LogTarget, state_dir: &StateDir) -> Result<(), LogError> {
    match target {
        LogTarget::Journald => journald::examine(),
        LogTarget::File(path) => examine_file(path),
        LogTarget::Auto => journald::examine().or_else(|_| examine_file(&state_dir.log())),
    }
}

/// One that is not there yet is made where root may make it.
fn examine_file(path: &Path) -> Result<(), LogError> {
    let missing = match open_as(path, OpenOptions::new().append(true)) {
        Err(LogError::Unwritable(error)) if error.kind() == ErrorKind::NotFound => error,
        opened => return opened.map(drop),
    };
    let made = match path.parent() {
        // Only a directory has such a path.
        _ if path.as_os_str().as_bytes().ends_with(b"/") => Err(Errno::EISDIR),
        Some(directory) => eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK),
        None => return Err(LogError::Unwritable(missing)),
    };
    made.map_err(|errno| LogError::Unwritable(PathError::new(path, errno)))
}

/// The same for a command, which collects its warnings where there is no log.
pub fn init_or_collect(config: &Config, state_dir: &StateDir) -> Result<(), LogError> {
    init(config, state_dir).or_else(|error| {
        Warnings::collect()?;
        Err(error)
    })
}

/// The same for a command that goes on for days: where there is no log, its events go to stderr, which systemd
/// gives to the journal.
pub fn init_or_print(config: &Config, state_dir: &StateDir) -> Result<(), LogError> {
    init(config, state_dir).or_else(|error| {
        install(lines(config.log_level, StderrLines))?;
        Err(error)
    })
}

fn install(subscriber: impl Subscriber + Send + Sync) -> Result<(), LogError> {
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)
}

fn file(path: &Path, level: Level) -> Result<impl Subscriber + Send + Sync, LogError> {
    Ok(lines(level, LineFile::open(path)?))
}

/// Events of this level, as lines.
fn lines<W>(level: Level, to: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_timer(Utc)
        .with_target(false)
        .with_ansi(false)
        // Its own errors, as about a full disk, would go to stderr.
        .log_internal_errors(false)
        .with_writer(to)
        .finish()
}

/// Opens a log for appending, or creates it, accessible to its owner only.
fn open(path: &Path) -> Result<File, LogError> {
    open_as(path, OpenOptions::new().append(true).create(true))
}

fn open_as(path: &Path, options: &mut OpenOptions) -> Result<File, LogError> {
    let file = options
        .mode(0o600)
        // A FIFO without a reader must not block the guest's start.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
        .map_err(|error| LogError::Unwritable(PathError::new(path, error)))?;
    trusted::LOG.check(path, &file)?;
    Ok(file)
}

/// The time of an event: RFC 3339, UTC, milliseconds.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        write!(out, "{:.3}", jiff::Timestamp::now())
    }
}

/// A file that receives each event as one line in one write, so that the lines of concurrent
/// processes do not mix. It is opened again once its path is another file, or none: logrotate has renamed it,
/// and a process that goes on for days would write to the old one.
struct LineFile {
    path: PathBuf,
    file: Mutex<Arc<File>>,
}

impl LineFile {
    fn open(path: &Path) -> Result<Self, LogError> {
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(Arc::new(open(path)?)),
        })
    }

    /// The file that has the path now. Where it cannot be opened, the one that had it: nothing is lost.
    fn current(&self) -> Arc<File> {
        let held = || self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = Arc::clone(&held());
        if is_at(&file, &self.path) {
            return file;
        }
        match open(&self.path).map(Arc::new) {
            Ok(next) => {
                *held() = Arc::clone(&next);
                next
            }
            Err(_) => file,
        }
    }
}

/// Whether this open file still has this path.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |of: io::Result<Metadata>| of.ok().map(|it| (it.dev(), it.ino()));
    let open = identity(file.metadata());
    open.is_some() && open == identity(fs::symlink_metadata(path))
}

impl MakeWriter<'_> for LineFile {
    type Writer = LineWriter<Arc<File>>;

    fn make_writer(&self) -> Self::Writer {
        LineWriter(self.current())
    }
}

/// stderr, likewise.
struct StderrLines;

impl MakeWriter<'_> for StderrLines {
    type Writer = LineWriter<io::Stderr>;

    fn make_writer(&self) -> Self::Writer {
        LineWriter(io::stderr())
    }
}

/// Writes one event. A guest's name may contain any character: a line break in it must not look
/// like the next event, and an escape sequence must not reach a terminal.
struct LineWriter<W>(W);

impl<W: Write> Write for LineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event.strip_suffix(b"\n").unwrap_or(event));
        let mut line = String::with_capacity(text.len() + 1);
        for character in text.chars() {
            if messages::misleads(character) {
                line.extend(character.escape_default());
            } else {
                line.push(character);
            }
        }
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs the outcome of a start: one line. `at` is the time of its row in the history.
pub fn decision(guest: &str, operation: &str, at: Timestamp, outcome: &Outcome) {
    let named = outcome
        .domain
        .as_ref()
        .map_or(Named::from(guest), Named::from);
    // journalctl prints this unchanged: it must not control the terminal or forge a line.
    let name = &messages::one_line(named.name);
    let uuid = outcome
        .domain
        .as_ref()
        .map(|domain| domain.uuid.to_string())
        .unwrap_or_default();
    let repairs: Vec<_> = outcome.verdict.repairs().iter().map(Repair::kind).collect();
    let findings: Vec<_> = outcome
        .verdict
        .findings()
        .iter()
        .map(|finding| messages::one_line(&messages::finding(named, finding).1))
        .collect();
    let (repairs, findings) = (repairs.join(","), findings.join("; "));
    match outcome.verdict.decision() {
        Decision::Allow(why) => {
            let why = messages::reason(*why);
            if findings.is_empty() {
                tracing::info!(
                    domain = name,
                    uuid,
                    operation,
                    at = at.0,
                    decision = "allow",
                    repairs,
                    "{why}"
                );
            } else {
                tracing::warn!(
                    domain = name,
                    uuid,
                    operation,
                    at = at.0,
                    decision = "allow",
                    repairs,
                    findings,
                    "{why}"
                );
            }
        }
        Decision::Deny(why) => refused(named, operation, at, why),
    }
}

/// Logs a refusal: one line. `at` is the time of its row in the history.
pub fn refused(named: Named<'_>, operation: &str, at: Timestamp, why: &Refusal) {
    let (code, words) = (why.code().as_str(), messages::refusal(named, why));
    let uuid = named.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
    tracing::error!(
        domain = messages::one_line(named.name),
        uuid,
        operation,
        at = at.0,
        decision = "deny",
        code,
        hint = messages::one_line(&words.hint),
        "{}",
        messages::one_line(&words.message)
    );
}

/// Logs why the hook ended before its work was done, where nothing could be refused: one line.
pub fn unfinished(guest: &str, operation: &str, why: &Refusal) {
    let (reason, hint) = match why {
        // Its words elsewhere are about a start that was not checked.
        Refusal::DeadlinePassed => (
            "hook.deadline passed".to_owned(),
            format!("find out what does not answer: {}", Command::Doctor),
        ),
        _ => (
            messages::refusal(Named::from(guest), why).message,
            "please report it, with the lines of this log about the guest".to_owned(),
        ),
    };
    tracing::error!(
        domain = messages::one_line(guest),
        operation,
        code = why.code().as_str(),
        hint = messages::one_line(&hint),
        "{}; the hook ended before its work was done",
        messages::one_line(&reason)
    );
}
