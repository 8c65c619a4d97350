//! The settings of a section, as a plugin takes them: one after the other, until none is left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{PluginError, Trouble};
use crate::host::trusted::{self, Distrust, Rule};
use crate::kms::settings::Setting;

/// The longest file that is read, in bytes: a bundle of certificates, a token, a PIN.
const MAX_FILE: usize = 1 << 20;

/// The settings of a section that nobody has asked for yet.
#[derive(Debug, Clone)]
pub struct Settings(BTreeMap<String, Setting>);

impl Settings {
    pub(crate) fn new(settings: BTreeMap<String, Setting>) -> Self {
        Self(settings)
    }

    /// Takes a text.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, PluginError> {
        match self.0.remove(key) {
            None => Ok(None),
            Some(Setting::Text(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(wrong(format!("{key} must be a text"))),
        }
    }

    /// Takes a text that must be there.
    pub fn needed(&mut self, key: &str) -> Result<String, PluginError> {
        self.text(key)?
            .ok_or_else(|| wrong(format!("{key} is missing")))
    }

    /// Takes a list of texts.
    pub fn list(&mut self, key: &str) -> Result<Option<Vec<String>>, PluginError> {
        match self.0.remove(key) {
            None => Ok(None),
            Some(Setting::List(list)) if !list.is_empty() => Ok(Some(list)),
            Some(_) => Err(wrong(format!("{key} must be a list of texts"))),
        }
    }

    /// Takes the absolute path of a file.
    pub fn path(&mut self, key: &str) -> Result<Option<PathBuf>, PluginError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let path = PathBuf::from(text);
        if path.is_absolute() {
            return Ok(Some(path));
        }
        Err(wrong(format!("{key} must be an absolute path")))
    }

    /// Whether nothing is left that the plugin does not know.
    pub(crate) fn all_known(&self) -> Result<(), PluginError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(wrong(format!("unknown key \"{key}\""))),
        }
    }
}

/// Reads a file with credentials: only root and this user may be able to read it. The white space at its end
/// does not count.
pub fn read_credentials(path: &Path) -> Result<Zeroizing<Vec<u8>>, PluginError> {
    let mut bytes = read(path, trusted::CREDENTIALS)?;
    let end = bytes.trim_ascii_end().len();
    bytes.truncate(end);
    if bytes.is_empty() {
        return Err(unusable(path, "it is empty"));
    }
    Ok(bytes)
}

/// Reads a file that is no secret, such as a certificate: only root and this user may be able to write it.
pub fn read_trusted(path: &Path) -> Result<Zeroizing<Vec<u8>>, PluginError> {
    read(path, trusted::CONFIG)
}

/// Checks that only root and this user may be able to write a file that another library reads or loads, and
/// returns its path without links.
pub fn trusted_path(path: &Path) -> Result<PathBuf, PluginError> {
    let distrusted = |distrust: Distrust| PluginError::new(Trouble::Settings, distrust.to_string());
    let found = trusted::find(path, trusted::CONFIG).map_err(distrusted)?;
    let missing = || {
        PluginError::new(
            Trouble::Settings,
            format!("{}: there is no such file", path.display()),
        )
    };
    Ok(found.ok_or_else(missing)?.path().to_owned())
}

fn read(path: &Path, rule: Rule) -> Result<Zeroizing<Vec<u8>>, PluginError> {
    let file = trusted::open(path, rule)
        .map_err(|distrust| PluginError::new(Trouble::Credentials, distrust.to_string()))?
        .ok_or_else(|| unusable(path, "there is no such file"))?;
    read_whole(file).map_err(|error| unusable(path, &error.to_string()))
}

fn read_whole(file: File) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(MAX_FILE);
    // In its final size: a buffer that grew would leave copies of a secret.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.min(MAX_FILE) + 1));
    let limit = u64::try_from(bytes.capacity()).unwrap_or_default();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unusable(path: &Path, why: &str) -> PluginError {
    PluginError::new(Trouble::Credentials, format!("{}: {why}", path.display()))
}

fn wrong(message: String) -> PluginError {
    PluginError::new(Trouble::Settings, message)
}
