//! One conversation with a plugin: it is started for it, and ended after it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::KmsError;
use super::protocol::{MAX_BLOB, MAX_DOCUMENT, Reply, Request, Trouble, VERSION};
use super::settings::KmsSettings;
use crate::clock::Deadline;
use crate::host::conversation::{Conversation, TalkError, milliseconds, words};
use crate::host::{dirs, program, trusted};
use crate::key::hex;
use crate::key::id::KeyId;
use crate::key::kek::Kek;

/// A KEK that a key manager has wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKek {
    /// What opens with the key manager's key.
    pub blob: Vec<u8>,
    /// The version of that key, where the key manager has versions.
    pub remote_version: Option<String>,
}

/// A plugin that runs, and has accepted the settings of its section.
pub struct Client {
    /// The section's name.
    kms: String,
    /// The plugin's name, for errors.
    program: String,
    timeout: Duration,
    plugin: Conversation,
}

impl Client {
    /// Starts the plugin of a section.
    pub fn connect(kms: &str, settings: &KmsSettings) -> Result<Self, KmsError> {
        Self::start(kms, settings, &find(&settings.kind))
    }

    /// Starts this program as the plugin of a section.
    pub fn start(kms: &str, settings: &KmsSettings, program: &Path) -> Result<Self, KmsError> {
        check(kms, settings, program)?;
        let name = format!("kms-{}", settings.kind);
        let plugin =
            Conversation::start(program, MAX_DOCUMENT).map_err(|source| KmsError::Plugin {
                kms: kms.to_owned(),
                program: name.clone(),
                source,
            })?;
        let mut client = Self {
            kms: kms.to_owned(),
            program: name,
            timeout: settings.timeout,
            plugin,
        };
        let hello = client.ask(
            &Request::Hello {
                protocol: VERSION,
                settings: Cow::Borrowed(&settings.settings),
            },
            None,
            client.deadline(),
        )?;
        match hello {
            Reply {
                protocol: Some(VERSION),
                kind: Some(kind),
                ..
            } if kind == settings.kind => Ok(client),
            Reply {
                protocol: Some(VERSION),
                ..
            } => Err(client.nonsense("it names another kind, or none")),
            Reply { protocol, .. } => {
                let theirs = protocol.map_or("none".to_owned(), |version| version.to_string());
                let reason = format!("it speaks version {theirs} of the protocol, not {VERSION}");
                Err(client.nonsense(&reason))
            }
        }
    }

    /// What the key manager says of itself, if it answers and takes the credentials.
    pub fn status(&mut self) -> Result<String, KmsError> {
        let deadline = self.deadline();
        let request = Request::Status {
            deadline_ms: milliseconds(deadline),
        };
        let reply = self.ask(&request, None, deadline)?;
        Ok(reply
            .detail
            .map(|detail| words(&detail))
            .unwrap_or_default())
    }

    /// Wraps a KEK with a key of the key manager, and unwraps it once more: only what gives the same KEK
    /// again is returned.
    pub fn wrap(&mut self, remote_key: &str, kek: &Kek) -> Result<WrappedKek, KmsError> {
        let deadline = self.deadline();
        let context = context(kek.key_id());
        let request = Request::Wrap {
            deadline_ms: milliseconds(deadline),
            remote_key: remote_key.into(),
            context: context.into(),
        };
        let reply = self.ask(&request, Some(kek.expose()), deadline)?;
        let blob = self.body(MAX_BLOB, deadline)?;
        if blob.is_empty() {
            return Err(self.nonsense("the wrapped key is empty"));
        }
        if shows(&blob, kek) {
            return Err(KmsError::NotWrapped(self.kms.clone()));
        }
        let remote_version = match reply.remote_version {
            Some(version) if version.len() > 128 || version.contains(char::is_control) => {
                return Err(self.nonsense("remote_version is no version"));
            }
            version => version,
        };
        let wrapped = WrappedKek {
            blob: blob.to_vec(),
            remote_version,
        };
        self.unwrap(remote_key, &wrapped, kek.key_id())?;
        Ok(wrapped)
    }

