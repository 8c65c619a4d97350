//! `provider rotate`: gives a provider a new key, and re-wraps every guest's key with it.

use std::io;

use super::weaker_seal;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::fleet;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::table::table;
use crate::config::duration;
use crate::keyring::WeakerSeal;
use crate::manage::fleet::rotation::{HostResult, HostState, Patience};
use crate::manage::previous_keys::PreviousKey;
use crate::manage::provider_rotate::{
    RotateStep, RotatedProvider, RowResult, UnusableKey, rotate_everywhere,
};
use crate::messages::{Arg, Command, count, quoted};

pub(super) fn run(
    context: &Context,
    name: &str,
    without: &[String],
    wait: Option<&str>,
    weaker: WeakerSeal,
) -> Result<(), CommandError> {
    let bad = |text: &str| {
        CommandError::usage(format!("invalid time {}", quoted(text)))
            .with_hint("a time is like 30s or 5m")
    };
    let wait = wait.map(|text| duration::parse(text).ok_or_else(|| bad(text)));
    let patience = Patience {
        without,
        wait: wait.transpose()?,
    };
    let mut waiting = None;
    let mut waits = |hosts: &[HostResult]| {
        let names = fleet::waiting(hosts, str::to_owned);
        let bar = waiting.get_or_insert_with(|| Progress::waiting("waiting for other hosts"));
        bar.at(&names.join(", "));
    };
    let mut bar = None;
    let mut progress = |step: RotateStep| {
        if step.index == 0 {
            bar = Some(Progress::new("re-wrapping", step.of));
        }
        if let Some(bar) = &bar {
            bar.at(&step.guest.to_string());
        }
    };
    let rotated = rotate_everywhere(
        &context.host,
        name,
        weaker,
        patience,
        &mut waits,
        &mut progress,
    );
    if let Some(bar) = waiting {
        bar.done();
    }
    if let Some(bar) = bar {
        bar.done();
    }
    context.output.print(&rotated?)
}

impl Answer for RotatedProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if !self.key_refs.is_empty() {
            let mut lines = table(&["ID", "DOMAIN", "STATE", "RESULT", "WHY"]);
            for row in &self.key_refs {
                let why = match &row.result {
                    RowResult::Left(why) => why.to_string(),
                    RowResult::Rewrapped | RowResult::Already => "-".to_owned(),
                };
                let name = row.guest.name.clone();
                lines.add_row([
                    row.id.to_string(),
                    name.unwrap_or_else(|| row.guest.uuid.to_string()),
                    row.state.word().to_owned(),
                    row.result.word().to_owned(),
                    why,
                ]);
            }
            out.table(&lines)?;
        }
        let name = quoted(&self.provider.name);
        let rewrapped = count(self.rewrapped, "key reference");
        let key = self.key_id.short();
        match self.previous_key_id {
            Some(previous) => writeln!(
                out,
                "provider {name} has a new key: {key} (version {}), replacing {}, sealed: {}; \
                 {rewrapped} re-wrapped",
                self.key_version,
                previous.short(),
                self.seal
            ),
            None => writeln!(
                out,
                "completed an earlier, interrupted rotation: {rewrapped} re-wrapped with key {key} \
                 of provider {name}, which stays"
            ),
        }
    }

    fn notes(&self) -> Vec<String> {
        let arg = || self.provider.arg();
        let mut notes: Vec<_> = self.unusable.iter().map(unusable).collect();
        notes.extend(left_out(&self.hosts));
        notes.extend(
            self.not_told
                .iter()
                .map(|why| format!("the fleet hears later of the re-wrapped keys: {why}")),
        );
        if let Some(stored) = &self.stored {
            notes.extend(weaker_seal::note(arg(), stored));
        }
        // Those under a key that does not open are named above.
        let under_unusable = self.unusable.iter().map(|key| key.key_refs).sum();
        let not_opened = self.not_opened.saturating_sub(under_unusable);
        if not_opened > 0 {
            notes.push(format!(
                "{} did not open and stay as before; for details: {}",
                count(not_opened, "key reference"),
                Command::KeyShow(Arg::DOMAIN)
            ));
        }
        if !self.is_exported {
            notes.push(format!(
                "export the new key now; if this host is lost, so is that key and every TPM that \
                 depends on it: {}",
                Command::ProviderExport(arg())
            ));
        }
        let Some(previous) = self.previous_key_id else {
            let command = Command::ProviderRotate(arg());
            notes.push(format!("to give it another key: {command}"));
            return notes;
        };
        notes.push(
            "store backups from before need the previous key: keep its recovery file with them"
                .to_owned(),
        );
        let mut kept = self.previous_keys.iter();
        notes.extend(kept.find(|kept| kept.key_id == previous).map(previous_key));
        notes
    }
}

fn unusable(key: &UnusableKey) -> String {
    let holder = if key.is_previous {
        "the previous key"
    } else {
        "the key of provider"
    };
    format!(
        "{} under {holder} {} stay as before, because that does not open: {}",
        count(key.key_refs, "key reference"),
        quoted(&key.name),
        key.error
    )
}

fn previous_key(kept: &PreviousKey) -> String {
    let name = quoted(&kept.provider.name);
    if kept.is_exported {
        return format!(
            "the previous key stays as provider {name} until the new one is exported and nothing \
             needs the previous one"
        );
    }
    let export = Command::ProviderExport(kept.provider.arg());
    if kept.is_needed {
        return format!(
            "the previous key was never exported, and key references need it: it stays as provider \
             {name}; export it: {export}"
        );
    }
    format!(
        "the previous key was never exported: it stays as provider {name}; export it: {export}; or \
         delete it: {}",
        Command::ProviderDeleteForced(kept.provider.arg())
    )
}

/// What an administrator has to know of the hosts that were not waited for.
fn left_out(hosts: &[HostResult]) -> impl Iterator<Item = String> + '_ {
    let left_out = |it: &&HostResult| it.result == HostState::LeftOut;
    hosts.iter().filter(left_out).map(|host| {
        let name = fleet::host_among(host, hosts, quoted);
        format!("host {name} was not waited for: it goes on with the previous key until it opens the new one")
    })
}
