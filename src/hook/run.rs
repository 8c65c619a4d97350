//! One call of the hook: read, judge, carry out, answer.

use std::ffi::OsString;
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use super::emergency;
use super::event::HookEvent;
use super::refused::Start;
use super::stdin::Stdin;
use crate::clock::Deadline;
use crate::config::{Config, MAX_DEADLINE};
use crate::domain::{self, Domain, UnreadableDomain, Vtpm};
use crate::guard::{self, Guard, HookCall, Mode, Operation, restore_links};
use crate::host::dirs::{self, StateDir};
use crate::host::{program, sys};
use crate::libvirt::{LibvirtClient, calling_attempt};
use crate::log;
use crate::messages;
use crate::store::Origin;
use crate::verdict::Decision;
use crate::verdict::facts::Permission;

/// How much of the domain XML is kept in memory, in bytes, to be captured if the start is refused.
/// A longer one is read as a stream and not captured.
const CAPTURE_LIMIT: usize = 1024 * 1024;

/// The part of the deadline for which a daemon is asked again that is away for a moment.
const SHARE_WHILE_AWAY: u32 = 3;

/// Answers one call. The arguments are those after the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let started = Instant::now();
    emergency::answer_for_panics();
    let arguments: Vec<_> = arguments.into_iter().collect();
    if restore_links::run(&StateDir::default(), &arguments) {
        return ExitCode::SUCCESS;
    }
    let Some(event) = HookEvent::parse(arguments) else {
        return ExitCode::SUCCESS;
    };
    emergency::is_about(&event.guest, event.operation);
    let (domain, xml) = read_domain(started);
    if !concerns_the_guard(&domain) {
        return ExitCode::SUCCESS;
    }
    // From here on something may hang: the state directory, or the configuration with the deadline.
    emergency::answer_at(before_the_deadline_is_known(started));
    if !called_by_owner(&StateDir::default()) {
        return ExitCode::SUCCESS;
    }
    let is_start = event.operation == Operation::Prepare;
    if is_start && may_be_refused(&domain, None) {
        emergency::may_refuse(&event.guest);
    }
    if let Err(error) = sys::protect_process() {
        tracing::warn!(%error, "a core dump of this process could hold keys");
    }
    let mut guard = guard_of_this_host();
    guard.call = Some(HookCall {
        attempt: Box::new(calling_attempt),
        xml: xml.into(),
    });
    let domain = domain.or_else(|unreadable| guard.defined_by_libvirt(&event.guest, unreadable));
    if is_start && may_be_refused(&domain, Some(&guard)) {
        emergency::may_refuse(&event.guest);
    }
    let deadline = Deadline::after(guard.config.hook_deadline.saturating_sub(started.elapsed()));
    let deadline = guard.handle_starting_daemon(domain.as_ref().ok(), deadline);
    let start = Start::new(&guard, &event.guest, &domain);
    if is_start {
        let start = start.clone();
        emergency::write_down_by(move |refusal| start.write_down(refusal));
    } else if event.operation.follows() {
        guard.be_brief();
    }
    emergency::answer_at(deadline);
    // A log that cannot be opened is no reason to stop, and there is nowhere to report it.
    let _ = log::init(&guard.config, &guard.state_dir);
    if let Some(error) = &guard.xml_error {
        tracing::warn!(guest = event.guest, "{error}");
    }
    if !concerns_the_guard(&domain) {
        return ExitCode::SUCCESS;
    }

    match (event.operation, &domain) {
        (Operation::Prepare, _) => prepare(&guard, &start, &domain, deadline),
        (operation, Ok(domain)) => {
            if let Err(error) = guard::follow_up(&guard, operation, domain, deadline) {
                tracing::warn!(domain = domain.name, %domain.uuid, ?operation, %error, "the follow-up is incomplete");
            }
            if matches!(operation, Operation::Released(_)) {
                spawn_restore(&guard, domain);
            }
            ExitCode::SUCCESS
        }
        (_, Err(error)) => {
            tracing::warn!(
                guest = event.guest,
                error = error.reason,
                "the domain XML could not be read"
            );
            ExitCode::SUCCESS
        }
    }
}

/// The latest deadline that a configuration may have.
fn before_the_deadline_is_known(started: Instant) -> Deadline {
    Deadline::after(MAX_DEADLINE.saturating_sub(started.elapsed()))
}

/// libvirt deletes a state that must stay once this hook has returned: another process restores
/// it. It inherits none of the hook's streams, which libvirt reads to their ends.
fn spawn_restore(guard: &Guard, domain: &Domain) {
    let Some(arguments) = restore_links::arguments(guard, domain) else {
        return;
    };
    let spawned = program::itself()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    if let Err(error) = spawned {
        tracing::warn!(domain = domain.name, %error, "its TPM state will be restored only at its next start");
    }
}

fn prepare(
    guard: &Guard,
    start: &Start,
    domain: &Result<Domain, UnreadableDomain>,
    deadline: Deadline,
) -> ExitCode {
    let outcome = guard::prepare(guard, domain, Origin::Prepare, Mode::CarryOut, deadline);
    let (named, at) = (start.named(), guard.start_time.get());
    let Decision::Deny(refusal) = outcome.verdict.decision() else {
        emergency::allowed();
        log::decision(named.name, "prepare", at, &outcome);
        return ExitCode::SUCCESS;
    };
    let findings = outcome.verdict.findings();
    emergency::refuse(&messages::refused_line(named, refusal, findings));
    log::decision(named.name, "prepare", at, &outcome);
    start.capture(refusal);
    ExitCode::FAILURE
}

