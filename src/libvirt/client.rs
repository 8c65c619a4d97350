//! The guard's side of the helper: questions as functions, answers as types.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::conversation::Conversation;
use super::files::{are_of_this_host, value_on_disk};
use super::guests::{Guest, Libvirt, SavedRuns};
use super::program;
use super::protocol::{Request, Response, Revealed};
use crate::clock::Deadline;
use crate::host::dirs::LibvirtDirs;
use crate::host::poll;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::secret::{
    HostSecrets, LibvirtSecret, Provided, SecretDefinition, SecretError, SecretValue,
};
use crate::verdict::Over;

/// One libvirt connection. A helper makes it for the first question, and it stays open for the next.
/// Dropping it ends the helper.
pub struct LibvirtClient {
    uri: String,
    /// The directory of secrets of this host's system daemon.
    secrets_dir: PathBuf,
    program: PathBuf,
    conversation: RefCell<Option<Conversation>>,
    /// How long a daemon that is away is asked again.
    while_away: Duration,
    silence: Silence,
}

/// How long to wait before a daemon that is away is asked again: each time a helper is started.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether a daemon once gave no answer in time. Clones share it, so that what asks about many guests
/// waits for a silent daemon once.
#[derive(Debug, Clone, Default)]
pub struct Silence(Arc<AtomicBool>);

impl Silence {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// From here on the daemon is asked, and waited for, once more.
    pub fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl LibvirtClient {
    /// Returns a client for this URI: `secret:///system` for secrets, `qemu:///system` for secrets and
    /// guests. No helper is started yet.
    #[must_use]
    pub fn at(uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            secrets_dir: LibvirtDirs::default().secrets(),
            program: program::find(),
            conversation: RefCell::default(),
            while_away: Duration::ZERO,
            silence: Silence::default(),
        }
    }

    /// Sets the directories in which libvirt keeps its files.
    #[must_use]
    pub fn with_dirs(mut self, dirs: &LibvirtDirs) -> Self {
        self.secrets_dir = dirs.secrets();
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
            None => self.start(deadline)?,
        };
        let response = conversation
            .ask(request, deadline)
            .map_err(|error| self.question_error(&error))?;
        // If libvirt was unreachable, the connection may be broken: the next question gets a new one.
        if !matches!(response, Response::Unreachable(_)) {
            self.conversation.replace(Some(conversation));
        }
        Ok(response)
    }

    fn redefine(&self, request: &Request<'_>, deadline: Deadline) -> Result<bool, SecretError> {
        match self.ask(request, deadline)? {
            Response::Redefined(changed) => Ok(changed),
            other => Err(unexpected(&other)),
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
            .map_err(|distrust| SecretError::Unreachable(distrust.to_string()))?;
        Conversation::start(&self.program, &self.uri).map_err(|error| self.helper_error(&error))
    }

    fn helper_error(&self, error: &std::io::Error) -> SecretError {
        SecretError::Unreachable(format!("{}: {error}", self.program.display()))
    }
}

impl Libvirt for LibvirtClient {
    fn guests(&self, deadline: Deadline) -> Result<Vec<Guest>, SecretError> {
        match self.ask(&Request::Guests, deadline)? {
            Response::Guests(guests) => Ok(guests),
            other => Err(unexpected(&other)),
        }
    }

    fn guests_called(
        &self,
        name_or_uuid: &str,
        deadline: Deadline,
    ) -> Result<Vec<Guest>, SecretError> {
        match self.ask(&Request::Guest(name_or_uuid), deadline)? {
            Response::Guests(guests) => Ok(guests),
            other => Err(unexpected(&other)),
        }
    }

    fn drop_staged(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        match self.ask(&Request::DropStaged { secret, domain }, deadline)? {
            Response::Dropped(dropped) => Ok(dropped),
            other => Err(unexpected(&other)),
        }
    }

    fn saved_runs(&self, domain: DomainUuid, deadline: Deadline) -> Result<SavedRuns, SecretError> {
        match self.ask(&Request::SavedRuns(domain), deadline)? {
            Response::SavedRuns(saved) => Ok(saved),
            other => Err(unexpected(&other)),
        }
    }

    fn reveal(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        let (definition, value) = match self.ask(&Request::Reveal(secret), deadline)? {
            Response::Absent => return Ok(None),
            Response::Secret { definition, value } => (definition, value),
            other => return Err(unexpected(&other)),
        };
        let value = match value {
            Revealed::None => SecretValue::None,
            Revealed::Private => SecretValue::Private,
            Revealed::Follows => SecretValue::Disclosed(self.value(deadline)?),
        };
        let Some(definition) = SecretDefinition::parse(&definition) else {
            let message = format!("libvirt's definition of the secret {secret} cannot be read");
            return Err(SecretError::Refused(message));
        };
        Ok(Some(LibvirtSecret { definition, value }))
    }

    fn undefine(&self, secret: SecretUuid, deadline: Deadline) -> Result<bool, SecretError> {
        match self.ask(&Request::Undefine(secret), deadline)? {
            Response::Undefined(undefined) => Ok(undefined),
            other => Err(unexpected(&other)),
        }
    }

    fn encrypt_vtpm(
        &self,
        domain: DomainUuid,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.redefine(&Request::EncryptVtpm { domain, secret }, deadline)
    }

    fn persist_vtpm_state(
        &self,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.redefine(&Request::PersistVtpmState(domain), deadline)
    }
}

impl HostSecrets for LibvirtClient {
    fn expect_question(&self, deadline: Deadline) {
        if self.conversation.borrow().is_none() {
            // The question itself will report an error.
            *self.conversation.borrow_mut() = self.start(deadline).ok();
        }
    }

    /// The value of a private secret that is not ephemeral is read from libvirt's files.
    fn inspect(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        let mut found = self.reveal(secret, deadline)?;
        if let Some(found) = &mut found {
            let is_stored = !found.definition.is_ephemeral && are_of_this_host(&self.uri);
            if is_stored && matches!(found.value, SecretValue::Private) {
                found.value = value_on_disk(&self.secrets_dir, secret);
            }
        }
        Ok(found)
    }

    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
        deadline: Deadline,
    ) -> Result<Provided, SecretError> {
        if over == Over::TheSame {
            return Ok(Provided::LeftAsIs);
        }
        let request = Request::Provide {
            secret,
            domain,
            key: dek.expose(),
            over,
        };
        match self.ask(&request, deadline)? {
            Response::Set => Ok(Provided::Set),
            Response::Defined => Ok(Provided::Defined),
            other => Err(unexpected(&other)),
        }
    }

    fn drop_own(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        match self.ask(&Request::Drop { secret, domain }, deadline)? {
            Response::Dropped(dropped) => Ok(dropped),
            other => Err(unexpected(&other)),
        }
    }
}

fn no_answer() -> SecretError {
    SecretError::Unreachable("libvirt did not answer in time".to_owned())
}

/// The answer does not fit the question: perhaps the helper is of another version.
fn unexpected(response: &Response) -> SecretError {
    SecretError::Unreachable(format!("the helper's answer does not fit: {response:?}"))
}
