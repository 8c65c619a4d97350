//! `encrypt`: encrypts a stopped guest's TPM state and updates its XML.

use std::io;
use std::process::ExitCode;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::host_errors::not_recorded;
use crate::cli::ui::printer::Printer;
use crate::ids::SecretUuid;
use crate::manage::encrypt::{EncryptAction, EncryptError, EncryptResult, encrypt};
use crate::messages::{Arg, Command, quoted};

pub(crate) fn run(
    context: &Context,
    guest: &str,
    provider: Option<&str>,
) -> Result<ExitCode, CommandError> {
    let encrypted = encrypt(&context.host, guest, provider)?;
    context.output.print(&encrypted)?;
    Ok(ExitCode::SUCCESS)
}

impl Answer for EncryptResult {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let Self {
            key_ref,
            secret_uuid: secret,
            ..
        } = self;
        let (guest, provider) = (self.guest.label(), quoted(&self.provider.name));
        match self.action {
            EncryptAction::Encrypted => writeln!(
                out,
                "the TPM of {guest} is encrypted with a key of provider {provider} (key \
                 reference {key_ref}); its XML names the secret {secret}"
            ),
            EncryptAction::Completed => writeln!(
                out,
                "the TPM of {guest} was encrypted already (key reference {key_ref}); its XML \
                 names the secret {secret} now"
            ),
            EncryptAction::None => writeln!(
                out,
                "the TPM of {guest} is encrypted already (key reference {key_ref} of provider \
                 {provider}): nothing changed"
            ),
        }
    }

    fn notes(&self) -> Vec<String> {
        let kept = self.plain_state.as_ref().map(|path| {
            format!(
                "the plain state is kept until the guest has started with the encrypted one: {}",
                path.display()
            )
        });
        let not_recorded = self.not_recorded.as_ref().map(not_recorded);
        not_recorded.into_iter().chain(kept).collect()
    }
}

impl From<EncryptError> for CommandError {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::Stopped(error) => error.into(),
            EncryptError::Provider(error) => error.into(),
            EncryptError::NoState {
                guest,
                is_encrypted,
            } => {
                let hint = if is_encrypted {
                    let check = Command::Check(guest.arg.clone());
                    format!("for what its start would do: {check}")
                } else {
                    format!(
                        "let its first start make an encrypted one: {}; {}, in the TPM's \
                         <backend>: <encryption secret='{}'/>",
                        Command::KeyBind(guest.arg.clone(), Arg::NAME),
                        Command::VirshEdit(guest.arg.clone()),
                        SecretUuid::random()
                    )
                };
                let guest = guest.label();
                Self::refused(format!("{guest} has no TPM state that could be encrypted"))
                    .with_hint(hint)
            }
            EncryptError::NoKeyOpens(guest) => Self::refused(format!(
                "the TPM state of {} is encrypted already, and no key in the store opens it on \
                 this host",
                guest.label()
            ))
            .with_hint(format!(
                "show which keys open: {}",
                Command::KeyShow(guest.arg)
            )),
            EncryptError::NotSaved(error) => Self::failed(format!(
                "cannot save the plain state: {error}; nothing has changed"
            )),
            EncryptError::NotRedefined(guest, error) => {
                let guest = guest.label();
                Self::failed(format!("the XML of {guest} was not changed: {error}"))
            }
            EncryptError::Redefined(guest) => Self::failed(format!(
                "somebody else has just changed the XML of {}",
                guest.label()
            ))
            .with_hint("try again"),
            EncryptError::Unfinished { guest, cause } => Self::failed(format!(
                "the encryption of the TPM of {} is not finished: {}",
                guest.label(),
                Self::from(cause)
            ))
            .with_hint(format!(
                "run it again to resume: {}",
                Command::Encrypt(guest.arg)
            )),
            EncryptError::NotUndone { error, left } => Self::failed(format!(
                "{}; what it made is left for the next run: {}",
                Self::from(*error),
                Self::from(left)
            )),
        }
    }
}
