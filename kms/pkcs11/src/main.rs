//! `kms-pkcs11`: an HSM, a smart card or a TPM that has a PKCS#11 module wraps provider keys with a key
//! that stays in it.

mod blob;
mod error;
mod key;
mod method;
mod name;
mod token;

use std::alloc::System;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use vtpm_guard::plugin::{
    self, Deadline, Kms, PluginError, RemoteKey, Settings, Trouble, Wrapped, Zeroizing, serve,
};
use zeroizing_alloc::ZeroAlloc;

use blob::Blob;
use method::Wanted;
use name::Name;
use token::{Address, Token};

/// Wipes all that is freed: what the libraries for PKCS#11 have read and written has keys in it.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    serve::<Pkcs11>()
}

/// The settings of a section, and the token once it is open.
struct Pkcs11 {
    address: Address,
    wanted: Wanted,
    token: Access,
}

/// How far the token is.
enum Access {
    /// Nobody has asked for it yet, or it could not be opened.
    Closed,
    Open(Box<Token>),
    /// A call did not come back in time.
    Stuck,
}

impl Kms for Pkcs11 {
    const KIND: &str = "pkcs11";

    fn new(settings: &mut Settings) -> Result<Self, PluginError> {
        let module = settings.path("module")?;
        let module = module.ok_or_else(|| wrong("module is missing"))?;
        let wanted = match settings.text("mechanism")? {
            None => Wanted::default(),
            Some(text) => Wanted::parse(&text).ok_or_else(|| {
                let known = Wanted::NAMES.map(|(name, _)| name).join(", ");
                wrong(&format!(
                    "mechanism \"{text}\" is unknown; known are: {known}"
                ))
            })?,
        };
        let slot = match (settings.text("token")?, settings.text("slot")?) {
            (Some(label), None) => token::Slot::Label(label),
            (None, Some(number)) => {
                let number = number.parse().ok();
                token::Slot::Number(number.ok_or_else(|| wrong("slot must be a number in quotes"))?)
            }
            _ => return Err(wrong("one of token and slot must be given")),
        };
        let pin_file = settings.path("pin_file")?;
        for pair in settings.list("environment")?.unwrap_or_default() {
            let whole = !pair.contains('\0');
            let pair = pair
                .split_once('=')
                .filter(|(name, _)| whole && !name.is_empty());
            let (name, value) =
                pair.ok_or_else(|| wrong("environment must be a list of texts NAME=VALUE"))?;
            plugin::set_environment(name, value);
        }
        Ok(Self {
            address: Address {
                module,
                slot,
                pin_file,
            },
            wanted,
            token: Access::Closed,
        })
    }

    fn status(&mut self, deadline: Deadline) -> Result<String, PluginError> {
        self.within(deadline, Token::describe)
    }

    fn wrap(
        &mut self,
        key: &RemoteKey<'_>,
        kek: &[u8],
        deadline: Deadline,
    ) -> Result<Wrapped, PluginError> {
        let (name, wanted) = (Name::parse(key.name)?, self.wanted);
        let context = key.context.to_owned();
        let kek = Zeroizing::new(kek.to_vec());
        self.within(deadline, move |token| {
            let key = token.key_to_wrap(&name)?;
            let blob = token.wrap(&key, wanted, &kek, &context)?;
            Ok(Wrapped {
                blob: blob.to_bytes(),
                version: key.version(),
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
        let version = key.version.map(str::to_owned);
        let context = key.context.to_owned();
        self.within(deadline, move |token| {
            let key = token.key_that_wrapped(&name, version.as_deref())?;
            token.unwrap(&key, &blob, &context)
        })
    }
}

impl Pkcs11 {
    /// Does something with the open token in a thread of its own: a call into a module has no deadline,
    /// and cannot be ended.
    fn within<T: Send + 'static>(
        &mut self,
        deadline: Deadline,
        work: impl FnOnce(&Token) -> Result<T, PluginError> + Send + 'static,
    ) -> Result<T, PluginError> {
        let access = std::mem::replace(&mut self.token, Access::Stuck);
        let address = self.address.clone();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let open = match access {
                Access::Open(token) => Ok(token),
                Access::Closed => Token::open(&address).map(Box::new),
                // A module that hangs is not called once more.
                Access::Stuck => return,
            };
            let answer = match open {
                Ok(token) => {
                    let result = work(&token);
                    (Access::Open(token), result)
                }
                Err(error) => (Access::Closed, Err(error)),
            };
            // Past the deadline nobody listens any more.
            let _ = sender.send(answer);
        });
        let answer = receiver.recv_timeout(deadline.remaining());
        let (access, result) = answer.map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                let message = format!("{}: it did not answer in time", self.address);
                PluginError::new(Trouble::Unreachable, message)
            }
            RecvTimeoutError::Disconnected => PluginError::new(
                Trouble::Failed,
                format!("{}: the call has failed", self.address),
            ),
        })?;
        self.token = access;
        result
    }
}

fn wrong(message: &str) -> PluginError {
    PluginError::new(Trouble::Settings, message)
}
