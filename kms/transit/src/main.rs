//! `kms-transit`: the transit engine of HashiCorp Vault or OpenBao wraps provider keys.
//!
//! The key there never leaves it. The wrapped provider key is what transit calls a ciphertext, such as
//! `vault:v1:...`, and what the provider key is for is authenticated with it (`associated_data`).

mod answer;
mod api;
mod http;
mod login;
mod name;
mod reply;

use std::alloc::System;
use std::path::Path;
use std::process::ExitCode;

use base64ct::{Base64, Encoding};
use serde::Serialize;
use vtpm_guard::plugin::{
    Deadline, Kms, PluginError, RemoteKey, Settings, Trouble, Wrapped, Zeroizing, serve,
};
use vtpm_guard_kms_tls::{Identity, Needs};
use zeroizing_alloc::ZeroAlloc;

use crate::api::Api;
use crate::http::Server;
use crate::login::Login;
use crate::name::is_mount;

/// Wipes all that is freed: what the libraries for TLS have read and written has keys in it.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    serve::<Transit>()
}

/// A transit engine.
struct Transit {
    api: Api,
    /// Where the engine is mounted.
    mount: String,
}

impl Kms for Transit {
    const KIND: &str = "transit";

    fn new(settings: &mut Settings) -> Result<Self, PluginError> {
        let identity = Identity::take(settings)?;
        let server = Server::new(&settings.needed("address")?, identity)?;
        let login = Login::take(settings, &server)?;
        let namespace = settings.text("namespace")?;
        if let Some(namespace) = namespace.as_deref().filter(|text| !is_mount(text)) {
            let message = format!("namespace \"{namespace}\" is no path");
            return Err(PluginError::new(Trouble::Settings, message));
        }
        let mount = login::mount(settings, "mount", "transit")?;
        let mut files = server.identity.files();
        files.extend(login.file().map(Path::to_owned));
        let needs = Needs {
            files,
            ports: vec![server.address.port()],
        };
        needs.confine();
        Ok(Self {
            mount,
            api: Api::new(server, namespace, login),
        })
    }

    fn status(&mut self, deadline: Deadline) -> Result<String, PluginError> {
        self.api.status(deadline)
    }

    fn wrap(
        &mut self,
        key: &RemoteKey<'_>,
        kek: &[u8],
        deadline: Deadline,
    ) -> Result<Wrapped, PluginError> {
        self.exists(key, deadline)?;
        // What is not a part of the text itself is base64, too.
        let plaintext = Zeroizing::new(Base64::encode_string(kek));
        let request = Encrypt {
            plaintext: &plaintext,
            associated_data: Base64::encode_string(key.context.as_bytes()),
        };
        let answer = self
            .api
            .post(&self.path("encrypt", key)?, &request, deadline)?;
        answer.wrapped()
    }

    fn unwrap(
        &mut self,
        key: &RemoteKey<'_>,
        blob: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, PluginError> {
        let request = Decrypt {
            ciphertext: answer::ciphertext(blob)?,
            associated_data: Base64::encode_string(key.context.as_bytes()),
        };
        let asked = self
            .api
            .post(&self.path("decrypt", key)?, &request, deadline);
        let answer = asked.map_err(|error| with_version(error, key))?;
        answer.unwrapped()
    }
}

impl Transit {
    /// Whether the key is there: `encrypt` makes one that is not, where a policy lets it. Credentials that may
    /// not read it are no obstacle.
    fn exists(&self, key: &RemoteKey<'_>, deadline: Deadline) -> Result<(), PluginError> {
        match self.api.get(&self.path("keys", key)?, deadline) {
            Err(error) if error.trouble != Trouble::Denied => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, verb: &str, key: &RemoteKey<'_>) -> Result<String, PluginError> {
        name::path(&self.mount, verb, key.name)
    }
}

/// Names the version that is missed: the server says only that it is too old.
fn with_version(mut error: PluginError, key: &RemoteKey<'_>) -> PluginError {
    if let (Trouble::NoKey, Some(version)) = (error.trouble, key.version) {
        error.message = format!("{} (it was wrapped by version {version})", error.message);
    }
    error
}

#[derive(Serialize)]
struct Encrypt<'a> {
    plaintext: &'a str,
    associated_data: String,
}

#[derive(Serialize)]
struct Decrypt<'a> {
    ciphertext: &'a str,
    associated_data: String,
}
