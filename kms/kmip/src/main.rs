//! `kms-kmip`: a KMIP server wraps provider keys, or gives out the key that wraps them here.

mod blob;
mod connection;
mod keys;
mod message;
mod name;
mod payload;
mod ttlv;

use std::alloc::System;
use std::process::ExitCode;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use vtpm_guard::plugin::{
    Deadline, Kms, PluginError, RemoteKey, Settings, Trouble, Wrapped, Zeroizing, serve,
};
use vtpm_guard_kms_tls::{Address, Identity, Needs};
use zeroizing_alloc::ZeroAlloc;

use blob::{Blob, Method};
use connection::{Connection, Error, Server};
use keys::Keys;
use name::Name;

/// The port that is assigned to KMIP.
const PORT: u16 = 5696;

/// The longest identifier that is a version, in bytes.
const MAX_VERSION: usize = 128;

/// Wipes all that is freed: what the libraries for TLS have read and written has keys in it.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    serve::<Kmip>()
}

/// The settings of a section, and the connection once there is one.
struct Kmip {
    server: Server,
    how: How,
    connection: Option<Connection>,
}

/// The setting `operation`: where a provider key is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// At the server, if it offers that for this key; else here.
    Auto,
    /// Here, with the key that the server gives out.
    Get,
    /// At the server.
    Encrypt,
}

impl Kms for Kmip {
    const KIND: &str = "kmip";

    fn new(settings: &mut Settings) -> Result<Self, PluginError> {
        let wrong = |message: String| PluginError::new(Trouble::Settings, message);
        let address = settings.needed("address")?;
        let address = Address::parse(&address, PORT)
            .ok_or_else(|| wrong(format!("address \"{address}\" is no HOST or HOST:PORT")))?;
        let how = match settings.text("operation")?.as_deref() {
            None | Some("auto") => How::Auto,
            Some("get") => How::Get,
            Some("encrypt") => How::Encrypt,
            Some(other) => {
                let message =
                    format!("operation \"{other}\" is unknown; known are: auto, get, encrypt");
                return Err(wrong(message));
            }
        };
        let identity = Identity::take(settings)?;
        if identity.certificate().is_none() {
            return Err(wrong("certificate and key are missing".to_owned()));
        }
        let needs = Needs {
            files: identity.files(),
            ports: vec![address.port()],
        };
        needs.confine();
        Ok(Self {
            server: Server { address, identity },
            how,
            connection: None,
        })
    }

    fn status(&mut self, deadline: Deadline) -> Result<String, PluginError> {
        self.with_keys("", deadline, |keys| {
            let vendor = keys.vendor()?;
            let vendor = vendor.unwrap_or_else(|| "a server without a name".to_owned());
            Ok(format!("{vendor}, {}", keys.version()))
        })
    }

    fn wrap(
        &mut self,
        key: &RemoteKey<'_>,
        kek: &[u8],
        deadline: Deadline,
    ) -> Result<Wrapped, PluginError> {
        let (name, how) = (Name::parse(key.name)?, self.how);
        self.with_keys(&name.to_string(), deadline, |keys| {
            let id = keys.find_to_wrap(&name)?;
            let blob = wrap(keys, &id, how, kek, key.context)?;
            Ok(Wrapped {
                blob: blob.to_bytes(),
                version: Some(id).filter(|id| id.len() <= MAX_VERSION),
            })
        })
    }

    fn unwrap(
        &mut self,
        key: &RemoteKey<'_>,
        blob: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, PluginError> {
        let (name, blob) = (Name::parse(key.name)?, Blob::parse(blob)?);
        self.with_keys(&name.to_string(), deadline, |keys| {
            if let Some(id) = key.version {
                match unwrap(keys, id, &blob, key.context) {
                    // Made from a backup, perhaps, under another identifier. One that did not wrap does
                    // not open, either.
                    Err(error) if error.is_no_key() => {}
                    opened => return opened,
                }
            }
            let id = keys.find_to_unwrap(&name)?;
            unwrap(keys, &id, &blob, key.context)
        })
    }
}

impl Kmip {
    /// Does something with the keys of the server; `key` is what an error names. After one the connection
    /// is not used again.
    fn with_keys<T>(
        &mut self,
        key: &str,
        deadline: Deadline,
        work: impl FnOnce(&mut Keys<'_>) -> Result<T, Error>,
    ) -> Result<T, PluginError> {
        let connection = self.connection.take();
        let connection = connection.map_or_else(|| Connection::open(&self.server, deadline), Ok);
        let done = connection.and_then(|mut connection| {
            let done = work(&mut Keys::new(&self.server, &mut connection, deadline))?;
            self.connection = Some(connection);
            Ok(done)
        });
        done.map_err(|error| error.explain(key, &self.server.address))
    }
}

fn wrap(keys: &mut Keys<'_>, id: &str, how: How, kek: &[u8], context: &str) -> Result<Blob, Error> {
    let mut nonce = [0; blob::NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|error| {
        let message = format!("the kernel gave no random bytes: {error}");
        Error::new(Trouble::Failed, message)
    })?;
    let at_server = how == How::Encrypt || how == How::Auto && keys.can_encrypt()?;
    if at_server {
        match keys.encrypt(id, nonce, kek, context) {
            Ok(sealed) => return Ok(Blob::new(Method::Encrypt, nonce, sealed)),
            Err(Error::Refused(refusal)) if how == How::Auto && refusal.is_not_offered() => {}
            Err(error) => return Err(error),
        }
    }
    let cipher = Aes256Gcm::new((&**keys.get(id)?).into());
    let payload = Payload {
        msg: kek,
        aad: context.as_bytes(),
    };
    let sealed = cipher.encrypt(&Nonce::from(nonce), payload);
    let sealed = sealed.map_err(|_| Error::new(Trouble::Failed, "AES-GCM failed"))?;
    Ok(Blob::new(Method::Get, nonce, sealed))
}

fn unwrap(
    keys: &mut Keys<'_>,
    id: &str,
    blob: &Blob,
    context: &str,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    match blob.method {
        Method::Encrypt => keys.decrypt(id, blob.nonce, &blob.sealed, context),
        Method::Get => {
            let cipher = Aes256Gcm::new((&**keys.get(id)?).into());
            let payload = Payload {
                msg: &blob.sealed,
                aad: context.as_bytes(),
            };
            let opened = cipher.decrypt(&Nonce::from(blob.nonce), payload);
            let not_opened = |_| Error::new(Trouble::NotOpened, "it has not wrapped this");
            opened.map(Zeroizing::new).map_err(not_opened)
        }
    }
}
