//! `status`: the guard on this host, and every guest with an emulated TPM.

use std::io;
use std::sync::OnceLock;

use crate::cli::args::StatusFilters;
use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::describe::{self, Keep};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::table::{BAD, Cell, GOOD, NOTABLE, table};
use crate::manage::status::{GuestStatus, Status, provider_asked_for, status};
use crate::messages::{Arg, Command, count, label};

pub(crate) fn run(context: &Context, filters: &StatusFilters) -> Result<(), CommandError> {
    // A name that nothing has is a mistake: an empty list would say that no guest depends on it.
    let provider = filters.provider.as_deref();
    let provider = provider.map(|text| provider_asked_for(&context.host, text));
    let provider = provider.transpose()?;
    let passes = |guest: &GuestStatus| {
        (!filters.problems || !guest.would_start || guest.repairs > 0)
            && (!filters.plain || guest.readable && !guest.encrypted)
            && (provider.is_none() || provider == guest.provider)
    };
    let progress = OnceLock::new();
    let found = status(&context.host, passes, &|all, name| {
        let progress = progress.get_or_init(|| Progress::new("checking", all));
        progress.at(name);
    });
    progress.into_inner().as_ref().map(Progress::done);
    let found = found?;
    if let Some(error) = &found.unreachable {
        let error = CommandError::failed(error.sentence());
        context.output.note(&error.to_string());
    }
    context.output.print(&found)
}

impl Answer for Status {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        out.part(format_args!("hook:          "))?;
        if self.hook.installed {
            out.painted(GOOD, "installed")?;
        } else {
            out.painted(BAD, "not installed")?;
        }
        writeln!(out, " ({})", self.hook.path.display())?;
        writeln!(out, "configuration: {}", self.configuration)?;
        let exists = if self.store.exists {
            ""
        } else {
            " (does not exist yet)"
        };
        writeln!(out, "store:         {}{exists}", self.store.path.display())?;
        writeln!(
            out,
            "keys:          {} in use, {} to be created at first start",
            self.key_refs.keyed, self.key_refs.placeholders
        )?;
        if let Some(words) = self
            .guests_unknown_to_libvirt
            .and_then(describe::unknown_guests)
        {
            writeln!(out, "unknown:       {words}")?;
        }
        for Keep { what, fix } in describe::deleted_states(&self.deleted) {
            writeln!(out, "TPM state:     {what}; {fix}")?;
        }
        if let Some(words) = self
            .guests_without_travelling_key
            .and_then(describe::not_travelling)
        {
            writeln!(out, "travelling:    {words}")?;
        }
        self.print_providers(out)?;
        match &self.guests {
            Some(guests) => print_guests(out, guests, self.hidden),
            None => Ok(()),
        }
    }
}

impl Status {
    fn print_providers(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.providers.is_empty() {
            let create = Command::ProviderCreateDefault(Arg::NAME);
            writeln!(out, "providers:     none; create one: {create}")?;
        }
        for provider in &self.providers {
            let (name, key_id) = (label(&provider.name), provider.key_id.short());
            out.part(format_args!(
                "provider:      {name} (key {key_id}), sealed by "
            ))?;
            match &provider.trouble {
                Some(trouble) => out.part(format_args!("{trouble}"))?,
                None => out.part(format_args!("{}", provider.seal))?,
            }
            if !provider.exported {
                out.part(format_args!(", "))?;
                out.painted(NOTABLE, "never exported")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

fn print_guests(out: &mut Printer<'_>, guests: &[GuestStatus], hidden: usize) -> io::Result<()> {
    writeln!(out)?;
    if !guests.is_empty() {
        let mut lines = table(&[
            "DOMAIN",
            "STATE",
            "TPM",
            "PROVIDER",
            "KEY",
            "PROVEN",
            "LAST START",
            "STARTS",
        ]);
        for guest in guests {
            lines.add_row(cells(guest));
        }
        out.table(&lines)?;
    }
    let all = guests.len();
    let encrypted = guests.iter().filter(|guest| guest.encrypted).count();
    let unreadable = guests.iter().filter(|guest| !guest.readable).count();
    let start = guests.iter().filter(|guest| guest.would_start).count();
    let of_unknown = match unreadable {
        0 => String::new(),
        unreadable => format!(", {unreadable} unreadable"),
    };
    let hidden = match hidden {
        0 => String::new(),
        hidden => format!("; {hidden} not shown"),
    };
    writeln!(
        out,
        "{}: {encrypted} encrypted, {} unencrypted{of_unknown}; {start} would start now, {} would not{hidden}",
        count(all, "guest"),
        all - encrypted - unreadable,
        all - start,
    )
}

fn cells(guest: &GuestStatus) -> [Cell; 8] {
    let dash = || "-".to_owned();
    [
        Cell::new(&guest.name),
        Cell::new(if guest.running { "running" } else { "shut off" }),
        match (guest.readable, guest.encrypted) {
            (false, _) => Cell::new("unreadable").fg(BAD),
            (true, true) => Cell::new("encrypted"),
            (true, false) => Cell::new("plain"),
        },
        Cell::new(guest.provider.clone().unwrap_or_else(dash)),
        Cell::new(guest.key_id.map_or_else(dash, |id| id.short())),
        match guest.proven {
            Some(true) => Cell::new("yes").fg(GOOD),
            Some(false) => Cell::new("no").fg(BAD),
            None => Cell::new("-"),
        },
        Cell::new(time(guest.last_start_at)),
        match guest.code {
            Some(code) => Cell::new(code).fg(BAD),
            None if guest.repairs > 0 => Cell::new("after repairs").fg(NOTABLE),
            None if guest.clients_key => Cell::new("by its client").fg(GOOD),
            None => Cell::new("yes").fg(GOOD),
        },
    ]
}
