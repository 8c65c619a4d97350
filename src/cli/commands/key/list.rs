//! `key list`; how a key reference is described.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::ui::answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::table;
use crate::key::id::KeyId;
use crate::manage::guests::GuestRef;
use crate::store::{Access, KeyRefRecord};
use crate::verdict::facts::KeyRef;

pub(crate) fn run(context: &Context, domain: Option<&str>) -> Result<(), CommandError> {
    let domain = domain.map(|text| context.host.guest(text)).transpose()?;
    let mut rows = Vec::new();
    let mut names = BTreeMap::new();
    if let Some(store) = context.host.store(Access::Read)? {
        rows = store.all_key_refs(domain.as_ref().map(|domain| domain.uuid), true)?;
        names = context
            .host
            .names(&store, rows.iter().map(|row| row.domain).collect())?;
    }
    if let Some(GuestRef {
        uuid,
        name: Some(name),
        ..
    }) = domain
    {
        names.insert(uuid, name);
    }
    let name = |row: &KeyRefRecord| names.get(&row.domain).cloned();
    let documents: Value = rows
        .iter()
        .map(|row| document(row, name(row).as_deref()))
        .collect();
    context.output.answer(&documents, |out| {
        if rows.is_empty() {
            return writeln!(out, "no key references");
        }
        let heading = [
            "ID",
            "DOMAIN",
            "PROVIDER",
            "STATE",
            "KEY",
            "FIRST USED",
            "CREATED",
        ];
        let mut lines = table(&heading);
        for row in &rows {
            lines.add_row([
                row.key_ref.id.to_string(),
                name(row).unwrap_or_else(|| row.domain.to_string()),
                row.key_ref.provider_name.clone(),
                state(row).to_owned(),
                key_id(&row.key_ref).map_or("-".to_owned(), |id| id.short()),
                answer::time(row.key_ref.first_used_at),
                answer::time(Some(row.key_ref.created_at)),
            ]);
        }
        out.table(&lines)
    })
}

pub(crate) fn document(row: &KeyRefRecord, domain_name: Option<&str>) -> Value {
    let key_ref = &row.key_ref;
    json!({
        "id": key_ref.id.0,
        "domain": { "name": domain_name, "uuid": row.domain.to_string() },
        "state": state(row),
        "provider_uuid": key_ref.provider_uuid.map(|uuid| uuid.to_string()),
        "provider_name": key_ref.provider_name,
        "key_id": key_id(key_ref).map(|id| id.to_string()),
        "key_version": key_ref.key_version,
        "kek_ref": key_ref.kek_ref,
        "algorithm": row.algorithm,
        "secret_uuid": key_ref.secret_uuid.map(|uuid| uuid.to_string()),
        "first_used_at": key_ref.first_used_at.map(|at| at.0),
        "retired_at": row.retired_at.map(|at| at.0),
        "created_at": key_ref.created_at.0,
        "updated_at": row.updated_at.0,
    })
}

pub(crate) fn state(row: &KeyRefRecord) -> &'static str {
    match (row.retired_at, &row.key_ref.wrapped_dek) {
        (Some(_), _) => "retired",
        (None, Some(_)) => "keyed",
        (None, None) => "placeholder",
    }
}

/// The KEK that wrapped the row's DEK, as the DEK itself says.
pub(crate) fn key_id(row: &KeyRef) -> Option<KeyId> {
    row.wrapped_dek.as_ref()?.key_id().ok()
}
