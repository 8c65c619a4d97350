//! Asks the shared store about a guest.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Deadline;
use crate::fleet::{Client, FleetError, Found, State};
use crate::guard::context::Guard;
use crate::guard::deadlines::before_the_answer;
use crate::ids::DomainUuid;
use crate::verdict::facts::FleetQuestion;

/// How many TPM states of one guest are fetched for a person: three of each host that has had it.
const MAX_STATES: u32 = 30;

/// With less time than this nobody is asked.
const WORTH_ASKING: Duration = Duration::from_millis(100);

/// What the shared store has said to a guard. One that was silent is not asked about the next guest.
#[derive(Default)]
pub(in crate::guard) struct Line(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    silent: Option<String>,
    /// The last answer: a start that is judged again does not ask again.
    last: Option<(DomainUuid, Found)>,
}

impl Line {
    /// Whether a start may ask. While a monolithic libvirtd is starting, `stage` has asked before.
    pub(in crate::guard) fn question(guard: &Guard) -> FleetQuestion {
        let fleet = &guard.config.fleet;
        if fleet.store.is_some() && !fleet.ask.is_zero() && !guard.libvirt_starts {
            FleetQuestion::Open
        } else {
            FleetQuestion::None
        }
    }

    /// What the shared store has of this guest, or why it has not said it.
    pub(super) fn ask(
        &self,
        guard: &Guard,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<Found, String> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &heard.silent {
            return Err(why.clone());
        }
        match &heard.last {
            Some((asked, found)) if *asked == domain => Ok(found.clone()),
            _ => {
                let found = ask(guard, domain, deadline);
                match &found {
                    Ok(found) => heard.last = Some((domain, found.clone())),
                    Err(why) => heard.silent = Some(why.clone()),
                }
                found
            }
        }
    }

    /// The next start begins, and asks anew.
    pub(in crate::guard) fn begin_start(&self) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.last = None;
    }
}

/// The TPM states of a guest that the shared store has beside these.
pub(super) fn older_states(
    guard: &Guard,
    domain: DomainUuid,
    known: &[State],
    deadline: Deadline,
) -> Result<Vec<State>, String> {
    let fleet = &guard.config.fleet;
    let Some(address) = &fleet.store else {
        return Ok(Vec::new());
    };
    let read = || -> Result<Vec<State>, FleetError> {
        let mut client = Client::connect(address, &fleet.credentials, deadline)?;
        let mut older = Vec::new();
        for info in client.states(Some(domain), MAX_STATES, deadline)?.states {
            if known.iter().all(|state| state.info.id != info.id) {
                older.extend(client.state(info.id, deadline)?);
            }
        }
        Ok(older)
    };
    read().map_err(|error| error.to_string())
}

fn ask(guard: &Guard, domain: DomainUuid, deadline: Deadline) -> Result<Found, String> {
    let fleet = &guard.config.fleet;
    let Some(address) = &fleet.store else {
        return Err("there is none".to_owned());
    };
    // What follows needs some time, too: keys that open slowly, and libvirt.
    let left = before_the_answer(guard.patient(deadline)).remaining() / 2;
    let time = fleet.ask.min(left);
    if time < WORTH_ASKING.min(fleet.ask) {
        return Err("there was no time left to ask it".to_owned());
    }
    let until = deadline.at_most(time);
    Client::connect(address, &fleet.credentials, until)
        .and_then(|mut client| client.about(domain, until))
        .map_err(|error| error.to_string())
}
