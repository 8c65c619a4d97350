//! The lines of a recovery file.

use std::fmt;

use sha2::{Digest, Sha256};

use super::{RecoveryError, RecoveryFile};
use crate::clock::Timestamp;
use crate::key::hex;
use crate::key::id::KeyId;
use crate::key::kek::Kek;

const FORMAT: &str = "vtpm-guard recovery file, format ";
const KEY: &str = "Key: ";
const CHECKSUM: &str = "Checksum: ";

/// The longest name of a provider in a file, in bytes.
pub(crate) const MAX_NAME: usize = 255;

/// What a recovery file says in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The provider's name when it was exported.
    pub provider: String,
    /// The identity of the KEK.
    pub key_id: KeyId,
    /// The version of the KEK.
    pub key_version: i64,
    /// When the file was made, to the second.
    pub created: Timestamp,
    pub(super) cost: Cost,
    pub(super) salt: [u8; 16],
    pub(super) nonce: [u8; 12],
}

/// The parameters of Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) memory_kib: u32,
    pub(super) passes: u32,
    pub(super) lanes: u32,
}

impl Cost {
    /// The parameters as Argon2id takes them; `None` if no file may ask for so much, or the
    /// algorithm is not defined for so little.
    pub(super) fn params(self) -> Option<argon2::Params> {
        let bearable = self.memory_kib <= 1024 * 1024 && self.passes <= 10 && self.lanes <= 16;
        let params = || argon2::Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        bearable.then(params)?.ok()
    }
}

impl Header {
    /// Whether the name fits on a line.
    pub(super) fn has_usable_name(&self) -> bool {
        (1..=MAX_NAME).contains(&self.provider.len()) && !self.provider.contains(char::is_control)
    }

    /// Reads the lines that follow the first one.
    fn parse(fields: &[&str]) -> Option<Self> {
        let [provider, key_id, key_version, created, cost, salt, nonce] = fields else {
            return None;
        };
        let created: jiff::Timestamp = created.strip_prefix("Created: ")?.parse().ok()?;
        let (memory_kib, rest) = cost.strip_prefix("Argon2id: m=")?.split_once(" t=")?;
        let (passes, lanes) = rest.split_once(" p=")?;
        let header = Self {
            provider: provider.strip_prefix("Provider: ")?.to_owned(),
            key_id: KeyId::parse(key_id.strip_prefix("Key-Id: ")?)?,
            key_version: key_version.strip_prefix("Key-Version: ")?.parse().ok()?,
            created: Timestamp(created.as_millisecond()),
            cost: Cost {
                memory_kib: memory_kib.parse().ok()?,
                passes: passes.parse().ok()?,
                lanes: lanes.parse().ok()?,
            },
            salt: bytes(salt.strip_prefix("Salt: ")?)?,
            nonce: bytes(nonce.strip_prefix("Nonce: ")?)?,
        };
        header.has_usable_name().then_some(header)
    }
}

/// The lines before the key.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost {
            memory_kib,
            passes,
            lanes,
        } = self.cost;
        let created = jiff::Timestamp::from_second(self.created.0.div_euclid(1000));
        writeln!(f, "{FORMAT}1")?;
        writeln!(f, "Provider: {}", self.provider)?;
        writeln!(f, "Key-Id: {}", self.key_id)?;
        writeln!(f, "Key-Version: {}", self.key_version)?;
        writeln!(f, "Created: {}", created.unwrap_or(jiff::Timestamp::MAX))?;
        writeln!(f, "Argon2id: m={memory_kib} t={passes} p={lanes}")?;
        writeln!(f, "Salt: {}", digits(&self.salt))?;
        writeln!(f, "Nonce: {}", digits(&self.nonce))
    }
}

/// The whole file.
impl fmt::Display for RecoveryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ciphertext, tag) = (digits(&self.ciphertext), digits(&self.tag));
        let lines = format!("{}{KEY}{ciphertext}{tag}\n", self.head);
        writeln!(f, "{lines}{CHECKSUM}{}", checksum(&lines))
    }
}

/// Reads a file: is it one, is it whole, is its format known, and only then what it says.
pub(super) fn parse(file: &[u8]) -> Result<RecoveryFile, RecoveryError> {
    // A byte that is no text becomes a character that the checksum does not know.
    let text = String::from_utf8_lossy(file);
    let lines: Vec<&str> = text.trim_end_matches(['\r', '\n']).lines().collect();
    let format = lines.first().and_then(|line| line.strip_prefix(FORMAT));
    let stated = lines.last().and_then(|line| line.strip_prefix(CHECKSUM));
    let (format, stated) = match (format, stated) {
        (Some(format), Some(stated)) => (format, stated),
        (None, None) => return Err(RecoveryError::NotARecoveryFile),
        _ => return Err(RecoveryError::Damaged),
    };
    let lines = &lines[..lines.len() - 1];
    let before: String = lines.iter().flat_map(|line| [*line, "\n"]).collect();
    if stated != checksum(&before) {
        return Err(RecoveryError::Damaged);
    }
    match format.parse() {
        Ok(1) => {}
        Ok(newer) if newer > 1 => return Err(RecoveryError::TooNew(newer)),
        _ => return Err(RecoveryError::Damaged),
    }
    let file = parse_format_1(&before, lines).ok_or(RecoveryError::Damaged)?;
    match file.header.cost.params() {
        Some(_) => Ok(file),
        None => Err(RecoveryError::TooCostly),
    }
}

/// Takes apart the `lines` of a whole file, without the checksum; `before` is their text.
fn parse_format_1(before: &str, lines: &[&str]) -> Option<RecoveryFile> {
    let [_, header @ .., key] = lines else {
        return None;
    };
    let (ciphertext, tag) = key.strip_prefix(KEY)?.split_at_checked(2 * Kek::LEN)?;
    Some(RecoveryFile {
        header: Header::parse(header)?,
        head: before.strip_suffix(&format!("{key}\n"))?.to_owned(),
        ciphertext: bytes(ciphertext)?,
        tag: bytes(tag)?,
    })
}

/// The file with the checksum that is right for its other lines, for fuzzing: otherwise that ends every attempt.
#[cfg(feature = "internals")]
pub(super) fn with_checksum(file: &[u8]) -> String {
    let text = String::from_utf8_lossy(file);
    let text = text.trim_end_matches(['\r', '\n']);
    let lines = text.lines().filter(|line| !line.starts_with(CHECKSUM));
    let lines: String = lines.flat_map(|line| [line, "\n"]).collect();
    format!("{lines}{CHECKSUM}{}\n", checksum(&lines))
}

fn checksum(lines: &str) -> String {
    digits(&Sha256::digest(lines))
}

fn digits(bytes: &[u8]) -> String {
    let mut digits = vec![0; 2 * bytes.len()];
    hex::encode(bytes, &mut digits);
    String::from_utf8_lossy(&digits).into_owned()
}

fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode(digits.as_bytes(), &mut bytes)?;
    Some(bytes)
}
