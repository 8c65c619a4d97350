//! What this project's plugins are made of: the loop that serves requests, settings, credentials.
//!
//! A plugin implements [`Kms`] and calls [`serve`]. Its process makes no core dumps, and ends with its
//! stdin. It runs as the user of `vtpm-guard`, root as a rule, started with pipes alone.

mod blob;
mod settings;

use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

pub use zeroize::Zeroizing;

pub use super::protocol::Trouble;
use super::protocol::{MAX_BLOB, MAX_DOCUMENT, Reply, Request, VERSION};
pub use crate::clock::Deadline;
use crate::host::frame::{join, read_frame, to_frame};
pub use crate::host::process::{self, ChildError};
use crate::host::serve::serve as host_serve;
pub use crate::host::sys::set_environment;
pub use blob::{blob_head, cut_short, split_blob};
pub use settings::{Settings, read_credentials, read_trusted, trusted_path};

/// The longest KEK that a plugin wraps, in bytes; this version has KEKs of 32.
const MAX_KEK: usize = 64;

/// The longest text of a reply, in characters: a server may say more than a document holds.
const MAX_WORDS: usize = 1000;

/// A key manager of one kind.
pub trait Kms: Sized {
    /// The kind, as `[kms.NAME] kind` and the program's name have it.
    const KIND: &str;

    /// Checks the settings of a section, and asks no key manager. It takes out of `settings` all that it
    /// knows; what is left is an error.
    fn new(settings: &mut Settings) -> Result<Self, PluginError>;

    /// Whether the key manager answers and takes the credentials: what it says of itself, such as its
    /// version.
    fn status(&mut self, deadline: Deadline) -> Result<String, PluginError>;

    /// Wraps a KEK.
    fn wrap(
        &mut self,
        key: &RemoteKey<'_>,
        kek: &[u8],
        deadline: Deadline,
    ) -> Result<Wrapped, PluginError>;

    /// Unwraps what [`Kms::wrap`] gave.
    fn unwrap(
        &mut self,
        key: &RemoteKey<'_>,
        blob: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, PluginError>;
}

/// Which key of the key manager, and what for.
#[derive(Debug, Clone, Copy)]
pub struct RemoteKey<'a> {
    /// Its name there.
    pub name: &'a str,
    /// The version of it that has wrapped, where the key manager has versions; none for `wrap`.
    pub version: Option<&'a str>,
    /// What is authenticated with the wrapped KEK, where the key manager can.
    pub context: &'a str,
}

/// A wrapped KEK.
#[derive(Debug)]
pub struct Wrapped {
    /// What [`Kms::unwrap`] gets again.
    pub blob: Vec<u8>,
    /// The version of the key that wrapped it, where the key manager has versions.
    pub version: Option<String>,
}

/// Why a plugin did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{trouble}: {message}")]
pub struct PluginError {
    /// What kind of trouble it is.
    pub trouble: Trouble,
    /// What an administrator has to know: which address, file or key, and why.
    pub message: String,
}

impl PluginError {
    /// An error of this kind.
    pub fn new(trouble: Trouble, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { trouble, message }
    }

    /// The same, with the address, file or key before it.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self::new(self.trouble, format!("{place}: {}", self.message))
    }
}

/// Serves requests on stdin and stdout until stdin ends.
pub fn serve<K: Kms>() -> ExitCode {
    let mut kms = None;
    host_serve(MAX_DOCUMENT, |document, requests| {
        let request: Request<'_> = serde_json::from_slice(document)?;
        let body = match request {
            Request::Wrap { .. } => read_frame(requests, MAX_KEK)?,
            Request::Unwrap { .. } => read_frame(requests, MAX_BLOB)?,
            Request::Hello { .. } | Request::Status { .. } => Some(Zeroizing::default()),
        };
        let body = body.ok_or(ErrorKind::UnexpectedEof)?;
        let (reply, answer) = match answer::<K>(&mut kms, &request, &body) {
            Ok(answered) => answered,
            Err(error) => (
                Reply {
                    error: Some(error.trouble),
                    message: Some(error.message.chars().take(MAX_WORDS).collect()),
                    ..Reply::default()
                },
                None,
            ),
        };
        let document = to_frame(&[&serde_json::to_vec(&reply)?], MAX_DOCUMENT)?;
        match answer {
            None => Ok(document),
            Some(answer) => Ok(join(&document, &to_frame(&[&answer], MAX_BLOB)?)),
        }
    })
}

/// What is asked, and the bytes that follow the reply.
type Answered = (Reply, Option<Zeroizing<Vec<u8>>>);

fn answer<K: Kms>(
    kms: &mut Option<K>,
    request: &Request<'_>,
    body: &[u8],
) -> Result<Answered, PluginError> {
    let done = Reply {
        ok: true,
        ..Reply::default()
    };
    if let Request::Hello { protocol, settings } = request {
        if kms.is_some() {
            return Err(PluginError::new(Trouble::Failed, "hello comes once"));
        }
        if *protocol != VERSION {
            let message = format!("version {protocol} of the protocol is not known, {VERSION} is");
            return Err(PluginError::new(Trouble::Failed, message));
        }
        let mut settings = Settings::new(settings.clone().into_owned());
        let new = K::new(&mut settings)?;
        settings.all_known()?;
        *kms = Some(new);
        let reply = Reply {
            protocol: Some(VERSION),
            kind: Some(K::KIND.to_owned()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            ..done
        };
        return Ok((reply, None));
    }
    let no_hello = || PluginError::new(Trouble::Failed, "the first request must be hello");
    let kms = kms.as_mut().ok_or_else(no_hello)?;
    match request {
        Request::Hello { .. } => Err(no_hello()),
        Request::Status { deadline_ms } => {
            let detail = kms.status(after(*deadline_ms))?;
            let detail = Some(detail.chars().take(MAX_WORDS).collect());
            Ok((Reply { detail, ..done }, None))
        }
        Request::Wrap {
            deadline_ms,
            remote_key,
            context,
        } => {
            let key = RemoteKey {
                name: remote_key,
                version: None,
                context,
            };
            let wrapped = kms.wrap(&key, body, after(*deadline_ms))?;
            let remote_version = wrapped.version;
            let reply = Reply {
                remote_version,
                ..done
            };
            Ok((reply, Some(Zeroizing::new(wrapped.blob))))
        }
        Request::Unwrap {
            deadline_ms,
            remote_key,
            remote_version,
            context,
        } => {
            let key = RemoteKey {
                name: remote_key,
                version: remote_version.as_deref(),
                context,
            };
            let kek = kms.unwrap(&key, body, after(*deadline_ms))?;
            Ok((done, Some(kek)))
        }
    }
}

fn after(milliseconds: u64) -> Deadline {
    Deadline::after(Duration::from_millis(milliseconds))
}
