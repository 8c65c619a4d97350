//! `key bind`: binds a guest to a provider.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::describe;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::ids::SecretUuid;
use crate::manage::bind::{BindAction, BindError, BindRemark, Bound, bind};
use crate::manage::persist_state::Survival;
use crate::messages::{Arg, Command, Words, label, quoted, refusal};

pub(super) fn run(
    context: &Context,
    guest: &str,
    provider: Option<&str>,
    persistent_state: bool,
) -> Result<(), CommandError> {
    let mut bound = bind(&context.host, guest, provider)?;
    bound.survival = Survival::of(&context.host, guest, persistent_state)
        .map_err(|error| describe::not_persisted("the guest is bound", error))?;
    context.output.print(&bound)
}

impl Answer for Bound {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let (guest, provider) = (self.guest.label(), quoted(&self.provider.name));
        match &self.action {
            BindAction::Made(id) => writeln!(
                out,
                "{guest} is bound to provider {provider} (key reference {id}); its key is made at \
                 its first start"
            ),
            BindAction::Moved(id, from) => writeln!(
                out,
                "{guest} is now bound to provider {provider} (key reference {id}; was {})",
                quoted(from)
            ),
            BindAction::Unchanged(id) => writeln!(
                out,
                "{guest} is already bound to provider {provider} (key reference {id}); nothing \
                 changed"
            ),
            BindAction::Rebound(ids) => {
                let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
                writeln!(
                    out,
                    "{guest} is bound to provider {provider}, whose key opens its own (key \
                     reference {})",
                    ids.join(", ")
                )
            }
        }?;
        if self.survival.persistent_state_set {
            writeln!(out, "{}", describe::persistent_state_set(&self.guest))?;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let remarks = self.remarks.iter().map(|remark| self.note(remark));
        remarks.chain(describe::survival(&self.survival)).collect()
    }
}

impl Bound {
    fn note(&self, remark: &BindRemark) -> String {
        let (guest, arg) = (self.guest.label(), self.guest.arg.clone());
        let provider = Arg::provider_named(&self.provider.name);
        match remark {
            BindRemark::NoTpm => format!("{guest} has no emulated TPM yet"),
            BindRemark::NotDefined => format!("libvirt does not know {guest} yet"),
            BindRemark::NotEncrypted { has_state } => format!(
                "the vTPM of {guest} is not encrypted, so no key is made at its start: {}",
                if *has_state {
                    Command::EncryptWith(arg, provider).to_string()
                } else {
                    describe::name_secret(arg)
                }
            ),
            BindRemark::ReadableValue(secret) => format!(
                "libvirt has a value for the secret {secret} of {guest}, which is its key; adopt \
                 it: {}",
                Command::AdoptWith(arg, provider)
            ),
            BindRemark::PrivateValue(secret) => format!(
                "libvirt has a private value for the secret {secret} of {guest}, set by another \
                 client: no key is made as long as it is there"
            ),
            BindRemark::HasState => format!(
                "{guest} already has a TPM state, and no key is made over it: {}",
                Command::Check(arg)
            ),
            BindRemark::SharedSecret(secret, sharers) => {
                let verb = if sharers.len() == 1 { "names" } else { "name" };
                let sharers: Vec<_> = sharers.iter().map(|name| label(name)).collect();
                format!(
                    "{} {verb} the secret {secret} too; give this guest its own: {}, <encryption \
                     secret='{}'/>",
                    sharers.join(", "),
                    Command::VirshEdit(arg),
                    SecretUuid::random()
                )
            }
            BindRemark::WouldNotStart(why) => {
                let Words { message, hint } = refusal(self.guest.named(), why);
                format!("{guest} would not start: {}: {message}; {hint}", why.code())
            }
            BindRemark::UsedKeyRetired(id) => format!(
                "the used key of {guest} (key reference {id}) is retired: if its TPM state is gone, \
                 the next start makes a new, empty TPM; to use that key again: {}",
                Command::KeyUse((*id).into())
            ),
            BindRemark::FormerGuest(uuid) => format!(
                "its secret or its name belongs to {uuid}, whose key was used and which libvirt no \
                 longer knows; if it is the same guest, take over its TPM: {}",
                Command::KeyClone(Arg::uuid(*uuid), arg)
            ),
        }
    }
}

impl From<BindError> for CommandError {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Provider(error) => error.into(),
            BindError::Guest(error) => error.into(),
            BindError::OtherKey {
                guest,
                provider,
                keys,
            } => {
                let row = |(id, name): &(_, String)| format!("{id} of provider {}", quoted(name));
                let rows: Vec<_> = keys.iter().map(row).collect();
                Self::refused(format!(
                    "{} already has a key (key reference {}), and the key {} of provider {} does \
                     not open it",
                    guest.label(),
                    rows.join(", "),
                    provider.key_id.short(),
                    quoted(&provider.name)
                ))
                .with_hint(format!(
                    "for details: {}; to give up the key, and with it the TPM's state: {}",
                    Command::KeyShow(guest.arg.clone()),
                    Command::KeyUnbind(guest.arg)
                ))
            }
        }
    }
}
