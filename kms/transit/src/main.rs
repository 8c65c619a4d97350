//! `kms-transit`: the transit engine of HashiCorp Vault or OpenBao wraps provider keys.
//!
//! The key there never leaves it. The wrapped provider key is what transit calls a ciphertext, such as
//! `vault:v1:...`, and what the provider key is for is authenticated with it (`associated_data`).

mod answer;
mod api;
mod http;
mod login;
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

use crate::api::{Api, is_mount};
use crate::http::Server;
use crate::login::Login;

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
        let ciphertext = answer.data()?.ciphertext;
        let ciphertext = ciphertext.ok_or_else(|| self.api.incomplete("ciphertext"))?;
        Ok(Wrapped {
            version: version(&ciphertext),
            blob: ciphertext.into_owned().into_bytes(),
        })
    }

    fn unwrap(
        &mut self,
        key: &RemoteKey<'_>,
        blob: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, PluginError> {
        let not_opened = |reason| PluginError::new(Trouble::NotOpened, reason);
        let ciphertext = std::str::from_utf8(blob)
            .map_err(|_| not_opened("what was wrapped is no ciphertext of transit"))?;
        let request = Decrypt {
            ciphertext,
            associated_data: Base64::encode_string(key.context.as_bytes()),
        };
        let asked = self
            .api
            .post(&self.path("decrypt", key)?, &request, deadline);
        let answer = asked.map_err(|error| with_version(error, key))?;
        let plaintext = answer.data()?.plaintext;
        let plaintext = plaintext.ok_or_else(|| self.api.incomplete("plaintext"))?;
        // In its final size: a buffer that grew would leave a copy.
        let mut kek = Zeroizing::new(vec![0; plaintext.len()]);
        let length = Base64::decode(plaintext.as_bytes(), &mut kek)
            .map_err(|_| self.api.incomplete("plaintext in base64"))?
            .len();
        kek.truncate(length);
        Ok(kek)
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
        let name = key.name;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let is_edge = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let bytes = name.as_bytes();
        if bytes.iter().all(|byte| is_name(*byte))
            && bytes.first().is_some_and(is_edge)
            && bytes.last().is_some_and(is_edge)
        {
            return Ok(format!("{}/{verb}/{name}", self.mount));
        }
        let message = format!("\"{name}\" can be no name of a key of transit");
        Err(PluginError::new(Trouble::NoKey, message))
    }
}

/// Names the version that is missed: the server says only that it is too old.
fn with_version(mut error: PluginError, key: &RemoteKey<'_>) -> PluginError {
    if let (Trouble::NoKey, Some(version)) = (error.trouble, key.version) {
        error.message = format!("{} (it was wrapped by version {version})", error.message);
    }
    error
}

/// The version of the key that made this ciphertext: `vault:v1:...`.
fn version(ciphertext: &str) -> Option<String> {
    let version = ciphertext.split(':').nth(1)?.strip_prefix('v')?;
    version
        .parse::<u64>()
        .ok()
        .map(|version| version.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ciphertext_names_the_version_of_its_key() {
        assert_eq!(version("vault:v12:AAAA"), Some("12".to_owned()));
        for other in [
            "",
            "vault",
            "vault:",
            "vault:1:AAAA",
            "vault:vx:AAAA",
            "vault:v-1:A",
        ] {
            assert_eq!(version(other), None, "{other}");
        }
    }
}
