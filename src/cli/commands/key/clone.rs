//! `key clone`: sets up a cloned guest's key.

use std::io;

use crate::cli::commands::state::not_restored;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::guest_errors::not_recorded;
use crate::cli::ui::host_errors::but;
use crate::cli::ui::printer::Printer;
use crate::ids::SecretUuid;
use crate::manage::clone::{CloneAction, CloneError, Cloned, NotOpened, Original, clone};
use crate::manage::guests::GuestRef;
use crate::messages::{Arg, Command, quoted};

pub(super) fn run(context: &Context, original: &str, guest: &str) -> Result<(), CommandError> {
    context
        .output
        .print(&clone(&context.host, original, guest)?)
}

impl Answer for Cloned {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let (original, clone) = (self.original.label(), self.clone.label());
        let (provider, id) = (quoted(&self.provider.name), self.key_ref);
        match self.action {
            CloneAction::Copied => writeln!(
                out,
                "{clone} has the key of {original} for its TPM state, under provider {provider} \
                 (key reference {id})"
            ),
            CloneAction::TakenOver => writeln!(
                out,
                "{clone} has the TPM of {original}, and its key under provider {provider} (key \
                 reference {id})"
            ),
            CloneAction::HasKey => writeln!(
                out,
                "{clone} already has the key of its TPM state (key reference {id}); nothing changed"
            ),
            CloneAction::IsBound => writeln!(
                out,
                "{clone} is already bound to provider {provider} (key reference {id}); nothing \
                 changed"
            ),
            CloneAction::Made | CloneAction::Moved => writeln!(
                out,
                "{clone} is bound to provider {provider} (key reference {id}); its first start \
                 makes a new TPM and a key of its own"
            ),
        }
    }

    fn notes(&self) -> Vec<String> {
        let (original, clone) = (self.original.label(), self.clone.label());
        let shared = self.shared_secret.map(|secret| {
            format!(
                "{clone} and {original} name the same libvirt secret {secret}: of two starts at \
                 once one may find it gone; {}",
                own_secret(&self.clone)
            )
        });
        let copied = self.copied_from.as_ref().map(|path| {
            format!(
                "the state of {original} was copied from {}, and stays there until it is removed",
                path.display()
            )
        });
        let is_twin = self.action == CloneAction::Copied && self.original.is_defined();
        let twin = is_twin.then(|| {
            format!(
                "both guests have the same TPM now, with the same identity; a key of its own for \
                 the clone: {}",
                Command::KeyRenew(self.clone.arg.clone())
            )
        });
        let not_recorded = self.not_recorded.as_ref().map(not_recorded);
        [shared, copied, twin, not_recorded]
            .into_iter()
            .flatten()
            .collect()
    }
}

fn own_secret(clone: &GuestRef) -> String {
    format!(
        "give the clone its own secret: {}, <encryption secret='{}'/>",
        Command::VirshEdit(clone.arg.clone()),
        SecretUuid::random()
    )
}

impl From<CloneError> for CommandError {
    fn from(error: CloneError) -> Self {
        match error {
            CloneError::Guest(error) => error.into(),
            CloneError::Itself(clone) => {
                Self::usage(format!("{} is not a clone of itself", clone.label()))
            }
            CloneError::NoNamesake(clone) => Self::usage(format!(
                "no other guest with the name {} has a key here",
                clone.label()
            ))
            .with_hint(format!(
                "import it from a backup of the store: {}",
                Command::KeyImportAs(clone.arg.clone(), Arg::BACKUP, clone.arg)
            )),
            CloneError::UnknownOriginal(text) => Self::usage(format!(
                "neither libvirt nor the store knows a guest {}",
                quoted(&text)
            ))
            .with_hint(format!(
                "list them: {}; {}",
                Command::VirshList,
                Command::KeyList
            )),
            CloneError::NotEncrypted(clone) => Self::refused(format!(
                "the vTPM of {} is not encrypted, so it needs no key",
                clone.label()
            ))
            .with_hint(format!(
                "name a secret in its XML: {}, <encryption secret='{}'/>",
                Command::VirshEdit(clone.arg),
                SecretUuid::random()
            )),
            CloneError::PlainState(clone) => Self::refused(format!(
                "the TPM state of {} is not encrypted, but its XML says that it is",
                clone.label()
            ))
            .with_hint(format!(
                "encrypt it with a key of its own: {}",
                Command::Encrypt(clone.arg)
            )),
            CloneError::UnreadableState(clone, how) => Self::refused(format!(
                "cannot read the TPM state of {}: {how}",
                clone.label()
            )),
            CloneError::NotOpened(original, clone, why) => not_opened(&original, clone, why),
            CloneError::Retired(clone, id) => Self::refused(format!(
                "{} already has the key of its TPM state, but it is retired",
                clone.label()
            ))
            .with_hint(format!("use it: {}", Command::KeyUse(id.into()))),
            CloneError::Running(clone) => Self::refused(format!("{} is running", clone.label()))
                .with_hint(format!(
                    "stop it first: {}",
                    Command::VirshShutdown(clone.arg)
                )),
            CloneError::NotRestored(clone, error) => not_restored(&clone, &error),
            CloneError::NoStateLeft(original, clone, place) => Self::refused(format!(
                "no TPM state that a key of {} opens is left on this host",
                original.label()
            ))
            .with_hint(format!(
                "restore it from a backup to {}, then retry; for a new TPM: {}",
                Arg::file(&place),
                Command::KeyBind(clone.arg, Arg::NAME)
            )),
            CloneError::NotTried(original, why) => Self::failed(format!(
                "a TPM state of {} may be left on this host, but it could not be tried: {why}",
                original.label()
            ))
            .with_hint(format!(
                "show what its keys need: {}",
                Command::KeyShow(original.reference().arg.clone())
            )),
            CloneError::NotBound(original, clone) => Self::refused(format!(
                "{} is bound to no provider of this host",
                original.label()
            ))
            .with_hint(format!(
                "bind the clone: {}",
                Command::KeyBind(clone.arg, Arg::NAME)
            )),
            CloneError::OneSecret(original, clone, secret) => Self::refused(format!(
                "{} and {} name the same libvirt secret {secret}, which cannot hold the keys of \
                 both",
                original.label(),
                clone.label()
            ))
            .with_hint(own_secret(&clone)),
        }
    }
}

/// No key of the original opens the clone's TPM state.
fn not_opened(original: &Original, clone: GuestRef, why: NotOpened) -> CommandError {
    let (its, new, of_original) = (
        original.label(),
        clone.label(),
        original.reference().arg.clone(),
    );
    match why {
        NotOpened::OtherKeys(untried) => CommandError::refused(format!(
            "no key of {its} that opens on this host opens the TPM state of {new}{}",
            but(untried)
        ))
        .with_hint(format!(
            "show what its keys need: {}",
            Command::KeyShow(of_original)
        )),
        NotOpened::NoKey(untried) => CommandError::refused(format!(
            "this host has no key of {its} that opens the TPM state of {new}{}",
            but(untried)
        ))
        .with_hint(format!(
            "import it from the backup of a store that has it: {}",
            Command::KeyImportAs(clone.arg, Arg::BACKUP, of_original)
        )),
        NotOpened::NoProvider(provider) => CommandError::refused(format!(
            "no key of {its} on this host opens the TPM state of {new}, and one in its XML needs provider {}, which \
             is not on this host",
            quoted(&provider)
        ))
        .with_hint(format!(
            "restore it, then retry: {}",
            Command::ProviderImport(Arg::FILE)
        )),
    }
}
