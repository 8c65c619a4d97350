//! `provider list`, `provider show`; how a provider is described.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::ui::answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::{BAD, Cell, NOTABLE, cell_if, fields, table};
use crate::keyring::{Keyring, KeyringError, Seal};
use crate::manage::host::default_deadline;
use crate::store::{Access, KeyRefRecord};
use crate::verdict::facts::{Provider, provider_of};

/// A provider, and what its row does not say.
pub(crate) struct Described<'a> {
    pub(crate) provider: &'a Provider,
    /// How its KEK is sealed on this host, or why it is not.
    pub(crate) seal: String,
    /// Whether it is sealed there, and can be used.
    pub(crate) is_sealed: bool,
    /// How many guests are bound to it.
    pub(crate) guests: usize,
}

impl Described<'_> {
    pub(crate) fn document(&self) -> Value {
        let Self {
            provider,
            seal,
            guests,
            ..
        } = self;
        json!({
            "uuid": provider.uuid.to_string(),
            "name": provider.name,
            "kind": "native",
            "key_id": provider.key_id.to_string(),
            "key_version": provider.key_version,
            "is_default": provider.is_default,
            "seal": seal,
            "exported_at": provider.exported_at.map(|at| at.0),
            "created_at": provider.created_at.0,
            "guests": guests,
        })
    }
}

pub(crate) fn list(context: &Context) -> Result<(), CommandError> {
    let store = context.host.store(Access::Read)?;
    let (providers, rows) = match &store {
        Some(store) => (store.providers()?, store.all_key_refs(None, false)?),
        None => (Vec::new(), Vec::new()),
    };
    let keyring = context.host.keyring();
    let describe = |provider| describe(provider, &providers, &rows, &keyring);
    let described: Vec<_> = providers.iter().map(describe).collect();
    let documents: Value = described.iter().map(Described::document).collect();
    context.output.answer(&documents, |out| {
        if described.is_empty() {
            return writeln!(out, "no providers yet");
        }
        let heading = [
            "NAME", "UUID", "KEY", "VERSION", "DEFAULT", "SEAL", "EXPORTED", "GUESTS",
        ];
        let mut rows = table(&heading);
        for Described {
            provider,
            seal,
            is_sealed,
            guests,
        } in &described
        {
            rows.add_row([
                Cell::new(&provider.name),
                Cell::new(provider.uuid),
                Cell::new(provider.key_id.short()),
                Cell::new(provider.key_version),
                Cell::new(if provider.is_default { "yes" } else { "-" }),
                cell_if(!is_sealed, BAD, seal),
                cell_if(provider.exported_at.is_none(), NOTABLE, exported(provider)),
                Cell::new(guests),
            ]);
        }
        out.table(&rows)
    })
}

pub(crate) fn show(context: &Context, name: &str) -> Result<(), CommandError> {
    let (store, provider) = context.host.provider(name, Access::Read)?;
    let keyring = context.host.keyring();
    let rows = store.all_key_refs(None, false)?;
    let described = describe(&provider, &store.providers()?, &rows, &keyring);
    let trouble = keyring
        .open(provider.key_id, default_deadline())
        .err()
        .map(|error| error.to_string());
    let mut document = described.document();
    document["opens"] = trouble.is_none().into();
    document["trouble"] = trouble.as_deref().into();
    context.output.answer(&document, |out| {
        let opens = trouble
            .as_deref()
            .map_or("yes".to_owned(), |trouble| format!("no: {trouble}"));
        let rows = [
            ("name", provider.name.clone()),
            ("uuid", provider.uuid.to_string()),
            ("key id", provider.key_id.to_string()),
            ("key version", provider.key_version.to_string()),
            (
                "default",
                if provider.is_default { "yes" } else { "no" }.to_owned(),
            ),
            ("sealed", described.seal.clone()),
            ("key opens", opens),
            ("created", answer::time(Some(provider.created_at))),
            ("exported", exported(&provider)),
            ("guests", described.guests.to_string()),
        ];
        out.table(&fields(rows))
    })
}

/// Finds out what the row of `provider` does not say: from the rows in use and the keyring.
pub(crate) fn describe<'a>(
    provider: &'a Provider,
    all: &[Provider],
    rows: &[KeyRefRecord],
    keyring: &Keyring,
) -> Described<'a> {
    let is_its = |named: Option<&Provider>| named.is_some_and(|named| named.uuid == provider.uuid);
    let bound = rows
        .iter()
        .filter(|row| is_its(provider_of(&row.key_ref, all)));
    let guests: BTreeSet<_> = bound.map(|row| row.domain).collect();
    let seal = keyring.seal(provider.key_id);
    Described {
        provider,
        seal: seal_words(&seal),
        is_sealed: seal.is_ok(),
        guests: guests.len(),
    }
}

/// How a KEK is sealed, or why it cannot be used.
pub(crate) fn seal_words(seal: &Result<Seal, KeyringError>) -> String {
    let trouble = match seal {
        Ok(seal) => return seal.to_string(),
        Err(KeyringError::Missing(_)) => "missing",
        Err(KeyringError::Damaged { .. }) => "damaged",
        Err(KeyringError::NotTrusted { .. }) => "not trusted",
        Err(_) => "unreadable",
    };
    trouble.to_owned()
}

fn exported(provider: &Provider) -> String {
    match provider.exported_at {
        Some(at) => answer::time(Some(at)),
        None => "never".to_owned(),
    }
}
