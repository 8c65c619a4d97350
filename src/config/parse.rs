//! From TOML to a [`Config`]. Section, key and value are looked at one by one, so that every
//! error names its line, its key and what would be right there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::{Config, KekCache, KeptStates, Lifetime, LogTarget, duration, fleet, kms};
use crate::verdict::facts::{Permission, TransientState};

/// Every section and its keys, in the order of the shipped file.
pub(super) const KEYS: &[(&str, &[&str])] = &[
    (
        "policy",
        &[
            "degraded",
            "unmanaged",
            "unencrypted",
            "missing_state",
            "transient_state",
            "auto_bind",
            "elsewhere",
        ],
    ),
    ("secret", &["uri", "lifetime"]),
    ("hook", &["deadline"]),
    ("fleet", fleet::KEYS),
    ("provider", &["cache", "max_age"]),
    ("log", &["level", "target"]),
    ("capture", &["denied"]),
    ("state", &["keep"]),
    (
        "libvirt",
        &["config_dir", "state_dir", "run_dir", "tpm_dir"],
    ),
];

/// The shortest `hook.deadline`: less would refuse starts that are in order, on a busy host.
const MIN_DEADLINE: Duration = Duration::from_millis(500);

/// The longest `hook.deadline`: a hook that hangs holds the guest's lock.
pub(crate) const MAX_DEADLINE: Duration = Duration::from_secs(10 * 60);

/// The shortest `provider.max_age`: what opens provider keys again runs from time to time only.
const MIN_MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// The largest `capture.denied`: each is a file of some KiB.
pub(crate) const MAX_CAPTURED: usize = 1000;

const PERMISSIONS: &[(&str, Permission)] =
    &[("allow", Permission::Allow), ("deny", Permission::Deny)];
const TRANSIENT_STATES: &[(&str, TransientState)] = &[
    ("keep", TransientState::Keep),
    ("fresh", TransientState::Fresh),
];
const KEPT_STATES: &[(&str, KeptStates)] = &[
    ("transient", KeptStates::Transient),
    ("all", KeptStates::All),
];
const KEK_CACHES: &[(&str, KekCache)] = &[("sealed", KekCache::Sealed), ("boot", KekCache::Boot)];
const LIFETIMES: &[(&str, Lifetime)] = &[
    ("start", Lifetime::Start),
    ("run", Lifetime::Run),
    ("keep", Lifetime::Keep),
];
const LEVELS: &[(&str, tracing::Level)] = &[
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

/// What is wrong on a line of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is not TOML: the parser's message.
    #[error("{0}")]
    Syntax(String),
    /// A section that does not exist.
    #[error("unknown section \"{name}\"; the sections are {known}")]
    UnknownSection {
        /// Its name.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// A key that does not exist.
    #[error("unknown key \"{key}\"; the keys of this section are {known}")]
    UnknownKey {
        /// `section.key`.
        key: String,
        /// Those that exist.
        known: String,
    },
    /// A value that this key cannot have.
    #[error("{key} is {found}; it must be {wanted}")]
    BadValue {
        /// `section.key`.
        key: String,
        /// The value.
        found: String,
        /// What it may be.
        wanted: String,
    },
}

/// Reads a configuration. The error is the first in the file, with its line, from 1.
pub(super) fn parse(text: &str) -> Result<Config, (usize, LineError)> {
    let line = |offset: usize| 1 + text[..offset].matches('\n').count();
    let start = |error: &toml::de::Error| error.span().unwrap_or_default().start;
    let (table, errors) = DeTable::parse_recoverable(text);
    if let Some(error) = errors.iter().min_by_key(|error| start(error)) {
        let words = error.message().replace('\n', ", ");
        return Err((line(start(error)), LineError::Syntax(words)));
    }
    let mut config = Config::default();
    let mut invalid = Vec::new();
    for (section, content) in table.get_ref() {
        let name = section.get_ref();
        if name == kms::SECTIONS {
            invalid
                .extend(kms::read(section.span().start, content.get_ref(), &mut config.kms).err());
            continue;
        }
        match (keys_of(name), content.get_ref()) {
            (None, _) => invalid.push((section.span().start, unknown_section(name))),
            (Some(known), DeValue::Table(content)) => {
                for (key, value) in content {
                    let set = set(&mut config, name, key.get_ref(), value.get_ref(), known);
                    invalid.extend(set.err().map(|error| (key.span().start, error)));
                }
            }
            (Some(_), other) => {
                // An address, with what opens it.
                let bad = if name == "fleet" {
                    bad_secret
                } else {
                    bad_value
                };
                let error = bad(name, other, &format!("a section [{name}]"));
                invalid.push((section.span().start, error));
            }
        }
    }
    match invalid.into_iter().min_by_key(|(offset, _)| *offset) {
        None => Ok(config),
        Some((offset, error)) => Err((line(offset), error)),
    }
}

fn keys_of(section: &str) -> Option<&'static [&'static str]> {
    let found = KEYS.iter().find(|(name, _)| *name == section)?;
    Some(found.1)
}

