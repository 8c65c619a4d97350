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
use crate::manage::fleet::{FleetCommandError, FleetRound, Follower, round};
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
    context.log()?;
    let mut follower = Follower::default();
    let mut failures = 0;
    loop {
        let interval = context.host.config()?.fleet.interval;
        match round(&context.host, &mut follower, false) {
            Ok(Some(done)) => {
                failures = 0;
                log_round(&done);
            }
            Ok(None) => return Err(FleetCommandError::NoMember.into()),
            Err(error @ (FleetCommandError::NoAddress | FleetCommandError::NoMember)) => {
                return Err(error.into());
            }
            // Another round would find the same: the release that the store is of has to be started.
            Err(error) if error.is_of_newer_store() => return Err(error.into()),
            Err(error) => {
                failures += 1;
                let error = CommandError::from(error);
                tracing::warn!("no facts were exchanged: {error}");
            }
        }
        thread::sleep(pause(interval, failures));
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
