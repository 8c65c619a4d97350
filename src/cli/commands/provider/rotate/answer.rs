//! What `provider rotate` tells: a line for each key reference, and what to do next.

use serde_json::{Value, json};

use super::{Done, Rotated, Row};
use crate::cli::commands::provider::list::seal_words;
use crate::cli::context::Context;
use crate::cli::ui::answer::count;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::table;
use crate::manage::keys::RowState;
use crate::messages::{Arg, quoted};
use crate::store::previous_key_name;

impl Row {
    fn result(&self) -> &'static str {
        match self.result {
            Ok(Done::Rewrapped) => "rewrapped",
            Ok(Done::Already) => "already",
            Ok(Done::NotOurs) => "not-ours",
            Err(_) => "not-opened",
        }
    }

    fn why(&self) -> Option<&str> {
        match &self.result {
            Ok(Done::NotOurs) => Some("it is another provider's, which has the same key"),
            Ok(_) => None,
            Err(reason) => Some(reason),
        }
    }

    fn document(&self) -> Value {
        json!({
            "id": self.record.key_ref.id.0,
            "domain": { "name": self.guest, "uuid": self.record.domain.to_string() },
            "retired": self.record.retired_at.is_some(),
            "result": self.result(),
            "reason": self.why(),
        })
    }
}

pub(crate) fn print(context: &Context, rotated: &Rotated) -> Result<(), CommandError> {
    let Rotated {
        provider,
        before,
        formers,
        rows,
    } = rotated;
    let counted = |result| rows.iter().filter(|row| row.result() == result).count();
    let document = json!({
        "uuid": provider.uuid.to_string(),
        "name": provider.name,
        "rotated": before.is_some(),
        "key_id": provider.key_id.to_string(),
        "key_version": provider.key_version,
        "previous_key_id": before.as_ref().map(|before| before.key_id.to_string()),
        "former_keys": formers.iter().map(|former| json!({
            "name": former.name,
            "key_id": former.key_id.to_string(),
        })).collect::<Value>(),
        "rewrapped": counted("rewrapped"),
        "not_opened": counted("not-opened"),
        "key_refs": rows.iter().map(Row::document).collect::<Value>(),
    });
    let keyring = context.host.keyring();
    context.output.answer(&document, |out| {
        if !rows.is_empty() {
            let mut lines = table(&["ID", "DOMAIN", "STATE", "RESULT", "WHY"]);
            for row in rows {
                lines.add_row([
                    row.record.key_ref.id.to_string(),
                    row.guest
                        .clone()
                        .unwrap_or_else(|| row.record.domain.to_string()),
                    RowState::of(&row.record).word().to_owned(),
                    row.result().to_owned(),
                    row.why().unwrap_or("-").to_owned(),
                ]);
            }
            out.table(&lines)?;
        }
        let name = quoted(&provider.name);
        let rewrapped = count(counted("rewrapped"), "key reference");
        let key = provider.key_id.short();
        match before {
            Some(before) => writeln!(
                out,
                "provider {name} has a new key: {key} (version {}), no more {}, sealed: {}; \
                 {rewrapped} wrapped anew",
                provider.key_version,
                before.key_id.short(),
                seal_words(&keyring.seal(provider.key_id))
            ),
            None => writeln!(
                out,
                "finished what a rotation of before had missed: {rewrapped} wrapped anew with key \
                 {key} of provider {name}, which stays"
            ),
        }
    })?;
    notes(context, rotated, counted("not-opened"));
    Ok(())
}

fn notes(context: &Context, rotated: &Rotated, not_opened: usize) {
    let output = &context.output;
    let word = Arg::provider(&rotated.provider);
    if not_opened > 0 {
        output.note(&format!(
            "{} did not open and stayed as before: vtpm-guard key show DOMAIN",
            count(not_opened, "key reference")
        ));
    }
    if rotated.provider.exported_at.is_none() {
        output.note(&format!(
            "export the new key now, or its guests are lost with this host: \
             vtpm-guard provider export {word} --output FILE"
        ));
    }
    let Some(before) = &rotated.before else {
        output.note(&format!(
            "to give it another key: vtpm-guard provider rotate {word}"
        ));
        return;
    };
    output.note("store backups from before need the former key: keep its recovery file with them");
    let former = previous_key_name(&before.name, before.key_id);
    if let Some(kept) = rotated.formers.iter().find(|kept| kept.name == former) {
        let former = quoted(&former);
        output.note(&match before.exported_at {
            Some(_) => format!(
                "the former key stays as provider {former} until the new one is exported and \
                 nothing needs the former one"
            ),
            None => format!(
                "the former key was never exported: it stays as provider {former} until it is \
                 (vtpm-guard provider export {word} --output FILE), or is deleted with --force",
                word = Arg::provider(kept)
            ),
        });
    }
}
