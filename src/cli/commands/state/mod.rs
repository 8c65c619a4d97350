//! `state …`: the kept copies of TPM state.

mod drop;
pub(crate) mod list;
pub(crate) mod restore;
mod show;

pub(crate) use restore::not_put_back;

use std::io::ErrorKind;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::guard::try_rows;
use crate::ids::DomainUuid;
use crate::manage::guests::GuestRef;
use crate::manage::host::default_deadline;
use crate::store::Access;
use crate::swtpm::StateFile;
use crate::tpm_copies::{CopyError, CopyStore, SavedCopy};
use crate::verdict::facts::{References, Trial};

pub(crate) fn run(context: &Context, verb: &args::State) -> Result<ExitCode, CommandError> {
    match verb {
        args::State::List => list::run(context)?,
        args::State::Show { domain } => show::run(context, domain)?,
        args::State::Restore { domain } => restore::run(context, domain)?,
        args::State::Drop {
            domain,
            copies,
            force,
        } => drop::run(context, domain, copies, *force)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A copy, and whether it is of any use.
struct Judged {
    domain: DomainUuid,
    copy: SavedCopy,
    state: StateFile,
    /// Whether a key of the guest opens it.
    opened: bool,
    /// Whether the guest has keys, and so a start takes only a copy that one of them opens.
    keyed: bool,
}

/// A guest's copies, the latest first. What cannot be read is told and left out.
fn copies_of(context: &Context, domain: DomainUuid) -> Result<Vec<Judged>, CommandError> {
    let (copies, unreadable) = CopyStore::of(context.host.state_dir(), domain).copies()?;
    for error in unreadable {
        context.output.note(&error.to_string());
    }
    if copies.is_empty() {
        return Ok(Vec::new());
    }
    let references = match context.host.store(Access::Read)? {
        Some(store) => store.references(domain, Timestamp::now())?,
        None => References::default(),
    };
    let mut rows = references.key_refs.iter();
    let keyed = rows.any(|row| row.wrapped_dek.is_some());
    let keyring = context.host.keyring();
    let judge = |copy: SavedCopy| {
        let state = copy.state();
        let trials = try_rows(&keyring, &references, domain, &state, default_deadline());
        Judged {
            domain,
            opened: trials.values().any(Trial::is_proven),
            keyed,
            copy,
            state,
        }
    };
    Ok(copies.into_iter().map(judge).collect())
}

impl Judged {
    fn document(&self) -> Value {
        let manifest = &self.copy.manifest;
        json!({
            "domain": { "name": manifest.domain_name, "uuid": self.domain.to_string() },
            "occasion": manifest.reason.as_str(),
            "state": self.state.word(),
            "opened": self.opened,
            "size": self.copy.len(),
            "kept_at": manifest.kept_at().0,
            "set_aside_at": manifest.set_aside_at().map(|at| at.0),
            "path": manifest.path.to_string_lossy(),
            "sha256": manifest.sha256(),
        })
    }

    /// Whether the guest's key opens it, for people.
    fn opened_word(&self) -> &'static str {
        match (&self.state, self.opened) {
            (StateFile::Encrypted(_), true) => "yes",
            (StateFile::Encrypted(_), false) => "no",
            _ => self.state.word(),
        }
    }

    /// What it is there for, for people.
    fn purpose(&self) -> &'static str {
        match &self.state {
            _ if !self.copy.is_available() => "state restore (set aside)",
            StateFile::Encrypted(_) if self.opened || !self.keyed => "the next start without state",
            StateFile::Plain => "the next start without state",
            _ => "state restore",
        }
    }
}

/// There is nothing to show or to put back.
fn no_copies(domain: &GuestRef) -> CommandError {
    let label = domain.label();
    CommandError::usage(format!("there is no kept copy of the TPM state of {label}"))
        .with_hint("see which there are: vtpm-guard state list")
}

impl From<CopyError> for CommandError {
    fn from(error: CopyError) -> Self {
        match &error {
            CopyError::Io(io) if io.kind() == ErrorKind::PermissionDenied => {
                Self::failed(format!("no permission: {error}")).with_hint("run it as root")
            }
            CopyError::NotTrusted { .. } => Self::failed(error)
                .with_hint("only root's own files are trusted: chown root, chmod go-rwx"),
            _ => Self::failed(error),
        }
    }
}
