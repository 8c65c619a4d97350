//! `provider create`: a new key under a name.

use super::list::Described;
use super::{name, reseal};
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::ids::ProviderUuid;
use crate::key::kek::Kek;
use crate::keyring::{StoredKek, WeakerSeal};
use crate::manage::host::default_deadline;
use crate::manage::providers::ProvidersLock;
use crate::messages::Arg;
use crate::store::{Access, NewProvider, StoreError};
use crate::verdict::facts::Provider;

pub(crate) fn run(
    context: &Context,
    name: &str,
    default: bool,
    weaker: WeakerSeal,
) -> Result<(), CommandError> {
    name::check(name)?;
    let mut store = context
        .host
        .store(Access::Create)?
        .ok_or(StoreError::Missing)?;
    let _exclusive = ProvidersLock::acquire(&context.host)?;
    let providers = store.providers()?;
    if providers.iter().any(|provider| provider.name == name) {
        return Err(StoreError::NameTaken(name.to_owned()).into());
    }
    let kek = Kek::generate()?;
    // The key before the row that needs it: a kill in between leaves a key that nobody needs.
    let keyring = context.host.keyring();
    let stored = keyring.store(&kek, weaker, default_deadline())?;
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: name.to_owned(),
        key_id: kek.key_id(),
        key_version: 1,
        is_default: default || providers.is_empty(),
    };
    if let Err(error) = store.create_provider(&new, Timestamp::now()) {
        // The first error is the one to tell; nothing was ever wrapped with this key.
        let _ = keyring.remove(new.key_id);
        return Err(error.into());
    }
    answer(context, &store.provider_by_uuid(new.uuid)?, &stored)
}

fn answer(context: &Context, provider: &Provider, stored: &StoredKek) -> Result<(), CommandError> {
    let described = Described {
        provider,
        seal: stored.seal.to_string(),
        is_sealed: true,
        guests: 0,
    };
    context.output.answer(&described.document(), |out| {
        let default = if provider.is_default {
            ", the default"
        } else {
            ""
        };
        writeln!(
            out,
            "created provider \"{}\"{default}: key {}, sealed: {}",
            provider.name,
            provider.key_id.short(),
            described.seal
        )
    })?;
    reseal::note_weaker(context, &provider.name, stored);
    let word = Arg::provider(provider);
    context.output.note(&format!(
        "export it now, or its guests are lost with this host: \
         vtpm-guard provider export {word} --output FILE"
    ));
    Ok(())
}
