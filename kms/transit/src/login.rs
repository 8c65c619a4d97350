//! How this host gets a token: from a file, or with credentials of its own.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vtpm_guard::plugin::{Deadline, PluginError, Settings, Trouble, Zeroizing, read_credentials};

use crate::answer::is_word;
use crate::api::Api;
use crate::http::Server;
use crate::name::is_mount;

/// How to get a token, and the one that a login has given.
pub(crate) struct Login {
    way: Way,
    token: OnceCell<Zeroizing<String>>,
}

enum Way {
    /// Somebody else writes it there and renews it, as the agents of Vault and OpenBao do.
    TokenFile(PathBuf),
    AppRole {
        mount: String,
        role_id: String,
        secret_id_file: PathBuf,
    },
    /// The client certificate of the connection.
    Certificate { mount: String, role: Option<String> },
}

impl Login {
    /// Takes its settings.
    pub(crate) fn take(settings: &mut Settings, server: &Server) -> Result<Self, PluginError> {
        let token_file = settings.path("token_file")?;
        let app_role = (settings.text("role_id")?, settings.path("secret_id_file")?);
        let certificate = server.identity.certificate().is_some();
        let way = match (token_file, app_role) {
            (Some(file), (None, None)) => Way::TokenFile(file),
            (None, (Some(role_id), Some(secret_id_file))) => Way::AppRole {
                mount: mount(settings, "approle_mount", "approle")?,
                role_id,
                secret_id_file,
            },
            (None, (None, None)) if certificate => Way::Certificate {
                mount: mount(settings, "cert_mount", "cert")?,
                role: settings.text("cert_role")?,
            },
            _ => {
                let message = "exactly one of these must be there: token_file; role_id and \
                    secret_id_file; certificate and key alone";
                return Err(PluginError::new(Trouble::Settings, message));
            }
        };
        let token = OnceCell::new();
        Ok(Self { way, token })
    }

    /// The file that is read for it.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.way {
            Way::TokenFile(file) => Some(file),
            Way::AppRole { secret_id_file, .. } => Some(secret_id_file),
            Way::Certificate { .. } => None,
        }
    }

    /// Returns a token. A login is made once in a conversation; a file is read each time.
    pub(crate) fn token(
        &self,
        api: &Api,
        deadline: Deadline,
    ) -> Result<Zeroizing<String>, PluginError> {
        if let Some(token) = self.token.get() {
            return Ok(token.clone());
        }
        let token = match &self.way {
            Way::TokenFile(file) => return text(file),
            Way::AppRole {
                mount,
                role_id,
                secret_id_file,
            } => {
                let secret_id = text(secret_id_file)?;
                let request = AppRole {
                    role_id,
                    secret_id: &secret_id,
                };
                api.log_in(&format!("auth/{mount}/login"), &request, deadline)?
            }
            Way::Certificate { mount, role } => {
                let request = Certificate {
                    name: role.as_deref(),
                };
                api.log_in(&format!("auth/{mount}/login"), &request, deadline)?
            }
        };
        Ok(self.token.get_or_init(|| token).clone())
    }
}

/// Takes where something is mounted.
pub(crate) fn mount(
    settings: &mut Settings,
    key: &str,
    default: &str,
) -> Result<String, PluginError> {
    let mount = settings.text(key)?.unwrap_or_else(|| default.to_owned());
    if is_mount(&mount) {
        return Ok(mount);
    }
    let message = format!("{key} \"{mount}\" is no path");
    Err(PluginError::new(Trouble::Settings, message))
}

/// Reads a file with one word.
fn text(file: &Path) -> Result<Zeroizing<String>, PluginError> {
    let bytes = read_credentials(file)?;
    let word = std::str::from_utf8(&bytes).ok();
    let word = word.filter(|text| is_word(text));
    let word = word.map(|text| Zeroizing::new(text.to_owned()));
    word.ok_or_else(|| {
        let message = format!("{}: there must be one word in it", file.display());
        PluginError::new(Trouble::Credentials, message)
    })
}

#[derive(Serialize)]
struct AppRole<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Serialize)]
struct Certificate<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}
