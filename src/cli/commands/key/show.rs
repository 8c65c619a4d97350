//! `key show`: a guest's key references, also the retired ones, and what each of them opens.

use serde_json::{Value, json};

use super::list;
use super::{document, no_rows};
use crate::cli::context::Context;
use crate::cli::ui::answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::{BAD, Cell, GOOD, table};
use crate::guard::try_rows;
use crate::manage::host::default_deadline;
use crate::manage::providers::named_by;
use crate::manage::tpm_place::{self, TpmPlace};
use crate::store::{Access, KeyRefRecord};
use crate::swtpm::state_path;
use crate::verdict::facts::{NotOpened, Proof, Provider, References, Trial};

#[cfg(test)]
mod tests;

pub(crate) fn run(context: &Context, text: &str) -> Result<(), CommandError> {
    let domain = context.host.guest(text)?;
    let Some(store) = context.host.store(Access::Read)? else {
        return Err(no_rows(&domain));
    };
    let (rows, providers) = (
        store.all_key_refs(Some(domain.uuid), true)?,
        store.providers()?,
    );
    if rows.is_empty() {
        return Err(no_rows(&domain));
    }
    let defined = context.host.definition(domain.uuid);
    let seen = store.seen_state(domain.uuid)?.map(|seen| seen.path);
    let libvirt_state_dir = &context.host.libvirt_dirs().tpm_states();
    let TpmPlace { path, state: tpm } = tpm_place::find(
        libvirt_state_dir,
        domain.uuid,
        defined.as_ref().map(|(_, vtpm)| vtpm),
        seen.as_deref(),
    );
    let all = References {
        key_refs: rows.iter().map(|row| row.key_ref.clone()).collect(),
        providers,
        ..References::default()
    };
    let keyring = context.host.keyring();
    let trials = try_rows(&keyring, &all, domain.uuid, &tpm, default_deadline());
    let tried: Vec<_> = rows
        .iter()
        .map(|row| Tried {
            row,
            trial: trials.get(&row.key_ref.id),
            holder: holder(row, &all.providers),
        })
        .collect();
    let answer = json!({
        "domain": document(&domain),
        "tpm_state": { "path": path.to_string_lossy(), "state": tpm.word() },
        "key_refs": tried.iter().map(|t| t.document(domain.name.as_deref())).collect::<Value>(),
    });
    context.output.answer(&answer, |out| {
        let uuid = domain.name.as_ref().map(|_| format!(" ({})", domain.uuid));
        writeln!(
            out,
            "{}{}, TPM state: {}",
            domain.label(),
            uuid.unwrap_or_default(),
            tpm.word()
        )?;
        let heading = [
            "ID",
            "STATE",
            "PROVIDER",
            "KEY",
            "FIRST USED",
            "TPM",
            "OPENS",
        ];
        let mut lines = table(&heading);
        for tried in &tried {
            let key_ref = &tried.row.key_ref;
            lines.add_row([
                Cell::new(key_ref.id),
                Cell::new(list::state(tried.row)),
                Cell::new(tried.provider()),
                Cell::new(list::key_id(key_ref).map_or("-".to_owned(), |id| id.short())),
                Cell::new(answer::time(key_ref.first_used_at)),
                tried.tpm_cell(),
                match tried.opens() {
                    None => Cell::new("-"),
                    Some(Ok(())) => Cell::new("yes").fg(GOOD),
                    Some(Err(why)) => Cell::new(format!("no: {why}")).fg(BAD),
                },
            ]);
        }
        out.table(&lines)
    })?;
    context.output.note(&format!(
        "the TPM state was looked for at {}",
        path.display()
    ));
    let wanted = defined.map(|(_, vtpm)| state_path(libvirt_state_dir, domain.uuid, &vtpm));
    if let Some(wanted) = wanted.filter(|wanted| *wanted != path) {
        context.output.note(&format!(
            "its XML looks for it at {}: vtpm-guard check {}",
            wanted.display(),
            domain.arg
        ));
    }
    Ok(())
}

/// A row, and what trying its key gave.
struct Tried<'a> {
    row: &'a KeyRefRecord,
    /// `None` for a placeholder.
    trial: Option<&'a Trial>,
    /// The provider that has the KEK, or that a placeholder names.
    holder: Option<&'a Provider>,
}

impl Tried<'_> {
    fn document(&self, domain_name: Option<&str>) -> Value {
        let mut document = list::document(self.row, domain_name);
        let opens = self.opens();
        document["provider"] = match self.holder {
            Some(holder) => json!({ "name": holder.name, "uuid": holder.uuid.to_string() }),
            None => Value::Null,
        };
        document["opens"] = opens.as_ref().map(Result::is_ok).into();
        document["reason"] = opens.and_then(Result::err).into();
        document["tpm"] = self.tpm().into();
        document
    }

    /// The provider that the row names, and where its key really is.
    fn provider(&self) -> String {
        let named = &self.row.key_ref.provider_name;
        match self.holder {
            Some(holder) if Some(holder.uuid) == self.row.key_ref.provider_uuid => named.clone(),
            Some(holder) if holder.name == *named => format!("{named} (imported anew)"),
            Some(holder) => format!("{named} (its key: \"{}\")", holder.name),
            None => format!("{named} (not here)"),
        }
    }

    /// Whether the wrapped key opens, or why not; `None` where there is none.
    fn opens(&self) -> Option<Result<(), String>> {
        Some(match self.trial? {
            Trial::Opened { .. } => Ok(()),
            Trial::NotOpened(NotOpened::NoProvider { key_id }) => Err(format!(
                "no provider of this host has key {}",
                key_id.short()
            )),
            Trial::NotOpened(NotOpened::TimedOut { .. }) => {
                Err("its provider's key did not open in time".to_owned())
            }
            Trial::NotOpened(NotOpened::Sealed { reason, .. } | NotOpened::Corrupt { reason }) => {
                Err(reason.clone())
            }
        })
    }

    fn tpm_cell(&self) -> Cell {
        match self.tpm() {
            Some(word @ "proven") => Cell::new(word).fg(GOOD),
            Some(word) => Cell::new(word).fg(BAD),
            None => Cell::new("-"),
        }
    }

    /// What the TPM state says of the key.
    fn tpm(&self) -> Option<&'static str> {
        match self.trial? {
            Trial::Opened {
                proof: Proof::Proven,
                ..
            } => Some("proven"),
            Trial::Opened {
                proof: Proof::Refuted,
                ..
            } => Some("refuted"),
            _ => None,
        }
    }
}

/// The provider that has the KEK of a keyed row, the named one first; for a placeholder the
/// one that it names.
fn holder<'a>(row: &KeyRefRecord, providers: &'a [Provider]) -> Option<&'a Provider> {
    let named = named_by(&row.key_ref, providers);
    let Some(key_id) = list::key_id(&row.key_ref) else {
        return named;
    };
    named
        .filter(|provider| provider.key_id == key_id)
        .or_else(|| providers.iter().find(|provider| provider.key_id == key_id))
}
