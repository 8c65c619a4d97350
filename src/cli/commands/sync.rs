//! `sync`: the keys of guests in their domain XML, and the facts of the fleet.

use std::io;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::fleet::{exchanged, opened};
use crate::cli::ui::printer::Printer;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::table::{BAD, Cell, GOOD, NOTABLE, table};
use crate::cli::ui::travelling::finding;
use crate::key::random;
use crate::manage::fleet::{FleetCommandError, FleetRound, Follower, round, round_of_member};
use crate::manage::sync::{SyncAction, SyncError, Synced, SyncedGuest, sync};
use crate::messages::count;

/// How much longer or shorter than `fleet.interval` an interval is, at random: a part of so many. Hosts that were
/// started together do not ask together.
const JITTER_PART: u32 = 5;

/// How long a host waits at most that cannot reach the shared store.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Exchanges facts with the shared store again and again, until the process is ended, or a newer release has migrated
/// this host's own store: systemd then starts what is installed (`Restart=on-failure`).
pub(crate) fn follow(context: &Context) -> Result<ExitCode, CommandError> {
    context.log_or_print()?;
    // Only at the beginning a configuration that cannot be used is an end: somebody may be writing it later.
    let mut interval = context.host.config()?.fleet.interval;
    let mut follower = Follower::default();
    let mut course = Course::default();
    loop {
        course.after(round_of_member(&context.host, &mut follower, false))?;
        // One that cannot be used is what the exchange has said.
        if let Ok(config) = context.host.config() {
            interval = config.fleet.interval;
        }
        thread::sleep(pause(interval, course.failures));
    }
}

/// How the exchanges of one process go.
struct Course {
    /// How many have failed since one was made.
    failures: u32,
    /// Whether one more that finds this host in no fleet is an end. It is at the beginning, and if the exchange before has
    /// found the same: for a moment, a file that is being written has nothing in it.
    ends_without_fleet: bool,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            failures: 0,
            ends_without_fleet: true,
        }
    }
}

impl Course {
    /// Logs what an exchange did. Returns the error of one that is the last.
    fn after(
        &mut self,
        exchange: Result<FleetRound, FleetCommandError>,
    ) -> Result<(), FleetCommandError> {
        let error = match exchange {
            Ok(done) => {
                *self = Self {
                    failures: 0,
                    ends_without_fleet: false,
                };
                log_round(&done);
                return Ok(());
            }
            Err(error) => error,
        };
        // Another round would find the same: the release that the store is of has to be started.
        if error.is_of_newer_store() || (error.is_of_no_fleet() && self.ends_without_fleet) {
            return Err(error);
        }
        self.failures += 1;
        self.ends_without_fleet = error.is_of_no_fleet();
        let error = CommandError::from(error);
        tracing::warn!("no facts were exchanged: {error}");
        Ok(())
    }
}

/// What an exchange did, unless that is nothing: there is one every minute.
fn log_round(round: &FleetRound) {
    for line in opened(&round.opened) {
        tracing::info!("{line}");
    }
    if round.exchanged.did_something() || !round.followed.is_empty() {
        tracing::info!("{}", exchanged(round));
    }
    for trouble in &round.trouble {
        tracing::warn!("{trouble}");
    }
}

/// How long to wait for the next exchange.
fn pause(interval: Duration, failures: u32) -> Duration {
    let longer = interval.saturating_mul(1 << failures.min(10));
    let base = longer.min(LONGEST_PAUSE.max(interval));
    let spread = base / JITTER_PART;
    let random = u32::from(random_byte());
    base.saturating_sub(spread) + spread * 2 * random / 255
}

/// A byte of no importance.
fn random_byte() -> u8 {
    let mut byte = [0];
    // Without randomness all hosts wait equally long.
    let _ = random::fill(&mut byte);
    byte[0]
}

/// What one run did.
#[derive(Serialize)]
struct Ran {
    #[serde(flatten)]
    metadata: Synced,
    /// What was exchanged with the fleet; `None` where this host is in none.
    fleet: Option<FleetRound>,
}

impl Answer for Ran {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        self.metadata.print(out)?;
        let Some(fleet) = &self.fleet else {
            return Ok(());
        };
        for line in opened(&fleet.opened) {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{}", exchanged(fleet))
    }

    fn notes(&self) -> Vec<String> {
        let trouble = self.fleet.iter().flat_map(|fleet| fleet.trouble.clone());
        self.metadata.notes().into_iter().chain(trouble).collect()
    }
}

