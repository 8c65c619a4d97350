//! The host that a command works on: its configuration, its store, its keys, its libvirt.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Deadline, Timestamp};
use crate::config::{Config, ConfigError};
use crate::guard::{Guard, MakeKeyError};
use crate::host::dirs::{self, LibvirtDirs, RunDir, StateDir};
use crate::host::path_error::PathError;
use crate::key::random::RandomError;
use crate::keyring::unlock::WrapError;
use crate::keyring::{Keyring, KeyringError};
use crate::kms::KeyManagers;
use crate::libvirt::files::FilesError;
use crate::libvirt::secret::SecretError;
use crate::libvirt::{Daemons, Libvirt, LibvirtClient, Silence, a_daemon_runs, daemon_runs};
use crate::staging::StagingDir;
use crate::store::{Access, Store, StoreError};
use crate::tpm_copies::CopyError;
use crate::verdict::facts::StoreAccessError;

/// How long a command waits for a lock or for libvirt.
pub(crate) const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// Where guests are listed. Secrets are at `secret.uri` of the configuration.
const GUESTS_URI: &str = "qemu:///system";

/// The deadline of one step, from now on.
pub(crate) fn default_deadline() -> Deadline {
    Deadline::after(DEFAULT_DEADLINE)
}

/// What to do with a configuration that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokenConfig {
    /// Judge as the hook does: by the defaults, and the answer reports it.
    UseDefaults,
    /// Fail: nothing is changed under a policy that nobody intended.
    Fail,
}

