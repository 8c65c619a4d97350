//! `provider reseal`: a stored key under the strongest seal that this host has now.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::keyring::{KeyringError, Resealed, Seal, StoredKek};
use crate::manage::host::default_deadline;
use crate::manage::providers::ProvidersLock;
use crate::messages::{Arg, one_line};
use crate::store::Access;
use crate::verdict::facts::Provider;

/// A provider, and what came of sealing its key again.
struct Line {
    provider: Provider,
    resealed: Result<Resealed, KeyringError>,
}

pub(crate) fn run(context: &Context, name: Option<&str>) -> Result<ExitCode, CommandError> {
    let providers = match name {
        Some(name) => vec![context.host.provider(name, Access::Read)?.1],
        None => match context.host.store(Access::Read)? {
            Some(store) => store.providers()?,
            None => Vec::new(),
        },
    };
    if providers.is_empty() {
        context
            .output
            .answer(&json!([]), |out| writeln!(out, "no providers yet"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let _exclusive = ProvidersLock::acquire(&context.host)?;
    let keyring = context.host.keyring();
    let mut lines = Vec::new();
    for provider in providers {
        let resealed = match (name, keyring.reseal(provider.key_id, default_deadline())) {
            // The error of the only one is the error of the command.
            (Some(_), Err(error)) => return Err(error.into()),
            (_, resealed) => resealed,
        };
        lines.push(Line { provider, resealed });
    }
    print(context, name.is_some(), &lines)?;
    let failed = lines.iter().any(|line| line.resealed.is_err());
    Ok(ExitCode::from(if failed { 4 } else { 0 }))
}

fn print(context: &Context, one: bool, lines: &[Line]) -> Result<(), CommandError> {
    let documents: Vec<Value> = lines.iter().map(Line::document).collect();
    let document = match documents.as_slice() {
        [document] if one => document.clone(),
        _ => Value::from(documents),
    };
    context.output.answer(&document, |out| {
        lines
            .iter()
            .try_for_each(|line| writeln!(out, "{}", line.in_words()))
    })?;
    for line in lines {
        if matches!(&line.resealed, Ok(done) if done.before == Seal::RootOnlyFile && done.after != done.before)
        {
            context.output.note(&format!(
                "the key of provider \"{}\" was on this disk in clear until now, and may be in \
                 its free blocks and in backups; to replace it: vtpm-guard provider rotate {}",
                line.provider.name,
                Arg::provider(&line.provider)
            ));
        }
    }
    Ok(())
}

impl Line {
    fn document(&self) -> Value {
        let done = self.resealed.as_ref();
        json!({
            "uuid": self.provider.uuid.to_string(),
            "name": self.provider.name,
            "key_id": self.provider.key_id.to_string(),
            "changed": done.is_ok_and(|done| done.before != done.after),
            "seal": done.map_or(Value::Null, |done| done.after.to_string().into()),
            "previous_seal": done.map_or(Value::Null, |done| done.before.to_string().into()),
            "error": done.err().map(ToString::to_string),
        })
    }

    fn in_words(&self) -> String {
        let (name, key) = (one_line(&self.provider.name), self.provider.key_id.short());
        match &self.resealed {
            Ok(Resealed { before, after }) if before == after => {
                format!("provider \"{name}\": key {key}, sealed: {after}: nothing changed")
            }
            Ok(Resealed { before, after }) => {
                format!("provider \"{name}\": key {key}, sealed: {after} (was: {before})")
            }
            Err(error) => format!(
                "provider \"{name}\": key {key}, sealed as before: {}",
                one_line(&error.to_string())
            ),
        }
    }
}

/// Says aloud where a key is stored under a weaker seal than it could be.
pub(crate) fn note_weaker(context: &Context, provider: &str, stored: &StoredKek) {
    let word = Arg::provider_named(provider);
    let in_clear = "the key is in a file that only root can read, in clear";
    match (&stored.weaker_because, stored.seal) {
        (Some(trouble), seal) => {
            let place = match seal {
                Seal::RootOnlyFile => in_clear.to_owned(),
                seal => format!("the key is sealed with {seal}"),
            };
            context.output.note(&format!(
                "{place}, because {trouble}; when that is fixed: vtpm-guard provider reseal {word}"
            ));
        }
        (None, Seal::RootOnlyFile) => context.output.note(&format!(
            "this host has no systemd credentials: {in_clear}; after installing systemd-creds: \
             vtpm-guard provider reseal {word}"
        )),
        (None, _) => {}
    }
}
