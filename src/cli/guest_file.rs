//! The guest of a captured domain XML.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::ui::error::CommandError;
use crate::domain;
use crate::manage::guests::{ListedGuest, Source};
use crate::messages::{Arg, Command};

/// The guest of a captured XML; `-` is stdin.
pub(crate) fn from_file(file: &Path) -> Result<ListedGuest, CommandError> {
    let read = if file == Path::new("-") {
        domain::examine(io::stdin().lock())
    } else {
        let failed = |error: io::Error| {
            CommandError::failed(format!("{}: {error}", file.display())).with_hint(format!(
                "the domain XML of a guest: {}",
                Command::VirshDumpxml(Arg::DOMAIN)
            ))
        };
        let opened = File::open(file).map_err(failed)?;
        if opened.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        domain::examine(BufReader::new(opened))
    };
    let name = match &read {
        Ok(domain) => domain.name.clone(),
        Err(_) => file.display().to_string(),
    };
    Ok(ListedGuest {
        name,
        source: Source::File,
        domain: read,
    })
}
