//! One call of the hook: read, judge, carry out, answer.

use std::ffi::OsString;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use super::emergency;
use super::event::HookEvent;
use super::stdin::Stdin;
use crate::capture;
use crate::clock::Deadline;
use crate::config::{Config, DEFAULT_CONFIG, DEFAULT_STATE_DIR};
use crate::domain::{self, Domain, Vtpm};
use crate::guard::{self, Guard, Mode, Operation};
use crate::libvirt::Libvirt;
use crate::log;
use crate::report;
use crate::sys;
use crate::verdict::Decision;
use crate::verdict::outcome::Outcome;

/// As much of the domain XML as is kept in memory, in bytes, to be captured should the start
/// be refused. What is longer is read in a stream and not captured.
const CAPTURE_LIMIT: usize = 1024 * 1024;

/// Answers one call. The arguments are those after the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let started = Instant::now();
    emergency::answer_for_panics();
    let Some(event) = HookEvent::parse(arguments) else {
        return ExitCode::SUCCESS;
    };
    if !called_by_owner(Path::new(DEFAULT_STATE_DIR)) {
        return ExitCode::SUCCESS;
    }
    let (domain, xml) = read_domain(started);
    if !concerns_the_guard(&domain) {
        return ExitCode::SUCCESS;
    }
    // The deadline or a fault may refuse this guest, but never one without an encrypted vTPM.
    let is_encrypted = domain
        .as_ref()
        .is_ok_and(|domain| domain.encrypted_vtpm().is_some());
    if event.operation == Operation::Prepare && is_encrypted {
        emergency::may_refuse(&event.guest);
    }
    if let Err(error) = sys::protect_process() {
        tracing::warn!(%error, "a core dump of this process could hold keys");
    }
    let mut guard = guard_of_this_host();
    let deadline = Deadline::after(guard.config.hook_deadline.saturating_sub(started.elapsed()));
    let deadline = guard.mind_starting_libvirtd(domain.as_ref().ok(), deadline);
    emergency::answer_at(deadline);
    // A log that cannot be opened stops nothing: there is nobody else to tell.
    let _ = log::init(&guard.config, &guard.state_dir);

    match (event.operation, &domain) {
        (Operation::Prepare, _) => prepare(&guard, &event.guest, &domain, &xml, deadline),
        (operation, Ok(domain)) => {
            if let Err(error) = guard::follow_up(&guard, operation, domain, deadline) {
                tracing::warn!(domain = domain.name, %domain.uuid, ?operation, %error, "not all was done");
            }
            ExitCode::SUCCESS
        }
        (_, Err(error)) => {
            tracing::warn!(
                guest = event.guest,
                error,
                "the domain XML could not be read"
            );
            ExitCode::SUCCESS
        }
    }
}

fn prepare(
    guard: &Guard,
    guest: &str,
    domain: &Result<Domain, String>,
    xml: &[u8],
    deadline: Deadline,
) -> ExitCode {
    let outcome = guard::prepare(guard, domain, Operation::PREPARE, Mode::CarryOut, deadline);
    log::decision(guest, "prepare", &outcome);
    let Outcome {
        verdict, domain, ..
    } = &outcome;
    let Decision::Deny(refusal) = &verdict.decision else {
        return ExitCode::SUCCESS;
    };
    emergency::refused();
    let name = domain.as_ref().map_or(guest, |domain| &domain.name);
    // libvirt reads to the end of stderr: nothing can be done for a reader that has left.
    let _ = writeln!(io::stderr(), "{}", report::refusal_line(name, refusal));
    let kept = guard.config.capture_denied;
    if let Err(error) = capture::keep(&guard.state_dir, xml, refusal.code(), name, kept) {
        tracing::warn!(%error, "the domain XML was not captured");
    }
    ExitCode::FAILURE
}

/// The guard, under the defaults where its configuration is broken: `doctor` says so.
fn guard_of_this_host() -> Guard {
    let (config, trouble) = match Config::load(Path::new(DEFAULT_CONFIG)) {
        Ok(config) => (config, None),
        Err(error) => (Config::default(), Some(error.to_string())),
    };
    let mut guard = Guard::new(config, PathBuf::from(DEFAULT_STATE_DIR));
    guard.config_trouble = trouble;
    guard.secrets = Some(Box::new(Libvirt::at(&guard.config.secret_uri)));
    guard
}

/// Session daemons run the same hook as plain users, whose guests are none of its business.
fn called_by_owner(state_dir: &Path) -> bool {
    let owner = std::fs::metadata(state_dir).map_or(0, |metadata| metadata.uid());
    nix::unistd::geteuid().as_raw() == owner
}

/// The domain, or why its XML could not be read; and the XML itself, if it is not too long.
fn read_domain(started: Instant) -> (Result<Domain, String>, Vec<u8>) {
    // The last tenth of the deadline is kept back for the verdict on what did not come.
    let time_limit = || {
        let config = Config::load(Path::new(DEFAULT_CONFIG)).unwrap_or_default();
        config.hook_deadline / 10 * 9
    };
    let mut stdin = Stdin::new(started, time_limit);
    let mut head = Vec::with_capacity(8 * 1024);
    let limit = CAPTURE_LIMIT as u64;
    if let Err(error) = stdin.by_ref().take(limit).read_to_end(&mut head) {
        return (Err(error.to_string()), head);
    }
    let domain = if head.len() < CAPTURE_LIMIT {
        domain::read(head.as_slice())
    } else {
        domain::read(BufReader::new(head.as_slice().chain(stdin)))
    };
    if head.len() == CAPTURE_LIMIT {
        head.clear();
    }
    (domain.map_err(|error| error.to_string()), head)
}

fn concerns_the_guard(domain: &Result<Domain, String>) -> bool {
    !matches!(domain, Ok(domain) if !matches!(domain.vtpm, Some(Vtpm::Emulator(_))))
}
