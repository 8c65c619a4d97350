//! The connection to a helper, and through it to libvirt. What is asked is in [`questions`].

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use zeroize::Zeroizing;

use super::conversation::Conversation;
use super::protocol::{Request, Response};
use super::silence::Silence;
use super::wire::{NoAnswer, Wire};
use crate::clock::Deadline;
use crate::host::dirs::{self, LibvirtDirs};
use crate::host::path_error::PathError;
use crate::host::poll;
use crate::host::program;
use crate::key::dek::Dek;
use crate::libvirt::secret::SecretError;

mod questions;

/// One libvirt connection. A helper makes it for the first question, and it stays open for the next.
/// Dropping it ends the helper. A start asks without a helper where it can ([`Self::directly`]).
pub struct LibvirtClient {
    uri: String,
    /// Where this host's system daemon keeps its files.
    dirs: LibvirtDirs,
    program: PathBuf,
    conversation: RefCell<Option<Conversation>>,
    /// The connection without a helper, unless a helper makes all of them.
    wire: Option<RefCell<Wire>>,
    /// The value that the last answer without a helper announced.
    value: RefCell<Option<Zeroizing<Vec<u8>>>>,
    /// How long a daemon that is away is asked again.
    while_away: Duration,
    silence: Silence,
}

/// How long to wait before a daemon that is away is asked again: each time a helper is started.
const PAUSE: Duration = Duration::from_millis(100);

impl LibvirtClient {
    /// Returns a client for this URI: `secret:///system` for secrets, `qemu:///system` for secrets and
    /// guests. No helper is started yet.
    #[must_use]
    pub fn at(uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            dirs: LibvirtDirs::default(),
            program: program::find(Path::new(dirs::HELPER)),
            conversation: RefCell::default(),
            wire: None,
            value: RefCell::default(),
            while_away: Duration::ZERO,
            silence: Silence::default(),
        }
    }

    /// Sets the directories in which libvirt keeps its files.
    #[must_use]
    pub fn with_dirs(mut self, dirs: &LibvirtDirs) -> Self {
        self.dirs = dirs.clone();
        self
    }

    /// Where it looks for libvirt's files.
    #[cfg(test)]
    pub(crate) fn dirs(&self) -> &LibvirtDirs {
        &self.dirs
    }

    /// Asks about secrets without a helper where that is possible: the local daemon at `secret:///system`.
    #[must_use]
    pub fn directly(mut self) -> Self {
        self.wire = Wire::speaks(&self.uri).then(RefCell::default);
        self
    }

    /// Asks a daemon that is away (restarted, upgraded, without a socket yet) again for this time.
    #[must_use]
    pub fn with_patience(mut self, while_away: Duration) -> Self {
        self.while_away = while_away;
        self
    }

    /// Asks nothing more once the daemon has been silent, as others that share this know it, too. It
    /// is still asked for changes.
    #[must_use]
    pub fn with_silence(mut self, silence: Silence) -> Self {
        self.silence = silence;
        self
    }

    /// Sets the helper, instead of the installed one.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn with_helper(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Reads the value that the last answer announced.
    fn value(&self, deadline: Deadline) -> Result<Dek, SecretError> {
        if let Some(bytes) = self.value.take() {
            return Ok(Dek::from_bytes(bytes));
        }
        let mut conversation = self.conversation.take().ok_or_else(no_answer)?;
        let bytes = conversation
            .value(deadline)
            .map_err(|error| self.question_error(&error))?;
        self.conversation.replace(Some(conversation));
        Ok(Dek::from_bytes(bytes))
    }

    fn ask(&self, request: &Request<'_>, deadline: Deadline) -> Result<Response, SecretError> {
        if self.silence.is_set() && request.only_reads() {
            return Err(no_answer());
        }
        let away_until = deadline.at_most(self.while_away);
        loop {
            let response = self.ask_once(request, deadline)?;
            let is_away = matches!(response, Response::Unreachable(_));
            if is_away && poll::wait(PAUSE, away_until) {
                continue;
            }
            return match response {
                Response::Refused(message) => Err(SecretError::Refused(message)),
                Response::Unreachable(message) => Err(SecretError::Unreachable(message)),
                Response::Conflict(message) => Err(SecretError::Conflict(message)),
                Response::Changed => Err(SecretError::Changed),
                answer => Ok(answer),
            };
        }
    }

    fn ask_once(&self, request: &Request<'_>, deadline: Deadline) -> Result<Response, SecretError> {
        let mut conversation = match self.conversation.take() {
            Some(conversation) => conversation,
            None => match self.ask_directly(request, deadline)? {
                Some(response) => return Ok(response),
                None => self.start(deadline)?,
            },
        };
        let response = conversation
            .ask(request, deadline)
            .map_err(|error| self.question_error(&error))?;
        self.silence.end();
        // If libvirt was unreachable, the connection may be broken: the next question gets a new one.
        if !matches!(response, Response::Unreachable(_)) {
            self.conversation.replace(Some(conversation));
        }
        Ok(response)
    }

    /// Asks without a helper; `None` if that is not possible.
    fn ask_directly(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Option<Response>, SecretError> {
        let (Some(wire), Request::Secret(request)) = (&self.wire, request) else {
            return Ok(None);
        };
        if deadline.has_passed() {
            return Err(no_answer());
        }
        let mut value = None;
        let asked = wire
            .borrow_mut()
            .ask(request, &mut value, &self.dirs, deadline);
        self.value.replace(value);
        match asked {
            Ok(response) => {
                self.silence.end();
                Ok(Some(response))
            }
            Err(NoAnswer::TimedOut) => {
                self.silence.set();
                Err(no_answer())
            }
            Err(NoAnswer::AskHelper) => Ok(None),
        }
    }

    /// The error of a question that the helper did not answer, or not in time.
    fn question_error(&self, error: &std::io::Error) -> SecretError {
        if error.kind() == ErrorKind::TimedOut {
            self.silence.set();
            return no_answer();
        }
        self.helper_error(error)
    }

    fn start(&self, deadline: Deadline) -> Result<Conversation, SecretError> {
        if deadline.has_passed() {
            return Err(no_answer());
        }
        program::check(&self.program)
            .map_err(|distrust| SecretError::NoHelper(distrust.to_string()))?;
        Conversation::start(&self.program, &self.uri).map_err(|error| {
            match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
                // Only an installation changes that.
                Errno::ENOENT | Errno::EACCES | Errno::ENOEXEC => {
                    SecretError::NoHelper(PathError::new(&*self.program, error).to_string())
                }
                _ => self.helper_error(&error),
            }
        })
    }

    fn helper_error(&self, error: &std::io::Error) -> SecretError {
        SecretError::Unreachable(format!("{}: {error}", self.program.display()))
    }
}

fn no_answer() -> SecretError {
    SecretError::Unreachable("libvirt did not answer in time".to_owned())
}
