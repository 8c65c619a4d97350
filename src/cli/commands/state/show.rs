//! `state show`: one guest's copies, with their place.

use serde_json::{Value, json};

use super::{Judged, copies_of, no_copies};
use crate::cli::commands::key;
use crate::cli::context::Context;
use crate::cli::ui::answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::fields;

pub(crate) fn run(context: &Context, text: &str) -> Result<(), CommandError> {
    let domain = context.host.guest(text)?;
    let copies = copies_of(context, domain.uuid)?;
    if copies.is_empty() {
        return Err(no_copies(&domain));
    }
    let document = json!({
        "domain": key::document(&domain),
        "copies": copies.iter().map(Judged::document).collect::<Value>(),
    });
    context.output.answer(&document, |out| {
        for (at, judged) in copies.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            let manifest = &judged.copy.manifest;
            let owner = manifest.file();
            let rows = fields([
                ("domain", manifest.domain_name.clone()),
                ("uuid", judged.domain.to_string()),
                ("occasion", manifest.reason.as_str().to_owned()),
                ("kept at", answer::time(Some(manifest.kept_at()))),
                ("set aside at", answer::time(manifest.set_aside_at())),
                ("size", judged.copy.len().to_string()),
                ("opened by its key", judged.opened_word().to_owned()),
                ("place", manifest.path.to_string_lossy().into_owned()),
                (
                    "owner and mode",
                    format!("{}:{} {:04o}", owner.uid, owner.gid, owner.mode),
                ),
                ("sha256", manifest.sha256().to_owned()),
            ]);
            out.table(&rows)?;
        }
        Ok(())
    })
}