/// The guard, with the defaults if its configuration is broken, which `doctor` reports.
fn guard_of_this_host() -> Guard {
    let (config, config_error) = match Config::load(Path::new(dirs::CONFIG)) {
        Ok(config) => (config, None),
        Err(error) => (Config::default(), Some(error.to_string())),
    };
    let mut guard = Guard::new(config, StateDir::default());
    guard.config_error = config_error;
    guard.shares_keks = true;
    let libvirt = LibvirtClient::at(&guard.config.secret_uri)
        .with_dirs(&guard.config.libvirt)
        .directly()
        .with_patience(guard.config.hook_deadline / SHARE_WHILE_AWAY)
        .with_silence(guard.silence.clone());
    guard.secrets = Some(Box::new(libvirt));
    guard
}

/// Returns whether this call concerns the guard. Session daemons run the same hook as plain users,
/// whose guests do not. Calls by root always do: if the directory is another user's, the store
/// cannot be used (VG401).
fn called_by_owner(state_dir: &Path) -> bool {
    let user = nix::unistd::geteuid().as_raw();
    // The directory, which may hang, is asked for only where that is not known already.
    let owner = || std::fs::metadata(state_dir).map_or(0, |metadata| metadata.uid());
    (user == 0 && is_root_of_this_host()) || user == owner()
}

/// Returns whether root is root of the host, and not a plain user in a user namespace.
fn is_root_of_this_host() -> bool {
    let map =
        std::fs::read_to_string(Path::new(dirs::PROC).join("self/uid_map")).unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Returns the domain, or why its XML could not be read; and the XML, unless it is too long.
fn read_domain(started: Instant) -> (Result<Domain, UnreadableDomain>, Vec<u8>) {
    // The last tenth of the deadline is reserved for the verdict if the XML does not arrive.
    let time_limit = || {
        emergency::answer_at(before_the_deadline_is_known(started));
        let config = Config::load(Path::new(dirs::CONFIG)).unwrap_or_default();
        config.hook_deadline / 10 * 9
    };
    let mut stdin = Stdin::new(started, time_limit);
    let mut head = Vec::with_capacity(8 * 1024);
    let limit = CAPTURE_LIMIT as u64;
    if let Err(error) = stdin.by_ref().take(limit).read_to_end(&mut head) {
        let has_emulated_tpm =
            domain::examine(head.as_slice()).is_err_and(|seen| seen.has_emulated_tpm);
        let unreadable = UnreadableDomain {
            reason: error.to_string(),
            has_emulated_tpm,
        };
        return (Err(unreadable), head);
    }
    let domain = if head.trim_ascii().is_empty() {
        // libvirt always passes one.
        let reason = "stdin was empty: does another hook read it before this one?";
        Err(UnreadableDomain::unseen(reason))
    } else if head.len() < CAPTURE_LIMIT {
        domain::examine(head.as_slice())
    } else {
        domain::examine(BufReader::new(head.as_slice().chain(stdin)))
    };
    if head.len() == CAPTURE_LIMIT {
        head.clear();
    }
    (domain, head)
}

/// Returns whether this guest may be refused, by the decision table, a passed deadline or a panic:
/// one with an emulated TPM, as its state may be encrypted although its XML does not say so; and
/// one whose XML is unreadable after an emulated TPM was found, if the policy of `guard` refuses
/// it.
fn may_be_refused(domain: &Result<Domain, UnreadableDomain>, guard: Option<&Guard>) -> bool {
    match domain {
        Ok(domain) => domain.has_emulated_tpm(),
        Err(unreadable) => {
            let denies = |guard: &Guard| guard.config.policy.unencrypted == Permission::Deny;
            unreadable.has_emulated_tpm && guard.is_some_and(denies)
        }
    }
}

fn concerns_the_guard(domain: &Result<Domain, UnreadableDomain>) -> bool {
    !matches!(domain, Ok(domain) if !matches!(domain.vtpm, Some(Vtpm::Emulator(_))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_may_refuse_what_the_table_may_refuse() {
        let domain = |devices: &str| {
            let uuid = "7c1d3b52-9a4e-4c55-8f10-0123456789ab";
            let xml = format!(
                "<domain><name>vm1</name><uuid>{uuid}</uuid><devices>{devices}</devices></domain>"
            );
            domain::examine(xml.as_bytes())
        };
        let strict = {
            let mut guard = Guard::new(Config::default(), StateDir::default());
            guard.config.policy.unencrypted = Permission::Deny;
            guard
        };
        let lax = Guard::new(Config::default(), StateDir::default());
        let seen = Err(UnreadableDomain {
            reason: String::new(),
            has_emulated_tpm: true,
        });
        let unseen = Err(UnreadableDomain::unseen(""));
        for (domain, guard, refusable) in [
            (domain("<tpm><backend type='emulator'/></tpm>"), &lax, true),
            (
                domain("<tpm><backend type='emulator'/></tpm>"),
                &strict,
                true,
            ),
            (domain(""), &strict, false),
            (
                domain("<tpm><backend type='external'/></tpm>"),
                &strict,
                false,
            ),
            (seen.clone(), &strict, true),
            (seen, &lax, false),
            (unseen, &strict, false),
        ] {
            assert_eq!(
                may_be_refused(&domain, Some(guard)),
                refusable,
                "{domain:?}"
            );
        }
    }
}