    /// Unwraps a KEK. Any other key than the one with this id is an error.
    pub fn unwrap(
        &mut self,
        remote_key: &str,
        wrapped: &WrappedKek,
        key_id: KeyId,
    ) -> Result<Kek, KmsError> {
        let deadline = self.deadline();
        let request = Request::Unwrap {
            deadline_ms: milliseconds(deadline),
            remote_key: remote_key.into(),
            remote_version: wrapped.remote_version.as_deref().map(Cow::Borrowed),
            context: context(key_id).into(),
        };
        self.ask(&request, Some(&wrapped.blob), deadline)?;
        let bytes = self.body(Kek::LEN, deadline)?;
        let kek = Kek::from_slice(&bytes).filter(|kek| kek.key_id() == key_id);
        kek.ok_or_else(|| KmsError::OtherKey {
            kms: self.kms.clone(),
            remote_key: remote_key.to_owned(),
            key_id,
        })
    }

    /// When the answer must be here.
    fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    fn ask(
        &mut self,
        request: &Request<'_>,
        body: Option<&[u8]>,
        deadline: Deadline,
    ) -> Result<Reply, KmsError> {
        let reply: Result<Reply, _> = match body {
            None => self.plugin.ask(request, deadline),
            Some(body) => self.plugin.ask_with(request, body, MAX_BLOB, deadline),
        };
        let reply = reply.map_err(|error| self.broken(error))?;
        if reply.ok {
            return Ok(reply);
        }
        Err(KmsError::Refused {
            kms: self.kms.clone(),
            trouble: reply.error.unwrap_or(Trouble::Failed),
            message: words(&reply.message.unwrap_or_default()),
        })
    }

    /// Reads the bytes that follow a reply.
    fn body(&mut self, max_len: usize, deadline: Deadline) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let body = self.plugin.body(max_len, deadline);
        body.map_err(|error| self.broken(error))
    }

    fn broken(&self, error: TalkError) -> KmsError {
        let (kms, program) = (self.kms.clone(), self.program.clone());
        match error {
            TalkError::Nonsense(reason) => self.nonsense(&reason),
            TalkError::TimedOut => KmsError::Refused {
                kms,
                trouble: Trouble::Unreachable,
                message: format!("no answer within {} ms", self.timeout.as_millis()),
            },
            TalkError::Broken(source) => KmsError::Plugin {
                kms,
                program,
                source,
            },
        }
    }

    fn nonsense(&self, reason: &str) -> KmsError {
        KmsError::Nonsense {
            kms: self.kms.clone(),
            program: self.program.clone(),
            reason: words(reason),
        }
    }
}

/// Returns the path of a kind's plugin.
pub fn find(kind: &str) -> PathBuf {
    program::find(&Path::new(dirs::PLUGINS).join(format!("kms-{kind}")))
}

fn check(kms: &str, settings: &KmsSettings, program: &Path) -> Result<(), KmsError> {
    let distrust = match trusted::find(program, trusted::HELPER) {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => {
            return Err(KmsError::NoPlugin {
                kms: kms.to_owned(),
                kind: settings.kind.clone(),
                program: program.display().to_string(),
            });
        }
        Err(distrust) => distrust,
    };
    let kms = kms.to_owned();
    Err(KmsError::NotTrusted { kms, distrust })
}

/// What a key manager authenticates with a wrapped KEK, so that one cannot be passed off for another.
fn context(key_id: KeyId) -> String {
    format!("vtpm-guard kek {key_id}")
}

/// Whether a KEK can be read in what is to be its wrapped form: a command that copies its input is no key manager.
fn shows(blob: &[u8], kek: &Kek) -> bool {
    let mut digits = Zeroizing::new(vec![0; 2 * Kek::LEN]);
    hex::encode(kek.expose(), &mut digits);
    let holds = |text: &[u8]| blob.windows(text.len()).any(|part| part == text);
    holds(kek.expose()) || holds(&digits)
}