pub(crate) fn run(
    context: &Context,
    compare: bool,
    metadata_only: bool,
) -> Result<ExitCode, CommandError> {
    let progress = OnceLock::new();
    let synced = sync(&context.host, &|all, name| {
        let progress = progress.get_or_init(|| Progress::new("writing", all));
        progress.at(name);
    });
    progress.into_inner().as_ref().map(Progress::done);
    let metadata = synced?;
    let failed = metadata.failed > 0;
    let fleet = if metadata_only {
        Ok(None)
    } else {
        round(&context.host, &mut Follower::default(), compare)
    };
    let (fleet, error) = match fleet {
        Ok(fleet) => (fleet, None),
        Err(error) => (None, Some(CommandError::from(error))),
    };
    context.output.print(&Ran { metadata, fleet })?;
    match error {
        Some(error) => Err(error),
        None => Ok(ExitCode::from(if failed { 4 } else { 0 })),
    }
}

impl Answer for Synced {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let shown: Vec<_> = self
            .guests
            .iter()
            .filter(|guest| guest.is_shown())
            .collect();
        if !shown.is_empty() {
            let mut lines = table(&["DOMAIN", "KEYS", "RESULT", "WHY"]);
            for guest in shown {
                lines.add_row([
                    Cell::new(guest.guest.label()),
                    Cell::new(guest.keys),
                    guest.result(),
                    Cell::new(guest.why()),
                ]);
            }
            out.table(&lines)?;
        }
        let mut parts = vec![
            format!("written for {}", count(self.written, "guest")),
            format!("removed for {}", self.removed),
        ];
        if self.later > 0 {
            parts.push(format!("{} later", self.later));
        }
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        writeln!(out, "{}", parts.join(", "))
    }

    fn notes(&self) -> Vec<String> {
        let of_guest = |guest: &SyncedGuest| -> Vec<String> {
            let findings = guest.findings.iter();
            findings.map(|it| finding(&guest.guest, it)).collect()
        };
        self.guests.iter().flat_map(of_guest).collect()
    }
}

impl SyncedGuest {
    /// Nobody reads a table of a thousand guests to which nothing was done.
    fn is_shown(&self) -> bool {
        self.action != SyncAction::None
    }

    fn result(&self) -> Cell {
        let word = Cell::new(self.action.word());
        match self.action {
            SyncAction::Written | SyncAction::Removed => word.fg(GOOD),
            SyncAction::Later | SyncAction::Left => word.fg(NOTABLE),
            SyncAction::Failed => word.fg(BAD),
            SyncAction::None => word,
        }
    }

    fn why(&self) -> String {
        match (self.action, &self.error) {
            (_, Some(error)) => error.clone(),
            (SyncAction::Later, None) => "the guest is busy (a migration, a save)".to_owned(),
            (SyncAction::Left, None) => "nothing may be lost".to_owned(),
            _ => String::new(),
        }
    }
}

impl From<SyncError> for CommandError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Running => Self::failed(error).with_hint("retry"),
            SyncError::Host(error) => error.into(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::manage::host::HostError;

    fn no_address() -> Result<FleetRound, FleetCommandError> {
        Err(FleetCommandError::NoAddress)
    }

    fn misconfigured() -> Result<FleetRound, FleetCommandError> {
        Err(HostError::NoConfig(PathBuf::from("config.toml")).into())
    }

    #[test]
    fn a_host_that_is_in_no_fleet_from_the_beginning_does_not_follow_one() {
        let ended = Course::default().after(no_address());
        assert!(matches!(ended, Err(FleetCommandError::NoAddress)));
    }

    #[test]
    fn a_moment_of_wrong_configuration_is_a_failed_exchange() {
        let mut course = Course::default();
        course.after(Ok(FleetRound::default())).unwrap();
        course.after(misconfigured()).unwrap();
        course.after(no_address()).unwrap();
        assert_eq!(course.failures, 2);
        course.after(Ok(FleetRound::default())).unwrap();
        assert_eq!(course.failures, 0);
        // Twice in a row is no longer a file that is being written.
        course.after(no_address()).unwrap();
        assert!(course.after(no_address()).is_err());
    }

    #[test]
    fn a_configuration_that_stays_wrong_does_not_end_what_follows() {
        let mut course = Course::default();
        for _ in 0..20 {
            course.after(misconfigured()).unwrap();
        }
        assert_eq!(course.failures, 20);
    }
}
