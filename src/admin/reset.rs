//! `reset`: the next start of a guest may make a new TPM.

use std::process::ExitCode;

use serde_json::json;

use super::context::Context;
use super::error::AdminError;
use super::{domains, key};
use crate::clock::Timestamp;
use crate::report::shell_word;
use crate::store::Access;

pub(super) fn run(context: &Context, text: &str) -> Result<ExitCode, AdminError> {
    let domain = domains::resolve(context, text)?;
    let label = key::label(&domain);
    let no_key = || {
        AdminError::refused(format!(
            "{label} has no key, so nothing keeps it from a new TPM"
        ))
        .with_hint(format!(
            "see what its start would do: vtpm-guard check {}",
            shell_word(&label)
        ))
    };
    let now = Timestamp::now();
    let mut store = context.store(Access::Write)?.ok_or_else(no_key)?;
    let rows = store.references(domain.uuid, now)?.key_refs;
    if rows.iter().all(|row| row.wrapped_dek.is_none()) {
        return Err(no_key());
    }
    let reset = store.reset_first_used(domain.uuid, now)?;
    let document = json!({
        "domain": key::document(&domain),
        "changed": reset > 0,
    });
    context.output.answer(&document, |out| match reset {
        0 => writeln!(
            out,
            "the key of {label} has not been used yet: nothing changed"
        ),
        _ => writeln!(
            out,
            "if the TPM state of {label} is gone, its next start makes a new, empty TPM under \
             the same key"
        ),
    })?;
    if reset > 0 {
        context.output.note(
            "state that is there stays in use; with a new TPM the guest loses what the old one \
             held, and BitLocker asks for its recovery key",
        );
    }
    Ok(ExitCode::SUCCESS)
}
