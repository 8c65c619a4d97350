//! A token: its module is loaded, a session is open, and what is asked of it.

use std::fmt;
use std::path::PathBuf;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot as SlotId, TokenInfo};
use cryptoki::types::RawAuthPin;
use vtpm_guard::plugin::{PluginError, Trouble, Zeroizing, read_credentials, trusted_path};

use crate::blob::Blob;
use crate::error::{explain, is_not_offered, not_reached};
use crate::key::Key;
use crate::method::Wanted;
use crate::name::Name;

mod calls;

/// Where a token is, and how to log in.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// The shared library that knows the token.
    pub(crate) module: PathBuf,
    pub(crate) slot: Slot,
    /// None: the token needs no login.
    pub(crate) pin_file: Option<PathBuf>,
}

/// Which token of a module.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    Label(String),
    Number(u64),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let module = self.module.display();
        match &self.slot {
            Slot::Label(label) => write!(f, "token \"{label}\" of {module}"),
            Slot::Number(number) => write!(f, "slot {number} of {module}"),
        }
    }
}

/// An open token.
pub(crate) struct Token {
    // Keeps the login: the last session that closes logs out. Closed before the module is finalized.
    session: Session,
    pkcs11: Pkcs11,
    _finalize: Finalize,
    slot: SlotId,
    mechanisms: Vec<MechanismType>,
    address: Address,
}

/// Finalizes a module in the end.
struct Finalize(Option<Pkcs11>);

impl Drop for Finalize {
    fn drop(&mut self) {
        // The process ends: what the module says then is of no use to anybody.
        let _ = self.0.take().map(Pkcs11::finalize);
    }
}

impl Token {
    /// Loads the module, finds the token and logs in.
    pub(crate) fn open(address: &Address) -> Result<Self, PluginError> {
        Self::open_there(address).map_err(|error| error.at(address))
    }

    fn open_there(address: &Address) -> Result<Self, PluginError> {
        let path = trusted_path(&address.module)?;
        let pkcs11 = Pkcs11::new(path).map_err(|error| not_reached(&error))?;
        let flags = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        pkcs11
            .initialize(flags)
            .map_err(|error| not_reached(&error))?;
        let finalize = Finalize(Some(pkcs11.clone()));
        let slot = find(&pkcs11, &address.slot)?;
        let mechanisms = pkcs11.get_mechanism_list(slot);
        let mechanisms = mechanisms.map_err(|error| not_reached(&error))?;
        let session = pkcs11
            .open_ro_session(slot)
            .map_err(|error| not_reached(&error))?;
        if let Some(pin_file) = &address.pin_file {
            let info = pkcs11
                .get_token_info(slot)
                .map_err(|error| not_reached(&error))?;
            spare_the_last_try(&info)?;
            // The token's own copy of it is wiped, too.
            let pin = RawAuthPin::new(Box::new(read_credentials(pin_file)?.to_vec()));
            session
                .login_with_raw(UserType::User, &pin)
                .map_err(|error| {
                    let error = not_reached(&error);
                    let message =
                        format!("{} with the PIN in {}", error.message, pin_file.display());
                    PluginError::new(error.trouble, message)
                })?;
        }
        Ok(Self {
            session,
            pkcs11,
            _finalize: finalize,
            slot,
            mechanisms,
            address: address.clone(),
        })
    }

    /// What the token is.
    pub(crate) fn describe(&self) -> Result<String, PluginError> {
        let info = self.pkcs11.get_token_info(self.slot);
        let info = info.map_err(|error| self.at(explain(&error)))?;
        let text = format!(
            "token \"{}\": {} {}, serial number {}",
            info.label(),
            info.manufacturer_id(),
            info.model(),
            info.serial_number()
        );
        // Some modules pad with NULs.
        Ok(text.replace(char::is_control, ""))
    }

    /// The key of this name, which must be the only one.
    pub(crate) fn key_to_wrap(&self, name: &Name) -> Result<Key, PluginError> {
        let mut keys = Key::find(&self.session, name).map_err(|error| self.at(error))?;
        let key = match (keys.pop(), keys.len()) {
            (None, _) => return Err(self.no_key(name)),
            (Some(key), 0) => key,
            (Some(_), others) => {
                let message = format!(
                    "it has {} keys {name}: name one by its CKA_ID, as id:HEX",
                    others + 1
                );
                return Err(self.error(Trouble::NoKey, &message));
            }
        };
        key.check(&self.session).map_err(|error| self.at(error))?;
        Ok(key)
    }

