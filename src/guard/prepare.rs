//! `prepare begin`: the only operation that may refuse a start.

use super::commit::{Committed, commit, record};
use super::gather::{Gathered, gather};
use super::status::is_running;
use super::{Guard, before_the_answer, copies, daemon_start, elsewhere};
use crate::clock::Deadline;
use crate::domain::{Domain, Vtpm};
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::secret::{Provided, SecretError};
use crate::store::Access;
use crate::verdict::decide::decide;
use crate::verdict::facts::{Facts, HostSecret, KeySource, StoreTrouble, Trial};
use crate::verdict::outcome::{KeyInUse, Outcome, SecretAction};
use crate::verdict::refusal::Refusal;
use crate::verdict::{Answer, Decision, Finding, ProvideSecret, Verdict};

/// How often a verdict is made anew because the rows changed under it. Each time somebody
/// else's change was carried out whole, so this ends.
const ATTEMPTS: u32 = 8;

/// How much of a verdict is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All of it: repairs and event are written, libvirt is given the key.
    CarryOut,
    /// Repairs and event are written; libvirt is given nothing.
    RepairOnly,
    /// Nothing is changed.
    DryRun,
}

/// Judges the start of `domain` (or of one whose XML could not be read: why), and carries the
/// verdict out. `operation` is what history says was asked for.
pub fn prepare(
    guard: &Guard,
    domain: &Result<Domain, String>,
    operation: &str,
    mode: Mode,
    deadline: Deadline,
) -> Outcome {
    if let (Mode::CarryOut, Ok(domain)) = (mode, domain)
        && let Some(outcome) = daemon_start::allow_loaded(guard, domain, operation)
    {
        return outcome;
    }
    let access = if mode == Mode::DryRun {
        Access::Read
    } else {
        Access::Write
    };
    let is_encrypted = domain
        .as_ref()
        .is_ok_and(|domain| domain.encrypted_vtpm().is_some());
    if let (Mode::CarryOut, true, Some(secrets)) = (mode, is_encrypted, &guard.secrets) {
        secrets.expect_question(before_the_answer(deadline));
    }
    // Before anything can refuse: libvirt deletes a transient guest's state then. A start that
    // is only replayed, of a guest that runs, is none that could fail.
    let kept = match domain {
        Ok(domain) if mode == Mode::CarryOut => {
            let is_start = operation == "prepare" || !is_running(guard, domain);
            if is_start {
                copies::keep_before_start(guard, domain)
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    };
    let mut outcome = judged(guard, domain, operation, mode, access, deadline);
    if let Err(error) = kept {
        let finding = Finding::CopyNotKept(error.to_string());
        outcome.verdict.findings.push(finding);
    }
    outcome
}

fn judged(
    guard: &Guard,
    domain: &Result<Domain, String>,
    operation: &str,
    mode: Mode,
    access: Access,
    deadline: Deadline,
) -> Outcome {
    for _ in 0..ATTEMPTS {
        let gathered = gather(guard, domain.clone(), access, deadline);
        if let Some(outcome) = attempt(guard, gathered, operation, mode, deadline) {
            return outcome;
        }
    }
    let mut gathered = gather(guard, domain.clone(), Access::Read, deadline);
    let reason = "its rows kept changing while the start was judged".to_owned();
    gathered.facts.references = Err(StoreTrouble::Unavailable(reason));
    let verdict = judge(guard, &mut gathered, deadline);
    gathered.into_outcome(verdict, SecretAction::None, mode)
}

/// `None` says that the rows changed between the facts and the repairs: nothing was changed.
fn attempt(
    guard: &Guard,
    mut gathered: Gathered,
    operation: &str,
    mode: Mode,
    deadline: Deadline,
) -> Option<Outcome> {
    let mut verdict = judge(guard, &mut gathered, deadline);
    if mode == Mode::DryRun {
        let foreseen = foreseen(guard, &mut gathered.facts, &verdict, deadline);
        let secret = foreseen.unwrap_or_else(|refusal| {
            verdict.decision = Decision::Deny(refusal);
            SecretAction::None
        });
        return Some(gathered.into_outcome(verdict, secret, mode));
    }
    copies::carry_out_restore(guard, &gathered, &mut verdict);
    let Committed::Done { new_dek } = commit(&mut gathered, &mut verdict, operation) else {
        return None;
    };
    let mut secret = SecretAction::None;
    if mode == Mode::CarryOut {
        match provide(guard, &gathered, &verdict, new_dek.as_ref(), deadline) {
            Ok(done) => secret = done,
            Err(refusal) => {
                verdict.decision = Decision::Deny(refusal);
                record(&mut gathered, &verdict, operation);
            }
        }
    }
    Some(gathered.into_outcome(verdict, secret, mode))
}

fn judge(guard: &Guard, gathered: &mut Gathered, deadline: Deadline) -> Verdict {
    let mut verdict = loop {
        match decide(&gathered.facts) {
            Answer::Verdict(verdict) => break verdict,
            Answer::AskHostSecret => {
                gathered.facts.host_secret = Some(ask(guard, &gathered.facts, deadline));
            }
            Answer::AskElsewhere => {
                let found = elsewhere::look(guard, gathered, deadline);
                gathered.facts.elsewhere = Some(found);
            }
        }
    };
    if gathered.facts.vtpm_is_emulated() {
        let trouble = guard.config_trouble.clone();
        verdict
            .findings
            .extend(trouble.map(Finding::ConfigurationBroken));
    }
    verdict
}

fn ask(guard: &Guard, facts: &Facts, deadline: Deadline) -> HostSecret {
    match (&guard.secrets, facts.secret()) {
        (Some(secrets), Some((secret, _))) => secrets.state(secret, before_the_answer(deadline)),
        _ => HostSecret::Absent,
    }
}

/// Gives libvirt the key that the verdict names.
fn provide(
    guard: &Guard,
    gathered: &Gathered,
    verdict: &Verdict,
    new_dek: Option<&Dek>,
    deadline: Deadline,
) -> Result<SecretAction, Refusal> {
    let (
        Some(ProvideSecret {
            key,
            replace_foreign,
        }),
        Some(secrets),
        Some((secret, domain)),
    ) = (verdict.secret, &guard.secrets, gathered.facts.secret())
    else {
        return Ok(SecretAction::None);
    };
    let dek = match key {
        KeySource::Created => new_dek,
        KeySource::Row(id) => match gathered.facts.trials.get(&id) {
            Some(Trial::Opened { dek, .. }) => gathered.keys.dek(*dek),
            _ => None,
        },
    };
    let Some(dek) = dek else {
        let reason = "the verdict names a key that was not opened".to_owned();
        return Err(Refusal::Internal { reason });
    };
    match secrets.provide(
        secret,
        domain,
        dek,
        replace_foreign,
        before_the_answer(deadline),
    ) {
        Ok(Provided::Set) => Ok(SecretAction::Set),
        Ok(Provided::Defined) => Ok(SecretAction::Defined),
        Ok(Provided::LeftAsIs) => Ok(SecretAction::None),
        Err(SecretError::Refused(reason)) => Err(Refusal::SecretRefused { secret, reason }),
        Err(SecretError::Conflict(reason)) => Err(Refusal::SecretConflict { secret, reason }),
        Err(SecretError::Unreachable(reason)) => Err(Refusal::LibvirtUnreachable { reason }),
        Err(SecretError::Starting) => Err(Refusal::LibvirtStarting),
    }
}

/// What providing the key would do.
fn foreseen(
    guard: &Guard,
    facts: &mut Facts,
    verdict: &Verdict,
    deadline: Deadline,
) -> Result<SecretAction, Refusal> {
    let (Some(_), Some(_), Some((secret, _))) = (verdict.secret, &guard.secrets, facts.secret())
    else {
        return Ok(SecretAction::None);
    };
    match facts
        .host_secret
        .clone()
        .unwrap_or_else(|| ask(guard, facts, deadline))
    {
        HostSecret::Absent => Ok(SecretAction::Defined),
        HostSecret::NoValue | HostSecret::HasValue => Ok(SecretAction::Set),
        HostSecret::Conflict(reason) => Err(Refusal::SecretConflict { secret, reason }),
        HostSecret::Unreachable(reason) => Err(Refusal::LibvirtUnreachable { reason }),
    }
}

impl Facts {
    fn vtpm_is_emulated(&self) -> bool {
        matches!(
            &self.domain,
            Ok(Domain {
                vtpm: Some(Vtpm::Emulator(_)),
                ..
            })
        )
    }

    /// The secret that the domain XML names, and the domain.
    pub(super) fn secret(&self) -> Option<(SecretUuid, DomainUuid)> {
        let domain = self.domain.as_ref().ok()?;
        let (_, secret) = domain.encrypted_vtpm()?;
        Some((secret, domain.uuid))
    }
}

impl Gathered {
    fn into_outcome(self, verdict: Verdict, secret: SecretAction, mode: Mode) -> Outcome {
        Outcome {
            key: KeyInUse::of(&verdict, &self.facts),
            domain: self.facts.domain.ok(),
            state: self.facts.state,
            verdict,
            secret,
            dry_run: mode == Mode::DryRun,
        }
    }
}