fn set(
    config: &mut Config,
    section: &str,
    key: &str,
    value: &DeValue<'_>,
    known: &[&str],
) -> Result<(), LineError> {
    let full = format!("{section}.{key}");
    let policy = &mut config.policy;
    match full.as_str() {
        "policy.degraded" => policy.degraded = choice(&full, value, PERMISSIONS)?,
        "policy.unmanaged" => policy.unmanaged = choice(&full, value, PERMISSIONS)?,
        "policy.unencrypted" => policy.unencrypted = choice(&full, value, PERMISSIONS)?,
        "policy.missing_state" => policy.missing_state = choice(&full, value, PERMISSIONS)?,
        "policy.transient_state" => {
            policy.transient_state = choice(&full, value, TRANSIENT_STATES)?;
        }
        "policy.auto_bind" => {
            let wanted = "a provider's name, or \"\" for none";
            let name = string(value).ok_or_else(|| bad_value(&full, value, wanted))?;
            policy.auto_bind = (!name.is_empty()).then(|| name.to_owned());
        }
        "policy.elsewhere" => policy.elsewhere = choice(&full, value, PERMISSIONS)?,
        "secret.uri" => {
            let uri = string(value).filter(|uri| !uri.is_empty());
            let wanted = "a libvirt URI like \"secret:///system\"";
            uri.ok_or_else(|| bad_value(&full, value, wanted))?
                .clone_into(&mut config.secret_uri);
        }
        "secret.lifetime" => config.secret_lifetime = choice(&full, value, LIFETIMES)?,
        "hook.deadline" => {
            let wanted = "a time like \"500ms\", \"10s\" or \"2m\", from \"500ms\" to \"10m\"";
            let deadline = string(value)
                .and_then(duration::parse)
                .filter(|time| (MIN_DEADLINE..=MAX_DEADLINE).contains(time));
            config.hook_deadline = deadline.ok_or_else(|| bad_value(&full, value, wanted))?;
        }
        "provider.cache" => config.kek_cache = choice(&full, value, KEK_CACHES)?,
        "provider.max_age" => {
            let wanted = "a time like \"12h\" or \"30d\", at least \"1h\", or \"\" for no limit";
            let text = string(value).ok_or_else(|| bad_value(&full, value, wanted))?;
            let age = duration::parse(text).filter(|age| *age >= MIN_MAX_AGE);
            if age.is_none() && !text.is_empty() {
                return Err(bad_value(&full, value, wanted));
            }
            config.kek_max_age = age;
        }
        "log.level" => config.log_level = choice(&full, value, LEVELS)?,
        "log.target" => {
            let wanted = "\"auto\", \"journald\" or the absolute path of a file";
            let target = string(value).and_then(log_target);
            config.log_target = target.ok_or_else(|| bad_value(&full, value, wanted))?;
        }
        "state.keep" => config.kept_states = choice(&full, value, KEPT_STATES)?,
        "libvirt.config_dir" => config.libvirt.config = directory(&full, value)?,
        "libvirt.state_dir" => config.libvirt.state = directory(&full, value)?,
        "libvirt.run_dir" => config.libvirt.run = directory(&full, value)?,
        "libvirt.tpm_dir" => {
            let usual = string(value).is_some_and(str::is_empty);
            let named = (!usual).then(|| directory(&full, value));
            config.libvirt.tpm = named.transpose()?;
        }
        "capture.denied" => {
            let wanted = format!("a number from 0 to {MAX_CAPTURED}");
            let denied = count(value).filter(|count| *count <= MAX_CAPTURED);
            config.capture_denied = denied.ok_or_else(|| bad_value(&full, value, &wanted))?;
        }
        _ if section == "fleet" && known.contains(&key) => {
            fleet::set(&mut config.fleet, key, &full, value)?;
        }
        _ => {
            return Err(LineError::UnknownKey {
                key: full.escape_debug().to_string(),
                known: known.join(", "),
            });
        }
    }
    Ok(())
}

/// A directory of libvirt's.
fn directory(key: &str, value: &DeValue<'_>) -> Result<PathBuf, LineError> {
    let path = string(value).map(Path::new);
    let path = path.filter(|path| path.is_absolute() && path.parent().is_some());
    path.map(Path::to_owned)
        .ok_or_else(|| bad_value(key, value, "the absolute path of a directory"))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(
    key: &str,
    value: &DeValue<'_>,
    options: &[(&str, T)],
) -> Result<T, LineError> {
    let chosen = string(value).and_then(|word| options.iter().find(|(name, _)| *name == word));
    chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<_> = options
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        bad_value(key, value, &words.join(" or "))
    })
}

pub(super) fn string<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    match value {
        DeValue::String(text) => Some(text).filter(|text| !text.contains(char::is_control)),
        _ => None,
    }
    .map(AsRef::as_ref)
}

fn count(value: &DeValue<'_>) -> Option<usize> {
    match value {
        DeValue::Integer(number) => usize::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

fn log_target(text: &str) -> Option<LogTarget> {
    match text {
        "auto" => Some(LogTarget::Auto),
        "journald" => Some(LogTarget::Journald),
        path if Path::new(path).is_absolute() => Some(LogTarget::File(path.into())),
        _ => None,
    }
}

fn unknown_section(name: &str) -> LineError {
    let known = KEYS.iter().map(|(name, _)| *name);
    let known: Vec<_> = known.chain(["kms.NAME"]).collect();
    LineError::UnknownSection {
        name: name.escape_debug().to_string(),
        known: known.join(", "),
    }
}

pub(super) fn bad_value(key: &str, value: &DeValue<'_>, wanted: &str) -> LineError {
    let found = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    };
    LineError::BadValue {
        key: key.to_owned(),
        found,
        wanted: wanted.to_owned(),
    }
}

/// The same of a value that may hold a password, which is not quoted: the error goes to logs, and with a refusal to whoever
/// started the guest.
pub(super) fn bad_secret(key: &str, value: &DeValue<'_>, wanted: &str) -> LineError {
    match value {
        DeValue::Array(_) | DeValue::Table(_) => bad_value(key, value, wanted),
        _ => LineError::BadValue {
            key: key.to_owned(),
            found: "a value that is not shown, for it may hold a password".to_owned(),
            wanted: wanted.to_owned(),
        },
    }
}