    /// The key that wrapped: of several with this name, the one of this version.
    pub(crate) fn key_that_wrapped(
        &self,
        name: &Name,
        version: Option<&str>,
    ) -> Result<Key, PluginError> {
        let mut keys = Key::find(&self.session, name).map_err(|error| self.at(error))?;
        let of_version = keys
            .iter()
            .position(|key| version.is_some() && key.version().as_deref() == version);
        match (keys.len(), of_version) {
            (0, _) => Err(self.no_key(name)),
            (_, Some(index)) => Ok(keys.swap_remove(index)),
            // Made from a backup, perhaps, under another ID. One that did not wrap does not open, either.
            (1, None) => Ok(keys.swap_remove(0)),
            (count, None) => {
                let version = version.unwrap_or("none");
                let message =
                    format!("it has {count} keys {name}, none of them with CKA_ID {version}");
                Err(self.error(Trouble::NoKey, &message))
            }
        }
    }

    /// Wraps by the best method that the token offers for this key, and opens it once more: tokens may take
    /// parameters for one direction that they do not take for the other.
    pub(crate) fn wrap(
        &self,
        key: &Key,
        wanted: Wanted,
        kek: &[u8],
        context: &str,
    ) -> Result<Blob, PluginError> {
        let mut reason = "the token does not have it for such a key".to_owned();
        for method in wanted.methods(key.kind) {
            if !self.mechanisms.contains(&method.mechanism()) {
                continue;
            }
            let blob = match calls::wrap(&self.session()?, key, method, kek, context) {
                Ok(blob) => blob,
                Err(calls::Error::Call(error)) if is_not_offered(&error) => {
                    reason = explain(&error).message;
                    continue;
                }
                Err(error) => return Err(self.at(error.into())),
            };
            match self.unwrap(key, &blob, context) {
                Ok(opened) if opened.as_slice() == kek => return Ok(blob),
                Ok(_) => reason = format!("{method:?} gave another key back"),
                Err(error) if error.trouble == Trouble::Unreachable => return Err(error),
                Err(error) => reason = error.message,
            }
        }
        let names = Wanted::NAMES.into_iter();
        let mechanism = names
            .filter(|(_, known)| *known == wanted)
            .map(|(name, _)| name);
        let mechanism: String = mechanism.collect();
        let message = format!("mechanism {mechanism} cannot be used: {reason}");
        Err(self.error(Trouble::Denied, &message))
    }

    /// Unwraps by the method that wrapped.
    pub(crate) fn unwrap(
        &self,
        key: &Key,
        blob: &Blob,
        context: &str,
    ) -> Result<Zeroizing<Vec<u8>>, PluginError> {
        let opened = calls::unwrap(&self.session()?, key, blob, context);
        opened.map_err(|error| self.at(error.into()))
    }

    /// A session of its own for each attempt: some modules do not end an operation that failed.
    fn session(&self) -> Result<Session, PluginError> {
        let session = self.pkcs11.open_ro_session(self.slot);
        session.map_err(|error| self.at(explain(&error)))
    }

    fn no_key(&self, name: &Name) -> PluginError {
        self.error(Trouble::NoKey, &format!("it has no key {name}"))
    }

    fn error(&self, trouble: Trouble, message: &str) -> PluginError {
        self.at(PluginError::new(trouble, message))
    }

    fn at(&self, error: PluginError) -> PluginError {
        error.at(&self.address)
    }
}

fn find(pkcs11: &Pkcs11, wanted: &Slot) -> Result<SlotId, PluginError> {
    let slots = pkcs11
        .get_slots_with_initialized_token()
        .map_err(|error| not_reached(&error))?;
    let mut found = Vec::new();
    let mut labels = Vec::new();
    for slot in slots {
        match wanted {
            Slot::Number(number) if slot.id() == *number => found.push(slot),
            Slot::Number(_) => labels.push(slot.to_string()),
            Slot::Label(wanted) => {
                // One that does not answer must not hide the others.
                let Ok(info) = pkcs11.get_token_info(slot) else {
                    continue;
                };
                if info.label() == wanted {
                    found.push(slot);
                } else {
                    labels.push(format!("\"{}\"", info.label()));
                }
            }
        }
    }
    match found[..] {
        [slot] => Ok(slot),
        [] => {
            let there = if labels.is_empty() {
                "there is none".to_owned()
            } else {
                format!("there are: {}", labels.join(", "))
            };
            let message = format!("there is no such token; {there}");
            Err(PluginError::new(Trouble::Unreachable, message))
        }
        _ => {
            let message = format!("{} tokens have this label: give slot instead", found.len());
            Err(PluginError::new(Trouble::Settings, message))
        }
    }
}

/// A wrong PIN in a file would be tried until the token locks itself; the last try is left to a person.
fn spare_the_last_try(info: &TokenInfo) -> Result<(), PluginError> {
    let message = if info.user_pin_locked() {
        "its PIN is locked"
    } else if info.user_pin_final_try() {
        "one more wrong PIN would lock it: log in once with the right one by another program first"
    } else {
        return Ok(());
    };
    Err(PluginError::new(Trouble::Credentials, message))
}
