//! Errors of slots and key managers, in the administrator's words: which kind, and what helps.

use super::error::CommandError;
use crate::kms::{KmsError, Trouble};
use crate::manage::slots::{BadSpec, SlotError};
use crate::messages::{Command, quoted};

impl From<SlotError> for CommandError {
    fn from(error: SlotError) -> Self {
        match error {
            SlotError::Provider(error) => error.into(),
            SlotError::Kms(error) => error.into(),
            SlotError::BadSpec(_) => Self::failed(error)
                .with_hint(format!("see what stands there: {}", Command::ProviderList)),
            SlotError::NoSlot(provider, text) => Self::usage(format!(
                "provider {} has no slot {}",
                quoted(&provider.name),
                quoted(&text)
            ))
            .with_hint(format!("list them: {}", Command::SlotList(provider.arg()))),
            SlotError::Ambiguous(provider, text) => Self::usage(format!(
                "provider {} has several slots {}",
                quoted(&provider.name),
                quoted(&text)
            ))
            .with_hint(format!(
                "name it by its UUID: {}",
                Command::SlotList(provider.arg())
            )),
            SlotError::NotRemovable(provider, "host") => Self::refused(format!(
                "the sealed key of provider {} on this host is no slot that can be removed",
                quoted(&provider.name)
            ))
            .with_hint(format!(
                "to keep it until the next reboot only, set provider.cache = \"boot\", then: {}",
                Command::OpenOf(provider.arg())
            )),
            SlotError::NotRemovable(provider, _) => Self::refused(format!(
                "the recovery file of provider {} is no slot that can be removed",
                quoted(&provider.name)
            ))
            .with_hint(format!(
                "a file that is lost opens nothing once the provider has another key: {}",
                Command::ProviderRotate(provider.arg())
            )),
            SlotError::Last(provider, reasons) => Self::refused(format!(
                "no other slot of provider {} opens its key now, and this host's disk has none that opens{}",
                quoted(&provider.name),
                because(&reasons)
            ))
            .with_hint(format!(
                "see which slots open it: {}",
                Command::SlotVerify(provider.arg())
            )),
        }
    }
}

impl From<KmsError> for CommandError {
    fn from(error: KmsError) -> Self {
        let hint = match &error {
            KmsError::NoSection(_) => {
                return Self::usage(error).with_hint("add it to the configuration (docs/kms.md)");
            }
            KmsError::NoPlugin { kind, .. } => format!("install vtpm-guard-kms-{kind}"),
            KmsError::NotTrusted { .. } => "only root may be able to write it".to_owned(),
            KmsError::Plugin { .. } | KmsError::Nonsense { .. } => {
                "install the plugin again, or tell those who made it".to_owned()
            }
            KmsError::NotWrapped(_) => {
                return Self::refused(error).with_hint("nothing was stored; see the commands of its section");
            }
            KmsError::OtherKey { .. } => {
                "nothing was stored; remove that slot, and add one for the right key".to_owned()
            }
            KmsError::Refused { trouble, .. } => match trouble {
                Trouble::Settings => {
                    return Self::usage(error).with_hint("correct the configuration (docs/kms.md)");
                }
                Trouble::Credentials => "renew the credentials (docs/kms.md)",
                Trouble::Unreachable => "retry once it answers; while this host holds the keys, guests start all the same",
                Trouble::NoKey => "name a key that it has",
                Trouble::Denied => "let this host use the key there (docs/kms.md)",
                Trouble::NotOpened => {
                    "its key was made anew; use another slot, or the recovery file"
                }
                Trouble::Failed => "the log of the key manager may say why",
            }
            .to_owned(),
        };
        Self::failed(error).with_hint(hint)
    }
}

fn because(reasons: &[String]) -> String {
    match reasons {
        [] => String::new(),
        reasons => format!(": {}", reasons.join("; ")),
    }
}

/// A text is not `KMS:REMOTE-KEY`.
pub(crate) fn no_spec(text: &str) -> CommandError {
    CommandError::usage(format!("invalid slot {}", quoted(text))).with_hint(BadSpec)
}