/// Why any procedure can fail that uses the host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The configuration file that was named does not exist.
    #[error("{path}: no such file", path = .0.display())]
    NoConfig(PathBuf),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store could not be read for a moment: why.
    #[error("the store could not be read: {0}")]
    StoreNotRead(String),
    /// The provider keys.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A key could not be wrapped.
    #[error(transparent)]
    Wrap(#[from] WrapError),
    /// A provider key that several keys need.
    #[error(transparent)]
    ProviderKey(#[from] Arc<KeyringError>),
    /// A key could not be made.
    #[error(transparent)]
    MakeKey(#[from] MakeKeyError),
    /// The saved copies of TPM state.
    #[error(transparent)]
    Copies(#[from] CopyError),
    /// The kernel gave no random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// libvirt's files of secrets.
    #[error(transparent)]
    SecretFiles(#[from] FilesError),
    /// libvirt did not answer, or refused.
    #[error("{}", .0.sentence())]
    Libvirt(#[from] SecretError),
    /// A file or directory.
    #[error(transparent)]
    Io(#[from] PathError),
}

/// How libvirt is reached.
enum Connection {
    /// Through the helper.
    Helper,
    /// The one of a test.
    #[cfg(test)]
    Fake(Box<crate::libvirt::fake::FakeLibvirt>),
}

/// When the file was made or last changed.
pub(crate) fn changed_at(file: &fs::Metadata) -> Timestamp {
    Timestamp(file.ctime() * 1000 + file.ctime_nsec() / 1_000_000)
}

/// The host. It opens whatever it returns each time.
pub(crate) struct Host {
    state_dir: StateDir,
    config_path: Option<PathBuf>,
    connection: Connection,
    /// Of the daemon that runs guests.
    guests_silence: Silence,
    /// Of the daemon that has the secrets, if that is another.
    secrets_silence: Silence,
}

impl Host {
    /// The host whose store is in `state_dir`, with the configuration of this file; `None` is the
    /// usual one, which need not exist.
    pub(crate) fn new(state_dir: StateDir, config_path: Option<PathBuf>) -> Self {
        Self {
            state_dir,
            config_path,
            connection: Connection::Helper,
            guests_silence: Silence::default(),
            secrets_silence: Silence::default(),
        }
    }

    /// A host of a test, below this directory, with the libvirt of the test.
    #[cfg(test)]
    pub(crate) fn fake(root: &Path, libvirt: crate::libvirt::fake::FakeLibvirt) -> Self {
        Self {
            state_dir: StateDir::at(root.join("guard")),
            config_path: Some(root.join("config.toml")),
            connection: Connection::Fake(Box::new(libvirt)),
            guests_silence: Silence::default(),
            secrets_silence: Silence::default(),
        }
    }

    pub(crate) fn state_dir(&self) -> &StateDir {
        &self.state_dir
    }

    pub(crate) fn keyring(&self) -> Keyring {
        Keyring::at(self.state_dir.keys()).with_boot_dir(self.run_dir().keys())
    }

    /// Where libvirt keeps its files; by the defaults where the configuration is broken, as for
    /// the hook.
    pub(crate) fn libvirt_dirs(&self) -> LibvirtDirs {
        self.config().unwrap_or_default().libvirt
    }

    /// The same for who changes something: a state that is looked for in the wrong place is none.
    pub(crate) fn configured_libvirt_dirs(&self) -> Result<LibvirtDirs, HostError> {
        Ok(self.config()?.libvirt)
    }

    /// What holds for one boot at most.
    pub(crate) fn run_dir(&self) -> RunDir {
        match &self.connection {
            Connection::Helper => RunDir::default(),
            #[cfg(test)]
            Connection::Fake(_) => RunDir::at(self.state_dir.with_extension("run")),
        }
    }

    /// Where keys are staged for the start of libvirtd.
    pub(crate) fn staging_dir(&self) -> StagingDir {
        StagingDir::at(self.run_dir().staged(), self.libvirt_dirs().secrets())
    }

    /// The daemons of this host's libvirt.
    pub(crate) fn daemons(&self) -> Daemons {
        match &self.connection {
            Connection::Helper => Daemons::of_host(&self.libvirt_dirs()),
            #[cfg(test)]
            Connection::Fake(libvirt) => libvirt.daemons(),
        }
    }

    /// When the daemon that runs guests was started; `None` if it does not run.
    pub(crate) fn guests_daemon_started(&self) -> Option<Timestamp> {
        let (dirs, daemon) = (self.libvirt_dirs(), self.daemons().of_guests());
        let runs = match &self.connection {
            Connection::Helper => daemon_runs(&dirs, daemon),
            #[cfg(test)]
            Connection::Fake(_) => true,
        };
        let pid_file = fs::metadata(dirs.pid_file(daemon)).ok()?;
        runs.then(|| changed_at(&pid_file))
    }

    /// Whether a daemon runs that may hold secrets.
    pub(crate) fn daemon_runs(&self) -> bool {
        match &self.connection {
            Connection::Helper => a_daemon_runs(),
            #[cfg(test)]
            Connection::Fake(libvirt) => libvirt.dirs().pid_file("libvirtd").exists(),
        }
    }

    /// The store; `None` where there is no database yet.
    pub(crate) fn store(&self, access: Access) -> Result<Option<Store>, StoreError> {
        match Store::open(&self.state_dir, access, default_deadline()) {
            Ok(store) => {
                if access != Access::Read {
                    store.checkpoint_on_close()?;
                }
                Ok(Some(store))
            }
            Err(StoreError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The error of a command whose store could not be read as for a verdict.
    pub(crate) fn not_read(&self, why: StoreAccessError) -> HostError {
        // A verdict has the reason in its own words. If it lasts, it is said as other commands say it.
        match (self.store(Access::Read), why) {
            (Err(lasting), _) => lasting.into(),
            (Ok(_), StoreAccessError::TooNew { found, known }) => {
                StoreError::TooNew { found, known }.into()
            }
            (Ok(_), StoreAccessError::Unavailable(why) | StoreAccessError::Corrupt(why)) => {
                HostError::StoreNotRead(why)
            }
        }
    }

    /// The configuration. A file that was named must exist.
    pub(crate) fn config(&self) -> Result<Config, HostError> {
        let path = match &self.config_path {
            Some(path) if !path.exists() => return Err(HostError::NoConfig(path.clone())),
            Some(path) => path,
            None => Path::new(dirs::CONFIG),
        };
        Ok(Config::load(path)?)
    }

    /// The key managers of this configuration.
    #[allow(clippy::unused_self, reason = "a test's host has plugins of its own")]
    pub(crate) fn key_managers(&self, config: &Config) -> KeyManagers {
        let managers = KeyManagers::new(config.kms.clone());
        #[cfg(test)]
        let managers = managers.with_plugins(self.state_dir.with_extension("plugins"));
        managers
    }

    /// The guard, as the hook would be on this host.
    pub(crate) fn guard(&self, broken: BrokenConfig) -> Result<Guard, HostError> {
        let (config, trouble) = match self.config() {
            Ok(config) => (config, None),
            Err(HostError::Config(error)) if broken == BrokenConfig::UseDefaults => {
                (Config::default(), Some(error.to_string()))
            }
            Err(error) => return Err(error),
        };
        may_judge(self.store(Access::Read))?;
        let mut guard = Guard::new(config, self.state_dir.clone());
        guard.config_error = trouble;
        guard.run_dir = self.run_dir();
        guard.secrets = Some(self.secrets_at(&guard.config));
        Ok(guard)
    }

    /// The libvirt whose secrets guests use; by the defaults where the configuration is broken.
    pub(crate) fn secrets(&self) -> Box<dyn Libvirt> {
        self.secrets_at(&self.config().unwrap_or_default())
    }

    /// The same, of this configuration.
    pub(crate) fn secrets_at(&self, config: &Config) -> Box<dyn Libvirt> {
        match &self.connection {
            Connection::Helper => {
                let silence = match self.daemons() {
                    Daemons::Monolithic => &self.guests_silence,
                    Daemons::Modular => &self.secrets_silence,
                };
                let client = LibvirtClient::at(&config.secret_uri).with_silence(silence.clone());
                Box::new(client.with_dirs(&config.libvirt))
            }
            #[cfg(test)]
            Connection::Fake(libvirt) => libvirt.clone(),
        }
    }

    /// Asks libvirt once more although it was silent, for what waits however long that takes.
    pub(crate) fn forget_silence(&self) {
        self.guests_silence.forget();
        self.secrets_silence.forget();
    }

    /// The libvirt whose guests are listed.
    pub(crate) fn libvirt(&self) -> Box<dyn Libvirt> {
        match &self.connection {
            Connection::Helper => Box::new(self.client_of_guests()),
            #[cfg(test)]
            Connection::Fake(libvirt) => libvirt.clone(),
        }
    }

    /// With libvirt's directories, for the definition of a guest that libvirt does not tell is read from its file.
    fn client_of_guests(&self) -> LibvirtClient {
        LibvirtClient::at(GUESTS_URI)
            .with_silence(self.guests_silence.clone())
            .with_dirs(&self.libvirt_dirs())
    }
}

/// A user who may not read the store cannot say what the hook, as its owner, would do.
fn may_judge(store: Result<Option<Store>, StoreError>) -> Result<(), StoreError> {
    match store {
        Err(error) if error.is_permission_denied() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_libvirt_that_was_silent_is_asked_again_where_that_is_worth_waiting_for() {
        let host = Host::new(StateDir::at("/nowhere"), None);
        host.guests_silence.set();
        host.secrets_silence.set();
        host.forget_silence();
        assert!(!host.guests_silence.is_set());
        assert!(!host.secrets_silence.is_set());
    }

    #[test]
    fn the_definition_of_a_guest_is_looked_for_where_libvirt_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "libvirt.config_dir = \"/var/lib/libvirt\"\n").unwrap();
        let host = Host::new(StateDir::at(dir.path().join("state")), Some(path));
        let dirs = host.client_of_guests().dirs().clone();
        assert_eq!(dirs.config, Path::new("/var/lib/libvirt"));
        assert_eq!(dirs, host.libvirt_dirs());
    }

    #[test]
    fn a_user_who_may_not_read_the_store_cannot_say_what_the_hook_would_do() {
        let unusable = |kind: ErrorKind| {
            let reason = Error::from(kind).into();
            let path = PathBuf::from("store.db");
            may_judge(Err(StoreError::Unavailable { path, reason }))
        };
        assert!(unusable(ErrorKind::PermissionDenied).is_err());
        // With others the hook would fail as well.
        assert!(unusable(ErrorKind::StorageFull).is_ok());
        assert!(may_judge(Ok(None)).is_ok());
    }

    #[test]
    fn when_a_file_was_changed_is_now_for_a_new_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let ago = Timestamp::now().0 - changed_at(&metadata).0;
        assert!((-60_000..60_000).contains(&ago), "{ago}");
    }
}
