//! The table of `status`: every guest with an emulated TPM.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};

use crate::cli::args::StatusFilters;
use crate::cli::context::Context;
use crate::cli::judge;
use crate::cli::ui::answer::{count, time};
use crate::cli::ui::check_table::Judged;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::table::{BAD, Cell, GOOD, NOTABLE, table};
use crate::clock::Timestamp;
use crate::domain::Vtpm;
use crate::libvirt::Guest;
use crate::manage::guests::ListedGuest;
use crate::store::Access;
use crate::verdict::facts::Proof;
use crate::verdict::outcome::{KeyInUse, Outcome};
use crate::verdict::{Decision, Reason};

/// A guest with an emulated TPM.
struct Row {
    running: bool,
    last_start: Option<Timestamp>,
    judged: Judged,
}

pub(crate) struct Guests {
    rows: Vec<Row>,
    /// Those that the filters left out.
    hidden: usize,
}

impl Guests {
    pub(crate) fn look(
        context: &Context,
        listed: Vec<Guest>,
        filters: &StatusFilters,
    ) -> Result<Self, CommandError> {
        let mut running = BTreeMap::new();
        let mut guests = Vec::new();
        for guest in listed {
            running.insert(guest.uuid, guest.running);
            guests.push(ListedGuest::from(guest));
        }
        guests.retain(has_vtpm);
        let progress = Progress::new("looking at", guests.len());
        let judged = judge::all(context, &guests, &progress)?;
        progress.done();
        let last_starts = match context.host.store(Access::Read)? {
            Some(store) => store.last_starts()?,
            None => BTreeMap::new(),
        };
        let row = |judged: Judged| {
            let uuid = judged.outcome.domain.as_ref().map(|domain| domain.uuid);
            Row {
                running: uuid.is_some_and(|uuid| running.get(&uuid) == Some(&true)),
                last_start: uuid.and_then(|uuid| last_starts.get(&uuid).copied()),
                judged,
            }
        };
        let mut rows: Vec<_> = judged.into_iter().map(row).collect();
        rows.sort_by(|one, other| one.judged.name.cmp(&other.judged.name));
        let all = rows.len();
        rows.retain(|row| row.passes(filters));
        Ok(Self {
            hidden: all - rows.len(),
            rows,
        })
    }

    pub(crate) fn document(&self) -> Value {
        self.rows.iter().map(Row::document).collect()
    }

    pub(crate) fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(out)?;
        if !self.rows.is_empty() {
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
            for row in &self.rows {
                lines.add_row(row.cells());
            }
            out.table(&lines)?;
        }
        let encrypted = self.rows.iter().filter(|row| row.is_encrypted()).count();
        let refused = self.rows.iter().filter(|row| !row.is_allowed()).count();
        let guests = self.rows.len();
        let hidden = match self.hidden {
            0 => String::new(),
            hidden => format!("; {hidden} not shown"),
        };
        writeln!(
            out,
            "{}: {encrypted} encrypted, {} plain; {} would start now, {refused} would not{hidden}",
            count(guests, "guest"),
            guests - encrypted,
            guests - refused,
        )
    }
}

/// Also a guest whose XML cannot be read may have one.
fn has_vtpm(guest: &ListedGuest) -> bool {
    match &guest.domain {
        Ok(domain) => matches!(domain.vtpm, Some(Vtpm::Emulator(_))),
        Err(_) => true,
    }
}

impl Row {
    fn outcome(&self) -> &Outcome {
        &self.judged.outcome
    }

    fn key(&self) -> Option<&KeyInUse> {
        self.outcome().key.as_ref()
    }

    fn is_allowed(&self) -> bool {
        self.outcome().is_allowed()
    }

    /// Whether whoever starts it brings its key.
    fn has_a_clients_key(&self) -> bool {
        *self.outcome().verdict.decision() == Decision::Allow(Reason::ClientsKey)
    }

    fn is_encrypted(&self) -> bool {
        let domain = self.outcome().domain.as_ref();
        domain.is_some_and(|domain| domain.encrypted_vtpm().is_some())
    }

    fn needs_repairs(&self) -> bool {
        !self.outcome().verdict.repairs().is_empty()
    }

    fn passes(&self, filters: &StatusFilters) -> bool {
        let is_of = |name: &String| self.key().is_some_and(|key| key.provider_name == *name);
        (!filters.problems || !self.is_allowed() || self.needs_repairs())
            && (!filters.plain || !self.is_encrypted())
            && filters.provider.as_ref().is_none_or(is_of)
    }

    fn document(&self) -> Value {
        let Outcome {
            domain, verdict, ..
        } = self.outcome();
        let code = match verdict.decision() {
            Decision::Allow(_) => None,
            Decision::Deny(refusal) => Some(refusal.code().as_str()),
        };
        json!({
            "name": self.judged.name,
            "uuid": domain.as_ref().map(|domain| domain.uuid.to_string()),
            "running": self.running,
            "encrypted": self.is_encrypted(),
            "key_ref": self.key().map(|key| key.key_ref.0),
            "provider": self.key().map(|key| &key.provider_name),
            "key_id": self.key().and_then(|key| key.key_id).map(|id| id.to_string()),
            "proven": self.key().and_then(|key| match key.proof {
                Proof::Proven => Some(true),
                Proof::Refuted => Some(false),
                Proof::None => None,
            }),
            "last_start_at": self.last_start.map(|at| at.0),
            "clients_key": self.has_a_clients_key(),
            "would_start": code.is_none(),
            "code": code,
            "repairs": verdict.repairs().len(),
        })
    }

    fn cells(&self) -> [Cell; 8] {
        let dash = || "-".to_owned();
        let provider = self.key().map(|key| key.provider_name.clone());
        let key_id = self.key().and_then(|key| key.key_id);
        let proven = match self.key().map(|key| key.proof) {
            Some(Proof::Proven) => Cell::new("yes").fg(GOOD),
            Some(Proof::Refuted) => Cell::new("no").fg(BAD),
            Some(Proof::None) | None => Cell::new("-"),
        };
        let starts = match self.outcome().verdict.decision() {
            Decision::Deny(refusal) => Cell::new(refusal.code().as_str()).fg(BAD),
            Decision::Allow(_) if self.needs_repairs() => Cell::new("after repairs").fg(NOTABLE),
            Decision::Allow(Reason::ClientsKey) => Cell::new("by its client").fg(GOOD),
            Decision::Allow(_) => Cell::new("yes").fg(GOOD),
        };
        [
            Cell::new(&self.judged.name),
            Cell::new(if self.running { "running" } else { "shut off" }),
            Cell::new(if self.is_encrypted() {
                "encrypted"
            } else {
                "plain"
            }),
            Cell::new(provider.unwrap_or_else(dash)),
            Cell::new(key_id.map_or_else(dash, |id| id.short())),
            proven,
            Cell::new(time(self.last_start)),
            starts,
        ]
    }
}
