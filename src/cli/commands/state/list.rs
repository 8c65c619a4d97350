//! `state list`: all kept copies.

use serde_json::Value;

use super::{Judged, copies_of};
use crate::cli::context::Context;
use crate::cli::ui::answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::table;
use crate::tpm_copies;

pub(crate) fn run(context: &Context) -> Result<(), CommandError> {
    let mut copies = Vec::new();
    for domain in tpm_copies::domains(context.host.state_dir())? {
        copies.extend(copies_of(context, domain)?);
    }
    let documents: Value = copies.iter().map(Judged::document).collect();
    context.output.answer(&documents, |out| {
        if copies.is_empty() {
            return writeln!(out, "no kept copies of TPM state");
        }
        let heading = [
            "DOMAIN", "UUID", "OCCASION", "SIZE", "KEPT AT", "OPENED", "FOR",
        ];
        let mut lines = table(&heading);
        for judged in &copies {
            let manifest = &judged.copy.manifest;
            lines.add_row([
                manifest.domain_name.clone(),
                judged.domain.to_string(),
                manifest.reason.as_str().to_owned(),
                judged.copy.len().to_string(),
                answer::time(Some(manifest.kept_at())),
                judged.opened_word().to_owned(),
                judged.purpose().to_owned(),
            ]);
        }
        out.table(&lines)
    })
}
