//! `provider reseal`: seals keys again, where this host can protect them better now.

use std::io;
use std::process::ExitCode;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::keyring::{KeyringError, Resealed};
use crate::manage::host::HostError;
use crate::manage::provider_reseal::{ResealedProvider, reseal, reseal_all};
use crate::manage::providers::ProviderError;
use crate::messages::{Command, quoted};

pub(super) fn run(context: &Context, name: Option<&str>) -> Result<ExitCode, CommandError> {
    let Some(name) = name else {
        let all = reseal_all(&context.host)?;
        context.output.print(&all)?;
        let failed = all.iter().any(|resealed| resealed.result.is_err());
        return Ok(ExitCode::from(if failed { 4 } else { 0 }));
    };
    let resealed = reseal(&context.host, name).map_err(not_resealed)?;
    context.output.print(&resealed)?;
    Ok(ExitCode::SUCCESS)
}

/// A weaker seal, which other commands may be told to take, is what it has.
fn not_resealed(error: ProviderError) -> CommandError {
    match error {
        ProviderError::Host(HostError::Keyring(error @ KeyringError::SealFailed { .. })) => {
            CommandError::failed(format!("{error}; it stays sealed as before"))
        }
        error => error.into(),
    }
}

impl Answer for ResealedProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let (name, key) = (quoted(&self.provider.name), self.key_id.short());
        match &self.result {
            Ok(done @ Resealed { before, after }) if done.is_changed() => writeln!(
                out,
                "provider {name}: key {key}, sealed: {after} (was: {before})"
            ),
            Ok(Resealed { after, .. }) => writeln!(
                out,
                "provider {name}: key {key}, sealed: {after}: nothing changed"
            ),
            Err(error) => writeln!(out, "provider {name}: key {key}, sealed as before: {error}"),
        }
    }

    fn notes(&self) -> Vec<String> {
        let note = || {
            format!(
                "the key of provider {} was on this disk in clear until now, and may be in its \
                 free blocks and in backups; to replace it: {}",
                quoted(&self.provider.name),
                Command::ProviderRotate(self.provider.arg())
            )
        };
        self.was_in_clear().then(note).into_iter().collect()
    }
}

impl Answer for Vec<ResealedProvider> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "no providers yet");
        }
        self.iter().try_for_each(|resealed| resealed.print(out))
    }

    fn notes(&self) -> Vec<String> {
        self.iter().flat_map(Answer::notes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::SealError;

    #[test]
    fn a_seal_that_cannot_be_made_gets_no_hint_of_an_option_that_only_others_have() {
        let source = SealError::Refused("no seal today".to_owned());
        let error = KeyringError::SealFailed { source };
        let other = CommandError::from(&error);
        assert!(
            other
                .hint()
                .is_some_and(|hint| hint.contains("--allow-weaker-seal"))
        );
        let error = not_resealed(ProviderError::Host(error.into()));
        assert_eq!(error.hint(), None);
        assert!(error.to_string().contains("no seal today; it stays"));
    }
}
