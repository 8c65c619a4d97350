//! The words of findings about how a provider's key is sealed, and how it opens.

use super::Described;
use super::key::export;
use crate::host::dirs;
use crate::keyring::{KeyringError, Seal};
use crate::manage::checks::KeyFinding;
use crate::messages::{Arg, Command, quoted, reopen};
use crate::verdict::facts::Provider;

pub(super) fn describe(finding: &KeyFinding) -> Described {
    match finding {
        KeyFinding::Sealed(provider, error)
            if matches!(**error, KeyringError::Missing(_)) && !provider.kms.names.is_empty() =>
        {
            Described::error(
                format!(
                    "the key of provider {} is not on this host; a key manager opens it",
                    quoted(&provider.name)
                ),
                "the guests that are bound to it cannot start (VG105)",
                Command::OpenOf(Arg::provider(provider)).to_string(),
            )
        }
        KeyFinding::Sealed(provider, error) => Described::error(
            format!(
                "the key of provider {} does not open: {error}",
                quoted(&provider.name)
            ),
            "the guests that are bound to it cannot start",
            reopen(Arg::provider(provider), !provider.kms.names.is_empty()),
        ),
        KeyFinding::SlowToOpen {
            provider,
            opened,
            took,
            allowed,
        } => Described::error(
            format!(
                "the key of provider {} {} {:.1} s, and a start has {:.1} s (hook.deadline)",
                quoted(&provider.name),
                if *opened {
                    "opened after"
                } else {
                    "did not open in"
                },
                took.as_secs_f64(),
                allowed.as_secs_f64()
            ),
            "the starts of guests that are bound to it are refused (VG107), unless libvirtd starts \
             them: their keys are staged before, with more time",
            format!(
                "set a longer [hook] deadline in {}, and see why the host's TPM is slow",
                dirs::CONFIG
            ),
        ),
        KeyFinding::WeakSeal {
            provider,
            seal,
            strongest,
        } => Described::warning(
            format!(
                "the key of provider {} is sealed: {seal}, and this host can do: {strongest}",
                quoted(&provider.name)
            ),
            match seal {
                Seal::RootOnlyFile => "a copy of this disk, or of a backup of it, opens every TPM",
                _ => "a copy of this disk opens every TPM, in any machine",
            },
            Command::ProviderReseal(Arg::provider(provider)).to_string(),
        ),
        KeyFinding::SealedToTpm(provider) => sealed_to_tpm(provider),
        KeyFinding::UnusedTpm { provider, lacking } => Described::warning(
            format!(
                "this host has a TPM 2.0, but systemd lacks what it needs to seal the key of \
                 provider {} with it: {}",
                quoted(&provider.name),
                lacking.join(", ")
            ),
            "a copy of this disk opens every TPM, in any machine",
            format!(
                "install what is missing ({} shows it; \"libraries\" are those of tpm2-tss: \
                 libtss2-esys, libtss2-rc, libtss2-mu), then: {}",
                Command::HasTpm2,
                Command::ProviderReseal(Arg::provider(provider))
            ),
        ),
        _ => unreachable!("only findings about sealed keys come here"),
    }
}

fn sealed_to_tpm(provider: &Provider) -> Described {
    let what = format!(
        "the key of provider {} is sealed to this host's TPM 2.0",
        quoted(&provider.name)
    );
    let why = "it no longer opens after the TPM is cleared (a reset of the firmware's settings may \
               do that, and so may a firmware update of some processors), nor with another \
               mainboard; then only its recovery file restores it";
    if provider.exported_at.is_none() {
        let what = format!("{what}, and was never exported");
        return Described::warning(what, why, export(provider));
    }
    Described::note(
        what,
        why,
        format!(
            "have its recovery file at hand before such work: {}",
            Command::ProviderImport(Arg::FILE)
        ),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::Severity;
    use super::*;
    use crate::clock::Timestamp;
    use crate::manage::tests::fixture::a_provider;

    #[test]
    fn only_a_key_that_is_nowhere_else_is_worth_a_warning() {
        let mut provider = a_provider();
        let never = sealed_to_tpm(&provider);
        assert_eq!(never.severity, Severity::Warning);
        assert_eq!(
            never.command,
            "vtpm-guard provider export nkp-a --output FILE"
        );
        provider.exported_at = Some(Timestamp(1));
        assert_eq!(sealed_to_tpm(&provider).severity, Severity::Note);
    }
}
