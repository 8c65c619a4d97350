//! What every verb works with: configuration, store, keyring, libvirt.

use std::path::Path;
use std::time::Duration;

use crate::cli::args::Global;
use crate::cli::ui::answer::Output;
use crate::cli::ui::error::AdminError;
use crate::clock::Deadline;
use crate::config::{Config, ConfigError, DEFAULT_CONFIG};
use crate::guard::Guard;
use crate::host::dirs::LibvirtDirs;
use crate::host::sys;
use crate::keyring::Keyring;
use crate::libvirt::LibvirtClient;
use crate::store::{Access, Store, StoreError};

/// How long an administrator is kept waiting for a lock or for libvirt.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where guests are listed. Secrets are at `secret.uri` of the configuration.
const GUESTS_URI: &str = "qemu:///system";

/// What a verb makes of a configuration that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokenConfig {
    /// It judges as the hook does: by the defaults, and the answer says so.
    DefaultsHold,
    /// It changes things, and must not do so under a policy that was not meant.
    IsAnError,
}

/// Keeps keys out of core dumps, for every verb: most of them open one.
pub(crate) fn protect_keys() -> Result<(), AdminError> {
    sys::protect_process().map_err(|error| {
        AdminError::failed(format!("keys cannot be kept out of core dumps: {error}"))
    })
}

/// A deadline that starts now.
pub(crate) fn patience() -> Deadline {
    Deadline::after(PATIENCE)
}

/// The libvirt whose guests are listed.
pub(crate) fn libvirt() -> LibvirtClient {
    LibvirtClient::at(GUESTS_URI)
}

/// What every verb works with.
pub(crate) struct Context {
    pub(crate) output: Output,
    global: Global,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self {
            output: Output::new(global.json),
            global,
        }
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.global.state_dir
    }

    pub(crate) fn keyring(&self) -> Keyring {
        Keyring::at(self.state_dir().join("keys"))
    }

    /// Where libvirt keeps its files; by the defaults where the configuration is broken, as the
    /// hook has it.
    pub(crate) fn libvirt_dirs(&self) -> LibvirtDirs {
        self.config().unwrap_or_default().libvirt
    }

    /// The store; `None` where there is no database yet.
    pub(crate) fn store(&self, access: Access) -> Result<Option<Store>, AdminError> {
        match Store::open(self.state_dir(), access, patience()) {
            Ok(store) => {
                if access != Access::Read {
                    store.checkpoint_on_close()?;
                }
                Ok(Some(store))
            }
            Err(StoreError::Missing) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The configuration. A file that was named must be there.
    pub(crate) fn config(&self) -> Result<Config, AdminError> {
        self.named_config_is_there()?;
        let named = self.global.config.as_deref();
        let path = named.unwrap_or(Path::new(DEFAULT_CONFIG));
        Config::load(path).map_err(|error| {
            let hint = match &error {
                ConfigError::WrongOwner { .. }
                | ConfigError::WritableByOthers { .. }
                | ConfigError::Path(_) => {
                    "only root's own files are trusted: chown root, chmod go-w"
                }
                _ => "what may stand in it: man vtpm-guard.toml",
            };
            AdminError::usage(error).with_hint(hint)
        })
    }

    fn named_config_is_there(&self) -> Result<(), AdminError> {
        match &self.global.config {
            Some(path) if !path.exists() => Err(AdminError::usage(format!(
                "{}: there is no such file",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// A user who may not read the store cannot say what the hook, as its owner, would do.
    fn may_judge(&self) -> Result<(), AdminError> {
        match self.store(Access::Read) {
            Err(error) if error.is_for_want_of_permission() => Err(error),
            _ => Ok(()),
        }
    }

    /// The guard, as the hook would be on this host.
    pub(crate) fn guard(&self, broken: BrokenConfig) -> Result<Guard, AdminError> {
        self.named_config_is_there()?;
        let (config, trouble) = match (self.config(), broken) {
            (Ok(config), _) => (config, None),
            (Err(error), BrokenConfig::DefaultsHold) => {
                (Config::default(), Some(error.to_string()))
            }
            (Err(error), BrokenConfig::IsAnError) => return Err(error),
        };
        let mut guard = Guard::new(config, self.state_dir().to_owned());
        guard.config_error = trouble;
        self.may_judge()?;
        let libvirt = LibvirtClient::at(&guard.config.secret_uri).with_dirs(&guard.config.libvirt);
        guard.secrets = Some(Box::new(libvirt));
        Ok(guard)
    }
}
