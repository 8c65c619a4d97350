//! `prepare begin`: the only operation that may refuse a start.

use super::commit::{Committed, HistoryRow, commit, record};
use super::context::Guard;
use super::gather::{Gathered, gather};
use super::provide::{NotProvided, Provide, planned_action};
use super::restore::restore_state;
use super::saved_runs::has_managed_save;
use super::start_note::{self, ExpectedState};
use super::status::is_running;
use super::{copies, daemon_start, elsewhere, restore_links};
use crate::clock::Deadline;
use crate::domain::{Domain, UnreadableDomain};
use crate::store::{Access, Origin};
use crate::swtpm::{StatePath, remove_empty_directory};
use crate::verdict::decide::{decide, unusable_state};
use crate::verdict::facts::{Arrival, Facts, StoreAccessError, TpmState};
use crate::verdict::outcome::{KeyInUse, Outcome, SecretAction};
use crate::verdict::refusal::Refusal;
use crate::verdict::{Answer, Decision, Finding, Reason, Verdict};

/// How often a verdict is repeated because the rows changed in the meantime. Each time another
/// change was completed, so this ends.
const ATTEMPTS: u32 = 8;

/// Which parts of a verdict are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All: repairs and event are written, and libvirt gets the key.
    CarryOut,
    /// Repairs and event are written; libvirt gets nothing.
    RepairOnly,
    /// Nothing is changed.
    DryRun,
}

