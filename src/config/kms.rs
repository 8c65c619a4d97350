//! The sections `[kms.NAME]`: of their keys only `kind` and `timeout` are this program's; the plugin of
//! that kind knows the others.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::duration;
use super::parse::{LineError, bad_secret, bad_value, string};
use crate::kms::{KmsSettings, Setting, is_kind};

/// What all these sections stand below.
pub(super) const SECTIONS: &str = "kms";

/// The longest `timeout`: an administrator waits for it, and `vtpm-guard open` before libvirtd starts.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// Reads all sections, which start at this offset. The error has the offset of its line.
pub(super) fn read(
    start: usize,
    sections: &DeValue<'_>,
    into: &mut BTreeMap<String, KmsSettings>,
) -> Result<(), (usize, LineError)> {
    let DeValue::Table(sections) = sections else {
        return Err((start, bad_secret(SECTIONS, sections, "sections [kms.NAME]")));
    };
    for (name, section) in sections {
        let (start, name) = (name.span().start, name.get_ref());
        let full = format!("{SECTIONS}.{}", name.escape_debug());
        let DeValue::Table(section) = section.get_ref() else {
            let wanted = format!("a section [{full}]");
            return Err((start, bad_secret(&full, section.get_ref(), &wanted)));
        };
        if !is_name(name) {
            let found = format!("[{full}]");
            let wanted = "a name of letters, digits, \"-\" and \"_\", 64 at most".to_owned();
            let key = "the name of a section [kms.NAME]".to_owned();
            return Err((start, LineError::BadValue { key, found, wanted }));
        }
        into.insert(name.to_string(), one(start, &full, section)?);
    }
    Ok(())
}

fn one(start: usize, full: &str, section: &DeTable<'_>) -> Result<KmsSettings, (usize, LineError)> {
    let mut kind = None;
    let mut timeout = KmsSettings::DEFAULT_TIMEOUT;
    let mut settings = BTreeMap::new();
    for (key, value) in section {
        let at = key.span().start;
        let (key, value) = (key.get_ref().as_ref(), value.get_ref());
        let full = format!("{full}.{}", key.escape_debug());
        let wrong = |wanted| (at, bad_value(&full, value, wanted));
        match key {
            "kind" => {
                let found = string(value).filter(|kind| is_kind(kind));
                let wanted = "the kind of a plugin, such as \"transit\" or \"pkcs11\"";
                kind = Some(found.ok_or_else(|| wrong(wanted))?.to_owned());
            }
            "timeout" => {
                let found = string(value).and_then(duration::parse);
                let found = found.filter(|time| !time.is_zero() && *time <= MAX_TIMEOUT);
                timeout = found.ok_or_else(|| wrong("a time like \"5s\", at most \"2m\""))?;
            }
            key => {
                // A plugin's PIN, for instance.
                let wrong = || (at, bad_secret(&full, value, "a text or a list of texts"));
                let setting = setting(value).ok_or_else(wrong)?;
                settings.insert(key.to_owned(), setting);
            }
        }
    }
    let Some(kind) = kind else {
        let key = format!("{full}.kind");
        let (found, wanted) = ("missing".to_owned(), "the kind of a plugin".to_owned());
        return Err((start, LineError::BadValue { key, found, wanted }));
    };
    Ok(KmsSettings {
        kind,
        timeout,
        settings,
    })
}

fn setting(value: &DeValue<'_>) -> Option<Setting> {
    match value {
        DeValue::Array(list) => {
            let texts = list.iter().map(|value| string(value.get_ref()));
            let texts: Option<Vec<_>> = texts.map(|text| text.map(str::to_owned)).collect();
            texts.map(Setting::List)
        }
        value => string(value).map(|text| Setting::Text(text.to_owned())),
    }
}

/// Whether a text can name a section: `--slot NAME:REMOTE-KEY` has to end it at the colon.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
