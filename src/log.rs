//! The log: journald if the host has it, otherwise a file. Never stdout, which libvirt reads, nor
//! stderr, which it shows to the client that started the guest. A command that has no log keeps its
//! [`Warnings`] for the person who runs it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use tracing::{Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::MakeWriter;

use crate::config::{Config, LogTarget};
use crate::host::dirs::StateDir;
use crate::host::path_error::PathError;
use crate::host::trusted::{self, Distrust};
use crate::messages::{self, Named};
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

/// The same for a command, which collects its warnings where there is no log.
pub fn init_or_collect(config: &Config, state_dir: &StateDir) -> Result<(), LogError> {
    init(config, state_dir).or_else(|error| {
        Warnings::collect()?;
        Err(error)
    })
}

fn install(subscriber: impl Subscriber + Send + Sync) -> Result<(), LogError> {
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)
}

fn file(path: &Path, level: Level) -> Result<impl Subscriber + Send + Sync, LogError> {
    let lines = LineFile(open(path)?);
    Ok(tracing_subscriber::fmt()
        .with_max_level(level)
        .with_timer(Utc)
        .with_target(false)
        .with_ansi(false)
        // Its own errors, as about a full disk, would go to stderr.
        .log_internal_errors(false)
        .with_writer(lines)
        .finish())
}

/// Opens a log for appending, or creates it, accessible to its owner only.
fn open(path: &Path) -> Result<File, LogError> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
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
/// processes do not mix.
struct LineFile(File);

impl<'f> MakeWriter<'f> for LineFile {
    type Writer = LineWriter<'f>;

    fn make_writer(&'f self) -> Self::Writer {
        LineWriter(&self.0)
    }
}

/// Writes one event. A guest's name may contain any character: a line break in it must not look
/// like the next event, and an escape sequence must not reach a terminal.
struct LineWriter<'f>(&'f File);

impl Write for LineWriter<'_> {
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

/// Logs the outcome of a start: one line.
pub fn decision(guest: &str, operation: &str, outcome: &Outcome) {
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
                    decision = "allow",
                    repairs,
                    "{why}"
                );
            } else {
                tracing::warn!(
                    domain = name,
                    uuid,
                    operation,
                    decision = "allow",
                    repairs,
                    findings,
                    "{why}"
                );
            }
        }
        Decision::Deny(why) => refused(named, operation, why),
    }
}

/// Logs a refusal: one line.
pub fn refused(named: Named<'_>, operation: &str, why: &Refusal) {
    let (code, words) = (why.code().as_str(), messages::refusal(named, why));
    let uuid = named.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
    tracing::error!(
        domain = messages::one_line(named.name),
        uuid,
        operation,
        decision = "deny",
        code,
        hint = messages::one_line(&words.hint),
        "{}",
        messages::one_line(&words.message)
    );
}