/// Judges the start of `domain` (an error: why its XML could not be read) and carries out the
/// verdict. `origin` is recorded in the history.
pub fn prepare(
    guard: &Guard,
    domain: &Result<Domain, UnreadableDomain>,
    origin: Origin,
    mode: Mode,
    deadline: Deadline,
) -> Outcome {
    guard.begin_start();
    if let (Mode::CarryOut, Ok(domain)) = (mode, domain)
        && let Some(outcome) = daemon_start::allow_loaded(guard, domain, origin, deadline)
    {
        let is_saved = has_managed_save(guard, &domain.name);
        let expected = ExpectedState {
            is_absent: outcome.state == TpmState::Absent,
            arrival: is_saved.then_some(Arrival::Restore),
        };
        note_start(guard, domain, Some(expected), true);
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
        secrets.expect_question(guard.for_libvirt(deadline));
    }
    if let (Mode::CarryOut, Origin::Prepare, Ok(domain)) = (mode, origin, domain) {
        // Of an earlier start, whose end the hook has not seen. Before anything can hang: at the
        // deadline this start is refused, and the note would say of the earlier one that it failed.
        start_note::remove(guard, domain);
    }
    // Before anything can refuse: libvirt then deletes a transient guest's state. A replayed start
    // of a running guest is not a start that could fail.
    let kept = match domain {
        Ok(domain) if mode == Mode::CarryOut => {
            let is_start = origin == Origin::Prepare || !is_running(guard, domain);
            if is_start {
                copies::save_before_start(guard, domain, deadline)
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    };
    let row = HistoryRow {
        origin,
        at: guard.start_time.get(),
    };
    let mut outcome = judged(guard, domain, row, mode, access, deadline);
    if let Err(error) = kept {
        let finding = Finding::CopyNotKept(error.to_string());
        outcome.verdict.note(finding);
    }
    if let (Mode::CarryOut, Origin::Prepare, Ok(domain)) = (mode, origin, domain) {
        note_refused_state(guard, domain, &outcome);
    }
    if let Some(virtqemud) = guard.starting_virtqemud {
        virtqemud.note(guard);
    }
    outcome
}

/// Notes a refusal for a state that is damaged or in use: libvirt deletes a transient guest's.
fn note_refused_state(guard: &Guard, domain: &Domain, outcome: &Outcome) {
    let Decision::Deny(why @ (Refusal::TpmStateDamaged { .. } | Refusal::TpmObstructed(_))) =
        outcome.verdict.decision()
    else {
        return;
    };
    if let Err(error) = copies::note_refusal(guard, domain, why.code()) {
        tracing::warn!(domain = domain.name, %error, "its TPM state cannot be protected from deletion by libvirt");
    }
}

fn judged(
    guard: &Guard,
    domain: &Result<Domain, UnreadableDomain>,
    row: HistoryRow,
    mode: Mode,
    access: Access,
    deadline: Deadline,
) -> Outcome {
    for _ in 0..ATTEMPTS {
        let gathered = gather(guard, domain.clone(), access, deadline);
        if mode == Mode::CarryOut && restored_from_links(guard, &gathered, deadline) {
            continue;
        }
        if let Some(outcome) = attempt(guard, gathered, row, mode, deadline) {
            return outcome;
        }
    }
    let mut gathered = gather(guard, domain.clone(), access, deadline);
    let reason = "what it depends on kept changing while the start was judged".to_owned();
    gathered.facts.references = Err(StoreAccessError::Unavailable(reason));
    let verdict = judge(guard, &mut gathered, mode, deadline);
    if mode != Mode::DryRun {
        record(&mut gathered, &verdict, row, deadline);
    }
    gathered.into_outcome(verdict, SecretAction::None, mode)
}

/// Restores a missing state from the hard links that a failed start has left: also of a persistent
/// guest, where the start was on another host that has its directory.
fn restored_from_links(guard: &Guard, gathered: &Gathered, deadline: Deadline) -> bool {
    let (Ok(domain), TpmState::Absent) = (&gathered.facts.domain, &gathered.facts.state) else {
        return false;
    };
    let is_restored = domain
        .encrypted_vtpm()
        .is_some_and(|(vtpm, _)| restore_links::before_start(guard, domain.uuid, vtpm, deadline));
    // There was nothing to save before.
    if is_restored && let Err(error) = copies::save_before_start(guard, domain, deadline) {
        tracing::warn!(domain = domain.name, %error, "the TPM state was not saved");
    }
    is_restored
}

/// Returns `None` if the rows changed between the facts and the repairs: nothing was changed; or
/// libvirt's secret after them: the next attempt goes on from there, in the same row of the history.
fn attempt(
    guard: &Guard,
    mut gathered: Gathered,
    row: HistoryRow,
    mode: Mode,
    deadline: Deadline,
) -> Option<Outcome> {
    let mut verdict = judge(guard, &mut gathered, mode, deadline);
    if mode == Mode::DryRun {
        let secret = planned_action(guard, &gathered.facts, &verdict);
        // libvirt starts it and fails: the start is not refused, but a check reports it.
        if *verdict.decision() == Decision::Allow(Reason::Unencrypted)
            && let Some(refusal) = unusable_state(&gathered.facts)
        {
            verdict.refuse(refusal);
        }
        return Some(gathered.into_outcome(verdict, secret, mode));
    }
    restore_state(guard, &gathered, &mut verdict);
    remove_empty_state_directory(guard, &gathered.facts, &verdict);
    let Committed::Done { new_dek } = commit(guard, &mut gathered, &mut verdict, row, deadline)
    else {
        return None;
    };
    let mut secret = SecretAction::None;
    if mode == Mode::CarryOut {
        let provide = Provide {
            guard,
            gathered: &gathered,
            is_start: row.origin == Origin::Prepare,
            deadline,
        };
        let provides = verdict.secret().is_some();
        match provide.carry_out(&verdict, new_dek.as_ref()) {
            Ok(done) => secret = done,
            Err(NotProvided::SecretChanged) => return None,
            Err(NotProvided::Refused(refusal)) => {
                verdict.refuse_after_repairs(refusal);
                record(&mut gathered, &verdict, row, deadline);
            }
        }
        let expected = verdict.is_allowed().then_some(ExpectedState {
            is_absent: gathered.facts.state == TpmState::Absent,
            arrival: gathered.facts.arrival,
        });
        if let Ok(domain) = &gathered.facts.domain {
            note_start(guard, domain, expected, provides);
        }
    }
    Some(gathered.into_outcome(verdict, secret, mode))
}

/// Removes an empty state directory: libvirt does not set up a new TPM if there is one. If that
/// fails, the new TPM only lacks certificates.
fn remove_empty_state_directory(guard: &Guard, facts: &Facts, verdict: &Verdict) {
    let (Ok(domain), Decision::Allow(_)) = (&facts.domain, verdict.decision()) else {
        return;
    };
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return;
    };
    if *facts.effective_state() != TpmState::Absent || facts.state_arrives() {
        return;
    }
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    if let Err(error) = remove_empty_directory(&place) {
        tracing::warn!(domain = domain.name, %error, "could not remove the empty state directory");
    }
}

/// Notes that the start of a guest proceeds, so that its failure is noticed; or that it was refused.
/// `provides`: libvirt was asked to take a key.
fn note_start(guard: &Guard, domain: &Domain, expected: Option<ExpectedState>, provides: bool) {
    if guard.call.is_none() || domain.encrypted_vtpm().is_none() {
        return;
    }
    if let Err(error) = start_note::write(guard, domain, expected, provides) {
        tracing::warn!(domain = domain.name, %error, "a failure of this start will not be noticed");
    }
}

fn judge(guard: &Guard, gathered: &mut Gathered, mode: Mode, deadline: Deadline) -> Verdict {
    let foresees = mode == Mode::DryRun;
    let mut verdict = loop {
        match decide(&gathered.facts) {
            Answer::Verdict(verdict) => break verdict,
            Answer::AskHostSecret => gathered.ask_host_secret(guard, foresees, deadline),
            Answer::AskFleet => gathered.ask_fleet(guard, deadline),
            Answer::AskElsewhere(search) => {
                let found = elsewhere::find(guard, gathered, search, deadline);
                gathered.facts.elsewhere = Some(found);
            }
        }
    };
    if gathered.facts.vtpm_is_emulated() {
        let configuration = guard.config_error.clone().map(Finding::ConfigurationBroken);
        let definition = guard.xml_error.clone().map(Finding::DefinitionRead);
        for finding in configuration.into_iter().chain(definition) {
            verdict.note(finding);
        }
    }
    verdict
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;
    use crate::guard::HookCall;
    use crate::guard::operation::Ending;
    use crate::libvirt::StartingLibvirtd;
    use crate::manage::host::{BrokenConfig, default_deadline};
    use crate::manage::stage::stage;
    use crate::manage::tests::fixture::Fixture;

    /// A monolithic libvirtd restores it: if that fails, a state that libvirt has made for it is not the guest's.
    #[test]
    fn a_start_with_a_staged_key_notes_whether_its_state_arrives() {
        for (is_saved, has_state) in [(true, false), (true, true), (false, true)] {
            let fixture = Fixture::new();
            let guest = fixture.guest_in_use("vm1");
            let dirs = fixture.libvirt.dirs();
            fixture.autostart("vm1");
            stage(&fixture.host).unwrap();
            if is_saved {
                fixture.libvirt.guests.start("vm1");
                fixture.libvirt.guests.save("vm1");
            }
            if !has_state {
                fs::remove_file(fixture.state_file(&guest)).unwrap();
            }
            let mut guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
            guard.libvirt_starts = true;
            guard.secrets = Some(Box::new(StartingLibvirtd(dirs.secrets())));
            guard.call = Some(HookCall {
                attempt: Box::new(String::new),
                xml: [].into(),
            });
            let domain = fixture.domain(&guest);
            let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
            let judged = Ok(domain.clone());
            let outcome = prepare(&guard, &judged, origin, mode, default_deadline());
            assert_eq!(
                *outcome.verdict.decision(),
                Decision::Allow(Reason::LoadedSecret)
            );
            let failed = start_note::take_failed(&guard, &domain, None, Some(Ending::Failed));
            assert_eq!(failed.unwrap().awaits_state, is_saved && !has_state);
        }
    }
}
