//! What is to be said of a guest that was bound: what libvirt has under its secret's UUID, and
//! who else uses it.

use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::domain::{self, Domain};
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::LibvirtClient;
use crate::libvirt::secret::{HostSecrets, LibvirtSecret, Purpose, SecretValue};
use crate::manage::guests::GuestRef;
use crate::manage::host::default_deadline;
use crate::manage::tpm_place;
use crate::messages::{Arg, label};
use crate::store::Store;
use crate::swtpm::StateFile;
use crate::verdict::facts::Provider;

/// A value that libvirt has for a secret, and that is not the guard's.
enum Foreign {
    /// Root can read it.
    Readable,
    /// Nobody can.
    Private,
}

/// Says what an administrator should know before the first start of a guest without a key.
pub(crate) fn say(
    context: &Context,
    store: &Store,
    bound: &GuestRef,
    provider: &Provider,
) -> Result<(), CommandError> {
    let Some((defined, vtpm)) = context.host.definition(bound.uuid) else {
        if context.host.libvirt().guests(default_deadline()).is_ok() {
            context
                .output
                .note(&format!("libvirt does not know {} yet", bound.label()));
        }
        return Ok(());
    };
    let (name, word) = (label(&defined.name), Arg::guest(&defined));
    let Some(secret) = vtpm.secret_uuid else {
        context.output.note(&format!(
            "the vTPM of {name} is not encrypted, so no key is made at its start: vtpm-guard \
             encrypt {word} --provider {}",
            Arg::provider(provider)
        ));
        return Ok(());
    };
    match foreign_value(context, secret) {
        Some(Foreign::Readable) => context.output.note(&format!(
            "libvirt has a value for the secret {secret} of {name}, which is its key; take it \
             over: vtpm-guard adopt {word} --provider {}",
            Arg::provider(provider)
        )),
        Some(Foreign::Private) => context.output.note(&format!(
            "libvirt has a private value for the secret {secret} of {name}, which whoever set it \
             brings along: no key is made while it is there"
        )),
        None => {
            let place = tpm_place::find(
                &context.host.libvirt_dirs().tpm_states(),
                bound.uuid,
                Some(&vtpm),
                None,
            );
            if !matches!(place.state, StateFile::Absent) {
                context.output.note(&format!(
                    "{name} has a TPM state already, and no key is made over it: vtpm-guard check \
                     {word}"
                ));
            }
        }
    }
    for note in relatives(context, store, &defined, secret)? {
        context.output.note(&note);
    }
    Ok(())
}

fn foreign_value(context: &Context, secret: SecretUuid) -> Option<Foreign> {
    let uri = context.host.config().unwrap_or_default().secret_uri;
    let inspected = LibvirtClient::at(&uri).inspect(secret, default_deadline());
    let LibvirtSecret { definition, value } = inspected.ok().flatten()?;
    if definition.guards_domain().is_some() || definition.purpose == Purpose::Other {
        return None;
    }
    match value {
        SecretValue::Disclosed(dek) if !dek.expose().is_empty() => Some(Foreign::Readable),
        SecretValue::Private => Some(Foreign::Private),
        SecretValue::Disclosed(_) | SecretValue::None => None,
    }
}

/// Who else has this secret or had this name.
fn relatives(
    context: &Context,
    store: &Store,
    bound: &Domain,
    secret: SecretUuid,
) -> Result<Vec<String>, CommandError> {
    let word = Arg::guest(bound);
    let known = context.host.guests()?;
    let names_it = |xml: &str| {
        let read = domain::read(xml.as_bytes());
        read.is_ok_and(|read| {
            read.encrypted_vtpm()
                .is_some_and(|(_, uuid)| uuid == secret)
        })
    };
    let sharers: Vec<_> = known
        .iter()
        .filter(|guest| guest.uuid != bound.uuid && names_it(&guest.xml))
        .map(|guest| label(&guest.name))
        .collect();
    let mut notes = Vec::new();
    if !sharers.is_empty() {
        let verb = if sharers.len() == 1 { "names" } else { "name" };
        notes.push(format!(
            "{} {verb} the secret {secret}, too; give this guest one of its own: virsh edit \
             {word}, <encryption secret='{}'/>",
            sharers.join(", "),
            SecretUuid::random()
        ));
    }
    let is_known = |uuid: &DomainUuid| known.iter().any(|guest| guest.uuid == *uuid);
    let users = store.users_of_secret(secret)?;
    let former = users.into_iter().chain(store.users_of_name(&bound.name)?);
    if let Some(former) = former
        .into_iter()
        .find(|uuid| *uuid != bound.uuid && !is_known(uuid))
    {
        notes.push(format!(
            "its secret or its name is that of {former}, whose key was used and which libvirt no \
             longer knows; if it is the same guest, take its TPM over: vtpm-guard key clone \
             {former} {word}"
        ));
    }
    Ok(notes)
}
