//! The secret driver of a fake libvirtd, by the rules of libvirt's `src/secret/secret_driver.c` and
//! `src/conf/virsecretobj.c`.

use std::fs;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};

use super::disk::write;
use crate::ids::SecretUuid;
use crate::libvirt::secret::{SecretDefinition, SecretError};

/// The longest value that libvirt takes, in bytes (`VIR_SECRET_VALUE_MAX`).
const MAX_VALUE_LEN: usize = 65536;

/// The secrets that the daemon holds in its memory, and its files of those that are not
/// ephemeral. It reads the files when it starts, and never again.
#[derive(Clone)]
pub(crate) struct SecretDriver {
    memory: PathBuf,
    files: PathBuf,
}

impl SecretDriver {
    pub(super) fn new(memory: PathBuf, files: PathBuf) -> Self {
        Self { memory, files }
    }

    /// Ends the daemon, and starts it again: it forgets its memory, and loads its files.
    pub(crate) fn restart(&self) {
        for path in entries(&self.memory) {
            fs::remove_file(path).unwrap();
        }
        for path in entries(&self.files) {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let is_definition = path.extension().is_some_and(|extension| extension == "xml");
            let Some(Ok(secret)) = stem.filter(|_| is_definition).map(str::parse) else {
                continue;
            };
            write(&self.in_memory(secret, "xml"), &fs::read(&path).unwrap());
            if let Ok(text) = fs::read_to_string(path.with_extension("base64")) {
                let mut value = vec![0; text.len()];
                let value = Base64::decode(text.trim_end(), &mut value).unwrap();
                write(&self.in_memory(secret, "value"), value);
            }
        }
    }

    /// Defines a secret, or redefines one, which keeps its value.
    pub(crate) fn define(&self, xml: &str) -> Result<SecretUuid, SecretError> {
        let new = SecretDefinition::parse(xml).unwrap();
        let secret = uuid_in(xml);
        let before = self.definition(secret);
        if let Some(before) = &before {
            if before.usage != new.usage {
                let usage = &before.usage;
                return Err(refused(format!(
                    "a secret with UUID {secret} is already defined for use with {usage}"
                )));
            }
            if before.is_private && !new.is_private {
                let words = "cannot change private flag on existing secret";
                return Err(refused(words.to_owned()));
            }
        } else if let Some(other) = self.with_usage(&new) {
            let usage = &new.usage;
            return Err(SecretError::Conflict(format!(
                "the usage \"{usage}\" belongs to the secret {other}"
            )));
        }
        write(&self.in_memory(secret, "xml"), xml.as_bytes());
        if new.is_ephemeral {
            if before.is_some_and(|before| !before.is_ephemeral) {
                // The definition's file stays: libvirt asks the new definition whether there is one.
                let _ = fs::remove_file(self.in_files(secret, "base64"));
            }
        } else {
            write(&self.in_files(secret, "xml"), xml.as_bytes());
            if let Some(value) = self.value(secret) {
                self.save_value(secret, &value);
            }
        }
        Ok(secret)
    }

    /// Sets the value of a secret, which must be defined.
    pub(crate) fn set_value(&self, secret: SecretUuid, value: &[u8]) -> Result<(), SecretError> {
        if value.len() > MAX_VALUE_LEN {
            let len = value.len();
            return Err(refused(format!("value too large: {len} > {MAX_VALUE_LEN}")));
        }
        let definition = self.definition(secret).unwrap();
        write(&self.in_memory(secret, "value"), value);
        if !definition.is_ephemeral {
            self.save_value(secret, value);
        }
        Ok(())
    }

    /// Returns the value that a start would find, whether it is private or not.
    pub(crate) fn value(&self, secret: SecretUuid) -> Option<Vec<u8>> {
        fs::read(self.in_memory(secret, "value")).ok()
    }

    /// Returns the definition of a secret.
    pub(crate) fn definition(&self, secret: SecretUuid) -> Option<SecretDefinition> {
        SecretDefinition::parse(&self.xml(secret)?)
    }

    pub(in crate::libvirt) fn xml(&self, secret: SecretUuid) -> Option<String> {
        fs::read_to_string(self.in_memory(secret, "xml")).ok()
    }

    /// Undefines a secret, and removes its value and its files. Returns whether there was one.
    pub(crate) fn undefine(&self, secret: SecretUuid) -> bool {
        let Some(definition) = self.definition(secret) else {
            return false;
        };
        if !definition.is_ephemeral {
            let _ = fs::remove_file(self.in_files(secret, "xml"));
        }
        let _ = fs::remove_file(self.in_files(secret, "base64"));
        let _ = fs::remove_file(self.in_memory(secret, "value"));
        fs::remove_file(self.in_memory(secret, "xml")).is_ok()
    }

    /// Returns the secrets that are defined.
    pub(crate) fn all(&self) -> Vec<SecretUuid> {
        let secret = |path: PathBuf| {
            let name = path.file_name()?.to_str()?;
            name.strip_suffix(".xml")?.parse().ok()
        };
        entries(&self.memory)
            .into_iter()
            .filter_map(secret)
            .collect()
    }

    fn with_usage(&self, wanted: &SecretDefinition) -> Option<SecretUuid> {
        let has_it = |secret: &SecretUuid| {
            self.definition(*secret).is_some_and(|found| {
                (found.purpose, &found.usage) == (wanted.purpose, &wanted.usage)
            })
        };
        self.all()
            .into_iter()
            .filter(|_| !wanted.usage.is_empty())
            .find(has_it)
    }

    fn save_value(&self, secret: SecretUuid, value: &[u8]) {
        let mut text = vec![0; Base64::encoded_len(value)];
        let text = Base64::encode(value, &mut text).unwrap();
        write(&self.in_files(secret, "base64"), text.as_bytes());
    }

    fn in_memory(&self, secret: SecretUuid, extension: &str) -> PathBuf {
        self.memory.join(format!("{secret}.{extension}"))
    }

    fn in_files(&self, secret: SecretUuid, extension: &str) -> PathBuf {
        self.files.join(format!("{secret}.{extension}"))
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.read_dir().unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn uuid_in(xml: &str) -> SecretUuid {
    let (_, rest) = xml.split_once("<uuid>").unwrap();
    let (uuid, _) = rest.split_once("</uuid>").unwrap();
    uuid.parse().unwrap()
}

fn refused(words: String) -> SecretError {
    SecretError::Refused(words)
}
